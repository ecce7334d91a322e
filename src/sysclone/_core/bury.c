/* Threads that died with their process, without a word to the interpreter, which at its end waits for each that was no daemon.

   1. Who is dead is told by libc: at a thread's end, in whatever way, the kernel clears the id that libc keeps for it. A number
      in /proc may be somebody else's by now, or one of another pid namespace. The thread states lead to libc's threads: while
      one is on the interpreter's list its thread has not ended as threads do, so what libc keeps of it is there.
   2. From 3.13 on the end waits in C for each thread on a list of its own. What stands there is private to _threadmodule.c: a
      handle is one pointer, to two nodes of doubly linked lists, of which the second is that list's. Nothing is unlinked that is
      not linked as such a node is.
   3. From 3.15 on it then goes through the thread states, and begins again as long as one is that of a thread that is no daemon.
      The dead ones become daemons'.

   The thread states stay, as what they hold may be half written: a buried one has no thread. */
#include "tstate.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#if SC_PY(13)
#define SC_HEAD_LOCK() PyMutex_Lock(&_PyRuntime.interpreters.mutex)
#define SC_HEAD_UNLOCK() PyMutex_Unlock(&_PyRuntime.interpreters.mutex)
#else
#define SC_HEAD_LOCK() ((void)PyThread_acquire_lock(_PyRuntime.interpreters.mutex, WAIT_LOCK))
#define SC_HEAD_UNLOCK() PyThread_release_lock(_PyRuntime.interpreters.mutex)
#endif

/* What libc keeps as the id of a thread that has a thread state: 0 once it is dead, -1 where nothing can be told. */
static long
sc_thread_number(unsigned long ident)
{
    clockid_t clock;
    if (!ident || !sc_frames_is_mapped((void *)ident, sizeof(void *))) return -1;
    int error = pthread_getcpuclockid((pthread_t)ident, &clock);
    if (error) return error == ESRCH ? 0 : -1;
    return ~(long)(clock >> 3); /* as the kernel numbers threads' clocks */
}

bool
sc_bury_is_dead(const PyThreadState *ts)
{
    return sc_thread_number(ts->thread_id) == 0;
}

/* Whether a thread that lives has this id in libc's eyes. */
bool
sc_bury_lives(int number)
{
    bool found = false;
    SC_HEAD_LOCK();
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); ts && !found; ts = ts->next)
        found = sc_thread_number(ts->thread_id) == number;
    SC_HEAD_UNLOCK();
    return found;
}

/* Buries up to room threads, whose idents are then in idents; without idents, and without the GIL, counts the dead. */
size_t
sc_bury_dead(unsigned long *idents, size_t room)
{
    size_t count = 0;
    SC_HEAD_LOCK();
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); ts; ts = ts->next) {
        if (!sc_bury_is_dead(ts)) continue;
        if (idents && count == room) break;
        if (idents) {
            idents[count] = ts->thread_id;
            ts->thread_id = 0;
#if SC_PY(15)
            if (ts->_whence == _PyThreadState_WHENCE_THREADING) ts->_whence = _PyThreadState_WHENCE_THREADING_DAEMON;
#endif
        }
        count++;
    }
    SC_HEAD_UNLOCK();
    return count;
}

/* died(ident) -> whether a thread of which libc has something still died without a word. */
PyObject *
sc_died(PyObject *module, PyObject *object)
{
    (void)module;
    unsigned long ident = PyLong_AsUnsignedLong(object);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(sc_thread_number(ident) == 0);
}

#define SC_BURY_AT_ONCE 64

/* bury_dead() -> the idents of threads that have died since it was last asked. */
PyObject *
sc_bury_dead_py(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    unsigned long idents[SC_BURY_AT_ONCE];
    PyObject *list = PyList_New(0);
    for (size_t count = SC_BURY_AT_ONCE; list && count == SC_BURY_AT_ONCE;) {
        count = sc_bury_dead(idents, SC_BURY_AT_ONCE);
        for (size_t i = 0; list && i < count; i++) {
            PyObject *ident = PyLong_FromUnsignedLong(idents[i]);
            if (!ident || PyList_Append(list, ident) < 0) Py_CLEAR(list);
            Py_XDECREF(ident);
        }
    }
    return list;
}

#if SC_PY(13)
#include "internal/pycore_llist.h"

typedef struct {
    struct llist_node node, shutdown_node;
} sc_thread_handle;

typedef struct {
    PyObject_HEAD
    sc_thread_handle *handle;
} sc_thread_handle_object;

static bool
sc_unlink(PyObject *object)
{
    sc_thread_handle *handle = ((sc_thread_handle_object *)object)->handle;
    if (!sc_frames_is_mapped(handle, sizeof *handle)) return false;
    struct llist_node *node = &handle->shutdown_node;
    if (!sc_frames_is_mapped(node->next, sizeof *node) || !sc_frames_is_mapped(node->prev, sizeof *node)) return false;
    bool linked = node->next->prev == node && node->prev->next == node;
    if (linked) llist_remove(node);
    return linked;
}
#endif

/* bury(handle) -> whether a _thread._ThreadHandle was taken off the list of those that the interpreter's end waits for. */
PyObject *
sc_bury(PyObject *module, PyObject *object)
{
    (void)module;
    bool done = false;
    if (strcmp(Py_TYPE(object)->tp_name, "_thread._ThreadHandle") != 0) {
        PyErr_SetString(PyExc_TypeError, "bury(handle) takes a _thread._ThreadHandle");
        return NULL;
    }
#if SC_PY(13)
    SC_HEAD_LOCK();
    done = sc_unlink(object);
    SC_HEAD_UNLOCK();
#endif
    return PyBool_FromLong(done);
}
