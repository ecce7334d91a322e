/* A light process started on a helper thread: what the helper and the Python object share. */
#ifndef SC_JOB_H
#define SC_JOB_H

#include "core.h"

enum sc_job_state { SC_RUNNING = 0, SC_DONE = 1, SC_ORPHANED = 2 };

/* Owned by two: the Python object, and the helper while it runs. The last to let go frees it (state tells who). */
typedef struct sc_run {
    sc_light light;
    sc_state *module_state;
    PyObject *plan, *fn, *kwnames; /* owned */
    PyObject **args;               /* owned, with nargs + keywords entries */
    Py_ssize_t total;
    int state;
    unsigned generation; /* of forks: a run of before a fork has no helper in the forked child */
    /* Under the pool's lock: who is to hear of its end (owned, or NULL), as which number, and its place on that one's list. */
    struct sc_bell *bell;
    uint64_t number;
    bool rung;
    struct sc_run *next_rung;
} sc_run;

typedef struct {
    PyObject_HEAD
    sc_run *run;
} sc_job;

/* pool.c */
int sc_pool_submit(sc_run *run, size_t stack_bytes, bool *created);
unsigned sc_pool_generation(void);
void sc_pool_hold(void);
void sc_pool_let_go(void);
void sc_run_close(sc_run *run);
void sc_run_free(sc_run *run);

/* bell.c */
void sc_bell_ring(sc_run *run);
void sc_bell_leave(sc_run *run);

#endif
