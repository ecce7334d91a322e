/* What differs between machines: raw system calls, and clones whose child runs a C function.

   The rule: nothing here touches errno or any other thread-local storage. A light process runs on the
   thread-local storage of the thread that made it, so that thread may use raw calls alone while it waits. */
#ifndef SC_ARCH_H
#define SC_ARCH_H

#include <linux/sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#if defined(__x86_64__) && !defined(__ILP32__)
#include "arch_x86_64.h"
#elif defined(__aarch64__)
#include "arch_aarch64.h"
#else
#error "sysclone runs on x86-64 and aarch64 alone: the assembly that starts a child on its own stack is written for these"
#endif

typedef int (*sc_entry)(void *argument);

/* The kernel's own sigaction, which is not libc's. */
typedef struct {
    uintptr_t handler;
    unsigned long flags;
    uintptr_t restorer;
    uint64_t mask;
} sc_kernel_sigaction;

/* clone3 whose child calls entry(argument) on args->stack and leaves by exit(2) with what it returns:
   exit, never exit_group, because its group's other threads go on. Returns the pid or -errno.
   With entry NULL the child returns 0 on its copy of this stack (memory must then be copied). */
long sc_arch_clone3(struct clone_args *args, size_t size, sc_entry entry, void *argument);

/* The old call, in its own argument order per machine; stack_top is the highest address of the stack. */
long sc_arch_clone(unsigned long flags, uintptr_t stack_top, int *parent_tid, int *child_tid, uintptr_t tls,
                   sc_entry entry, void *argument);

#define sc_raw0(n) sc_raw(n, 0, 0, 0, 0, 0, 0)
#define sc_raw1(n, a) sc_raw(n, (long)(a), 0, 0, 0, 0, 0)
#define sc_raw2(n, a, b) sc_raw(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define sc_raw3(n, a, b, c) sc_raw(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sc_raw4(n, a, b, c, d) sc_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sc_raw5(n, a, b, c, d, e) sc_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define sc_raw6(n, a, b, c, d, e, f) sc_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
