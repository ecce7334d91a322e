/* The one way from a raw call's answer to an OSError. Hints and words are Python's. */
#include "core.h"

#include <errno.h>

PyObject *
sc_oserror(long minus_errno)
{
    errno = (int)-minus_errno;
    return PyErr_SetFromErrno(PyExc_OSError);
}
