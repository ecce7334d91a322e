/* Short system calls by name, with the GIL kept: for what a child does before its function or program.

   os's functions let go of the GIL around each call, and wait up to a switch interval (5 ms) to have it back from threads
   that never sleep; and libc's set*id change every thread that libc knows, who are the creator's. These do neither: one
   raw call each, and the whole of a set-up runs in one hold.

   Those that walk a path are the exception: a file system may be served by a thread of this very program, which needs the
   GIL to answer. */
#include "core.h"

#include <errno.h>

/* Numbers that a C library's headers may be too old for: the same on every architecture from 424 on. */
#define SC_SYS_open_tree 428
#define SC_SYS_move_mount 429
#define SC_SYS_fsopen 430
#define SC_SYS_fsconfig 431
#define SC_SYS_fsmount 432
#define SC_SYS_close_range 436
#define SC_SYS_openat2 437
#define SC_SYS_mount_setattr 442
#define SC_SYS_landlock_create_ruleset 444
#define SC_SYS_landlock_add_rule 445
#define SC_SYS_landlock_restrict_self 446

typedef struct {
    const char *name;
    long number;
    bool walks; /* a path: the GIL is let go */
} sc_syscall_row;

/* In the order of the alphabet: it is searched by halves. */
static const sc_syscall_row sc_syscall_rows[] = {
    {"capget", SYS_capget, false},
    {"capset", SYS_capset, false},
    {"chdir", SYS_chdir, true},
    {"chroot", SYS_chroot, true},
    {"close", SYS_close, false},
    {"close_range", SC_SYS_close_range, false},
    {"dup3", SYS_dup3, false},
    {"exit_group", SYS_exit_group, false},
    {"fchdir", SYS_fchdir, true},
    {"fcntl", SYS_fcntl, false},
    {"fsconfig", SC_SYS_fsconfig, true},
    {"fsmount", SC_SYS_fsmount, true},
    {"fsopen", SC_SYS_fsopen, false},
    {"getpgid", SYS_getpgid, false},
    {"getpid", SYS_getpid, false},
    {"getppid", SYS_getppid, false},
    {"ioctl", SYS_ioctl, false},
    {"ioprio_set", SYS_ioprio_set, false},
    {"keyctl", SYS_keyctl, false},
    {"kill", SYS_kill, false},
    {"landlock_add_rule", SC_SYS_landlock_add_rule, false},
    {"landlock_create_ruleset", SC_SYS_landlock_create_ruleset, false},
    {"landlock_restrict_self", SC_SYS_landlock_restrict_self, false},
    {"mkdirat", SYS_mkdirat, true},
    {"mount", SYS_mount, true},
    {"mount_setattr", SC_SYS_mount_setattr, true},
    {"move_mount", SC_SYS_move_mount, true},
    {"open_tree", SC_SYS_open_tree, true},
    {"openat", SYS_openat, true},
    {"openat2", SC_SYS_openat2, true},
    {"personality", SYS_personality, false},
    {"pidfd_open", 434, false},
    {"pivot_root", SYS_pivot_root, true},
    {"prctl", SYS_prctl, false},
    {"pread64", SYS_pread64, false},
    {"prlimit64", SYS_prlimit64, false},
    {"read", SYS_read, false},
    {"rt_sigaction", SYS_rt_sigaction, false},
    {"rt_sigprocmask", SYS_rt_sigprocmask, false},
    {"sched_setaffinity", SYS_sched_setaffinity, false},
    {"sched_setattr", SYS_sched_setattr, false},
    {"seccomp", SYS_seccomp, false},
    {"set_mempolicy", SYS_set_mempolicy, false},
    {"setdomainname", SYS_setdomainname, false},
    {"setgroups", SYS_setgroups, false},
    {"sethostname", SYS_sethostname, false},
    {"setns", SYS_setns, false},
    {"setpgid", SYS_setpgid, false},
    {"setpriority", SYS_setpriority, false},
    {"setresgid", SYS_setresgid, false},
    {"setresuid", SYS_setresuid, false},
    {"setsid", SYS_setsid, false},
    {"socket", SYS_socket, false},
    {"umask", SYS_umask, false},
    {"umount2", SYS_umount2, true},
    {"unshare", SYS_unshare, false},
    {"write", SYS_write, false},
};

#define SC_MOST_ARGUMENTS 6

static const sc_syscall_row *
sc_row_of(PyObject *name)
{
    size_t low = 0, high = sizeof sc_syscall_rows / sizeof *sc_syscall_rows;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = PyUnicode_CompareWithASCIIString(name, sc_syscall_rows[middle].name);
        if (order == 0) return &sc_syscall_rows[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    PyErr_Format(PyExc_ValueError, "syscall: %R is not in the table", name);
    return NULL;
}

/* An int is itself, None is NULL, a str or a buffer is its address (bytes end with a null byte). */
static int
sc_argument(PyObject *object, long *out, Py_buffer *buffer)
{
    if (object == Py_None) return 0;
    if (PyLong_Check(object)) {
        *out = (long)PyLong_AsUnsignedLongMask(object);
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyUnicode_Check(object)) {
        const char *text = PyUnicode_AsUTF8(object);
        *out = (long)text;
        return text ? 0 : -1;
    }
    if (PyObject_GetBuffer(object, buffer, PyBUF_SIMPLE) < 0) return -1;
    *out = (long)buffer->buf;
    return 0;
}

/* syscall(name, *arguments) -> what the kernel answers. */
PyObject *
sc_syscall(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs < 1 || nargs > 1 + SC_MOST_ARGUMENTS || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "syscall(name, *arguments), at most six of them");
        return NULL;
    }
    const sc_syscall_row *row = sc_row_of(args[0]);
    if (!row) return NULL;
    long words[SC_MOST_ARGUMENTS] = {0}, answer = -1;
    Py_buffer buffers[SC_MOST_ARGUMENTS] = {{0}};
    bool good = true;
    for (Py_ssize_t i = 0; good && i < nargs - 1; i++) good = sc_argument(args[i + 1], &words[i], &buffers[i]) == 0;
    if (good) {
        PyThreadState *ts = row->walks ? PyEval_SaveThread() : NULL;
        answer = sc_raw6(row->number, words[0], words[1], words[2], words[3], words[4], words[5]);
        if (ts) PyEval_RestoreThread(ts);
    }
    for (int i = 0; i < SC_MOST_ARGUMENTS; i++)
        if (buffers[i].obj) PyBuffer_Release(&buffers[i]);
    if (!good) return NULL;
    return answer < 0 ? sc_oserror(answer) : PyLong_FromLong(answer);
}
