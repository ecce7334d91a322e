/* What the files of the tracer share. See tracer.c for the rule that they obey. */
#ifndef SC_TRACER_H
#define SC_TRACER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "arch.h"

/* --- tracer_calls.c: the calls that are traced, by each machine's own table */

/* The order is known to _trace/build.py. */
enum sc_call { SC_CLONE, SC_CLONE3, SC_FORK, SC_VFORK, SC_UNSHARE, SC_SETNS, SC_EXECVE, SC_EXECVEAT, SC_CALLS };
enum sc_machine { SC_NATIVE, SC_COMPAT, SC_X32, SC_MACHINES };

typedef struct {
    uint32_t arch; /* AUDIT_ARCH_* */
    int word_bytes;
    int numbers[SC_CALLS]; /* -1: the machine has no such call */
} sc_call_table;

extern const sc_call_table sc_call_tables[SC_MACHINES];

bool sc_call_find(uint32_t arch, uint64_t number, enum sc_call *call, enum sc_machine *machine);
long sc_call_filter(void);

/* --- tracer_queue.c: records from the tracer to Python, without locks: one writes, one reads */

enum sc_record_kind { SC_ENTRY, SC_DONE, SC_EXEC, SC_EXIT, SC_ATTACHED };

typedef struct {
    uint32_t bytes; /* with what follows, a multiple of 8 */
    uint8_t kind, call, machine, has;
    int32_t tid, other; /* child, former tid, thread group */
    int64_t nanoseconds;
    union {
        uint64_t words[6];
        struct {
            int64_t result;
            int32_t parent_tid, pidfd, pid_count, unused;
            int32_t pids[4];
        } done;
    };
    uint32_t extra[4]; /* the lengths of what follows, by kind */
} sc_record;

/* SC_EXIT's result where nobody saw a status. */
#define SC_UNSEEN_STATUS ((uint64_t)-1)

/* sc_record.has */
#define SC_HAS_STRUCT 1
#define SC_HAS_PATH 2
#define SC_HAS_ARGV 4
#define SC_HAS_MORE 8 /* arguments were left out */
#define SC_HAS_ENV 16
#define SC_HAS_PARENT_TID 32
#define SC_HAS_PIDFD 64

typedef struct sc_chunk {
    struct sc_chunk *next;
    size_t used, bytes;
    char data[];
} sc_chunk;

typedef struct {
    sc_chunk *writing, *reading;
    size_t read;   /* of the chunk that is read */
    size_t unsaid; /* bytes since the reader was last told */
    int armed;     /* the reader found nothing, and waits to be told */
    int event_fd;  /* the writer's number for it */
    bool silent;   /* nobody reads any more */
} sc_queue;

bool sc_queue_begin(sc_queue *q);
void sc_queue_free(sc_queue *q);
sc_record *sc_queue_reserve(sc_queue *q, size_t extra);
void sc_queue_commit(sc_queue *q, sc_record *record, size_t extra);
void sc_queue_tell(sc_queue *q);
const sc_record *sc_queue_next(sc_queue *q);
int64_t sc_now(void);

/* --- tracer_tasks.c: what is known of each task that is traced */

typedef struct {
    int32_t tid, next, previous; /* of the list of those that live; 0 is none */
    int32_t group;               /* 0: not known */
    uint8_t call, depth;         /* depth: of its pid namespace below the tracer's; 1 is the tracer's own */
    bool live, started, held, announced, in_call, new_pids, listening, fix_argument, ghost;
    int32_t pids[4];
    int64_t since;
    uint64_t flags, parent_tid_at, pidfd_at, argument;
} sc_traced;

typedef struct {
    sc_traced **leaves;
    int leaf_count;
    int32_t first, count, held;
} sc_tasks;

bool sc_tasks_begin(sc_tasks *tasks);
void sc_tasks_free(sc_tasks *tasks);
sc_traced *sc_tasks_find(sc_tasks *tasks, int32_t tid);
sc_traced *sc_tasks_add(sc_tasks *tasks, int32_t tid);
void sc_tasks_remove(sc_tasks *tasks, sc_traced *task);

