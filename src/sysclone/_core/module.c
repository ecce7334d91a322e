/* The method table, the constants, and what the Python side hands in. Nothing else. */
#include "core.h"

#include <signal.h>

/* hooks(cancelled, clone_failed, ended, absorb, bury, shield) */
static PyObject *
sc_hooks(PyObject *module, PyObject *args)
{
    sc_state *state = sc_get_state(module);
    PyObject *cancelled, *clone_failed, *ended, *absorb, *bury, *shield;
    if (!PyArg_ParseTuple(args, "OOOOOO!:hooks", &cancelled, &clone_failed, &ended, &absorb, &bury, &PyTuple_Type, &shield))
        return NULL;
    Py_XSETREF(state->cancelled, Py_NewRef(cancelled));
    Py_XSETREF(state->clone_failed, Py_NewRef(clone_failed));
    Py_XSETREF(state->ended, Py_NewRef(ended));
    Py_XSETREF(state->absorb, Py_NewRef(absorb));
    Py_XSETREF(state->bury, Py_NewRef(bury));
    Py_XSETREF(state->shield, Py_NewRef(shield));
    /* A thread state that is poked from a signal handler is given a reference there, where none can be taken: from this
       stock. What was used is put back when the task has ended. */
    for (int i = 0; i < 100000; i++) Py_INCREF(cancelled);
    Py_RETURN_NONE;
}

/* unsupported() -> why light processes cannot run on this interpreter, or None. */
static PyObject *
sc_unsupported(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    const char *why = sc_tstate_unsupported();
    if (!why) Py_RETURN_NONE;
    return PyUnicode_FromString(why);
}

