/* What the tracer tells, as Python has it: a tuple for each record. */
#include "core.h"

#include "tracer.h"

static PyObject *
sc_numbers_tuple(const uint64_t *numbers, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[i]);
        if (!number) Py_CLEAR(tuple);
        else PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

static PyObject *
sc_ids_tuple(const int32_t *numbers, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple && i < count; i++) {
        PyObject *number = PyLong_FromLong(numbers[i]);
        if (!number) Py_CLEAR(tuple);
        else PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

static PyObject *
sc_strings_tuple(const char *at, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple && i < count; i++) {
        uint32_t length = *(const uint32_t *)at;
        PyObject *text = PyUnicode_DecodeFSDefaultAndSize(at + 4, (Py_ssize_t)length);
        at += (4 + (size_t)length + 3) & ~(size_t)3;
        if (!text) Py_CLEAR(tuple);
        else PyTuple_SET_ITEM(tuple, i, text);
    }
    return tuple;
}

/* What a call was given beside its registers: two objects, for clone3 the struct and the pids, for exec the path and argv. */
static PyObject *
sc_entry_tuple(const sc_record *r)
{
    const char *data = (const char *)(r + 1);
    PyObject *first = NULL, *second = NULL, *words = sc_numbers_tuple(r->words, 6);
    if (r->call == SC_CLONE3) {
        first = r->has & SC_HAS_STRUCT ? sc_numbers_tuple((const uint64_t *)data, 11) : Py_NewRef(Py_None);
        second = sc_ids_tuple((const int32_t *)(data + 88), r->extra[1]);
    } else if (r->call == SC_EXECVE || r->call == SC_EXECVEAT) {
        bool has_path = r->has & SC_HAS_PATH, has_argv = r->has & SC_HAS_ARGV;
        size_t path_room = has_path ? (r->extra[0] + 3) & ~3u : 0;
        first = has_path ? PyUnicode_DecodeFSDefaultAndSize(data, r->extra[0]) : Py_NewRef(Py_None);
        second = has_argv ? sc_strings_tuple(data + path_room, r->extra[1]) : Py_NewRef(Py_None);
    } else {
        first = Py_NewRef(Py_None);
        second = Py_NewRef(Py_None);
    }
    if (!words || !first || !second) {
        Py_XDECREF(words);
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    return Py_BuildValue("iiLiiNNNiO", SC_ENTRY, r->tid, (long long)r->nanoseconds, r->call, r->machine, words, first, second,
                         r->has & SC_HAS_ENV ? (int)r->extra[3] : -1, r->has & SC_HAS_MORE ? Py_True : Py_False);
}

/* Kind, tid, nanoseconds, and what its kind has: _trace/build.py takes them apart. */
static PyObject *
sc_record_tuple(const sc_record *r)
{
    long long when = (long long)r->nanoseconds;
    switch (r->kind) {
    case SC_ENTRY: return sc_entry_tuple(r);
    case SC_DONE:
        return Py_BuildValue("iiLLiNNN", r->kind, r->tid, when, (long long)r->done.result, r->other,
                             r->has & SC_HAS_PARENT_TID ? PyLong_FromLong(r->done.parent_tid) : Py_NewRef(Py_None),
                             r->has & SC_HAS_PIDFD ? PyLong_FromLong(r->done.pidfd) : Py_NewRef(Py_None),
                             sc_ids_tuple(r->done.pids, r->done.pid_count));
    case SC_EXEC: return Py_BuildValue("iiLi", r->kind, r->tid, when, r->other);
    case SC_EXIT: return Py_BuildValue("iiLi", r->kind, r->tid, when, (int)r->done.result);
    default:
        return Py_BuildValue("iiLiiN", r->kind, r->tid, when, r->other, r->done.parent_tid,
                             sc_ids_tuple(r->done.pids, r->done.pid_count));
    }
}

/* Adds what is there, at most limit records; false with an exception. */
bool
sc_take_records(sc_queue *q, PyObject *list, Py_ssize_t limit)
{
    const sc_record *record;
    while (PyList_GET_SIZE(list) < limit && (record = sc_queue_next(q))) {
        PyObject *tuple = sc_record_tuple(record);
        if (!tuple || PyList_Append(list, tuple) < 0) {
            Py_XDECREF(tuple);
            return false;
        }
        Py_DECREF(tuple);
    }
    return true;
}
