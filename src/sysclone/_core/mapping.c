/* Mapped memory that is unmapped with its last view, and holds no fd: mmap.mmap keeps a copy of one for as long as it
   lives, and a result may live as long as the program. Also the words in shared memory that two processes may both write
   to, the socket that carries memfds, and what fork is to leave out. */
#include "core.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>

typedef struct {
    PyObject_HEAD
    char *at;
    Py_ssize_t length, views;
    bool writable;
} sc_mapping;

/* Mapping(fd, length, offset=0, writable=True, shared=False): fd -1 is anonymous memory. */
static PyObject *
sc_mapping_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "length", "offset", "writable", "shared", NULL};
    int fd, writable = 1, shared = 0;
    Py_ssize_t length;
    long long offset = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "in|Lpp:Mapping", names, &fd, &length, &offset, &writable, &shared))
        return NULL;
    if (length <= 0 || offset < 0) {
        PyErr_SetString(PyExc_ValueError, "a mapping has a length, and begins at 0 or beyond");
        return NULL;
    }
    sc_mapping *mapping = (sc_mapping *)type->tp_alloc(type, 0);
    if (!mapping) return NULL;
    /* NORESERVE: what is only read of a private mapping costs no memory, so none is to be promised for it. */
    int flags = (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE) | (fd < 0 ? MAP_ANONYMOUS : 0);
    char *at = mmap(NULL, (size_t)length, PROT_READ | (writable ? PROT_WRITE : 0), flags, fd, offset);
    if (at == MAP_FAILED) {
        Py_DECREF(mapping);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    mapping->at = at;
    mapping->length = length;
    mapping->writable = writable;
    return (PyObject *)mapping;
}

static void
sc_mapping_dealloc(PyObject *self)
{
    sc_mapping *mapping = (sc_mapping *)self;
    if (mapping->at) munmap(mapping->at, (size_t)mapping->length);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
sc_mapping_show(PyObject *self, Py_buffer *view, int flags)
{
    sc_mapping *mapping = (sc_mapping *)self;
    if (!mapping->at) {
        PyErr_SetString(PyExc_ValueError, "the mapping was closed");
        return -1;
    }
    int answer = PyBuffer_FillInfo(view, self, mapping->at, mapping->length, !mapping->writable, flags);
    if (answer == 0) mapping->views++;
    return answer;
}

static int
sc_mapping_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    int answer;
    SC_BEGIN_LOCKED(self);
    answer = sc_mapping_show(self, view, flags);
    SC_END_LOCKED();
    return answer;
}

static void
sc_mapping_releasebuffer(PyObject *self, Py_buffer *view)
{
    (void)view;
    SC_BEGIN_LOCKED(self);
    ((sc_mapping *)self)->views--;
    SC_END_LOCKED();
}

static PyObject *
sc_mapping_unmap(PyObject *self)
{
    sc_mapping *mapping = (sc_mapping *)self;
    if (mapping->views) {
        PyErr_Format(PyExc_BufferError, "the mapping has %zd views", mapping->views);
        return NULL;
    }
    if (mapping->at) munmap(mapping->at, (size_t)mapping->length);
    mapping->at = NULL;
    Py_RETURN_NONE;
}

static PyObject *
sc_mapping_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *answer;
    SC_BEGIN_LOCKED(self);
    answer = sc_mapping_unmap(self);
    SC_END_LOCKED();
    return answer;
}

static PyObject *
sc_mapping_view(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyMemoryView_FromObject(self);
}

static Py_ssize_t
sc_mapping_length(PyObject *self)
{
    return ((sc_mapping *)self)->at ? ((sc_mapping *)self)->length : 0;
}

static PyObject *
sc_mapping_get_address(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(((sc_mapping *)self)->at);
}

/* One entry of a list of plain values: a letter, and eight bytes or a length and so many. Answers its length, 0 for values of
   other types, and leaves *data to what follows the first nine. */
static size_t
sc_entry_of(PyObject *value, unsigned char head[9], const char **data)
{
    size_t length = 0;
    int overflow = 0;
    if (PyLong_CheckExact(value)) {
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow) return 0;
        head[0] = 'i';
        memcpy(head + 1, &number, 8);
    }
    else if (PyFloat_CheckExact(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        head[0] = 'f';
        memcpy(head + 1, &number, 8);
    }
    else if (value == Py_None || PyBool_Check(value)) {
        memset(head, 0, 9);
        head[0] = value == Py_None ? 'n' : value == Py_True ? 't' : 'u';
    }
    else if (PyBytes_CheckExact(value) || (PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value))) {
        bool bytes = PyBytes_CheckExact(value);
        head[0] = bytes ? 'b' : 's';
        length = (size_t)(bytes ? PyBytes_GET_SIZE(value) : PyUnicode_GET_LENGTH(value));
        *data = bytes ? PyBytes_AS_STRING(value) : (const char *)PyUnicode_1BYTE_DATA(value);
        memcpy(head + 1, &length, 8);
    }
    else return 0;
    return 9 + length;
}

/* Whether the value was told at *at, which is then where the next one goes. It is counted, in the eight bytes at 8, when it is
   whole: whoever reads may find this process dead at any moment. */
static bool
sc_mapping_tell(sc_mapping *mapping, PyObject *value, Py_ssize_t *at)
{
    unsigned char head[9];
    const char *data = NULL;
    size_t length = sc_entry_of(value, head, &data);
    if (!length || *at > mapping->length || length > (size_t)(mapping->length - *at)) return false;
    memcpy(mapping->at + *at, head, 9);
    if (data) memcpy(mapping->at + *at + 9, data, length - 9);
    __atomic_fetch_add((uint64_t *)(mapping->at + 8), 1, __ATOMIC_RELEASE);
    *at += (Py_ssize_t)length;
    return true;
}

