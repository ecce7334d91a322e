/* Job: the Python object for a light process on a helper thread. */
#include "job.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>

#define SC_SLICE_NS 100000000LL

static void
sc_futex_sleep(int *word, int expected, const struct timespec *until)
{
    sc_raw6(SYS_futex, word, FUTEX_WAIT_BITSET, expected, until, 0, FUTEX_BITSET_MATCH_ANY);
}

static sc_run *
sc_run_new(sc_state *state, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    sc_run *run = PyMem_RawCalloc(1, sizeof *run);
    if (!run) return NULL;
    run->light.pidfd = run->light.event_fd = -1;
    run->total = nargs - 2 + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    run->args = PyMem_Calloc((size_t)run->total + 1, sizeof *run->args);
    if (!run->args) {
        PyMem_RawFree(run);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < run->total; i++) run->args[i] = Py_NewRef(args[i + 2]);
    run->module_state = state;
    run->plan = Py_NewRef(args[0]);
    run->fn = Py_NewRef(args[1]);
    run->kwnames = Py_XNewRef(kwnames);
    run->generation = sc_pool_generation();
    run->light.plan = (sc_plan *)args[0];
    run->light.fn = run->fn;
    run->light.args = run->args;
    run->light.nargs = nargs - 2;
    run->light.kwnames = run->kwnames;
    run->light.creator = (pid_t)sc_raw0(SYS_getpid);
    run->light.cancelled = state->cancelled;
    run->light.shield = state->shield;
    run->light.attach = run->light.want_pidfd = true;
    return run;
}

static PyObject *
sc_start_run(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool soon)
{
    sc_state *state = sc_get_state(module);
    if (nargs < 2 || !PyObject_TypeCheck(args[0], state->plan_type)) {
        PyErr_SetString(PyExc_TypeError, "start(plan, fn, *args, **kwargs)");
        return NULL;
    }
    sc_reap_ended();
    sc_run *run = sc_run_new(state, args, nargs, kwnames);
    if (!run) return PyErr_NoMemory();
    sc_job *job = (sc_job *)state->job_type->tp_alloc(state->job_type, 0);
    if (!job) {
        sc_run_free(run);
        return NULL;
    }
    sc_raw4(SYS_rt_sigprocmask, SIG_BLOCK, 0, &run->light.mask, SC_SIGSET_BYTES);
    size_t room = run->light.plan->stack_bytes ? run->light.plan->stack_bytes + 256 * 1024 : 0;
    bool created;
    int error = sc_pool_submit(run, room, &created);
    if (error) {
        run->state = SC_DONE;
        job->run = run;
        sc_clone_failed(state, args[0], -error, "pthread_create");
        Py_DECREF(job);
        return NULL;
    }
    job->run = run;
    /* Namespaces may take milliseconds; a plain clone is over before another thread could use the GIL. */
    const sc_newborn *newborn = &run->light.plan->newborn;
    bool slow = newborn->waits || newborn->join_count || run->light.plan->clone.flags & 0x7e020080;
    if (soon && !created && !slow) return (PyObject *)job;
    PyThreadState *ts = created || slow ? PyEval_SaveThread() : NULL;
    while (!__atomic_load_n(&run->light.started, __ATOMIC_SEQ_CST)) sc_futex_sleep(&run->light.started, 0, NULL);
    if (ts) PyEval_RestoreThread(ts);
    if (run->light.pid < 0) {
        const char *step = run->light.failed_step;
        sc_clone_failed(state, args[0], run->light.pid, step ? step : "clone");
        Py_DECREF(job);
        return NULL;
    }
    return (PyObject *)job;
}

/* start(plan, fn, *args, **kwargs) -> Job, when the child has been made. */
PyObject *
sc_start(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sc_start_run(module, args, nargs, kwnames, false);
}

/* The same without waiting for the clone, where an idle helper makes it and nothing of the plan's is the caller's, such as
   fds: the caller would only sleep with the GIL that the child needs next. If it is refused, result() raises that. */
