/* Threads that died with their process, without a word to the interpreter, which at its end waits for each that was no daemon.

   1. Who is dead is told by libc: at a thread's end, in whatever way, the kernel clears the id that libc keeps for it. A number
      in /proc may be somebody else's by now, or one of another pid namespace. The thread states lead to libc's threads: while
      one is on the interpreter's list its thread has not ended as threads do, so what libc keeps of it is there.
   2. From 3.13 on the end waits in C for each thread on a list of its own, until 3.12 for a lock that the thread state leads to.
      What stands on that list is private to _threadmodule.c: a handle object is one pointer, to two nodes of doubly linked lists,
      of which the second is that list's and the first one's head is the runtime's, and the thread's ident. A handle that is made
      for the purpose shows whether that is so; and nothing is unlinked that is not linked as such a node is.
   3. From 3.15 on it then goes through the thread states, and begins again as long as one is that of a thread that is no daemon.
      The dead ones become daemons'. One that is not bound may be a dead thread's, or that of a thread which is about to begin; for
      the living the list of 2 is enough.

   The thread states stay, as what they hold may be half written: a buried one has no thread. */
#include "tstate.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#if SC_PY(13)
#define SC_HEAD_LOCK() PyMutex_Lock(&_PyRuntime.interpreters.mutex)
#define SC_HEAD_TRY() sc_try_mutex(&_PyRuntime.interpreters.mutex._bits)
#define SC_HEAD_UNLOCK() PyMutex_Unlock(&_PyRuntime.interpreters.mutex)
#else
#define SC_HEAD_LOCK() ((void)PyThread_acquire_lock(_PyRuntime.interpreters.mutex, WAIT_LOCK))
#define SC_HEAD_TRY() PyThread_acquire_lock(_PyRuntime.interpreters.mutex, NOWAIT_LOCK)
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

#if SC_PY(13)
/* What CPython itself exports of this is another function in each version. */
static bool
sc_try_mutex(uint8_t *bits)
{
    uint8_t open = __atomic_load_n(bits, __ATOMIC_RELAXED) & ~_Py_LOCKED;
    return __atomic_compare_exchange_n(bits, &open, open | _Py_LOCKED, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif

/* Whether a thread that lives has this id in libc's eyes: 1 or 0, or -1 where the list of thread states is somebody else's at
   this moment. Nobody is waited for: the caller has a mutex of the GIL's, and to wait for a PyMutex is to let go of the GIL. */
int
sc_bury_lives(int number)
{
    int found = 0;
    if (!SC_HEAD_TRY()) return -1;
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); ts && !found; ts = ts->next)
        found = sc_thread_number(ts->thread_id) == number;
    SC_HEAD_UNLOCK();
    return found;
}

#define SC_MOST_STACK ((uintptr_t)64 << 20)

/* What libc keeps of a thread stands at the top of its stack. libc itself is not asked for the rest: it would take a lock that may
   be the dead one's. */
static void
sc_unpark_stack(unsigned long ident)
{
#if SC_PY(14)
    const uintptr_t page = 4096;
    uintptr_t low = ident & ~(page - 1);
    while (ident - low < SC_MOST_STACK && sc_frames_is_mapped((void *)(low - page), sizeof(void *))) low -= page;
    sc_unpark_dead(low, ident - low);
#else
    (void)ident;
#endif
}

/* Buries the next one that is dead, and answers its ident, or 0; not buried, and without the GIL, it is only looked for. */
unsigned long
sc_bury_next(bool bury)
{
    unsigned long ident = 0;
#if !SC_PY(13)
    void (*tell)(void *) = NULL;
    void *of_what = NULL;
#endif
    SC_HEAD_LOCK();
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); ts && !ident; ts = ts->next) {
        bool dead = sc_bury_is_dead(ts);
#if SC_PY(15)
        if (bury && (dead || !ts->_status.bound) && ts->_whence == _PyThreadState_WHENCE_THREADING)
            ts->_whence = _PyThreadState_WHENCE_THREADING_DAEMON;
#endif
        if (!dead) continue;
        ident = ts->thread_id;
        if (!bury) break;
        ts->thread_id = 0;
#if !SC_PY(13)
        tell = ts->on_delete;
        of_what = ts->on_delete_data;
        ts->on_delete = NULL;
#endif
    }
    SC_HEAD_UNLOCK();
#if !SC_PY(13)
    if (tell) tell(of_what); /* releases the lock that others wait for */
#endif
    if (bury && ident) sc_unpark_stack(ident);
    return ident;
}

/* died(ident) -> whether a thread of which libc has something still died without a word. */
PyObject *
sc_died(PyObject *module, PyObject *object)
{
    (void)module;
    unsigned long ident = PyLong_AsUnsignedLong(object);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(sc_thread_number(ident) == 0);
}

/* bury_dead() -> the idents of threads that have died since it was last asked. */
PyObject *
sc_bury_dead(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *list = PyList_New(0);
    for (unsigned long number; list && (number = sc_bury_next(true));) {
        PyObject *ident = PyLong_FromUnsignedLong(number);
        if (!ident || PyList_Append(list, ident) < 0) Py_CLEAR(list);
        Py_XDECREF(ident);
    }
    return list;
}

