/* What the creator does for a child that waits: id maps of its user namespace, offsets of its time namespace.

   The maps of more than one's own id can be written from outside alone, by somebody with privilege in the user namespace
   above: the creator, or newuidmap and newgidmap on its behalf. The creator's thread may be parked, with its storage lent
   to the child: raw calls alone. A pid is the child's own until it has been reaped, so a path with it names no stranger. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define SC_HELPER_STACK 8192
#define SC_MOST_HELPER_WORDS 1100

extern char **environ;

static long
sc_write_proc(long pid, const char *name, const char *text)
{
    char path[64];
    size_t length = 0;
    sc_proc_path(path, pid, name);
    while (text[length]) length++;
    long fd = sc_raw4(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    /* These files take all in one write or nothing. */
    long written = sc_raw3(SYS_write, fd, text, length);
    sc_raw1(SYS_close, fd);
    return written < 0 ? written : 0;
}

static int
sc_exec_helper(void *argument)
{
    char *const *argv = argument;
    uint64_t none = 0;
    sc_signals_clear_handlers();
    sc_signals_set(&none);
    /* What it would say of a refusal is said by the error that is raised. */
    long null = sc_raw4(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (null >= 0) sc_raw3(SYS_dup3, null, 2, 0);
    return (int)-sc_raw3(SYS_execve, argv[0], argv, environ);
}

/* Runs newuidmap or newgidmap for pid; its argv has room for the pid at [1]. */
static long
sc_run_helper(char *const *words, long pid)
{
    char stack[SC_HELPER_STACK] __attribute__((aligned(16))), path[64];
    char *argv[SC_MOST_HELPER_WORDS + 1];
    size_t count = 0;
    for (; words[count] && count < SC_MOST_HELPER_WORDS; count++) argv[count] = words[count];
    argv[count] = NULL;
    sc_proc_path(path, pid, "");
    argv[1] = path + sizeof "/proc/" - 1;
    for (char *c = argv[1]; *c; c++)
        if (*c == '/') *c = 0;
    sc_clone_plan plan = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = 0, .cgroup = -1};
    sc_clone_request request = {.plan = &plan, .stack_low = (uintptr_t)stack, .stack_bytes = sizeof stack};
    long helper = sc_clone(&request, sc_exec_helper, argv), got;
    if (helper < 0) return helper;
    int status = 0;
    while ((got = sc_raw4(SYS_wait4, helper, &status, __WALL, 0)) == -EINTR) {
    }
    if (got < 0) return got;
    if (WIFEXITED(status) && !WEXITSTATUS(status)) return 0;
    return -EPERM;
}

/* Answers 0, or -errno with *step. */
long
sc_newborn_settle(const sc_newborn *n, long pid, const char **step)
{
    long answer = 0;
    if (n->offsets && (*step = "write(timens_offsets)", answer = sc_write_proc(pid, "timens_offsets", n->offsets)) < 0) return answer;
    if (n->uid_helper && (*step = "newuidmap", answer = sc_run_helper(n->uid_helper, pid)) < 0) return answer;
    if (n->uid_map && (*step = "write(uid_map)", answer = sc_write_proc(pid, "uid_map", n->uid_map)) < 0) return answer;
    if (n->deny_setgroups && (*step = "write(setgroups)", answer = sc_write_proc(pid, "setgroups", "deny")) < 0) return answer;
    if (n->gid_helper && (*step = "newgidmap", answer = sc_run_helper(n->gid_helper, pid)) < 0) return answer;
    if (n->gid_map && (*step = "write(gid_map)", answer = sc_write_proc(pid, "gid_map", n->gid_map)) < 0) return answer;
    *step = NULL;
    return 0;
}

/* --- dumpable: one flag for the whole memory, and so for the creator and all of its children that share it

   While a child that shares the memory has other ids, or is in another user namespace, whoever may trace that child could
   read the creator through it: dumpable keeps strangers out (as runc does before it joins a container). */
static int sc_dumpable_lock, sc_dumpable_holders, sc_dumpable_before;

void
sc_dumpable_hold(void)
{
    sc_lock(&sc_dumpable_lock);
    if (!sc_dumpable_holders++) sc_dumpable_before = (int)sc_raw5(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
    sc_raw5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    sc_unlock(&sc_dumpable_lock);
}

void
sc_dumpable_release(void)
{
    sc_lock(&sc_dumpable_lock);
    if (!--sc_dumpable_holders && sc_dumpable_before == 1) sc_raw5(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    sc_unlock(&sc_dumpable_lock);
}

/* The creator: settles, and lets the child go on, or end, at the word that it waits on. hold: it is to be undumpable from
   then on, not before, since who is not dumpable cannot write maps without privilege. */
long
sc_newborn_release(const sc_newborn *n, long pid, int *ready, bool hold, const char **step)
{
    long answer = sc_newborn_settle(n, pid, step);
    if (hold) sc_dumpable_hold();
    __atomic_store_n(ready, answer < 0 ? (int)answer : 1, __ATOMIC_SEQ_CST);
    sc_raw6(SYS_futex, ready, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    return answer;
}
