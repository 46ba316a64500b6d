// order PROGRAM [ARG...]: runs it one instruction at a time, its children too, and prints to descriptor 3 which of its instructions
// ran, once each, in the order in which they ran first: addresses, of a program that is linked to a fixed one.
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BASE = 0x400000, SIZE = 0x800000, TASKS = 64 };
static unsigned char seen[SIZE];

#if defined __x86_64__
#include <sys/reg.h>
static unsigned long place(pid_t task) { return ptrace(PTRACE_PEEKUSER, task, sizeof(long) * RIP, 0); }
#else
#include <elf.h>
#include <sys/uio.h>
static unsigned long place(pid_t task) {
    struct user_regs_struct regs;
    struct iovec all = {&regs, sizeof regs};
    return ptrace(PTRACE_GETREGSET, task, NT_PRSTATUS, &all) ? 0 : regs.pc;
}
#endif

// Lets a task go on untraced: one can be let go only while it is stopped, and must not be left with a step to make.
static void release(pid_t task) {
    int status;
    if (kill(task, SIGSTOP) || waitpid(task, &status, __WALL) != task || !WIFSTOPPED(status))
        return;
    ptrace(PTRACE_DETACH, task, 0, 0);
    kill(task, SIGCONT);
}

int main(int count, char **argv) {
    if (count < 2)
        errx(2, "usage: order PROGRAM [ARG...] 3>ADDRESSES");
    pid_t child = fork();
    if (child < 0)
        err(1, "fork");
    if (!child) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[1], argv + 1);
        err(127, "%s", argv[1]);
    }
    int status, code = 1;
    waitpid(child, &status, 0);
    long events = PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
    if (ptrace(PTRACE_SETOPTIONS, child, 0, events) || ptrace(PTRACE_SINGLESTEP, child, 0, 0))
        err(1, "ptrace");
    pid_t task, tasks[TASKS] = {0};
    while ((task = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
        if (!WIFSTOPPED(status)) {
            tasks[task % TASKS] = 0;
            if (task != child)
                continue;
            code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            break;
        }
        if (status >> 16 == PTRACE_EVENT_EXEC && task != child) {
            // The container's own program.
            tasks[task % TASKS] = 0;
            ptrace(PTRACE_DETACH, task, 0, 0);
            continue;
        }
        tasks[task % TASKS] = task;
        int signal = WSTOPSIG(status);
        unsigned long at = place(task) - BASE;
        if (at < SIZE && !seen[at]) {
            seen[at] = 1;
            dprintf(3, "%016lx\n", at + BASE);
        }
        // A task that is born stops by SIGSTOP, and single steps and events by SIGTRAP: none of these is its own.
        ptrace(PTRACE_SINGLESTEP, task, 0, signal == SIGTRAP || signal == SIGSTOP ? 0 : signal);
    }
    // The container that is left behind.
    for (int index = 0; index < TASKS; index++)
        if (tasks[index])
            release(tasks[index]);
    return code;
}
