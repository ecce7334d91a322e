/* Packets over a socket, sent and taken without waiting and with the GIL kept: each is over sooner than another thread is
   woken, and who lets go of the GIL for it waits for it afterwards. */
#include "core.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define SC_MOST_FDS 253 /* SCM_MAX_FD */

/* packet_send(fd, data): OSError where it is not taken whole and at once. */
PyObject *
sc_packet_send(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "iy*:packet_send", &fd, &data)) return NULL;
    long answer = sc_raw6(SYS_sendto, fd, data.buf, data.len, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
    PyBuffer_Release(&data);
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}

/* The fds that came with a packet, as a list; all are closed where there is no memory for it. */
static PyObject *
sc_arrived_fds(struct msghdr *message)
{
    PyObject *fds = PyList_New(0);
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one)) {
        if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(one) + i * sizeof fd, sizeof fd);
            PyObject *number = fds ? PyLong_FromLong(fd) : NULL;
            if (!number || PyList_Append(fds, number) < 0) {
                sc_raw1(SYS_close, fd);
                Py_CLEAR(fds);
            }
            Py_XDECREF(number);
        }
    }
    return fds;
}

/* packet_receive(fd, room) -> (bytes, fds): b"" at the end of the stream; BlockingIOError where there is none. */
PyObject *
sc_packet_receive(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(args, "in:packet_receive", &fd, &room)) return NULL;
    if (room < 1) {
        PyErr_SetString(PyExc_ValueError, "room for at least one byte is needed");
        return NULL;
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, room);
    if (!data) return NULL;
    union {
        char room[CMSG_SPACE(SC_MOST_FDS * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec part = {.iov_base = PyBytes_AS_STRING(data), .iov_len = (size_t)room};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    long answer = sc_raw3(SYS_recvmsg, fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (answer < 0) {
        Py_DECREF(data);
        return sc_oserror(answer);
    }
    PyObject *fds = sc_arrived_fds(&message);
    if (!fds || _PyBytes_Resize(&data, answer) < 0) {
        Py_XDECREF(fds);
        Py_XDECREF(data);
        return NULL;
    }
    return Py_BuildValue("NN", data, fds);
}