#if SC_PY(13)
#include "internal/pycore_llist.h"

typedef struct {
    struct llist_node node, shutdown_node;
    unsigned long ident; /* 0 until its starter, which has the GIL all the while, knows it */
    unsigned long os_handle;
    int has_os_handle, state;
} sc_thread_handle;

#define SC_HANDLE_RUNNING 3

typedef struct {
    PyObject_HEAD
    sc_thread_handle *handle;
} sc_thread_handle_object;

static bool
sc_is_linked(const struct llist_node *node)
{
    return sc_frames_is_mapped(node->next, sizeof *node) && sc_frames_is_mapped(node->prev, sizeof *node)
           && node->next->prev == node && node->prev->next == node;
}

/* Wakes those who wait for a thread, and marks it as ended. Its stack must stay: what the dead one waited for in CPython's parking
   lot has an entry there, and from 3.14 on its frames have too. Newer versions of glibc free it when it is detached, which the
   interpreter does where it has libc's handle: so that is taken from it first. */
static bool
sc_set_done(PyObject *object)
{
    sc_thread_handle *handle = ((sc_thread_handle_object *)object)->handle;
    if (!sc_frames_is_mapped(handle, sizeof *handle) || handle->state != SC_HANDLE_RUNNING) return false;
    if (handle->has_os_handle && (handle->has_os_handle != 1 || handle->os_handle != handle->ident)) return false;
    handle->has_os_handle = 0;
    PyObject *answer = PyObject_CallMethod(object, "_set_done", NULL);
    if (!answer) PyErr_Clear();
    Py_XDECREF(answer);
    return answer != NULL;
}

/* Whether a handle whose ident is known looks as it should, and is on the runtime's list of all. */
static bool
sc_is_as_known(const sc_thread_handle *probe, unsigned long ident)
{
    if (!sc_frames_is_mapped(probe, sizeof *probe) || probe->ident != ident || probe->state != SC_HANDLE_RUNNING) return false;
    const struct llist_node *head = &_PyRuntime.threads.handles, *node = head->next;
    while (node != head && node != &probe->node && sc_is_linked(node)) node = node->next;
    return node == &probe->node;
}

/* Takes the next dead thread's handle off the list of those that are waited for. The others' are on it until they have told all
   who wait, so what libc keeps of them is there. With the GIL: nobody is in the midst of starting a thread. */
static sc_thread_handle *
sc_unlink_next(void)
{
    sc_thread_handle *found = NULL;
    struct llist_node *head = &_PyRuntime.threads.handles;
    SC_HEAD_LOCK();
    for (struct llist_node *node = head->next; node != head && !found; node = node->next) {
        sc_thread_handle *handle = (sc_thread_handle *)node;
        if (handle->shutdown_node.next && sc_is_linked(&handle->shutdown_node)
            && (!handle->ident || sc_thread_number(handle->ident) == 0)) found = handle;
    }
    if (found) llist_remove(&found->shutdown_node);
    SC_HEAD_UNLOCK();
    return found;
}

static Py_ssize_t
sc_bury_all(PyObject *object, unsigned long ident)
{
    sc_thread_handle_object *probe = (sc_thread_handle_object *)object;
    sc_thread_handle *own = probe->handle, *dead;
    Py_ssize_t count = 0;
    if (!sc_is_as_known(own, ident)) return -1;
    for (; (dead = sc_unlink_next()); count++) {
        if (!dead->ident) continue;
        /* Its own object may be gone. */
        probe->handle = dead;
        sc_set_done(object);
        probe->handle = own;
    }
    return count;
}
#else
static Py_ssize_t
sc_bury_all(PyObject *object, unsigned long ident)
{
    (void)object, (void)ident;
    return -1;
}

static bool
sc_set_done(PyObject *object)
{
    (void)object;
    return false;
}
#endif

static bool
sc_is_handle(PyObject *object)
{
    if (strcmp(Py_TYPE(object)->tp_name, "_thread._ThreadHandle") == 0) return true;
    PyErr_SetString(PyExc_TypeError, "a _thread._ThreadHandle is needed");
    return false;
}

/* bury_handle(handle) -> whether a dead thread's handle was marked as that of one that has ended. */
PyObject *
sc_bury_handle(PyObject *module, PyObject *object)
{
    (void)module;
    return sc_is_handle(object) ? PyBool_FromLong(sc_set_done(object)) : NULL;
}

/* bury_handles(probe, ident) -> how many threads were taken off the list of those that the interpreter's end waits for; -1 where
   nothing is known of it. probe: a _thread._ThreadHandle with that ident, made for this. */
PyObject *
sc_bury_handles(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *probe;
    unsigned long ident;
    if (!PyArg_ParseTuple(args, "Ok:bury_handles", &probe, &ident)) return NULL;
    return sc_is_handle(probe) ? PyLong_FromSsize_t(sc_bury_all(probe, ident)) : NULL;
}
