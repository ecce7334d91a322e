/* The tracer as Python has it: it starts the task, gives it commands and reads what it tells. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "tracer.h"

#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif
#define SC_WOKEN (1ULL << 32)    /* what Trace.wake adds to the eventfd, where the tracer adds ones */
#define SC_LOOK_AGAIN 100000000L /* nanoseconds: a tracer that was killed answers no command */

typedef struct {
    PyObject_HEAD
    sc_tracer *tracer;
    char *stack;
    long pid;
    int pidfd;
    int event_fd;
    bool reaped;
    bool closed; /* by a thread, while others may be in use of it */
    int users;   /* threads that have let go of the GIL with it in their hands: the last of them frees what was closed */
} sc_tracer_object;

static bool
sc_tracer_alive(const sc_tracer *t)
{
    return __atomic_load_n(&t->attention, __ATOMIC_ACQUIRE) != 0;
}

static void
sc_tracer_free(sc_tracer_object *self)
{
    if (self->tracer) {
        sc_queue_free(&self->tracer->queue);
        sc_tasks_free(&self->tracer->tasks);
        munmap(self->tracer, sizeof *self->tracer);
    }
    if (self->stack) munmap(self->stack, 2 * SC_TRACER_STACK);
    if (self->pidfd >= 0) sc_raw1(SYS_close, self->pidfd);
    if (self->event_fd >= 0) sc_raw1(SYS_close, self->event_fd);
    self->tracer = NULL;
    self->stack = NULL;
    self->pidfd = self->event_fd = -1;
}

static void
sc_tracer_release(sc_tracer_object *self)
{
    if (--self->users == 0 && self->closed) sc_tracer_free(self);
}

static long
sc_tracer_start(sc_tracer_object *self)
{
    sc_tracer *t = self->tracer;
    uintptr_t low = ((uintptr_t)self->stack + SC_TRACER_STACK - 1) & ~(uintptr_t)(SC_TRACER_STACK - 1);
    sc_clone_plan plan = {.cgroup = -1};
    sc_clone_request request = {
        .plan = &plan,
        .more_flags = CLONE_VM | CLONE_CHILD_CLEARTID | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_UNTRACED,
        .pidfd = &self->pidfd,
        .child_tid = &t->attention,
        .stack_low = low,
        .stack_bytes = SC_TRACER_STACK,
    };
    /* A stack whose low end is found from anywhere in it, for the signal handler. */
    *(sc_tracer **)low = t;
    uint64_t old;
    t->attention = -1;
    sc_signals_block(&old);
    long pid = sc_clone(&request, sc_tracer_main, t);
    if (pid > 0 && self->pidfd < 0) self->pidfd = (int)sc_raw2(SYS_pidfd_open, pid, 0);
    sc_signals_set(&old);
    return pid;
}

