// A program that never ends: what runs in a container into which another program is executed. No C library, as in floor.c.
//
//   cc -O2 -static -nostdlib -ffreestanding -o pause pause.c
#include <asm/unistd.h>

#if defined __x86_64__
__asm__(".globl _start\n_start: mov $34, %eax\n syscall\n jmp _start\n");
_Static_assert(__NR_pause == 34, "the number in the assembly");
#elif defined __aarch64__
// ppoll(0, 0, 0, 0)
__asm__(".globl _start\n_start: mov x8, #73\n mov x0, xzr\n mov x1, xzr\n mov x2, xzr\n mov x3, xzr\n svc 0\n b _start\n");
_Static_assert(__NR_ppoll == 73, "the number in the assembly");
#endif