#define SC_FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef sc_methods[] = {
    {"hooks", sc_hooks, METH_VARARGS, "hooks(cancelled, clone_failed, ended, absorb, bury, shield)"},
    {"unsupported", sc_unsupported, METH_NOARGS, "Why light processes cannot run here, or None."},
    {"light_call", SC_FAST(sc_light_call), METH_FASTCALL | METH_KEYWORDS, "light_call(plan, fn, *args, **kwargs)"},
    {"timed_call", SC_FAST(sc_timed_call), METH_FASTCALL | METH_KEYWORDS, "timed_call(seconds, plan, fn, *args, **kwargs)"},
    {"light_due", sc_light_due, METH_VARARGS,
     "light_due(nanoseconds): in a light process, be asked to stop so much from now, 0 for never; whether that was done before"},
    {"light_rearm", sc_light_rearm, METH_NOARGS, "In a light process whose ids have changed: it dies with its creator again."},
    {"syscall", SC_FAST(sc_syscall), METH_FASTCALL, "syscall(name, *arguments): a short call with the GIL kept"},
    {"start", SC_FAST(sc_start), METH_FASTCALL | METH_KEYWORDS, "start(plan, fn, *args, **kwargs) -> Job"},
    {"start_soon", SC_FAST(sc_start_soon), METH_FASTCALL | METH_KEYWORDS,
     "start_soon(plan, fn, *args, **kwargs) -> Job: the clone may still be to come, and its error is the result's then"},
    {"pool_info", sc_pool_info, METH_NOARGS, "(idle helpers, busy helpers)"},
    {"pool_after_fork", sc_pool_after_fork, METH_NOARGS, "Forget the helpers: in a forked child they are not there."},
    {"pool_drain", sc_pool_drain, METH_VARARGS, "pool_drain(seconds): wait until no helper is busy."},
    {"pool_stop", sc_pool_stop, METH_NOARGS, "Ask every function on a helper to end."},
    {"bury_dead", sc_bury_dead, METH_NOARGS, "The idents of threads that have died with their process since it was last asked."},
    {"died", sc_died, METH_O, "died(ident): whether a thread that was not joined has died without a word."},
    {"bury_handle", sc_bury_handle, METH_O, "bury_handle(handle): whether a dead thread's was marked as ended."},
    {"bury_handles", sc_bury_handles, METH_VARARGS, "bury_handles(probe, ident): the interpreter's end does not wait for the dead."},
    {"reap_pending", sc_reap_pending, METH_NOARGS, "How many light processes live on in threads of theirs."},
    {"reap_later", sc_reap_later_py, METH_VARARGS, "reap_later(pidfd): takes it, and reaps the child at a later call."},
    {"hold", sc_hold, METH_VARARGS, "hold(plan, fd) -> (pid, pidfd, stack): a task that is there until the pipe is closed."},
    {"copied", sc_copied, METH_VARARGS, "copied(plan, way, page, ranges=()) -> (pid, pidfd), (0, -1) in the child"},
    {"copied_call", sc_copied_call, METH_VARARGS, "copied_call(plan, way, page, ranges=()) -> (pid, pidfd, si_code, si_status)"},
    {"address_of", sc_address_of, METH_O, "address_of(buffer) -> (address, length)"},
    {"socketpair", sc_socketpair, METH_NOARGS, "socketpair(2), AF_UNIX, SOCK_SEQPACKET"},
    {"packet_send", sc_packet_send, METH_VARARGS, "packet_send(fd, data): whole and at once"},
    {"packet_receive", sc_packet_receive, METH_VARARGS, "packet_receive(fd, room) -> (data, fds)"},
    {"exchange", sc_exchange, METH_VARARGS, "exchange(buffer, index, expected, desired) -> the word that stood there"},
    {"kill_self_after", sc_kill_self_after, METH_VARARGS, "kill_self_after(nanoseconds)"},
    {"death_signal", sc_death_signal, METH_VARARGS, "death_signal(sig): PR_SET_PDEATHSIG of this process"},
    {"single_threaded", sc_single_threaded, METH_NOARGS, "Whether this process has one thread and shares its memory with nobody."},
    {"spawn", sc_spawn, METH_VARARGS, "spawn(...) -> (pid, pidfd, step, errno, path index, exception)"},
    {"clone3", sc_lowlevel_clone3, METH_VARARGS, "clone3(2)"},
    {"clone", sc_lowlevel_clone, METH_VARARGS, "clone(2), the old call"},
    {"probe_clone3", sc_probe_clone3, METH_VARARGS, "probe_clone3(flags, exit_signal, cgroup=-1) -> 0 or errno"},
    {"probe_clone", sc_probe_clone, METH_VARARGS, "probe_clone(flags with signal) -> 0 or errno"},
    {"finalizing", sc_finalizing, METH_NOARGS, "finalizing() -> whether the interpreter has begun to end"},
    {"set_disposition", sc_set_disposition, METH_VARARGS, "set_disposition(sig, ignored): SIG_IGN or SIG_DFL, by sigaction(2) alone"},
    {"unshare", sc_unshare, METH_VARARGS, "unshare(2)"},
    {"setns", sc_setns, METH_VARARGS, "setns(2)"},
    {"kcmp", sc_kcmp, METH_VARARGS, "kcmp(2)"},
    {"groups", sc_groups, METH_VARARGS, "groups(tids, leaders, kinds) -> (labels for each kind, calls, blind)"},
    {"read_files", sc_read_files, METH_VARARGS, "read_files(paths, limit) -> bytes or -errno of each"},
    {"read_links", sc_read_links, METH_VARARGS, "read_links(folders, names) -> the number in each link"},
    {"futex_wait", sc_futex_wait, METH_VARARGS, "futex(2), FUTEX_WAIT"},
    {"futex_wake", sc_futex_wake, METH_VARARGS, "futex(2), FUTEX_WAKE"},
    {"detached_mount", sc_detached_mount, METH_VARARGS, "fsopen(2), fsmount(2): a filesystem that is mounted nowhere"},
    {"gettid", sc_gettid, METH_NOARGS, "gettid(2)"},
    {"pidfd_open", sc_pidfd_open, METH_VARARGS, "pidfd_open(2)"},
    {"pidfd_send_signal", sc_pidfd_send_signal, METH_VARARGS, "pidfd_send_signal(2)"},
    {"pidfd_getfd", sc_pidfd_getfd, METH_VARARGS, "pidfd_getfd(2)"},
    {"pidfd_info", sc_pidfd_info, METH_VARARGS, "ioctl(PIDFD_GET_INFO)"},
    {"waitid", sc_waitid, METH_VARARGS, "waitid(2) with rusage"},
    {NULL, NULL, 0, NULL},
};

