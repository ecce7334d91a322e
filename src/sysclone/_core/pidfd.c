/* pidfds: open, signal, take a copy of an fd, ask. */
#include "core.h"

#include <sys/ioctl.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* struct pidfd_info of Linux 6.15, 64 bytes; later kernels take it as it is. */
typedef struct {
    uint64_t mask, cgroupid;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
} sc_pidfd_info_record;

_Static_assert(sizeof(sc_pidfd_info_record) == 64, "PIDFD_INFO_SIZE_VER0");

#define SC_PIDFD_GET_INFO _IOWR(0xFF, 11, sc_pidfd_info_record)

PyObject *
sc_pidfd_open(PyObject *module, PyObject *args)
{
    (void)module;
    int pid;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iI:pidfd_open", &pid, &flags)) return NULL;
    long fd = sc_raw2(SYS_pidfd_open, pid, flags);
    return fd < 0 ? sc_oserror(fd) : PyLong_FromLong(fd);
}

PyObject *
sc_pidfd_send_signal(PyObject *module, PyObject *args)
{
    (void)module;
    int fd, sig;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iiI:pidfd_send_signal", &fd, &sig, &flags)) return NULL;
    long answer = sc_raw4(SYS_pidfd_send_signal, fd, sig, 0, flags);
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}

PyObject *
sc_pidfd_getfd(PyObject *module, PyObject *args)
{
    (void)module;
    int pidfd, fd;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iiI:pidfd_getfd", &pidfd, &fd, &flags)) return NULL;
    long answer = sc_raw3(SYS_pidfd_getfd, pidfd, fd, flags);
    return answer < 0 ? sc_oserror(answer) : PyLong_FromLong(answer);
}

/* pidfd_info(fd, mask) -> (mask, cgroupid, pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid, exit_code) */
PyObject *
sc_pidfd_info(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    unsigned long long mask;
    if (!PyArg_ParseTuple(args, "iK:pidfd_info", &fd, &mask)) return NULL;
    sc_pidfd_info_record i = {.mask = mask};
    long answer = sc_raw3(SYS_ioctl, fd, SC_PIDFD_GET_INFO, &i);
    if (answer < 0) return sc_oserror(answer);
    return Py_BuildValue("KKIIIIIIIIIIIi", (unsigned long long)i.mask, (unsigned long long)i.cgroupid, i.pid, i.tgid, i.ppid,
                         i.ruid, i.rgid, i.euid, i.egid, i.suid, i.sgid, i.fsuid, i.fsgid, i.exit_code);
}
