/* The frames of a function, looked at from outside it.

   Its thread was frozen, or died, between any two instructions: also where a frame is half pushed or half popped. CPython
   up to 3.12 links its evaluation loop's own structure in before it says which frame is on top, so that for a moment a
   word from an earlier use of the stack stands there. So nothing is read that is not seen to be mapped, and a row of
   frames counts only if it leads to the frame below the function. */
#include "tstate.h"

#include <errno.h>

#define SC_PAGE 4096
/* More than a stack has room for, or that a recursion limit of sense allows. */
#define SC_MOST_FRAMES 1000000

typedef struct {
    uintptr_t pages[2]; /* found to be mapped last: of a frame, and of a code object */
} sc_seen;

/* Asks the kernel, which reads the mask before it finds that the way of changing it is none. */
static bool
sc_is_mapped(uintptr_t *seen, const void *at, size_t bytes)
{
    uintptr_t first = (uintptr_t)at & ~(uintptr_t)(SC_PAGE - 1), last = ((uintptr_t)at + bytes - 1) & ~(uintptr_t)(SC_PAGE - 1);
    if ((uintptr_t)at % sizeof(void *) || last < first) return false;
    for (uintptr_t page = first; page <= last; page += SC_PAGE) {
        if (page == *seen) continue;
        if (sc_raw4(SYS_rt_sigprocmask, -1, page, 0, SC_SIGSET_BYTES) != -EINVAL) return false;
        *seen = page;
    }
    return true;
}

bool
sc_frames_is_mapped(const void *at, size_t bytes)
{
    uintptr_t seen = 1;
    return sc_is_mapped(&seen, at, bytes);
}

static bool
sc_leads_down(const sc_tstate *s, const _PyInterpreterFrame *frame)
{
    sc_seen seen = {{1, 1}};
    for (long n = 0; frame != s->frame && n < SC_MOST_FRAMES; n++, frame = frame->previous) {
        if (!frame || !sc_is_mapped(&seen.pages[0], frame, offsetof(_PyInterpreterFrame, localsplus))) return false;
        PyObject *code = SC_FRAME_CODE(frame);
        if (code && !sc_is_mapped(&seen.pages[1], code, sizeof *code)) return false;
        if (code && PyCode_Check(code) && !sc_is_mapped(&seen.pages[1], code, sizeof(PyCodeObject))) return false;
    }
    return frame == s->frame;
}

#if !SC_PY(13)
/* The frame that was on top before the innermost evaluation loop began; s->frame if that began below the function. */
static _PyInterpreterFrame *
sc_frame_below(const sc_tstate *s)
{
    const _PyCFrame *loop = s->ts->cframe;
    uintptr_t seen = 1;
    if (loop == s->cframe || !sc_is_mapped(&seen, loop->previous, sizeof *loop)) return s->frame;
    return loop->previous->current_frame;
}
#endif

/* The function's innermost frame, or the one below it where that is half made; s->frame if none can be told. */
_PyInterpreterFrame *
sc_frames_top(const sc_tstate *s)
{
#if SC_PY(13)
    return sc_leads_down(s, s->ts->current_frame) ? s->ts->current_frame : s->frame;
#else
    if (sc_leads_down(s, s->ts->cframe->current_frame)) return s->ts->cframe->current_frame;
    _PyInterpreterFrame *below = sc_frame_below(s);
    return sc_leads_down(s, below) ? below : s->frame;
#endif
}

static bool
sc_same_name(PyObject *a, PyObject *b)
{
    if (a == b) return true;
    return a && PyUnicode_Check(a) && PyUnicode_KIND(a) == PyUnicode_1BYTE_KIND && PyUnicode_KIND(b) == PyUnicode_1BYTE_KIND
           && PyUnicode_GET_LENGTH(a) == PyUnicode_GET_LENGTH(b)
           && memcmp(PyUnicode_1BYTE_DATA(a), PyUnicode_1BYTE_DATA(b), (size_t)PyUnicode_GET_LENGTH(a)) == 0;
}