PyObject *
sc_start_soon(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sc_start_run(module, args, nargs, kwnames, true);
}

/* Waits until the child has been made, or refused; in a forked child, not for what its creator was about to start. */
static void
sc_job_await_start(sc_run *run)
{
    if (__atomic_load_n(&run->light.started, __ATOMIC_SEQ_CST)) return;
    Py_BEGIN_ALLOW_THREADS
    while (!__atomic_load_n(&run->light.started, __ATOMIC_SEQ_CST) && run->generation == sc_pool_generation())
        sc_futex_sleep(&run->light.started, 0, NULL);
    Py_END_ALLOW_THREADS
}

/* Whether the run is over. A readable eventfd is a promise that it is: between the write to it and the state are a few
   microseconds of the helper's, or however long it takes until that has a CPU again. Without the GIL, which sc_pool_bury's
   callers want when the helper's process was killed just there. */
static bool
sc_job_is_over(sc_run *run)
{
    if (__atomic_load_n(&run->state, __ATOMIC_SEQ_CST) != SC_RUNNING) return true;
    if (!__atomic_load_n(&run->light.ending, __ATOMIC_SEQ_CST) || run->generation != sc_pool_generation()) return false;
    Py_BEGIN_ALLOW_THREADS
    while (__atomic_load_n(&run->state, __ATOMIC_SEQ_CST) == SC_RUNNING) sc_futex_sleep(&run->state, SC_RUNNING, NULL);
    Py_END_ALLOW_THREADS
    return true;
}

static bool
sc_is_before(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

/* Waits for the run, at most until the monotonic moment. Answers 1 done, 0 not yet, -1 with an exception.

   A signal whose handler runs just before the futex does not wake it: the main thread, where handlers may raise, sleeps
   for a tenth of a second at a time. */
static int
sc_job_wait_until(sc_run *run, const struct timespec *until)
{
    bool main_thread = sc_is_main_thread();
    while (__atomic_load_n(&run->state, __ATOMIC_SEQ_CST) == SC_RUNNING) {
        if (run->generation != sc_pool_generation()) {
            PyErr_SetString(PyExc_ChildProcessError, "this task was started before a fork: it belongs to the parent");
            return -1;
        }
        long answer;
        struct timespec slice;
        clock_gettime(CLOCK_MONOTONIC, &slice);
        slice.tv_nsec += SC_SLICE_NS;
        if (slice.tv_nsec >= SC_NANOSECONDS) slice.tv_sec++, slice.tv_nsec -= SC_NANOSECONDS;
        bool sliced = main_thread && (!until || sc_is_before(&slice, until));
        Py_BEGIN_ALLOW_THREADS
        answer = sc_raw6(SYS_futex, &run->state, FUTEX_WAIT_BITSET, SC_RUNNING, sliced ? &slice : until, 0,
                         FUTEX_BITSET_MATCH_ANY);
        Py_END_ALLOW_THREADS
        if (answer == -ETIMEDOUT && !sliced) return sc_job_is_over(run);
        if (PyErr_CheckSignals() < 0) return -1;
    }
    return 1;
}

/* wait(timeout=None) -> bool; seconds. */
static PyObject *
sc_job_wait(PyObject *self, PyObject *args)
{
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTuple(args, "|O:wait", &timeout)) return NULL;
    struct timespec until, *at = NULL;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred()) return NULL;
        if (!(seconds >= 0)) seconds = 0; /* NaN too */
        if (seconds > 1e9) seconds = 1e9;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + (int64_t)(seconds * 1e9);
        until.tv_sec += ns / SC_NANOSECONDS;
        until.tv_nsec = ns % SC_NANOSECONDS;
        at = &until;
    }
    int done = sc_job_wait_until(((sc_job *)self)->run, at);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* timed_call(seconds, plan, fn, *args, **kwargs) -> what fn returns, or the Job when it runs on after seconds. In one piece:
   an interrupt between the start and the wait would leave a function that nobody knows of. */
