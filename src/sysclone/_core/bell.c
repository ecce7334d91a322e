/* Bell: how a thread that sleeps on one eventfd hears which of many light processes have ended, with no fd for each.

   1. What is shared is under the pool's lock, which is held for a few instructions and one write: no helper writes to the
      eventfd after close(), whose number may then be another file's.
   2. A run is on its bell's list from its end until ended() takes it off, or until its Job is hushed or gone.
   3. The eventfd is written to when the list gets its first run: whoever has read it takes off all of them. */
#include "job.h"

#include <errno.h>

typedef struct sc_bell {
    PyObject_HEAD
    int fd; /* borrowed; -1 after close() */
    unsigned generation;
    sc_run *first, **last;
} sc_bell;

/* The run is over: it goes on the list. Under the pool's lock. */
void
sc_bell_ring(sc_run *run)
{
    sc_bell *bell = run->bell;
    if (!bell || run->rung) return;
    bool silent = !bell->first;
    run->rung = true;
    run->next_rung = NULL;
    *bell->last = run;
    bell->last = &run->next_rung;
    uint64_t one = 1;
    if (silent && bell->fd >= 0) sc_raw3(SYS_write, bell->fd, &one, sizeof one);
}

static void
sc_bell_take_off(sc_bell *bell, sc_run *run)
{
    sc_run **link = &bell->first;
    while (*link && *link != run) link = &(*link)->next_rung;
    if (!*link) return;
    *link = run->next_rung;
    if (!*link) bell->last = link;
    run->rung = false;
}

/* Nobody is to hear of the run any more. With the GIL. In a forked child the list may be in the middle of a change. */
void
sc_bell_leave(sc_run *run)
{
    sc_pool_hold();
    sc_bell *bell = run->bell;
    if (bell && run->rung && bell->generation == sc_pool_generation()) sc_bell_take_off(bell, run);
    run->bell = NULL;
    sc_pool_let_go();
    Py_XDECREF(bell);
}

static sc_run *
sc_bell_run_of(PyObject *self, PyObject *job)
{
    sc_state *state = PyType_GetModuleState(Py_TYPE(self));
    if (PyObject_TypeCheck(job, state->job_type)) return ((sc_job *)job)->run;
    PyErr_SetString(PyExc_TypeError, "a Job is needed");
    return NULL;
}

static PyObject *
sc_bell_heed(PyObject *self, PyObject *args)
{
    PyObject *job;
    unsigned long long number;
    if (!PyArg_ParseTuple(args, "OK:heed", &job, &number)) return NULL;
    sc_run *run = sc_bell_run_of(self, job);
    if (!run) return NULL;
    if (run->bell) sc_bell_leave(run);
    sc_pool_hold();
    run->bell = (sc_bell *)Py_NewRef(self);
    run->number = number;
    if (__atomic_load_n(&run->light.ending, __ATOMIC_SEQ_CST)) sc_bell_ring(run);
    sc_pool_let_go();
    Py_RETURN_NONE;
}

static PyObject *
sc_bell_hush(PyObject *self, PyObject *job)
{
    sc_run *run = sc_bell_run_of(self, job);
    if (!run) return NULL;
    sc_bell_leave(run);
    Py_RETURN_NONE;
}

static PyObject *
sc_bell_ended(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_bell *bell = (sc_bell *)self;
    PyObject *numbers = PyList_New(0);
    while (numbers && bell->generation == sc_pool_generation()) {
        sc_pool_hold();
        sc_run *run = bell->first;
        uint64_t number = run ? run->number : 0;
        if (run) sc_bell_take_off(bell, run);
        sc_pool_let_go();
        if (!run) break;
        PyObject *object = PyLong_FromUnsignedLongLong(number);
        if (!object || PyList_Append(numbers, object) < 0) Py_CLEAR(numbers);
        Py_XDECREF(object);
    }
    return numbers;
}

static PyObject *
sc_bell_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    sc_pool_hold();
    ((sc_bell *)self)->fd = -1;
    sc_pool_let_go();
    Py_RETURN_NONE;
}

static PyObject *
sc_bell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int fd;
    static char *names[] = {"", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:Bell", names, &fd)) return NULL;
    sc_bell *bell = (sc_bell *)type->tp_alloc(type, 0);
    if (!bell) return NULL;
    bell->fd = fd;
    bell->generation = sc_pool_generation();
    bell->last = &bell->first;
    return (PyObject *)bell;
}

/* Each run that it hears of holds it: its list is empty. */
static void
sc_bell_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef sc_bell_methods[] = {
    {"heed", sc_bell_heed, METH_VARARGS, "heed(job, number): tell of its end, as this number; of an end that is past, at once."},
    {"hush", sc_bell_hush, METH_O, "hush(job): do not tell of its end."},
    {"ended", sc_bell_ended, METH_NOARGS, "The numbers of those that have ended and were not told of yet, in order."},
    {"close", sc_bell_close, METH_NOARGS, "Write to the eventfd no more."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sc_bell_slots[] = {
    {Py_tp_new, sc_bell_new},
    {Py_tp_methods, sc_bell_methods},
    {Py_tp_dealloc, sc_bell_dealloc},
    {Py_tp_doc, "Bell(fd): writes to an eventfd, borrowed, when a light process that it heeds has ended."},
    {0, NULL},
};

PyType_Spec sc_bell_spec = {
    .name = "sysclone._core.Bell",
    .basicsize = sizeof(sc_bell),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sc_bell_slots,
};
