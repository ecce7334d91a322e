/* What a thread state holds of the frames that run on it.

   A light process runs Python on its creator's thread state. One that dies by itself leaves that state in the middle
   of its frames; what is saved here before the clone puts it back. The fields follow CPython version by version, so a
   version that is not listed is refused (sc_tstate_unsupported) rather than guessed at.

   Values owned by a dead frame are leaked: they may be half written. */
#include "tstate.h"

#if SC_PY(13)
/* Whether this interpreter's structures are laid out as those that the extension was compiled against: a patch release
   may add fields. The interpreter publishes where some stand, for debuggers; what lies between two that agree agrees. */
static bool
sc_is_laid_out_alike(void)
{
    const _Py_DebugOffsets *o = &_PyRuntime.debug_offsets;
    return memcmp(o->cookie, _Py_Debug_Cookie, sizeof o->cookie) == 0
           && o->thread_state.current_frame == offsetof(PyThreadState, current_frame)
           && o->interpreter_state.threads_head == offsetof(PyInterpreterState, threads.head)
           && o->interpreter_state.ceval_gil == offsetof(PyInterpreterState, ceval.gil)
           && o->interpreter_state.gil_runtime_state == offsetof(PyInterpreterState, _gil)
           && o->interpreter_state.gil_runtime_state_locked == offsetof(PyInterpreterState, _gil.locked)
           && o->interpreter_state.gil_runtime_state_holder == offsetof(PyInterpreterState, _gil.last_holder)
           && o->thread_state.next == offsetof(PyThreadState, next)
           && o->thread_state.thread_id == offsetof(PyThreadState, thread_id)
           && o->thread_state.datastack_chunk == offsetof(PyThreadState, datastack_chunk)
           && o->interpreter_frame.executable == offsetof(_PyInterpreterFrame, f_executable)
           && o->interpreter_frame.previous == offsetof(_PyInterpreterFrame, previous)
           && o->interpreter_frame.owner == offsetof(_PyInterpreterFrame, owner)
           && o->interpreter_frame.localsplus == offsetof(_PyInterpreterFrame, localsplus);
}
#else
static bool
sc_is_laid_out_alike(void)
{
    return true;
}
#endif

const char *
sc_tstate_unsupported(void)
{
#ifdef Py_GIL_DISABLED
    return "this is a free-threaded CPython, where threads take no turns by a lock that a lent thread state could hold";
#endif
    unsigned long hex = Py_Version;
    if ((hex >> 16) < 0x030b || (hex >> 16) > 0x030f)
        return "the thread state of this version of CPython is not known to sysclone, which knows 3.11 to 3.15";
    if ((hex >> 16) != (PY_VERSION_HEX >> 16)) return "the extension was built for another version of CPython";
    if (!sc_is_laid_out_alike())
        return "the thread state of this CPython is laid out otherwise than where sysclone was built; build it on this one";
    return NULL;
}

#if SC_PY(13)
/* Nothing that all of these versions export tells which thread is the main one. */
static unsigned long sc_main_ident;

int
sc_main_thread_begin(void)
{
    PyObject *module = PyImport_ImportModule("_thread");
    PyObject *ident = module ? PyObject_CallMethod(module, "_get_main_thread_ident", NULL) : NULL;
    sc_main_ident = ident ? PyLong_AsUnsignedLong(ident) : 0;
    Py_XDECREF(ident);
    Py_XDECREF(module);
    return PyErr_Occurred() ? -1 : 0;
}

/* The thread that forked is the child's main one. */
void
sc_main_thread_after_fork(void)
{
    sc_main_ident = PyThread_get_thread_ident();
}

bool
sc_is_main_thread(void)
{
    return PyThread_get_thread_ident() == sc_main_ident;
}
#else
int
sc_main_thread_begin(void)
{
    return 0;
}

void
sc_main_thread_after_fork(void)
{
}

bool
sc_is_main_thread(void)
{
    return _Py_IsMainThread();
}
#endif

