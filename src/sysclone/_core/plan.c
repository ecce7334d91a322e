/* A compiled Context: what the C side needs to make a task, checked and flat. */
#include "core.h"

static PyObject *
sc_plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"flags",   "exit_signal",   "old_call", "cgroup", "tids",
                            "stack_bytes", "timeout_ns", "clear_handlers", NULL};
    unsigned long long flags = 0, stack_bytes = 0;
    int exit_signal = 0, old_call = 0, cgroup = -1, clear_handlers = 0;
    long long timeout_ns = -1;
    PyObject *tids = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ki|piO!KLp:Plan", names, &flags, &exit_signal, &old_call, &cgroup,
                                     &PyTuple_Type, &tids, &stack_bytes, &timeout_ns, &clear_handlers))
        return NULL;
    sc_plan *plan = (sc_plan *)type->tp_alloc(type, 0);
    if (!plan) return NULL;
    plan->clone = (sc_clone_plan){.flags = flags, .exit_signal = exit_signal, .old_call = old_call, .cgroup = cgroup};
    plan->stack_bytes = (stack_bytes + 4095) & ~4095ULL;
    plan->timeout_ns = timeout_ns;
    plan->clear_handlers = clear_handlers;
    for (Py_ssize_t i = 0; tids && i < PyTuple_GET_SIZE(tids); i++) {
        long tid = PyLong_AsLong(PyTuple_GET_ITEM(tids, i));
        if (i >= 32 || (tid == -1 && PyErr_Occurred())) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "at most 32 pid namespace levels");
            Py_DECREF(plan);
            return NULL;
        }
        plan->clone.tids[plan->clone.tid_count++] = (pid_t)tid;
    }
    return (PyObject *)plan;
}

static void
sc_plan_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
sc_plan_get_flags(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((sc_plan *)self)->clone.flags);
}

static PyObject *
sc_plan_get_exit_signal(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((sc_plan *)self)->clone.exit_signal);
}

static PyObject *
sc_plan_get_timeout(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(((sc_plan *)self)->timeout_ns);
}

static PyObject *
sc_plan_get_cgroup(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((sc_plan *)self)->clone.cgroup);
}

static PyObject *
sc_plan_get_tids(PyObject *self, void *unused)
{
    (void)unused;
    const sc_clone_plan *plan = &((sc_plan *)self)->clone;
    PyObject *tids = PyTuple_New(plan->tid_count);
    for (int i = 0; tids && i < plan->tid_count; i++) {
        PyObject *tid = PyLong_FromLong(plan->tids[i]);
        if (!tid) Py_CLEAR(tids);
        else PyTuple_SET_ITEM(tids, i, tid);
    }
    return tids;
}

static PyObject *
sc_plan_get_stack_bytes(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((sc_plan *)self)->stack_bytes);
}

static PyGetSetDef sc_plan_getset[] = {
    {"stack_bytes", sc_plan_get_stack_bytes, NULL, "The stack to have, 0 for the thread's own.", NULL},
    {"cgroup", sc_plan_get_cgroup, NULL, "The cgroup's fd, borrowed, or -1.", NULL},
    {"tids", sc_plan_get_tids, NULL, "The ids to have, innermost namespace first.", NULL},
    {"flags", sc_plan_get_flags, NULL, "The clone flags, without the signal.", NULL},
    {"exit_signal", sc_plan_get_exit_signal, NULL, "The exit signal.", NULL},
    {"timeout_ns", sc_plan_get_timeout, NULL, "Nanoseconds; -1 for none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sc_plan_slots[] = {
    {Py_tp_getset, sc_plan_getset},
    {Py_tp_new, sc_plan_new},
    {Py_tp_dealloc, sc_plan_dealloc},
    {Py_tp_doc, "A compiled Context."},
    {0, NULL},
};

PyType_Spec sc_plan_spec = {
    .name = "sysclone._core.Plan",
    .basicsize = sizeof(sc_plan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sc_plan_slots,
};
