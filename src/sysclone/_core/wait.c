/* waitid(2), with the rusage that libc's wrapper leaves out and the options that os.waitid has no names for. */
#include "core.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static double
sc_seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

/* The sixteen fields of resource.struct_rusage, in order. */
PyObject *
sc_rusage_tuple(const struct rusage *u)
{
    return Py_BuildValue("ddllllllllllllll", sc_seconds(u->ru_utime), sc_seconds(u->ru_stime), u->ru_maxrss, u->ru_ixrss,
                         u->ru_idrss, u->ru_isrss, u->ru_minflt, u->ru_majflt, u->ru_nswap, u->ru_inblock, u->ru_oublock,
                         u->ru_msgsnd, u->ru_msgrcv, u->ru_nsignals, u->ru_nvcsw, u->ru_nivcsw);
}

/* waitid(idtype, id, options) -> (pid, uid, signo, status, code, rusage), or None when nothing has changed (WNOHANG). */
PyObject *
sc_waitid(PyObject *module, PyObject *args)
{
    (void)module;
    int type, id;
    unsigned int options;
    if (!PyArg_ParseTuple(args, "iiI:waitid", &type, &id, &options)) return NULL;
    siginfo_t info = {0};
    struct rusage usage = {0};
    long answer;
    do {
        Py_BEGIN_ALLOW_THREADS
        answer = sc_raw5(SYS_waitid, type, id, &info, options, &usage);
        Py_END_ALLOW_THREADS
    } while (answer == -EINTR && PyErr_CheckSignals() == 0);
    if (answer == -EINTR) return NULL;
    if (answer < 0) return sc_oserror(answer);
    if (!info.si_pid) Py_RETURN_NONE;
    return Py_BuildValue("iiiiiN", info.si_pid, (int)info.si_uid, info.si_signo, info.si_status, info.si_code,
                         sc_rusage_tuple(&usage));
}