/* finalizing() -> whether the interpreter has begun to end: atexit's functions run, or nothing of Python does soon. */
PyObject *
sc_finalizing(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyInterpreterState *interp = PyInterpreterState_Get();
#if SC_PY(13)
    return PyBool_FromLong(_PyInterpreterState_GetFinalizing(interp) != NULL);
#elif SC_PY(12)
    return PyBool_FromLong(interp->finalizing);
#else
    (void)interp;
    return PyBool_FromLong(_Py_IsFinalizing());
#endif
}

void
sc_tstate_save(sc_tstate *s, PyThreadState *ts)
{
    s->ts = ts;
#if SC_PY(13)
    s->frame = ts->current_frame;
    s->trash_later = ts->delete_later;
#else
    s->cframe = ts->cframe;
    s->frame = ts->cframe->current_frame;
#endif
#if SC_PY(12)
    s->recursion = ts->py_recursion_limit - ts->py_recursion_remaining;
#else
    s->recursion = ts->recursion_limit - ts->recursion_remaining;
    s->use_tracing = ts->cframe->use_tracing;
    s->trash_nesting = ts->trash_delete_nesting;
    s->trash_later = ts->trash_delete_later;
#endif
#if SC_PY(12) && !SC_PY(13)
    s->trash_nesting = ts->trash.delete_nesting;
    s->trash_later = ts->trash.delete_later;
#endif
#if SC_PY(12) && !SC_PY(14)
    s->c_recursion = ts->c_recursion_remaining;
#endif
#if SC_PY(14)
    s->executor = ts->current_executor;
#endif
#if SC_PY(15)
    s->jit_exit = ts->jit_exit;
    s->ensure_counter = ts->ensure.counter;
    s->ensure_deletes = ts->ensure.delete_on_release;
    s->ensure_guard = ts->ensure.owned_guard;
#endif
#if SC_PY(12)
    s->event = ts->what_event;
#endif
    s->running_loop = s->running_task = NULL;
    s->headroom = ts->recursion_headroom;
    s->tracing = ts->tracing;
    s->exc_info = ts->exc_info;
    s->exc_value = ts->exc_info->exc_value;
    s->context = ts->context;
    s->gilstate_counter = ts->gilstate_counter;
    s->asyncgen_firstiter = ts->async_gen_firstiter;
    s->asyncgen_finalizer = ts->async_gen_finalizer;
    s->origin_tracking_depth = ts->coroutine_origin_tracking_depth;
    s->datastack_chunk = ts->datastack_chunk;
    s->datastack_top = ts->datastack_top;
    s->datastack_limit = ts->datastack_limit;
}

#if SC_PY(14)
/* A reference that another frame, or the one who deferred it, holds alive becomes one of the heap's. */
#define SC_FRAME_OWN(reference) ((reference) = PyStackRef_MakeHeapSafe(reference))
#endif

/* A frame object takes the frame's contents over, as at a frame's ordinary end. What lay on the frame's stack is left. */
static void
sc_detach_frame(_PyInterpreterFrame *f, PyFrameObject *object, int locals)
{
    _PyInterpreterFrame *kept = (_PyInterpreterFrame *)object->_f_frame_data;
    memcpy(kept, f, offsetof(_PyInterpreterFrame, localsplus) + (size_t)locals * sizeof *f->localsplus);
    kept->owner = FRAME_OWNED_BY_FRAME_OBJECT;
    kept->previous = NULL;
    kept->frame_obj = f->frame_obj = NULL;
#if SC_PY(14)
    SC_FRAME_OWN(kept->f_executable);
    SC_FRAME_OWN(kept->f_funcobj);
    for (int i = 0; i < locals; i++) SC_FRAME_OWN(kept->localsplus[i]);
    kept->stackpointer = kept->localsplus + locals;
    kept->visited = 0;
#else
    kept->stacktop = locals;
#endif
    object->f_frame = kept;
    if (!PyObject_GC_IsTracked((PyObject *)object)) PyObject_GC_Track(object);
    /* The frame's own reference; never the last one, whose end would run code. */
    if (Py_REFCNT(object) > 1) Py_DECREF(object);
}

