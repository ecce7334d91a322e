/* Programs: the creator's side.

   clone with CLONE_VM, always: nothing is copied, at any size. The creator's thread parks until the kernel clears the
   child's word, which it does at exec as at exit, so the answer needs no pipe: a failed step stands in shared memory.
   The GIL is let go while the thread is parked, unless a set-up function in Python is to run in the child: then the
   child takes the thread's place, GIL and all (light.c tells how), and lets go of it just before exec.
   Without one, and with nothing to be done for the child from here, the thread parks by CLONE_VFORK, which saves a call. */
#include "core.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "child.h"

#define SC_PARKED_ROOM (64 * 1024)
/* (uid_t)-1 means: as it is. */
#define SC_MOST_ID 0xfffffffeL
#define SC_PLAIN_STACK (32 * 1024)
#define SC_GUARD 4096
#define SC_SETUP_STACK (1024 * 1024)

typedef struct {
    sc_child child;
    const sc_plan *plan;
    PyObject *setup;
    PyThreadState *ts;
    sc_tstate saved;
    PyObject *exception, *environment; /* owned: what the set-up raised, or gave for the program to have */
    char **environment_strings;
    bool let_go, has_mask;
    int attention, pidfd, ready;
    long pid;
    void *stack; /* mapped for the child, where the thread has too little; with its guard */
    size_t stack_bytes;
    const char *failed_step; /* what was refused before there was a program to run, where it is not the clone */
} sc_spawning;

static char **
sc_strings(PyObject *list)
{
    Py_ssize_t count = PyList_GET_SIZE(list);
    char **out = PyMem_Calloc((size_t)count + 1, sizeof *out);
    if (!out) return (char **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        /* With no length asked for, a null byte inside is a ValueError: what follows it would be lost. */
        if (PyBytes_AsStringAndSize(PyList_GET_ITEM(list, i), &out[i], NULL) < 0) {
            PyMem_Free(out);
            return NULL;
        }
    }
    return out;
}

static void *
sc_numbers(PyObject *tuple, size_t *count, unsigned long most, const char *what)
{
    *count = (size_t)PyTuple_GET_SIZE(tuple);
    unsigned *out = PyMem_Calloc(*count + 1, sizeof *out);
    if (!out) return PyErr_NoMemory();
    for (size_t i = 0; i < *count; i++) {
        unsigned long number = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(tuple, (Py_ssize_t)i));
        if (!PyErr_Occurred() && number > most) PyErr_Format(PyExc_ValueError, "%s: %lu is too large", what, number);
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_Format(PyExc_ValueError, "%s: out of range", what);
        out[i] = (unsigned)number;
        if (PyErr_Occurred()) {
            PyMem_Free(out);
            return NULL;
        }
    }
    return out;
}

/* environ as it is now, strings and all: another thread may change it while the kernel reads it for exec. With the GIL. */
static char **
sc_environ_copy(void)
{
    size_t count = 0, bytes = 0;
    for (char **e = environ; e && *e; e++, count++) bytes += strlen(*e) + 1;
    char **out = PyMem_Malloc((count + 1) * sizeof *out + bytes);
    if (!out) return (char **)PyErr_NoMemory();
    char *at = (char *)(out + count + 1);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(environ[i]) + 1;
        out[i] = memcpy(at, environ[i], length);
        at += length;
    }
    out[count] = NULL;
    return out;
}

/* The set-up's answer: None, or (environment or None, signal mask) for the program to have. */
static bool
sc_take_answer(sc_spawning *s, PyObject *answer)
{
    PyObject *environment;
    unsigned long long mask;
    if (answer == Py_None || !PyTuple_Check(answer)) return true;
    if (!PyArg_ParseTuple(answer, "OK:setup", &environment, &mask)) return false;
    s->child.mask = mask;
    if (environment == Py_None) return true;
    if (!PyList_Check(environment)) {
        PyErr_SetString(PyExc_TypeError, "setup: the environment must be a list");
        return false;
    }
    if (!(s->environment_strings = sc_strings(environment))) return false;
    s->environment = Py_NewRef(environment);
    s->child.envp = s->environment_strings;
    return true;
}

/* In the child, with the GIL. */
static int
sc_run_setup(void *argument)
{
    sc_spawning *s = argument;
    PyObject *answer = PyObject_CallNoArgs(s->setup);
    bool taken = answer && sc_take_answer(s, answer);
    Py_XDECREF(answer);
    if (taken) return 0;
    s->exception = sc_raised();
    return -ECANCELED;
}

static int
sc_let_go(void *argument)
{
    sc_spawning *s = argument;
    PyEval_SaveThread();
    s->let_go = true;
    return 0;
}

