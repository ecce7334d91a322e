/* Threads that died with their process, without a word to the interpreter, which from 3.13 on waits at its end in C for each
   on a list of its own. What stands there is private to _threadmodule.c: a handle is one pointer, to two nodes of doubly
   linked lists, of which the second is that list's. Nothing is unlinked that is not linked as such a node is. */
#include "tstate.h"

#include <string.h>

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
    PyMutex_Lock(&_PyRuntime.interpreters.mutex);
    done = sc_unlink(object);
    PyMutex_Unlock(&_PyRuntime.interpreters.mutex);
#endif
    return PyBool_FromLong(done);
}
