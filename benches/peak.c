// Executes COMMAND, waits for it and prints the peak resident set (ru_maxrss, in KiB) of it and of what it waited for.
//
//   peak COMMAND [ARG...]
//
// A child begins with the peak of the process that made it, so this one is as small as can be: no C library, as in floor.c.
//
//   cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o peak peak.c
#include <asm/unistd.h>
#include <linux/resource.h>
#include <linux/sched.h>

typedef unsigned long word;

static long sys(word n, word a, word b, word c, word d) {
#if defined __x86_64__
	register word r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return n;
#elif defined __aarch64__
	register word x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#endif
}

__attribute__((used)) static void start(word *stack) {
	char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1, text[24], *at = text + sizeof text;
	struct clone_args args = {.exit_signal = 17 /* SIGCHLD */};
	struct rusage usage = {0};
	int status = 0;
	long child = sys(__NR_clone3, (word)&args, sizeof args, 0, 0);
	if (child == 0) sys(__NR_exit_group, -sys(__NR_execve, (word)argv[1], (word)(argv + 1), (word)envp, 0), 0, 0, 0);
	sys(__NR_wait4, child, (word)&status, 0, (word)&usage);
	*--at = '\n';
	for (word peak = usage.ru_maxrss; peak || *at == '\n'; peak /= 10) *--at = '0' + peak % 10;
	sys(__NR_write, 1, (word)at, text + sizeof text - at, 0);
	sys(__NR_exit_group, status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff, 0, 0, 0);
}

#if defined __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x0, sp\n bl start\n");
#endif