/* Frame objects that the program still has of a dead function's frames (of a traceback, or sys._getframe) become their own
   masters, before the frames' memory is used again. */
static void
sc_detach_frames(const sc_tstate *s)
{
    _PyInterpreterFrame *previous;
    for (_PyInterpreterFrame *f = sc_frames_top(s); f && f != s->frame; f = previous) {
        previous = f->previous;
        PyObject *code = SC_FRAME_CODE(f);
        if (f->owner == FRAME_OWNED_BY_GENERATOR) f->previous = NULL;
        if (f->owner == FRAME_OWNED_BY_THREAD && f->frame_obj && code && PyCode_Check(code))
            sc_detach_frame(f, f->frame_obj, ((PyCodeObject *)code)->co_nlocalsplus);
    }
}

static void
sc_free_chunks(PyThreadState *ts, void *until)
{
    PyObjectArenaAllocator arena;
    PyObject_GetArenaAllocator(&arena);
    _PyStackChunk *chunk = ts->datastack_chunk;
    while (chunk && chunk != until) {
        _PyStackChunk *previous = chunk->previous;
        arena.free(arena.ctx, chunk, chunk->size);
        chunk = previous;
    }
}

void
sc_tstate_restore(const sc_tstate *s)
{
    PyThreadState *ts = s->ts;
    sc_detach_frames(s);
#if SC_PY(13)
    ts->current_frame = s->frame;
    ts->delete_later = s->trash_later;
#else
    ts->cframe = s->cframe;
    ts->cframe->current_frame = s->frame;
#endif
#if SC_PY(12)
    ts->py_recursion_remaining = ts->py_recursion_limit - s->recursion; /* the function may have changed the limit */
    ts->current_exception = NULL;
#else
    ts->recursion_remaining = ts->recursion_limit - s->recursion;
    ts->cframe->use_tracing = s->use_tracing;
    ts->trash_delete_nesting = s->trash_nesting;
    ts->trash_delete_later = s->trash_later;
    ts->curexc_type = ts->curexc_value = ts->curexc_traceback = NULL;
#endif
#if SC_PY(12) && !SC_PY(13)
    ts->trash.delete_nesting = s->trash_nesting;
    ts->trash.delete_later = s->trash_later;
#endif
#if SC_PY(12) && !SC_PY(14)
    ts->c_recursion_remaining = s->c_recursion;
#endif
#if SC_PY(14)
    ts->current_executor = s->executor;
#endif
#if SC_PY(15)
    ts->jit_exit = s->jit_exit;
    ts->ensure.counter = s->ensure_counter;
    ts->ensure.delete_on_release = s->ensure_deletes;
    /* The interpreter's end waits for each guard. */
    if (ts->ensure.owned_guard && ts->ensure.owned_guard != s->ensure_guard) PyInterpreterGuard_Close(ts->ensure.owned_guard);
    ts->ensure.owned_guard = s->ensure_guard;
    /* A sampling profiler's anchor: the frame may be a dead one. */
    ts->last_profiled_frame = NULL;
    ts->last_profiled_frame_seq++;
#endif
#if SC_PY(12)
    ts->what_event = s->event;
#endif
    ts->recursion_headroom = s->headroom;
    ts->tracing = s->tracing;
    ts->exc_info = s->exc_info;
    ts->exc_info->exc_value = s->exc_value;
    ts->context = s->context;
    ts->context_ver++;
    ts->gilstate_counter = s->gilstate_counter;
    ts->async_gen_firstiter = s->asyncgen_firstiter;
    ts->async_gen_finalizer = s->asyncgen_finalizer;
    ts->coroutine_origin_tracking_depth = s->origin_tracking_depth;
    sc_free_chunks(ts, s->datastack_chunk);
    ts->datastack_chunk = s->datastack_chunk;
    ts->datastack_top = s->datastack_top;
    ts->datastack_limit = s->datastack_limit;
}