/* Tracer(mode, kill_on_exit) */
static PyObject *
sc_tracer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"mode", "kill_on_exit", NULL};
    int mode, kill_on_exit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ip:Tracer", names, &mode, &kill_on_exit)) return NULL;
    sc_tracer_object *self = (sc_tracer_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->pidfd = self->event_fd = -1;
    self->reaped = true;
    void *memory = mmap(NULL, sizeof(sc_tracer), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *stack = mmap(NULL, 2 * SC_TRACER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack != MAP_FAILED) SC_UNPOISON(stack, 2 * SC_TRACER_STACK);
    self->tracer = memory == MAP_FAILED ? NULL : memory;
    self->stack = stack == MAP_FAILED ? NULL : stack;
    if (!self->tracer || !self->stack) {
        Py_DECREF(self);
        return sc_oserror(-ENOMEM);
    }
    sc_tracer *t = self->tracer;
    t->mode = (enum sc_tracer_mode)mode;
    t->kill_on_exit = kill_on_exit;
    t->owner = (pid_t)sc_raw0(SYS_getpid);
    self->event_fd = t->event_fd = (int)sc_raw2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->queue.event_fd = t->event_fd;
    long answer = t->event_fd;
    if (answer >= 0) answer = sc_queue_begin(&t->queue) && sc_tasks_begin(&t->tasks) ? sc_tracer_start(self) : -ENOMEM;
    if (answer < 0) {
        Py_DECREF(self);
        return sc_oserror(answer);
    }
    self->pid = answer;
    self->reaped = false;
    return (PyObject *)self;
}

/* Gives the tracer a command and waits until it was carried out. Raw calls alone: a child may be the caller. */
static long
sc_tracer_command(sc_tracer_object *self, enum sc_tracer_command command, int32_t *tids, int count)
{
    sc_tracer *t = self->tracer;
    t->tids = tids;
    t->tid_count = count;
    __atomic_store_n(&t->command, (int)command, __ATOMIC_RELEASE);
    sc_raw6(SYS_futex, &t->command, FUTEX_WAKE, 1, 0, 0, 0);
    sc_raw2(SYS_kill, self->pid, SIGUSR1);
    while (__atomic_load_n(&t->command, __ATOMIC_ACQUIRE) != SC_NOTHING) {
        struct timespec again = {.tv_nsec = SC_LOOK_AGAIN};
        if (!sc_tracer_alive(t) || __atomic_load_n(&t->done, __ATOMIC_ACQUIRE)) return -ESRCH;
        sc_raw4(SYS_futex, &t->command, FUTEX_WAIT, (int)command, &again);
    }
    return 0;
}

static sc_tracer *
sc_tracer_get(PyObject *self)
{
    sc_tracer_object *o = (sc_tracer_object *)self;
    sc_tracer *t = o->closed ? NULL : o->tracer;
    if (!t) PyErr_SetString(PyExc_ValueError, "the tracer is closed");
    return t;
}

/* enter() -> whether new privileges had to be given up. In the child, before exec: be traced, and have the filter. */
static PyObject *
sc_tracer_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_tracer_object *o = (sc_tracer_object *)self;
    sc_tracer *t = sc_tracer_get(self);
    if (!t) return NULL;
    int32_t tid = sc_look_own_id();
    /* Where Yama lets ancestors alone trace. Without Yama it is an error, and of no consequence. */
    sc_raw5(SYS_prctl, PR_SET_PTRACER, o->pid, 0, 0, 0);
    long answer = sc_tracer_command(o, SC_SEIZE, &tid, 1);
    if (answer == 0) answer = tid;
    if (answer < 0) return sc_oserror(answer);
    if (t->mode == SC_MODE_FILTER) answer = sc_call_filter();
    return answer < 0 ? sc_oserror(answer) : PyBool_FromLong(answer);
}

/* follow([tid, …]) -> [0 or errno, …]: trace tasks that run already. */
static PyObject *
sc_tracer_follow(PyObject *self, PyObject *args)
{
    PyObject *list;
    sc_tracer_object *o = (sc_tracer_object *)self;
    if (!PyArg_ParseTuple(args, "O!:follow", &PyList_Type, &list) || !sc_tracer_get(self)) return NULL;
    Py_ssize_t count = PyList_GET_SIZE(list);
    int32_t *tids = PyMem_RawCalloc((size_t)count + 1, sizeof *tids);
    if (!tids) return PyErr_NoMemory();
    PyObject *answers = NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        tids[i] = (int32_t)PyLong_AsLong(PyList_GET_ITEM(list, i));
        if (PyErr_Occurred()) goto done;
    }
    long answer;
    o->users++;
    Py_BEGIN_ALLOW_THREADS
    answer = sc_tracer_command(o, SC_SEIZE, tids, (int)count);
    Py_END_ALLOW_THREADS
    sc_tracer_release(o);
    if (answer < 0) {
        sc_oserror(answer);
        goto done;
    }
    answers = PyList_New(count);
    for (Py_ssize_t i = 0; answers && i < count; i++) PyList_SET_ITEM(answers, i, PyLong_FromLong(-tids[i]));
done:
    PyMem_RawFree(tids);
    return answers;
}

