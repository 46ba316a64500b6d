// The action: write "Hello\n" to standard output and exit. No libc, no stack, no relocation: one page, one page fault.
// Exit status: 0 when the whole line was written, else 1.

	.set SYS_write, 64
	.set SYS_exit_group, 94
	.set STDOUT, 1

	.globl _start
	.text
_start:
	mov x8, SYS_write
	mov x0, STDOUT
	adr x1, line
	mov x2, line_length
	svc 0
	cmp x0, line_length
	cset x0, ne
	mov x8, SYS_exit_group
	svc 0

line:	.ascii "Hello\n"
	.set line_length, 6

	.section .note.GNU-stack, "", %progbits