__attribute__((noinline)) static void
sc_spawn_clone(sc_spawning *s)
{
    uint64_t old;
    sc_signals_block(&old);
    if (!s->has_mask) s->child.mask = old;
    s->attention = -1;
    s->pidfd = -1;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), least = s->setup ? SC_SETUP_STACK : SC_PLAIN_STACK;
    if (s->plan->stack_bytes > least) least = s->plan->stack_bytes;
    uintptr_t top = (here - SC_PARKED_ROOM) & ~(uintptr_t)15, low = sc_stack_low();
    if (here < low + SC_PARKED_ROOM + least || s->plan->stack_bytes) {
        least = (least + SC_GUARD - 1) & ~(uintptr_t)(SC_GUARD - 1);
        void *own = mmap(NULL, least + SC_GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (own != MAP_FAILED) {
            s->stack = own;
            s->stack_bytes = least + SC_GUARD;
        }
        if (own == MAP_FAILED || mprotect(own, SC_GUARD, PROT_NONE) < 0) {
            s->pid = -ENOMEM;
            sc_signals_set(&old);
            return;
        }
        low = (uintptr_t)own + SC_GUARD;
        top = low + least;
    }
    /* The child's credentials make the memory undumpable, which is the creator's too. */
    const sc_newborn *newborn = &s->plan->newborn;
    bool changes_ids = s->child.uid >= 0 || s->child.gid >= 0 || s->child.group_count >= 0 || newborn->undumpable;
    bool held = changes_ids && !newborn->waits;
    if (held) sc_dumpable_hold();
    sc_clone_request request = {
        .plan = &s->plan->clone,
        .more_flags = CLONE_VM | CLONE_CHILD_CLEARTID | CLONE_PIDFD | CLONE_CLEAR_SIGHAND
                      | (s->setup || newborn->waits ? 0 : CLONE_VFORK),
        .pidfd = &s->pidfd,
        .child_tid = &s->attention,
        .stack_low = low,
        .stack_bytes = top - low,
    };
    s->child.handlers_cleared = &request.cleared_handlers;
    if (newborn->waits) s->child.ready = &s->ready;
    s->pid = sc_clone_joined(&request, newborn, sc_child_main, &s->child, &s->failed_step);
    long refused = 0;
    if (s->pid > 0 && newborn->waits) {
        bool hold = changes_ids && !held;
        refused = sc_newborn_release(newborn, s->pid, &s->ready, hold, &s->failed_step);
        held |= hold;
    }
    if (s->pid > 0) {
        int word;
        while ((word = __atomic_load_n(&s->attention, __ATOMIC_ACQUIRE)))
            sc_raw6(SYS_futex, &s->attention, FUTEX_WAIT, word, 0, 0, 0);
        SC_UNPOISON(low, top - low);
        if (s->pidfd < 0) s->pidfd = (int)sc_raw2(SYS_pidfd_open, s->pid, 0);
        /* It ended inside its set-up without a word: killed, or os._exit. */
        bool silent = s->setup && !s->let_go && !s->child.step && !refused;
        if (silent) s->child.step = SC_STEP_SETUP;
        if (s->child.step || refused) {
            int status;
            long reaped;
            while ((reaped = sc_raw4(SYS_wait4, s->pid, &status, __WALL, 0)) == -EINTR) {
            }
            if (silent) s->child.error = reaped > 0 ? status : -1;
            if (s->pidfd >= 0) sc_raw1(SYS_close, s->pidfd);
            s->pidfd = -1;
            if (refused) s->pid = refused;
        }
    }
    if (held) sc_dumpable_release();
    sc_signals_set(&old);
}

static void
sc_spawn_run(sc_spawning *s)
{
    if (s->setup) {
        s->ts = PyThreadState_Get();
        sc_tstate_save(&s->saved, s->ts);
        sc_spawn_clone(s);
        if (!sc_tstate_attached(s->ts)) PyEval_RestoreThread(s->ts);
        if (s->pid > 0 && s->child.step == SC_STEP_SETUP && !s->exception) sc_tstate_restore(&s->saved);
    } else {
        Py_BEGIN_ALLOW_THREADS
        sc_spawn_clone(s);
        Py_END_ALLOW_THREADS
    }
    /* Until now a dead child's frames could be on it. */
    if (s->stack) munmap(s->stack, s->stack_bytes);
}