/* --- tracer_look.c: what stands in a task's memory, registers and /proc */

typedef struct {
    int32_t group, parent, pids[4];
    int depth;
} sc_status_file;

int32_t sc_look_own_id(void);
bool sc_look_status(int32_t tid, sc_status_file *status);
bool sc_look_int(int32_t tid, uint64_t address, int32_t *value);
void sc_look_clone3(int32_t tid, sc_record *record, size_t *extra);
void sc_look_exec(int32_t tid, sc_record *record, size_t *extra);
void sc_look_program(int32_t tid, sc_record *record, size_t *extra);
bool sc_look_registers(int32_t tid, uint32_t *arch, uint64_t *number, uint64_t words[6]);
bool sc_set_argument(int32_t tid, uint32_t arch, uint64_t value);
#if defined(__x86_64__)
/* The register of a call's first argument is the caller's again afterwards, and its child has it too. */
#define SC_ARGUMENT_IS_KEPT 1
#else
#define SC_ARGUMENT_IS_KEPT 0
#endif

uint64_t sc_copy_struct(int32_t tid, uint64_t from, size_t bytes, uint64_t flags);

#define SC_EXTRA_ROOM (96 * 1024)

/* --- tracer.c, tracer_births.c, tracer_stops.c */

enum sc_tracer_mode { SC_MODE_FILTER, SC_MODE_ALL, SC_MODE_EVENTS };
enum sc_tracer_command { SC_NOTHING, SC_SEIZE, SC_KILL, SC_DETACH, SC_KEEP };

typedef struct {
    /* Shared words. */
    int attention; /* the kernel writes 0 at the tracer's end */
    int command;   /* enum sc_tracer_command; back to SC_NOTHING when it was carried out */
    int done;      /* no task is left */
    int32_t *tids; /* SC_SEIZE: whom; the answers stand there afterwards */
    int tid_count;
    /* Set before it begins. */
    enum sc_tracer_mode mode;
    bool kill_on_exit;
    pid_t owner;
    int event_fd;
    /* Its own. */
    sc_queue queue;
    sc_tasks tasks;
    bool killing, leaving, owner_is_gone, listens, ticks;
    bool poked, owner_signalled, ticked; /* set by its signal handler */
    uint64_t stops;    /* how often a task was stopped */
    int32_t caller, child; /* who made a task last, and whom, if it has not stopped yet: looked for first */
    int64_t next_hunt; /* when children without a creator are looked for again */
    int64_t next_look; /* when all tasks may be looked through again */
} sc_tracer;

#define SC_TRACER_STACK (256 * 1024)

int sc_tracer_main(void *tracer);

static inline long
sc_ptrace(long request, int32_t tid, uintptr_t address, uintptr_t data)
{
    return sc_raw4(SYS_ptrace, request, tid, address, data);
}

bool sc_is_traced(int32_t tid);
bool sc_makes_tasks(int call);
void sc_system_call_stop(sc_tracer *t, sc_traced *task);
void sc_made(sc_tracer *t, sc_traced *task, int event);
void sc_executed(sc_tracer *t, sc_traced *task);

void sc_tell_attached(sc_tracer *t, sc_traced *task);
void sc_release(sc_tracer *t, sc_traced *task);
void sc_let_go(sc_tracer *t, sc_traced *task);
void sc_release_orphans(sc_tracer *t);
void sc_forget(sc_tracer *t, sc_traced *task);
void sc_forget_all(sc_tracer *t);
void sc_stopped(sc_tracer *t, int32_t tid, int status);
void sc_ended(sc_tracer *t, int32_t tid, int status);

#ifdef Py_PYTHON_H
/* --- trace_tuples.c: not the tracer's, but of whoever reads what it tells */
bool sc_take_records(sc_queue *q, PyObject *list, Py_ssize_t limit);
#endif

#endif