/* command(what) -> whether the tracer was there to obey. */
static PyObject *
sc_tracer_order(PyObject *self, PyObject *args)
{
    int what;
    sc_tracer_object *o = (sc_tracer_object *)self;
    if (!PyArg_ParseTuple(args, "i:command", &what) || !sc_tracer_get(self)) return NULL;
    long answer;
    /* Another thread, which reads, may see the end before this one does, and close it. */
    o->users++;
    Py_BEGIN_ALLOW_THREADS
    answer = sc_tracer_command(o, (enum sc_tracer_command)what, NULL, 0);
    Py_END_ALLOW_THREADS
    sc_tracer_release(o);
    return PyBool_FromLong(answer == 0);
}

/* --- reading */

/* Whether there may be something to read; the wait is cut short by the tracer's end, expected or not, and is over where
   somebody wakes the reader. A signal that came
   before the wait ends it too: they are blocked until the wait has begun. -EINTR with an exception where a handler raised. */
static long
sc_wait_for_records(sc_tracer_object *self, int milliseconds)
{
    struct pollfd fds[2] = {{.fd = self->event_fd, .events = POLLIN}, {.fd = self->pidfd, .events = POLLIN}};
    struct timespec limit = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000L};
    uint64_t told = 0, open_mask;
    sc_signals_block(&open_mask);
    long answer = PyErr_CheckSignals() < 0 ? -EINTR : 0;
    if (answer == 0) {
        Py_BEGIN_ALLOW_THREADS
        answer = sc_raw5(SYS_ppoll, fds, 2, milliseconds < 0 ? NULL : &limit, &open_mask, SC_SIGSET_BYTES);
        Py_END_ALLOW_THREADS
    }
    sc_signals_set(&open_mask);
    if (fds[0].revents && !self->closed) sc_raw3(SYS_read, fds[0].fd, &told, sizeof told);
    return answer > 0 && told >= SC_WOKEN ? 0 : answer;
}

static PyObject *
sc_records(PyObject *self, int milliseconds, Py_ssize_t limit)
{
    PyObject *list = PyList_New(0);
    if (!list) return NULL;
    for (bool waited = false;;) {
        sc_tracer *t = sc_tracer_get(self); /* another thread may have closed it meanwhile */
        if (!t) break;
        bool alive = sc_tracer_alive(t);
        int done = __atomic_load_n(&t->done, __ATOMIC_ACQUIRE);
        __atomic_store_n(&t->queue.armed, 1, __ATOMIC_SEQ_CST);
        if (!sc_take_records(&t->queue, list, limit)) break;
        if (PyList_GET_SIZE(list) || waited) return list;
        if (done) {
            Py_DECREF(list);
            Py_RETURN_NONE;
        }
        if (!alive) {
            sc_oserror(-ESRCH);
            break;
        }
        long answer = sc_wait_for_records((sc_tracer_object *)self, milliseconds);
        if (answer == -EINTR && (PyErr_Occurred() || PyErr_CheckSignals() < 0)) break;
        waited = answer == 0;
    }
    Py_DECREF(list);
    return NULL;
}

/* read(milliseconds, limit) -> records; [] when the time is over; None when no task is left and all was read.
   Raises ProcessLookupError where the tracer was killed, ValueError where another thread closes it meanwhile. */
static PyObject *
sc_tracer_read(PyObject *self, PyObject *args)
{
    int milliseconds;
    Py_ssize_t limit;
    sc_tracer_object *o = (sc_tracer_object *)self;
    if (!PyArg_ParseTuple(args, "in:read", &milliseconds, &limit) || !sc_tracer_get(self)) return NULL;
    o->users++;
    PyObject *records = sc_records(self, milliseconds, limit);
    sc_tracer_release(o);
    return records;
}

