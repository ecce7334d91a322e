/* clone and clone3 with CLONE_UNTRACED: the first argument's register is the same afterwards, in the caller and in the
   child, and the child can make tasks. Leaves with 0 when all is well. x86-64. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int
one(long number, uint64_t first, uint64_t second)
{
    long result;
    uint64_t after = first;
    int status;
    __asm__ volatile("xor %%edx, %%edx; xor %%r10d, %%r10d; xor %%r8d, %%r8d; syscall"
                     : "=a"(result), "+D"(after)
                     : "a"(number), "S"(second)
                     : "rcx", "r11", "rdx", "r10", "r8", "memory");
    if (result == 0) {
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        _exit(after != first ? 3 : pid < 0 ? 4 : 5);
    }
    if (after != first) return 1;
    if (result < 0 || waitpid((pid_t)result, &status, __WALL) != result) return 2;
    return WIFEXITED(status) && WEXITSTATUS(status) == 5 ? 0 : 100 + WEXITSTATUS(status);
}

int
main(void)
{
    struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
    for (int i = 0; i < 20; i++) {
        int wrong = one(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0);
        if (!wrong) wrong = one(SYS_clone, CLONE_UNTRACED, 0); /* without it nothing is left of the argument */
        if (!wrong) wrong = one(SYS_clone3, (uintptr_t)&args, sizeof args);
        if (wrong) return wrong;
    }
    return 0;
}
