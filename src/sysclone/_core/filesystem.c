/* A filesystem mounted nowhere: its root is an fd, nobody else sees it, and it is gone with the fd. */
#include "core.h"

#include <fcntl.h>

#ifndef SYS_fsopen
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif
#define SC_FSOPEN_CLOEXEC 1
#define SC_FSCONFIG_CMD_CREATE 6
#define SC_FSMOUNT_CLOEXEC 1

/* detached_mount(type) -> an O_PATH fd of its root. Linux 5.2. */
PyObject *
sc_detached_mount(PyObject *module, PyObject *args)
{
    (void)module;
    const char *type;
    if (!PyArg_ParseTuple(args, "s:detached_mount", &type)) return NULL;
    long context = sc_raw2(SYS_fsopen, type, SC_FSOPEN_CLOEXEC);
    if (context < 0) return sc_oserror(context);
    long answer = sc_raw5(SYS_fsconfig, context, SC_FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (answer >= 0) answer = sc_raw3(SYS_fsmount, context, SC_FSMOUNT_CLOEXEC, 0);
    sc_raw1(SYS_close, context);
    return answer < 0 ? sc_oserror(answer) : PyLong_FromLong(answer);
}