/* spawn(plan, paths, argv, envp or None, cwd or None, (fd0, fd1, fd2), keep, close_others, restore_ignored, setsid, pgid,
         gid, groups or None, uid, umask, setup or None, mask or None, terminal or -1, is_subreaper, exec_fd or -1,
         exec_fd_stays)
   -> (pid, pidfd, step, errno, place, exception or None, peak): step is 0 when the program runs; pid is 0 when no
   child was made, and then the exception is the name of what was refused. The pidfd is the caller's, negative when there
   is none. Of a set-up that ended the child errno is the word of wait4, or -1. peak is the most KiB that this process has had resident: exec counts them as the program's. */
PyObject *
sc_spawn(PyObject *module, PyObject *args)
{
    sc_state *state = sc_get_state(module);
    PyObject *plan, *paths, *argv, *envp, *cwd, *keep, *groups, *setup, *mask = Py_None;
    sc_spawning s = {.pidfd = -1};
    sc_child *c = &s.child;
    c->terminal = c->exec_fd = -1;
    int close_others, restore_ignored, setsid_, is_subreaper = 0, exec_fd_stays = 0;
    if (!PyArg_ParseTuple(args, "O!O!O!OO(iii)O!pppllOllO|Oipip:spawn", state->plan_type, &plan, &PyList_Type, &paths, &PyList_Type,
                          &argv, &envp, &cwd, &c->stdio[0], &c->stdio[1], &c->stdio[2], &PyTuple_Type, &keep,
                          &close_others, &restore_ignored, &setsid_, &c->pgid, &c->gid, &groups, &c->uid, &c->umask, &setup,
                          &mask, &c->terminal, &is_subreaper, &c->exec_fd, &exec_fd_stays))
        return NULL;
    char *directory = NULL;
    if (cwd != Py_None && PyBytes_AsStringAndSize(cwd, &directory, NULL) < 0) return NULL;
    c->cwd = directory;
    if (c->uid < -1 || c->uid > SC_MOST_ID || c->gid < -1 || c->gid > SC_MOST_ID || c->pgid > INT_MAX || c->umask > INT_MAX) {
        PyErr_SetString(PyExc_ValueError, "user, group, process_group or umask: out of range");
        return NULL;
    }
    if (mask != Py_None) {
        c->mask = PyLong_AsUnsignedLongLong(mask);
        if (PyErr_Occurred()) return NULL;
        s.has_mask = true;
    }
    c->close_others = close_others;
    c->restore_ignored = restore_ignored;
    c->setsid = setsid_;
    c->is_subreaper = is_subreaper;
    c->exec_fd_stays = exec_fd_stays;
    c->group_count = -1;
    s.plan = (sc_plan *)plan;
    PyObject *answer = NULL;
    char **path_strings = NULL, **argv_strings = NULL, **envp_strings = NULL;
    unsigned *keep_numbers = NULL, *group_numbers = NULL;
    size_t group_count = 0;
    if (!(path_strings = sc_strings(paths)) || !(argv_strings = sc_strings(argv))) goto done;
    if (envp != Py_None && !PyList_Check(envp)) goto done;
    if (!(envp_strings = envp == Py_None ? sc_environ_copy() : sc_strings(envp))) goto done;
    if (!(keep_numbers = sc_numbers(keep, &c->keep_count, INT_MAX, "pass_fds"))) goto done;
    if (groups != Py_None) {
        if (!PyTuple_Check(groups) || !(group_numbers = sc_numbers(groups, &group_count, SC_MOST_ID, "extra_groups"))) goto done;
        c->group_count = (long)group_count;
    }
    c->paths = path_strings;
    c->argv = argv_strings;
    c->envp = envp_strings;
    c->keep = (int *)keep_numbers;
    c->groups = group_numbers;
    if (setup != Py_None) {
        s.setup = setup;
        c->setup = sc_run_setup;
        c->let_go = sc_let_go;
        c->setup_argument = &s;
    }
    struct rusage used = {0};
    getrusage(RUSAGE_SELF, &used);
    sc_spawn_run(&s);
    if (s.pid < 0) answer = Py_BuildValue("iiiiisl", 0, -1, -1, (int)-s.pid, 0, s.failed_step ? s.failed_step : "clone", 0L);
    else
        answer = Py_BuildValue("liiiiOl", s.pid, s.pidfd, c->step, c->error, c->place,
                               s.exception ? s.exception : Py_None, used.ru_maxrss);
    Py_XDECREF(s.exception);
    PyMem_Free(s.environment_strings);
    Py_XDECREF(s.environment);
done:
    PyMem_Free(path_strings);
    PyMem_Free(argv_strings);
    PyMem_Free(envp_strings);
    PyMem_Free(keep_numbers);
    PyMem_Free(group_numbers);
    if (!answer && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "spawn: a list or a tuple was expected");
    return answer;
}
