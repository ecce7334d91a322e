/* Many small files at once: what /proc says of thousands of tasks, read in one stretch without the GIL. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    size_t at;
    long length; /* or -errno */
} sc_piece;

typedef struct {
    char *text;
    size_t used, room;
} sc_arena;

static bool
sc_arena_has(sc_arena *arena, size_t more)
{
    if (arena->room - arena->used >= more) return true;
    size_t room = arena->room * 2 > arena->used + more ? arena->room * 2 : arena->used + more;
    char *text = realloc(arena->text, room);
    if (!text) return false;
    arena->text = text;
    arena->room = room;
    return true;
}

/* A whole file, at most limit bytes of it. */
static long
sc_bulk_read(const char *path, size_t limit, sc_arena *arena)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    size_t length = 0;
    long answer = 0;
    while (length < limit) {
        size_t want = limit - length < 4096 ? limit - length : 4096;
        if (!sc_arena_has(arena, length + want)) {
            answer = -ENOMEM;
            break;
        }
        ssize_t got = read(fd, arena->text + arena->used + length, want);
        if (got < 0) {
            if (errno == EINTR) continue;
            answer = -errno;
            break;
        }
        length += (size_t)got;
        if ((size_t)got < want) break; /* the files of /proc come in one piece as far as there is room */
    }
    close(fd);
    return answer < 0 ? answer : (long)length;
}

/* The paths as C has them; the tuple keeps them. */
static const char **
sc_bulk_paths(PyObject *paths)
{
    Py_ssize_t n = PyTuple_GET_SIZE(paths);
    const char **found = PyMem_New(const char *, (size_t)n + 1);
    if (!found) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *path = PyTuple_GET_ITEM(paths, i);
        if (!PyBytes_Check(path)) {
            PyErr_SetString(PyExc_TypeError, "a path here is bytes");
            PyMem_Free(found);
            return NULL;
        }
        found[i] = PyBytes_AS_STRING(path);
    }
    return found;
}

static PyObject *
sc_bulk_results(const sc_piece *pieces, Py_ssize_t n, const sc_arena *arena)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *one = pieces[i].length < 0 ? PyLong_FromLong(pieces[i].length)
                                             : PyBytes_FromStringAndSize(arena->text + pieces[i].at, pieces[i].length);
        if (!one) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, one);
    }
    return list;
}

/* read_files(paths, limit) -> the bytes of each, at most limit, or -errno. */
PyObject *
sc_read_files(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *paths, *result = NULL;
    Py_ssize_t limit;
    if (!PyArg_ParseTuple(args, "O!n:read_files", &PyTuple_Type, &paths, &limit)) return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(paths);
    const char **names = sc_bulk_paths(paths);
    if (!names) return NULL;
    sc_arena arena = {0};
    sc_piece *pieces = PyMem_New(sc_piece, (size_t)n + 1);
    if (!pieces) PyErr_NoMemory();
    else if (limit <= 0) PyErr_SetString(PyExc_ValueError, "read_files: the limit is a number of bytes");
    else {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) {
            pieces[i] = (sc_piece){arena.used, sc_bulk_read(names[i], (size_t)limit, &arena)};
            if (pieces[i].length > 0) arena.used += (size_t)pieces[i].length;
        }
        Py_END_ALLOW_THREADS
        result = sc_bulk_results(pieces, n, &arena);
    }
    free(arena.text);
    PyMem_Free(pieces);
    PyMem_Free(names);
    return result;
}

/* The number in a link such as "net:[4026531840]"; 0 for none. */
static long long
sc_bulk_link(int folder, const char *name)
{
    char text[64];
    ssize_t length = readlinkat(folder, name, text, sizeof text - 1);
    if (length < 0) return -errno;
    text[length] = 0;
    const char *number = strchr(text, '[');
    return number ? strtoll(number + 1, NULL, 10) : 0;
}

static void
sc_bulk_links(const char *folder, const char **names, Py_ssize_t count, long long *found)
{
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    long long error = -errno;
    for (Py_ssize_t k = 0; k < count; k++) found[k] = fd < 0 ? error : sc_bulk_link(fd, names[k]);
    if (fd >= 0) close(fd);
}

static PyObject *
sc_bulk_rows(const long long *found, Py_ssize_t n, Py_ssize_t count)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *row = PyTuple_New(count);
        for (Py_ssize_t k = 0; row && k < count; k++) {
            PyObject *one = PyLong_FromLongLong(found[i * count + k]);
            if (!one) Py_CLEAR(row);
            else PyTuple_SET_ITEM(row, k, one);
        }
        if (!row) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, row);
    }
    return list;
}

/* read_links(folders, names) -> for each folder a tuple of the number in the link of each name, or -errno. */
PyObject *
sc_read_links(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *folders, *names, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!O!:read_links", &PyTuple_Type, &folders, &PyTuple_Type, &names)) return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(folders), count = PyTuple_GET_SIZE(names);
    const char **paths = sc_bulk_paths(folders), **links = paths ? sc_bulk_paths(names) : NULL;
    long long *found = links ? PyMem_New(long long, (size_t)(n * count) + 1) : NULL;
    if (found) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) sc_bulk_links(paths[i], links, count, found + i * count);
        Py_END_ALLOW_THREADS
        result = sc_bulk_rows(found, n, count);
    } else if (links) PyErr_NoMemory();
    PyMem_Free(found);
    PyMem_Free(links);
    PyMem_Free(paths);
    return result;
}