PyObject *
sc_timed_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    double seconds = nargs > 2 ? PyFloat_AsDouble(args[0]) : -1;
    if (seconds < 0 || PyErr_Occurred()) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "timed_call(seconds, plan, fn, *args, **kwargs)");
        return NULL;
    }
    PyObject *job = sc_start(module, args + 1, nargs - 1, kwnames);
    if (!job) return NULL;
    sc_run *run = ((sc_job *)job)->run;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += ns / SC_NANOSECONDS;
    until.tv_nsec = ns % SC_NANOSECONDS;
    int done = sc_job_wait_until(run, &until);
    if (done == 0) return job;
    if (done < 0) sc_light_request_stop(&run->light, SC_STOP_CANCEL);
    PyObject *answer = done < 0 ? NULL : sc_light_answer(&run->light, run->module_state);
    Py_DECREF(job);
    return answer;
}

static PyObject *
sc_job_result(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_run *run = ((sc_job *)self)->run;
    if (sc_job_wait_until(run, NULL) < 0) return NULL;
    if (run->light.pid < 0) {
        const char *step = run->light.failed_step;
        return sc_clone_failed(run->module_state, run->plan, run->light.pid, step ? step : "clone");
    }
    return sc_light_answer(&run->light, run->module_state);
}

static PyObject *
sc_job_done(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(sc_job_is_over(((sc_job *)self)->run));
}

/* stop(why, signal=0): asks; why is 1 for a cancel, 2 for a timeout, 3 for the signal that it is to end by. */
static PyObject *
sc_job_stop(PyObject *self, PyObject *args)
{
    int why = SC_STOP_CANCEL, sig = 0, none = 0;
    if (!PyArg_ParseTuple(args, "|ii:stop", &why, &sig)) return NULL;
    sc_run *run = ((sc_job *)self)->run;
    if (why == SC_STOP_SIGNAL && __atomic_load_n(&run->state, __ATOMIC_SEQ_CST) == SC_RUNNING)
        __atomic_compare_exchange_n(&run->light.stop_signal, &none, sig, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&run->state, __ATOMIC_SEQ_CST) == SC_RUNNING && run->generation == sc_pool_generation())
        sc_light_request_stop(&run->light, (enum sc_stop)why);
    /* What lives on as a program shares nothing any more. */
    if (run->light.lives_on && run->light.pidfd >= 0) sc_raw4(SYS_pidfd_send_signal, run->light.pidfd, SIGKILL, 0, 0);
    Py_RETURN_NONE;
}

/* The wait status and what goes with it: (status or None, rusage or None), or None while it runs. */
static PyObject *
sc_job_ended(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_run *run = ((sc_job *)self)->run;
    if (!sc_job_is_over(run)) Py_RETURN_NONE;
    if (!run->light.status_known) return Py_BuildValue("OO", Py_None, Py_None);
    return Py_BuildValue("iN", run->light.status, sc_rusage_tuple(&run->light.usage));
}

static PyObject *
sc_job_get_pid(PyObject *self, void *unused)
{
    (void)unused;
    sc_job_await_start(((sc_job *)self)->run);
    return PyLong_FromLong(((sc_job *)self)->run->light.pid);
}

static PyObject *
sc_job_get_pidfd(PyObject *self, void *unused)
{
    (void)unused;
    sc_job_await_start(((sc_job *)self)->run);
    sc_light *l = &((sc_job *)self)->run->light;
    return PyLong_FromLong(sc_raw0(SYS_getpid) == l->creator ? l->pidfd : -1);
}

/* Closes the pidfd; while the task runs its parked thread needs it, and this does nothing and answers False. */
static PyObject *
sc_job_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_run *run = ((sc_job *)self)->run;
    if (!sc_job_is_over(run)) Py_RETURN_FALSE;
    sc_run_close(run);
    Py_RETURN_TRUE;
}

