/* Short system calls by name, with the GIL kept: for what a child does before its function or program.

   os's functions let go of the GIL around each call, and wait up to a switch interval (5 ms) to have it back from threads
   that never sleep; and libc's set*id change every thread that libc knows, who are the creator's. These do neither: one
   raw call each, and the whole of a set-up runs in one hold. None of them may block for long. */
#include "core.h"

#include <errno.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

typedef struct {
    const char *name;
    long number;
} sc_syscall_row;

/* In the order of the alphabet. */
static const sc_syscall_row sc_syscall_rows[] = {
    {"capget", SYS_capget},
    {"capset", SYS_capset},
    {"close", SYS_close},
    {"ioctl", SYS_ioctl},
    {"prctl", SYS_prctl},
    {"setgroups", SYS_setgroups},
    {"setresgid", SYS_setresgid},
    {"setresuid", SYS_setresuid},
    {"socket", SYS_socket},
};

#define SC_MOST_ARGUMENTS 6

static long
sc_number_of(PyObject *name)
{
    for (size_t i = 0; i < sizeof sc_syscall_rows / sizeof *sc_syscall_rows; i++)
        if (PyUnicode_CompareWithASCIIString(name, sc_syscall_rows[i].name) == 0) return sc_syscall_rows[i].number;
    PyErr_Format(PyExc_ValueError, "syscall: %R is not in the table", name);
    return -1;
}

/* An int is itself, None is NULL, a str or a buffer is its address (bytes end with a null byte). */
static int
sc_argument(PyObject *object, long *out, Py_buffer *buffer)
{
    if (object == Py_None) return 0;
    if (PyLong_Check(object)) {
        *out = (long)PyLong_AsUnsignedLongMask(object);
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyUnicode_Check(object)) {
        const char *text = PyUnicode_AsUTF8(object);
        *out = (long)text;
        return text ? 0 : -1;
    }
    if (PyObject_GetBuffer(object, buffer, PyBUF_SIMPLE) < 0) return -1;
    *out = (long)buffer->buf;
    return 0;
}

/* syscall(name, *arguments) -> what the kernel answers. */
PyObject *
sc_syscall(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs < 1 || nargs > 1 + SC_MOST_ARGUMENTS || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "syscall(name, *arguments), at most six of them");
        return NULL;
    }
    long number = sc_number_of(args[0]);
    if (number < 0) return NULL;
    long words[SC_MOST_ARGUMENTS] = {0}, answer = -1;
    Py_buffer buffers[SC_MOST_ARGUMENTS] = {{0}};
    bool good = true;
    for (Py_ssize_t i = 0; good && i < nargs - 1; i++) good = sc_argument(args[i + 1], &words[i], &buffers[i]) == 0;
    if (good) answer = sc_raw6(number, words[0], words[1], words[2], words[3], words[4], words[5]);
    for (int i = 0; i < SC_MOST_ARGUMENTS; i++)
        if (buffers[i].obj) PyBuffer_Release(&buffers[i]);
    if (!good) return NULL;
    return answer < 0 ? sc_oserror(answer) : PyLong_FromLong(answer);
}
