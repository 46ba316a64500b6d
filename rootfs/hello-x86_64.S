# The action: write "Hello\n" to standard output and exit. No libc, no stack, no relocation: one page, one page fault.
# Exit status: 0 when the whole line was written, else 1.

	.set SYS_write, 1
	.set SYS_exit_group, 231
	.set STDOUT, 1

	.globl _start
	.text
_start:
	mov $SYS_write, %eax
	mov $STDOUT, %edi
	lea line(%rip), %rsi
	mov $line_length, %edx
	syscall
	xor %edi, %edi
	cmp $line_length, %rax
	setne %dil
	mov $SYS_exit_group, %eax
	syscall

line:	.ascii "Hello\n"
	.set line_length, . - line

	.section .note.GNU-stack, "", %progbits
