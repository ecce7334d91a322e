/* CPython's own structures, for the files that know them: tstate.c, frames.c, gil.c and bury.c. */
#ifndef SC_TSTATE_H
#define SC_TSTATE_H

#define Py_BUILD_CORE_MODULE 1
#include "core.h"

#include "frameobject.h"
#include "internal/pycore_ceval.h"
#include "internal/pycore_code.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_pystate.h"
#include "internal/pycore_runtime.h"
#if PY_VERSION_HEX >= 0x030e0000
#include "internal/pycore_interpframe.h"
#include "internal/pycore_tstate.h"
#endif

#define SC_PY(minor) (PY_VERSION_HEX >= (0x03000000 | ((minor) << 16)))

#if SC_PY(14)
#define SC_FRAME_CODE(f) PyStackRef_AsPyObjectBorrow((f)->f_executable)
#elif SC_PY(13)
#define SC_FRAME_CODE(f) ((f)->f_executable)
#else
#define SC_FRAME_CODE(f) ((PyObject *)(f)->f_code)
#endif

bool sc_frames_is_mapped(const void *at, size_t bytes);
_PyInterpreterFrame *sc_frames_top(const sc_tstate *saved);
bool sc_bury_is_dead(const PyThreadState *ts);
int sc_bury_lives(int number);

#endif