/* An eventfd that is readable from the function's end on: the pidfd is so only when the last thread of the task's
   process has ended. Made at the first request; the job's own. */
static PyObject *
sc_job_fileno(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_light *l = &((sc_job *)self)->run->light;
    if (sc_raw0(SYS_getpid) != l->creator) {
        PyErr_SetString(PyExc_ValueError, "this task's fds are in the file table of the process that started it");
        return NULL;
    }
    if (l->event_fd < 0) {
        long fd = sc_raw2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0) return sc_oserror(fd);
        __atomic_store_n(&l->event_fd, (int)fd, __ATOMIC_SEQ_CST);
        uint64_t one = 1;
        if (__atomic_load_n(&l->ending, __ATOMIC_SEQ_CST)) sc_raw3(SYS_write, fd, &one, sizeof one);
    }
    return PyLong_FromLong(l->event_fd);
}

/* While it runs the child borrows what the run owns: not the collector's to see. */
static int
sc_job_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    sc_run *run = ((sc_job *)self)->run;
    if (!run || __atomic_load_n(&run->state, __ATOMIC_SEQ_CST) != SC_DONE) return 0;
    for (Py_ssize_t i = 0; i < run->total; i++) Py_VISIT(run->args[i]);
    Py_VISIT(run->fn);
    Py_VISIT(run->plan);
    Py_VISIT(run->kwnames);
    Py_VISIT(run->light.value);
    Py_VISIT(run->light.frames);
    return 0;
}

static int
sc_job_clear(PyObject *self)
{
    sc_run *run = ((sc_job *)self)->run;
    if (!run || __atomic_load_n(&run->state, __ATOMIC_SEQ_CST) != SC_DONE) return 0;
    Py_ssize_t total = run->total;
    run->total = 0;
    for (Py_ssize_t i = 0; i < total; i++) Py_DECREF(run->args[i]);
    Py_CLEAR(run->fn);
    return 0;
}

static void
sc_job_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sc_run *run = ((sc_job *)self)->run;
    int running = SC_RUNNING;
    if (run
        && (run->generation != sc_pool_generation()
            || !__atomic_compare_exchange_n(&run->state, &running, SC_ORPHANED, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)))
        sc_run_free(run);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef sc_job_methods[] = {
    {"wait", sc_job_wait, METH_VARARGS, "wait(timeout=None): whether the function has ended, waiting at most timeout seconds."},
    {"result", sc_job_result, METH_NOARGS, "What the function returned; raises what it raised."},
    {"done", sc_job_done, METH_NOARGS, "Whether the function has ended."},
    {"stop", sc_job_stop, METH_VARARGS, "stop(why=1, signal=0): ask it to end."},
    {"ended", sc_job_ended, METH_NOARGS, "(wait status or None, rusage or None); None while it runs."},
    {"fileno", sc_job_fileno, METH_NOARGS, "An eventfd, readable from the function's end on; the job's own."},
    {"close", sc_job_close, METH_NOARGS, "Close the pidfd, unless the task still runs: then False."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sc_job_getset[] = {
    {"pid", sc_job_get_pid, NULL, "The process id, in the creator's pid namespace.", NULL},
    {"pidfd", sc_job_get_pidfd, NULL, "A pidfd, the job's own; negative if there is none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sc_job_slots[] = {
    {Py_tp_methods, sc_job_methods},
    {Py_tp_getset, sc_job_getset},
    {Py_tp_dealloc, sc_job_dealloc},
    {Py_tp_traverse, sc_job_traverse},
    {Py_tp_clear, sc_job_clear},
    {Py_tp_doc, "A light process started on a helper thread."},
    {0, NULL},
};

PyType_Spec sc_job_spec = {
    .name = "sysclone._core.Job",
    .basicsize = sizeof(sc_job),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_GC,
    .slots = sc_job_slots,
};
