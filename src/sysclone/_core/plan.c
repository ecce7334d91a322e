/* A compiled Context: what the C side needs to make a task, checked and flat. */
#include "core.h"

/* The texts stand in bytes objects that the plan keeps. */
static int
sc_text(PyObject *bytes, const char **out)
{
    if (!bytes || bytes == Py_None) return 0;
    char *text;
    if (PyBytes_AsStringAndSize(bytes, &text, NULL) < 0) return -1;
    *out = text;
    return 0;
}

static int
sc_words(PyObject *tuple, char ***out)
{
    if (!tuple || tuple == Py_None) return 0;
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) < 1) {
        PyErr_SetString(PyExc_TypeError, "a helper is a tuple of bytes, with its path first");
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    char **words = PyMem_Calloc((size_t)count + 2, sizeof *words);
    if (!words) {
        PyErr_NoMemory();
        return -1;
    }
    *out = words;
    for (Py_ssize_t i = 0; i < count; i++)
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(tuple, i), &words[i ? i + 1 : 0], NULL) < 0) return -1;
    words[1] = words[0]; /* where the pid will stand */
    return 0;
}

static int
sc_joins(PyObject *tuple, sc_newborn *newborn)
{
    for (Py_ssize_t i = 0; tuple && i < PyTuple_GET_SIZE(tuple); i++) {
        int kind, fd;
        if (i >= 8) {
            PyErr_SetString(PyExc_ValueError, "at most 8 namespaces to join");
            return -1;
        }
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuple, i), "ii", &kind, &fd)) return -1;
        newborn->joins[newborn->join_count++] = (sc_join){.kind = kind, .fd = fd};
    }
    return 0;
}

static int
sc_tids(PyObject *tuple, sc_clone_plan *clone)
{
    for (Py_ssize_t i = 0; tuple && i < PyTuple_GET_SIZE(tuple); i++) {
        long tid = PyLong_AsLong(PyTuple_GET_ITEM(tuple, i));
        if (tid == -1 && PyErr_Occurred()) return -1;
        if (i >= 32) {
            PyErr_SetString(PyExc_ValueError, "at most 32 pid namespace levels");
            return -1;
        }
        clone->tids[clone->tid_count++] = (pid_t)tid;
    }
    return 0;
}

static PyObject *
sc_plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"flags",   "exit_signal", "old_call", "cgroup",     "tids",       "stack_bytes",    "timeout_ns",
                            "clear_handlers", "joins", "uid_map", "gid_map", "offsets", "uid_helper", "gid_helper",
                            "deny_setgroups", "undumpable", NULL};
    unsigned long long flags = 0, stack_bytes = 0;
    int exit_signal = 0, old_call = 0, cgroup = -1, clear_handlers = 0, deny_setgroups = 0, undumpable = 0;
    long long timeout_ns = -1;
    PyObject *tids = NULL, *joins = NULL, *uid_map = NULL, *gid_map = NULL, *offsets = NULL, *uid_helper = NULL, *gid_helper = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ki|piO!KLpO!OOOOOpp:Plan", names, &flags, &exit_signal, &old_call, &cgroup,
                                     &PyTuple_Type, &tids, &stack_bytes, &timeout_ns, &clear_handlers, &PyTuple_Type, &joins,
                                     &uid_map, &gid_map, &offsets, &uid_helper, &gid_helper, &deny_setgroups, &undumpable))
        return NULL;
    sc_plan *plan = (sc_plan *)type->tp_alloc(type, 0);
    if (!plan) return NULL;
    plan->clone = (sc_clone_plan){.flags = flags, .exit_signal = exit_signal, .old_call = old_call, .cgroup = cgroup};
    plan->stack_bytes = (stack_bytes + 4095) & ~4095ULL;
    plan->timeout_ns = timeout_ns;
    plan->clear_handlers = clear_handlers;
    sc_newborn *n = &plan->newborn;
    n->deny_setgroups = deny_setgroups;
    n->undumpable = undumpable;
    plan->kept = Py_BuildValue("(OOOOO)", uid_map ? uid_map : Py_None, gid_map ? gid_map : Py_None, offsets ? offsets : Py_None,
                               uid_helper ? uid_helper : Py_None, gid_helper ? gid_helper : Py_None);
    if (!plan->kept || sc_tids(tids, &plan->clone) < 0 || sc_joins(joins, n) < 0 || sc_text(uid_map, &n->uid_map) < 0
        || sc_text(gid_map, &n->gid_map) < 0 || sc_text(offsets, &n->offsets) < 0 || sc_words(uid_helper, &n->uid_helper) < 0
        || sc_words(gid_helper, &n->gid_helper) < 0)
        Py_CLEAR(plan);
    else n->waits = n->uid_map || n->gid_map || n->offsets || n->uid_helper || n->gid_helper || n->deny_setgroups;
    return (PyObject *)plan;
}

static void
sc_plan_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    sc_plan *plan = (sc_plan *)self;
    PyMem_Free(plan->newborn.uid_helper);
    PyMem_Free(plan->newborn.gid_helper);
    Py_XDECREF(plan->kept);
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

static PyObject *
sc_plan_get_joined(PyObject *self, void *unused)
{
    (void)unused;
    const sc_newborn *n = &((sc_plan *)self)->newborn;
    unsigned long kinds = 0;
    for (int i = 0; i < n->join_count; i++) kinds |= (unsigned long)n->joins[i].kind;
    return PyLong_FromUnsignedLong(kinds);
}

static PyGetSetDef sc_plan_getset[] = {
    {"joined", sc_plan_get_joined, NULL, "The kinds of namespace that are joined, as clone flags.", NULL},
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