/* tell(iterator, values, at) -> (at, whether it is at its end): appends to the list what the iterator gives, and tells each,
   up to its end or to the first that is of another type or does not fit, which is the last in the list then. */
static PyObject *
sc_mapping_tell_all(PyObject *self, PyObject *args)
{
    sc_mapping *mapping = (sc_mapping *)self;
    PyObject *iterator, *values, *value;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "OO!n:tell", &iterator, &PyList_Type, &values, &at)) return NULL;
    if (!PyIter_Check(iterator) || !mapping->at || !mapping->writable || at < 16) {
        PyErr_SetString(PyExc_ValueError, "tell(iterator, list, at): no iterator, or no such place in the mapping");
        return NULL;
    }
    /* Python code runs in between: a view keeps the mapping. */
    Py_buffer view;
    if (PyObject_GetBuffer(self, &view, PyBUF_SIMPLE) < 0) return NULL;
    bool told = true;
    while (told && (value = PyIter_Next(iterator))) {
        int answer = PyList_Append(values, value);
        told = answer == 0 && sc_mapping_tell(mapping, value, &at);
        Py_DECREF(value);
    }
    PyBuffer_Release(&view);
    return PyErr_Occurred() ? NULL : Py_BuildValue("nN", at, PyBool_FromLong(told));
}

static PyMethodDef sc_mapping_methods[] = {
    {"tell", sc_mapping_tell_all, METH_VARARGS, "tell(iterator, values, at) -> (at, end)"},
    {"view", sc_mapping_view, METH_NOARGS, "A memoryview of it, which keeps it."},
    {"close", sc_mapping_close, METH_NOARGS, "Unmap; BufferError while there are views."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sc_mapping_getset[] = {
    {"address", sc_mapping_get_address, NULL, "Where it begins; 0 once it was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sc_mapping_slots[] = {
    {Py_tp_new, sc_mapping_new},
    {Py_tp_dealloc, sc_mapping_dealloc},
    {Py_tp_methods, sc_mapping_methods},
    {Py_tp_getset, sc_mapping_getset},
    {Py_sq_length, sc_mapping_length},
    {Py_bf_getbuffer, sc_mapping_getbuffer},
    {Py_bf_releasebuffer, sc_mapping_releasebuffer},
    {Py_tp_doc, "Mapping(fd, length, offset=0, writable=True, shared=False): memory that is unmapped with its last view."},
    {0, NULL},
};

PyType_Spec sc_mapping_spec = {
    .name = "sysclone._core.Mapping",
    .basicsize = sizeof(sc_mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = sc_mapping_slots,
};

/* address_of(buffer) -> (where its bytes begin, how many) */
PyObject *
sc_address_of(PyObject *module, PyObject *object)
{
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *answer = Py_BuildValue("Nn", PyLong_FromVoidPtr(view.buf), view.len);
    PyBuffer_Release(&view);
    return answer;
}

/* exchange(buffer, index, expected, desired) -> the 32-bit word that stood there: it was changed if that is expected. */
PyObject *
sc_exchange(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer view;
    Py_ssize_t index;
    unsigned int expected, desired;
    if (!PyArg_ParseTuple(args, "w*nII:exchange", &view, &index, &expected, &desired)) return NULL;
    if (index < 0 || index >= view.len / 4 || (uintptr_t)view.buf % 4) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "no such word");
        return NULL;
    }
    __atomic_compare_exchange_n((uint32_t *)view.buf + index, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(expected);
}

/* socketpair() -> two fds: AF_UNIX, SOCK_SEQPACKET, closed at exec. */
PyObject *
sc_socketpair(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    int ends[2];
    long answer = sc_raw4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
    return answer < 0 ? sc_oserror(answer) : Py_BuildValue("ii", ends[0], ends[1]);
}

/* Advise on ranges, which are tuples (address, length, advice, undoing advice). Returns how many were advised. */
static Py_ssize_t
sc_ranges_advise(PyObject *ranges, Py_ssize_t count, bool undo, long *answer)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *range = PyTuple_GET_ITEM(ranges, i);
        unsigned long long word[4];
        for (int j = 0; j < 4; j++) word[j] = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(range, j));
        *answer = sc_raw3(SYS_madvise, word[0], word[1], word[undo ? 3 : 2]);
        if (*answer < 0 && !undo) return i;
    }
    return count;
}

/* Leaves memory out of the next fork: all ranges or none. The GIL is held from here to the undoing, with no Python code
   between, so that no other thread forks meanwhile. Returns 0 or -errno. */
long
sc_ranges_leave_out(PyObject *ranges)
{
    long answer = 0, ignored;
    Py_ssize_t done = sc_ranges_advise(ranges, PyTuple_GET_SIZE(ranges), false, &answer);
    if (answer < 0) sc_ranges_advise(ranges, done, true, &ignored);
    return answer < 0 ? answer : 0;
}

void
sc_ranges_take_back(PyObject *ranges)
{
    long ignored;
    sc_ranges_advise(ranges, PyTuple_GET_SIZE(ranges), true, &ignored);
}

/* Whether ranges is what the two above take. */
bool
sc_ranges_check(PyObject *ranges)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(ranges); i++) {
        PyObject *range = PyTuple_GET_ITEM(ranges, i);
        bool fits = PyTuple_Check(range) && PyTuple_GET_SIZE(range) == 4;
        for (Py_ssize_t j = 0; fits && j < 4; j++) {
            PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(range, j));
            fits = !PyErr_Occurred();
        }
        if (!fits) {
            PyErr_Clear();
            PyErr_SetString(PyExc_TypeError, "a range is (address, length, advice, undoing advice)");
            return false;
        }
    }
    return true;
}