/* close() -> whether the tracer has ended; one that goes on keeps its memory, and is reaped at a later call. */
static PyObject *
sc_tracer_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_tracer_object *o = (sc_tracer_object *)self;
    if (!o->tracer || o->closed) Py_RETURN_TRUE;
    if (o->tracer->owner != sc_raw0(SYS_getpid)) { /* a copy of a fork's, or a light process's view of what is in use */
        o->reaped = true;
        o->tracer = NULL;
        o->stack = NULL;
        o->pidfd = o->event_fd = -1;
        Py_RETURN_TRUE;
    }
    siginfo_t info = {0};
    bool going_on = sc_tracer_alive(o->tracer) && !__atomic_load_n(&o->tracer->done, __ATOMIC_ACQUIRE);
    o->closed = true;
    o->users++;
    if (going_on) {
        uint64_t one = 1;
        sc_raw3(SYS_write, o->event_fd, &one, sizeof one); /* for those who wait for records */
        sc_reap_later(o->pidfd, NULL, NULL, NULL);
        o->pidfd = -1;
        o->tracer = NULL;
        o->stack = NULL;
    } else {
        Py_BEGIN_ALLOW_THREADS
        sc_raw5(SYS_waitid, P_PID, o->pid, &info, WEXITED | __WALL, 0);
        Py_END_ALLOW_THREADS
        o->reaped = true;
    }
    sc_tracer_release(o);
    return PyBool_FromLong(!going_on);
}

static void
sc_tracer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    sc_tracer_object *o = (sc_tracer_object *)self;
    if (o->tracer && !o->reaped) Py_XDECREF(sc_tracer_close(self, NULL));
    else sc_tracer_free(o);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
sc_tracer_get_pid(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(((sc_tracer_object *)self)->pid);
}

static PyObject *
sc_tracer_get_fd(PyObject *self, void *closure)
{
    (void)closure;
    sc_tracer_object *o = (sc_tracer_object *)self;
    return PyLong_FromLong(o->closed ? -1 : o->event_fd);
}

static PyObject *
sc_tracer_get_stops(PyObject *self, void *closure)
{
    (void)closure;
    sc_tracer *t = ((sc_tracer_object *)self)->tracer;
    return PyLong_FromUnsignedLongLong(t ? t->stops : 0);
}

#define SC_TRACER_LOCKED(name, method)              \
    static PyObject *name(PyObject *self, PyObject *args) \
    {                                               \
        PyObject *answer;                           \
        SC_BEGIN_LOCKED(self);                      \
        answer = method(self, args);                \
        SC_END_LOCKED();                            \
        return answer;                              \
    }

SC_TRACER_LOCKED(sc_tracer_follow_locked, sc_tracer_follow)
SC_TRACER_LOCKED(sc_tracer_order_locked, sc_tracer_order)
SC_TRACER_LOCKED(sc_tracer_read_locked, sc_tracer_read)
SC_TRACER_LOCKED(sc_tracer_close_locked, sc_tracer_close)

static PyMethodDef sc_tracer_methods[] = {
    {"enter", sc_tracer_enter, METH_NOARGS, "In the child: be traced. Whether new privileges were given up for it."},
    {"follow", sc_tracer_follow_locked, METH_VARARGS, "follow([tid, …]) -> [0 or errno, …]"},
    {"command", sc_tracer_order_locked, METH_VARARGS, "command(what) -> whether the tracer was there to obey"},
    {"read", sc_tracer_read_locked, METH_VARARGS, "read(milliseconds, limit) -> records, [] after that time, None at the end"},
    {"close", sc_tracer_close_locked, METH_NOARGS, "Whether the tracer has ended, and is reaped."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sc_tracer_getset[] = {
    {"pid", sc_tracer_get_pid, NULL, "The tracer's process id.", NULL},
    {"fd", sc_tracer_get_fd, NULL, "Readable when there is something to read; the tracer's own.", NULL},
    {"stops", sc_tracer_get_stops, NULL, "How often a task was stopped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sc_tracer_slots[] = {
    {Py_tp_new, sc_tracer_new},
    {Py_tp_methods, sc_tracer_methods},
    {Py_tp_getset, sc_tracer_getset},
    {Py_tp_dealloc, sc_tracer_dealloc},
    {Py_tp_doc, "A task that traces others."},
    {0, NULL},
};

PyType_Spec sc_tracer_spec = {
    .name = "sysclone._core.Tracer",
    .basicsize = sizeof(sc_tracer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sc_tracer_slots,
};