static int
sc_exec_module(PyObject *module)
{
    sc_state *state = sc_get_state(module);
    state->plan_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sc_plan_spec, NULL);
    if (!state->plan_type || PyModule_AddType(module, state->plan_type) < 0) return -1;
    state->job_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sc_job_spec, NULL);
    if (!state->job_type || PyModule_AddType(module, state->job_type) < 0) return -1;
    state->bell_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sc_bell_spec, NULL);
    if (!state->bell_type || PyModule_AddType(module, state->bell_type) < 0) return -1;
    state->mapping_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sc_mapping_spec, NULL);
    if (!state->mapping_type || PyModule_AddType(module, state->mapping_type) < 0) return -1;
    PyObject *tracer = PyType_FromModuleAndSpec(module, &sc_tracer_spec, NULL);
    if (!tracer || PyModule_AddType(module, (PyTypeObject *)tracer) < 0) return -1;
    Py_DECREF(tracer);
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "sysclone works in the main interpreter alone");
        return -1;
    }
    if (sc_main_thread_begin() < 0) return -1;
    sc_pool_begin();
    /* SIGINT has CPython's handler from the start, unless it was ignored then or has been given another since. */
    PyOS_sighandler_t handler = PyOS_getsig(SIGINT);
    if (handler != SIG_DFL && handler != SIG_IGN && handler != SIG_ERR) state->python_handler = handler;
    PyObject *entry = PyLong_FromUnsignedLongLong((uintptr_t)sc_entry_exit);
    if (!entry || PyModule_AddObjectRef(module, "ENTRY_EXIT", entry) < 0) return -1;
    Py_DECREF(entry);
    return 0;
}

static int
sc_traverse(PyObject *module, visitproc visit, void *arg)
{
    sc_state *state = sc_get_state(module);
    Py_VISIT(state->cancelled);
    Py_VISIT(state->clone_failed);
    Py_VISIT(state->ended);
    Py_VISIT(state->absorb);
    Py_VISIT(state->bury);
    Py_VISIT(state->shield);
    Py_VISIT(state->plan_type);
    Py_VISIT(state->job_type);
    Py_VISIT(state->bell_type);
    Py_VISIT(state->mapping_type);
    return 0;
}

static int
sc_clear(PyObject *module)
{
    sc_state *state = sc_get_state(module);
    Py_CLEAR(state->cancelled);
    Py_CLEAR(state->clone_failed);
    Py_CLEAR(state->ended);
    Py_CLEAR(state->absorb);
    Py_CLEAR(state->bury);
    Py_CLEAR(state->shield);
    Py_CLEAR(state->plan_type);
    Py_CLEAR(state->job_type);
    Py_CLEAR(state->bell_type);
    Py_CLEAR(state->mapping_type);
    return 0;
}

static PyModuleDef_Slot sc_slots[] = {
    {Py_mod_exec, sc_exec_module},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

struct PyModuleDef sc_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sysclone._core",
    .m_doc = "The C core: clone, park, thread state, exec, and the raw calls.",
    .m_size = sizeof(sc_state),
    .m_methods = sc_methods,
    .m_slots = sc_slots,
    .m_traverse = sc_traverse,
    .m_clear = sc_clear,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&sc_module);
}
