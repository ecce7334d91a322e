/* futex(2), the waiting half and the waking half, a lock made of them, and gettid(2).

   Not private: the kernel's own wake of a CLONE_CHILD_CLEARTID word is not. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <time.h>

/* A lock for raw code: neither thread-local storage nor libc. Only threads of the program itself may take it: they do not die
   alone. */
void
sc_lock(int *lock)
{
    int open = 0;
    if (__atomic_compare_exchange_n(lock, &open, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return;
    while (__atomic_exchange_n(lock, 2, __ATOMIC_SEQ_CST)) sc_raw6(SYS_futex, lock, FUTEX_WAIT, 2, 0, 0, 0);
}

void
sc_unlock(int *lock)
{
    if (__atomic_exchange_n(lock, 0, __ATOMIC_SEQ_CST) == 2) sc_raw6(SYS_futex, lock, FUTEX_WAKE, 1, 0, 0, 0);
}

/* futex_wait(address, expected, nanoseconds): True woken, False the word differs already; OSError(ETIMEDOUT, EINTR). */
PyObject *
sc_futex_wait(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    unsigned int expected;
    long long ns;
    if (!PyArg_ParseTuple(args, "KIL:futex_wait", &address, &expected, &ns)) return NULL;
    struct timespec t = {.tv_sec = ns / SC_NANOSECONDS, .tv_nsec = ns % SC_NANOSECONDS};
    long answer;
    Py_BEGIN_ALLOW_THREADS
    answer = sc_raw6(SYS_futex, address, FUTEX_WAIT, expected, ns < 0 ? NULL : &t, 0, 0);
    Py_END_ALLOW_THREADS
    if (answer == -EAGAIN) Py_RETURN_FALSE;
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_TRUE;
}

/* futex_wake(address, count) -> how many were woken. */
PyObject *
sc_futex_wake(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    int count;
    if (!PyArg_ParseTuple(args, "Ki:futex_wake", &address, &count)) return NULL;
    long answer = sc_raw6(SYS_futex, address, FUTEX_WAKE, count, 0, 0, 0);
    return answer < 0 ? sc_oserror(answer) : PyLong_FromLong(answer);
}

PyObject *
sc_gettid(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(sc_raw0(SYS_gettid));
}