static PyObject *
sc_asyncio(const char *method, PyObject *first, PyObject *second)
{
    PyObject *modules = PyImport_GetModuleDict(), *asyncio = modules ? PyDict_GetItemString(modules, "_asyncio") : NULL;
    if (!asyncio) return NULL;
    PyObject *answer = PyObject_CallMethod(asyncio, method, !first ? NULL : !second ? "O" : "OO", first, second);
    if (!answer) PyErr_Clear();
    return answer;
}

#if SC_PY(14)
/* From 3.14 on a thread has one running task, whatever its loop; before, each loop has one, and is dead with it. */
static PyObject *
sc_running_task(PyObject *loop)
{
    return loop && loop != Py_None ? sc_asyncio("current_task", loop, NULL) : NULL;
}

static void
sc_set_running_task(PyObject *loop, PyObject *task)
{
    if (loop && loop != Py_None) Py_XDECREF(sc_asyncio("_swap_current_task", loop, task ? task : Py_None));
}
#else
static PyObject *
sc_running_task(PyObject *loop)
{
    (void)loop;
    return NULL;
}

static void
sc_set_running_task(PyObject *loop, PyObject *task)
{
    (void)loop, (void)task;
}
#endif

/* With the GIL, which sc_tstate_save does without. The references are let go of by sc_tstate_drop_loop. */
void
sc_tstate_save_loop(sc_tstate *s)
{
    s->running_loop = sc_asyncio("_get_running_loop", NULL, NULL);
    s->running_task = sc_running_task(s->running_loop);
}

void
sc_tstate_drop_loop(sc_tstate *s)
{
    Py_CLEAR(s->running_loop);
    Py_CLEAR(s->running_task);
}

/* With the thread state in order: a function that was killed in an event loop leaves the loop set as the running one,
   and asyncio has its own copy of that, which only its own setter renews. */
void
sc_tstate_restore_loop(const sc_tstate *s)
{
    PyObject *dead = sc_asyncio("_get_running_loop", NULL, NULL);
    sc_set_running_task(dead, NULL);
    Py_XDECREF(dead);
    Py_XDECREF(sc_asyncio("_set_running_loop", s->running_loop ? s->running_loop : Py_None, NULL));
    sc_set_running_task(s->running_loop, s->running_task);
}

bool
sc_tstate_attached(PyThreadState *ts)
{
#if SC_PY(13)
    return PyThreadState_GetUnchecked() == ts;
#else
    return _PyThreadState_UncheckedGet() == ts;
#endif
}

bool
sc_tstate_is_watched(PyThreadState *ts)
{
    return ts->c_tracefunc || ts->c_profilefunc;
}

/* With the GIL: the thread that is attached has no trace and no profile function any more. */
void
sc_tstate_unwatch(void)
{
    PyEval_SetTrace(NULL, NULL);
    PyEval_SetProfile(NULL, NULL);
}

/* Raises exception in the thread at its next bytecode, from a signal handler or from a thread that holds no GIL:
   PyThreadState_SetAsyncExc takes locks. Owns a reference to exception when it answers true. */
bool
sc_tstate_poke(PyThreadState *ts, PyObject *exception)
{
    PyObject *none = NULL;
    bool placed = __atomic_compare_exchange_n(&ts->async_exc, &none, exception, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
#if SC_PY(13)
    __atomic_fetch_or(&ts->eval_breaker, (uintptr_t)_PY_ASYNC_EXCEPTION_BIT, __ATOMIC_SEQ_CST);
#else
    struct _ceval_state *ceval = &ts->interp->ceval;
    __atomic_store_n(&ceval->pending.async_exc, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&ceval->eval_breaker._value, 1, __ATOMIC_SEQ_CST);
#endif
    return placed;
}

bool
sc_tstate_is_poked(PyThreadState *ts, PyObject *exception)
{
    return __atomic_load_n(&ts->async_exc, __ATOMIC_ACQUIRE) == exception;
}
