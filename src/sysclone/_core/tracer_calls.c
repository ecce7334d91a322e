/* The calls that are traced, in each table of numbers that a task may use, and the seccomp filter that stops on them. */
#include "tracer.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW 4
#endif
#define SC_X32_BIT 0x40000000

/*                                           clone clone3 fork vfork unshare setns execve execveat */
#if defined(__x86_64__)
const sc_call_table sc_call_tables[SC_MACHINES] = {
    [SC_NATIVE] = {AUDIT_ARCH_X86_64, 8, {56, 435, 57, 58, 272, 308, 59, 322}},
    [SC_COMPAT] = {AUDIT_ARCH_I386, 4, {120, 435, 2, 190, 310, 346, 11, 358}},
    [SC_X32] = {AUDIT_ARCH_X86_64, 4,
                {SC_X32_BIT | 56, SC_X32_BIT | 435, SC_X32_BIT | 57, SC_X32_BIT | 58, SC_X32_BIT | 272, SC_X32_BIT | 308,
                 SC_X32_BIT | 520, SC_X32_BIT | 545}},
};
#else
const sc_call_table sc_call_tables[SC_MACHINES] = {
    [SC_NATIVE] = {AUDIT_ARCH_AARCH64, 8, {220, 435, -1, -1, 97, 268, 221, 281}},
    [SC_COMPAT] = {AUDIT_ARCH_ARM, 4, {120, 435, 2, 190, 337, 375, 11, 387}},
    [SC_X32] = {0, 4, {-1, -1, -1, -1, -1, -1, -1, -1}},
};
#endif

bool
sc_call_find(uint32_t arch, uint64_t number, enum sc_call *call, enum sc_machine *machine)
{
    for (int m = 0; m < SC_MACHINES; m++) {
        if (sc_call_tables[m].arch != arch) continue;
        for (int c = 0; c < SC_CALLS; c++) {
            if (sc_call_tables[m].numbers[c] < 0 || (uint32_t)sc_call_tables[m].numbers[c] != number) continue;
            *call = (enum sc_call)c;
            *machine = (enum sc_machine)m;
            return true;
        }
    }
    return false;
}

/* Before 5.16 a filter alone made the task pay for a defence against speculation that it did not ask for. */
static long
sc_call_install(const struct sock_fprog *program)
{
    long answer = sc_raw3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, program);
    return answer == -EINVAL ? sc_raw3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) : answer;
}

/* Puts the filter on the calling task. It looks at nothing but the table and the number, so that the kernel (since 5.11)
   knows beforehand which calls it always lets through, and does not run it for those.
   Without the privilege, the task must give up new ones: prctl(PR_SET_NO_NEW_PRIVS). Answers 1 where it did, 0, or
   -errno. */
long
sc_call_filter(void)
{
    struct sock_filter code[2 + SC_MACHINES * (4 + SC_CALLS)];
    unsigned short n = 0;
    /* One block for each arch: its calls are compared one after the other, and the last line lets the others through. */
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    for (int m = 0; m < SC_MACHINES; m++) {
        uint32_t arch = sc_call_tables[m].arch;
        if (!arch || (m && arch == sc_call_tables[SC_NATIVE].arch)) continue;
        unsigned short skip = n++;
        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        for (int other = m; other < SC_MACHINES; other++) {
            if (sc_call_tables[other].arch != arch) continue;
            for (int c = 0; c < SC_CALLS; c++) {
                if (sc_call_tables[other].numbers[c] < 0) continue;
                /* How far the block's RET_TRACE is, is filled in below. */
                code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)sc_call_tables[other].numbers[c], 0, 0);
            }
        }
        unsigned short allow = n++, trace = n++;
        code[allow] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        code[trace] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
        for (unsigned short at = skip + 2; at < allow; at++) code[at].jt = (uint8_t)(trace - at - 1);
        code[skip] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 0, (uint8_t)(n - skip - 1));
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = n, .filter = code};
    long answer = sc_call_install(&program);
    if (answer != -EACCES) return answer;
    answer = sc_raw5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (answer < 0) return answer;
    answer = sc_call_install(&program);
    return answer < 0 ? answer : 1;
}