static bool
sc_any_is_shielded(const sc_tstate *s, const _PyInterpreterFrame *frame, PyObject *shield)
{
    for (; frame != s->frame; frame = frame->previous) {
        PyObject *code = SC_FRAME_CODE(frame);
        if (!code || !PyCode_Check(code)) continue;
        for (Py_ssize_t i = 0; i + 1 < PyTuple_GET_SIZE(shield); i += 2) {
            PyObject *name = PyTuple_GET_ITEM(shield, i + 1);
            if (sc_same_name(((PyCodeObject *)code)->co_filename, PyTuple_GET_ITEM(shield, i))
                && (name == Py_None || sc_same_name(((PyCodeObject *)code)->co_name, name)))
                return true;
        }
    }
    return false;
}

/* Whether a frame of the function's is of the shield: pairs of a file and a function's name, or None for all of the
   file. Without the GIL: the frames' owner is frozen, so they and their code stay; references are not touched. Where the
   frames cannot be read at this moment the answer is yes: it will be asked again. */
bool
sc_frames_are_shielded(const sc_tstate *s, PyObject *shield)
{
#if SC_PY(13)
    const _PyInterpreterFrame *top = s->ts->current_frame;
#else
    const _PyInterpreterFrame *top = s->ts->cframe->current_frame;
    /* What stands there while a frame is pushed may be an old row of frames: so the one below is looked at too. */
    const _PyInterpreterFrame *below = sc_frame_below(s);
    if (!sc_leads_down(s, below) || sc_any_is_shielded(s, below, shield)) return true;
#endif
    return !sc_leads_down(s, top) || sc_any_is_shielded(s, top, shield);
}

/* Where a dead function was: a list of (code, line), innermost first, at most 100. The frames themselves are not
   turned into objects: those would point into the data stack that is about to be used again. */
PyObject *
sc_frames_of_the_dead(const sc_tstate *s)
{
    _PyInterpreterFrame *frame = sc_frames_top(s);
    PyObject *list = PyList_New(0);
    for (int n = 0; list && frame && frame != s->frame && n < 100; n++, frame = frame->previous) {
        PyObject *code = SC_FRAME_CODE(frame);
        if (!code || !PyCode_Check(code)) continue;
#if SC_PY(12)
        int line = PyUnstable_InterpreterFrame_GetLine(frame);
#else
        int line = PyCode_Addr2Line((PyCodeObject *)code, _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT));
#endif
        PyObject *row = Py_BuildValue("Oi", code, line);
        if (!row || PyList_Append(list, row) < 0) PyErr_Clear();
        Py_XDECREF(row);
    }
    if (!list) PyErr_Clear();
    return list;
}

/* The frame objects of a dead function's frames, innermost first: where a trace or profile function is set, each frame that
   it was told of has one. NULL where none is set. The interpreter's own frames between them have no such field filled in. */
PyObject *
sc_frames_watched(const sc_tstate *s)
{
    PyObject *list = sc_tstate_is_watched(s->ts) ? PyList_New(0) : NULL;
    for (_PyInterpreterFrame *f = sc_frames_top(s); list && f && f != s->frame; f = f->previous)
        if ((f->owner == FRAME_OWNED_BY_THREAD || f->owner == FRAME_OWNED_BY_GENERATOR) && f->frame_obj
            && PyList_Append(list, (PyObject *)f->frame_obj) < 0) PyErr_Clear();
    return list;
}

/* With the thread state in order: tells the trace and the profile function that these frames have ended, since both keep
   count of what was entered. What they raise is dropped. */
void
sc_frames_tell(const sc_tstate *s, PyObject *frames)
{
    PyThreadState *ts = s->ts;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(frames); i++) {
        PyFrameObject *frame = (PyFrameObject *)PyList_GET_ITEM(frames, i);
        PyThreadState_EnterTracing(ts);
        if (ts->c_tracefunc && ts->c_tracefunc(ts->c_traceobj, frame, PyTrace_RETURN, Py_None) < 0) PyErr_Clear();
        if (ts->c_profilefunc && ts->c_profilefunc(ts->c_profileobj, frame, PyTrace_RETURN, Py_None) < 0) PyErr_Clear();
        PyThreadState_LeaveTracing(ts);
    }
}
