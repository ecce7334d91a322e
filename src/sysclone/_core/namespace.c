/* unshare(2) and setns(2). */
#include "core.h"

PyObject *
sc_unshare(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long flags;
    if (!PyArg_ParseTuple(args, "K:unshare", &flags)) return NULL;
    sc_pool_set_apart();
    long answer;
    Py_BEGIN_ALLOW_THREADS
    answer = sc_raw1(SYS_unshare, flags);
    Py_END_ALLOW_THREADS
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}

PyObject *
sc_setns(PyObject *module, PyObject *args)
{
    (void)module;
    int fd, type;
    if (!PyArg_ParseTuple(args, "ii:setns", &fd, &type)) return NULL;
    sc_pool_set_apart();
    long answer;
    Py_BEGIN_ALLOW_THREADS
    answer = sc_raw2(SYS_setns, fd, type);
    Py_END_ALLOW_THREADS
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}
