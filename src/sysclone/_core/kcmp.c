/* kcmp(2): whether two tasks have the same memory, file table, … : 0 the same, 1 less, 2 greater, 3 different unordered. */
#include "core.h"

PyObject *
sc_kcmp(PyObject *module, PyObject *args)
{
    (void)module;
    int pid1, pid2, type;
    unsigned long idx1, idx2;
    if (!PyArg_ParseTuple(args, "iiikk:kcmp", &pid1, &pid2, &type, &idx1, &idx2)) return NULL;
    long answer = sc_raw5(SYS_kcmp, pid1, pid2, type, idx1, idx2);
    return answer < 0 ? sc_oserror(answer) : PyLong_FromLong(answer);
}
