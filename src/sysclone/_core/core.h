/* What the files of the extension share: one header, one subject a file, prototypes in the order of the files. */
#ifndef SC_CORE_H
#define SC_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "arch.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
/* Frames that never returned, as of a child that ended itself, died or became a program, have left their red zones on the stack,
   and in memory that is mapped anew where a stack was. */
#define SC_UNPOISON(at, bytes) __asan_unpoison_memory_region((void *)(at), (bytes))
#else
#define SC_UNPOISON(at, bytes) ((void)0)
#endif

/* Around what the GIL lets no two threads do at once: where there is none, the object's own lock does. Let go of, as the
   GIL is, while the thread is detached. */
#if PY_VERSION_HEX >= 0x030d0000
#define SC_BEGIN_LOCKED(object) Py_BEGIN_CRITICAL_SECTION(object)
#define SC_END_LOCKED() Py_END_CRITICAL_SECTION()
#else
#define SC_BEGIN_LOCKED(object) {
#define SC_END_LOCKED() }
#endif

#define SC_SIGSET_BYTES 8
/* Every signal but libc's own two, 32 and 33: a set*id call in another thread waits for each thread to answer 33. */
#define SC_ALL_SIGNALS (~(3ULL << 31))
/* Linux 3.x's struct siginfo is 128 bytes; waitid and sigtimedwait write no more. */
#define SC_NANOSECONDS 1000000000LL

#ifndef __WALL
#define __WALL 0x40000000
#endif

/* The module's Python side, handed in once by hooks(): C raises nothing of its own but OSError. */
typedef struct {
    PyObject *cancelled;    /* the exception type raised in a function that is to stop */
    PyObject *clone_failed; /* (plan, errno, step) -> exception */
    PyObject *ended;        /* (plan, outcome) -> exception, for a function that neither returned nor raised */
    PyObject *shield;       /* files and names of code that is not to be interrupted: it keeps locks that all share */
    PyObject *bury;         /* () -> None: threads that have died are marked as ended */
    PyObject *absorb;       /* an empty Python function: running it lets a pending asynchronous exception strike there */
    void (*python_handler)(int); /* CPython's own, as far as it could be seen; NULL if not */
    PyTypeObject *plan_type;
    PyTypeObject *job_type;
    PyTypeObject *bell_type;
    PyTypeObject *mapping_type;
} sc_state;

extern struct PyModuleDef sc_module;

static inline sc_state *
sc_get_state(PyObject *module)
{
    return (sc_state *)PyModule_GetState(module);
}

/* --- errors.c */
PyObject *sc_oserror(long minus_errno);

/* --- proc.c */
void sc_proc_path(char *path, long pid, const char *name);

/* --- clone.c: which call, with which size of struct */
typedef struct {
    uint64_t flags; /* without the exit signal */
    int exit_signal;
    bool old_call; /* clone, not clone3: CLONE_PARENT with a signal */
    int cgroup;    /* borrowed fd, or -1 */
    int tid_count;
    pid_t tids[32];
} sc_clone_plan;

typedef struct {
    const sc_clone_plan *plan;
    uint64_t more_flags; /* bookkeeping: CHILD_CLEARTID, PIDFD, … */
    int *pidfd, *parent_tid, *child_tid;
    uintptr_t stack_low, stack_bytes; /* 0: this very stack (memory copied) */
    uintptr_t tls;
    bool cleared_handlers; /* out: the kernel did CLEAR_SIGHAND; otherwise the child must */
    bool has_pidfd;        /* out: the kernel knew CLONE_PIDFD */
} sc_clone_request;

long sc_clone(sc_clone_request *request, sc_entry entry, void *argument);

/* --- signals.c: a child's handlers and mask, by raw calls */
void sc_signals_block(uint64_t *old);
void sc_signals_set(const uint64_t *mask);
void sc_signals_clear_handlers(void);
void sc_signals_die(int sig);
PyObject *sc_set_disposition(PyObject *module, PyObject *args);

/* --- tstate.c: what a thread state holds of the frames that run on it, version by version */
typedef struct {
    PyThreadState *ts;
    PyObject *running_loop, *running_task; /* owned: asyncio's */
    void *cframe, *frame, *exc_info, *exc_value, *context;
    void *datastack_chunk, *datastack_top, *datastack_limit;
    void *trash_later, *executor, *asyncgen_firstiter, *asyncgen_finalizer;
    void *jit_exit, *ensure_guard;
    Py_ssize_t ensure_counter;
    int use_tracing, recursion, c_recursion, headroom, tracing, event, trash_nesting, gilstate_counter,
        origin_tracking_depth, ensure_deletes;
} sc_tstate;

void sc_tstate_save(sc_tstate *saved, PyThreadState *ts);
void sc_tstate_restore(const sc_tstate *saved);
void sc_tstate_save_loop(sc_tstate *saved);
void sc_tstate_drop_loop(sc_tstate *saved);
void sc_tstate_restore_loop(const sc_tstate *saved);
int sc_main_thread_begin(void);
void sc_main_thread_after_fork(void);
bool sc_is_main_thread(void);
PyObject *sc_finalizing(PyObject *module, PyObject *unused);
bool sc_tstate_attached(PyThreadState *ts);
bool sc_tstate_is_watched(PyThreadState *ts);
void sc_tstate_unwatch(void);
bool sc_tstate_poke(PyThreadState *ts, PyObject *exception);
bool sc_tstate_is_poked(PyThreadState *ts, PyObject *exception);
const char *sc_tstate_unsupported(void);

/* --- newborn.c: what the creator does for a child that waits; join.c: namespaces that it is born in */
typedef struct {
    int kind; /* CLONE_NEW… */
    int fd;   /* borrowed */
} sc_join;

typedef struct {
    int join_count;
    sc_join joins[8];
    const char *uid_map, *gid_map, *offsets;  /* what is to be written, or NULL */
    char **uid_helper, **gid_helper;          /* argv of newuidmap and newgidmap, with room for the pid at [1], or NULL */
    bool deny_setgroups;
    bool waits;      /* any of these: the child waits until they are done */
    bool undumpable; /* the child will have other ids, or another user namespace: see sc_dumpable_hold */
} sc_newborn;

long sc_newborn_settle(const sc_newborn *newborn, long pid, const char **step);
long sc_newborn_release(const sc_newborn *newborn, long pid, int *ready, bool hold, const char **step);
void sc_dumpable_hold(void);
void sc_dumpable_release(void);
long sc_join_all(const sc_newborn *newborn, int *failed);
const char *sc_join_step(int kind);
long sc_clone_joined(sc_clone_request *request, const sc_newborn *newborn, sc_entry entry, void *argument,
                     const char **step);

/* --- gil.c: what a child that was killed at any moment left of the GIL */
void sc_gil_mend(PyThreadState *ts);
void sc_gil_after_fork(void);

/* --- unpark.c: CPython's parking lot, after threads that died while they waited there */
void sc_unpark_dead(uintptr_t low, size_t bytes);

/* --- bury.c: threads that died with their process */
unsigned long sc_bury_next(bool bury);
PyObject *sc_bury_dead(PyObject *module, PyObject *unused);
PyObject *sc_died(PyObject *module, PyObject *ident);
PyObject *sc_bury_handle(PyObject *module, PyObject *handle);
PyObject *sc_bury_handles(PyObject *module, PyObject *args);

/* --- frames.c: the frames of a function that is frozen, or dead */
bool sc_frames_are_shielded(const sc_tstate *saved, PyObject *shield);
PyObject *sc_frames_of_the_dead(const sc_tstate *saved);
PyObject *sc_frames_watched(const sc_tstate *saved);
void sc_frames_tell(const sc_tstate *saved, PyObject *frames);

/* --- plan.c: a compiled Context */
typedef struct {
    PyObject_HEAD
    sc_clone_plan clone;
    sc_newborn newborn;
    PyObject *kept; /* owned: what newborn's texts stand in */
    uint64_t stack_bytes; /* 0: what the thread has */
    int64_t timeout_ns;   /* -1: none */
    bool clear_handlers;
} sc_plan;

extern PyType_Spec sc_plan_spec;

/* --- light.c: a function in a task that borrows a parked thread */
enum sc_end { SC_DIED = 0, SC_RETURNED = 1, SC_RAISED = 2 };
enum sc_stop { SC_GO_ON = 0, SC_STOP_CANCEL = 1, SC_STOP_TIMEOUT = 2, SC_STOP_SIGNAL = 3 };

#define SC_PAST (-1)

enum sc_leaving { SC_STAYING = 0, SC_LEAVING, SC_GUARDED, SC_UNGUARDED };

typedef struct sc_light {
    const sc_plan *plan;
    PyObject *fn, *kwnames;       /* borrowed, as are the arguments: a vectorcall's */
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *cancelled;          /* borrowed: the type to raise */
    PyObject *shield;             /* borrowed: a tuple of files and names of code not to be interrupted */
    PyThreadState *ts;
    sc_tstate saved;
    bool attach;      /* the child takes and drops the GIL itself: its parked thread is outside */
    bool main_thread; /* the parked thread is Python's main one: SIGINT is the function's */
    bool own_group;   /* not CLONE_THREAD */
    bool lasting;     /* the parked thread ends with its process alone */
    bool want_pidfd;
    void (*python_handler)(int);
    uint64_t mask; /* the child's */
    pid_t creator;
    pid_t grandparent; /* the creator's parent: a sibling's own */
    pid_t parent; /* as the child sees it: 0 in a pid namespace of its own */
    sc_clone_request request;
    /* Shared words. attention: -1 running; each request to look takes one off; the kernel writes 0 at exit. */
    int attention;
    int stop;        /* enum sc_stop, set once */
    int64_t due;      /* the child's own: when it is to be asked to stop for its time; 0 for never, SC_PAST once it was */
    int64_t wakes_at; /* when the parked thread looks again by itself; 0 until it has looked */
    int stop_signal; /* the signal that asked, for SC_STOP_SIGNAL */
    uint32_t forwarded; /* bits of signals that the parked main thread has taken for the function */
    struct sc_light *outer; /* the light process that the parked thread is itself, or NULL */
    struct sc_light *inner; /* the light process that runs as this one's thread for it, or NULL */
    bool hands_on;          /* its SIGINT means what stands in outer's forwarded */
    int pokes;       /* references to cancelled that the thread state was given */
    int ending;      /* set before event_fd is read for the last time */
    int event_fd;    /* an eventfd to write to at the end, or -1 */
    int started;     /* 1 when clone has returned in the parked thread, or failed */
    int ready;       /* 0 while the child is to wait for its creator; then 1, or -errno */
    int leaving;     /* enum sc_leaving: threads are left, and are to be guarded before their process ends */
    struct sc_guarded *guarded; /* a place on the guardian's list, or NULL */
    const char *failed_step; /* what was refused, where it is not the clone */
    /* What came of it. */
    long pid; /* or -errno */
    int pidfd, parent_tid;
    enum sc_end end;
    PyObject *value; /* owned: the value or the exception */
    int exit_code;
    bool threads_left;
    bool killed; /* by stop.c, where that was safe */
    bool lives_on; /* neither returned nor raised, and not reaped yet */
    bool status_known;
    int status; /* a wait status */
    struct rusage usage;
    PyObject *frames; /* owned: where a dead function was */
} sc_light;

void sc_light_run(sc_light *light);
void sc_light_settle(sc_light *light, const sc_state *state);
void sc_light_reap(sc_light *light, bool wait);
PyObject *sc_light_outcome(sc_light *light);
PyObject *sc_light_answer(sc_light *light, sc_state *state);
PyObject *sc_clone_failed(sc_state *state, PyObject *plan, long minus_errno, const char *step);
bool sc_light_has_room(const sc_plan *plan);
uintptr_t sc_stack_low(void);

PyObject *sc_light_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* --- light_child.c: the child's side */
int sc_light_child(void *light);
bool sc_has_threads(void);
PyObject *sc_raised(void);
PyObject *sc_light_rearm(PyObject *module, PyObject *unused);

/* --- light_park.c: the parked thread's side */
void sc_light_call_attention(sc_light *light);
void sc_light_request_stop(sc_light *light, enum sc_stop why);
void sc_light_park(sc_light *light);
PyObject *sc_light_due(PyObject *module, PyObject *args);
void sc_light_end_inner(sc_light *light);

/* --- caught.c: the signals that a light process catches, and those of the program while its main thread is lent out */
extern __thread sc_light *sc_caught_by; /* the light process that this task is, on the storage that it borrowed */

void sc_caught_arm(void);
void sc_caught_after_fork(void);
uint64_t sc_caught_open(sc_light *light);
void sc_caught_forward(sc_light *light, uint64_t ours);

/* --- guard.c: the end of the program is the end of those that the kernel would let live on */
typedef struct sc_guarded sc_guarded;

void sc_guard_begin(void);
bool sc_guard_is_owner(void);
void sc_guard_after_fork(void);
sc_guarded *sc_guard_reserve(pid_t pid, long *error);
pid_t *sc_guard_number(sc_guarded *slot);
bool sc_guard_enter(sc_guarded *slot);
void sc_guard_watch(sc_guarded *slot, pid_t pid);
void sc_guard_release(sc_guarded *slot);

/* --- stop.c: stopping a child that may hold or await the GIL, from its parked thread, by raw calls alone */
typedef struct {
    char call[160];   /* /proc/PID/syscall at the last look: the number, the arguments, stack and instruction pointer */
    char frozen[160]; /* the same when it was last frozen, unless in restart_syscall */
    long switches;    /* voluntary ones at the last look, -1 for none */
    bool told;        /* the exception was set at least once */
} sc_sight;

long sc_thread_count(void);
bool sc_stop_try(sc_light *light, sc_sight *sight);

/* --- pool.c: parked helper threads for start() */
extern PyType_Spec sc_job_spec, sc_bell_spec;
PyObject *sc_start(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_start_soon(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_timed_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_pool_info(PyObject *module, PyObject *unused);
PyObject *sc_pool_after_fork(PyObject *module, PyObject *unused);
PyObject *sc_pool_drain(PyObject *module, PyObject *args);
PyObject *sc_pool_stop(PyObject *module, PyObject *unused);
void sc_pool_begin(void);
void sc_pool_set_apart(void);
void sc_pool_bury(pid_t group);

/* --- left.c: the end of threads that a function left behind */
typedef struct sc_left sc_left;
sc_left *sc_left_watch(int pidfd, PyObject *bury);
bool sc_left_is_over(const sc_left *left);
void sc_left_free(sc_left *left);

/* --- reap.c: light processes whose threads outlive their function */
void sc_reap_later(int pidfd, sc_guarded *guarded, sc_left *left, PyObject *keep);
void sc_reap_ended(void);
void sc_reap_after_fork(void);
PyObject *sc_reap_pending(PyObject *module, PyObject *unused);
PyObject *sc_reap_later_py(PyObject *module, PyObject *args);

/* --- hold.c: a task that is only there */
PyObject *sc_hold(PyObject *module, PyObject *args);

/* --- syscall.c: short system calls with the GIL kept, for set-up in a child */
PyObject *sc_syscall(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

/* --- copied.c: memory copied */
PyObject *sc_copied(PyObject *module, PyObject *args);
PyObject *sc_copied_call(PyObject *module, PyObject *args);
PyObject *sc_kill_self_after(PyObject *module, PyObject *args);
PyObject *sc_death_signal(PyObject *module, PyObject *args);
PyObject *sc_single_threaded(PyObject *module, PyObject *unused);

/* --- mapping.c: shared memory, and what fork leaves out */
extern PyType_Spec sc_mapping_spec;
PyObject *sc_address_of(PyObject *module, PyObject *object);
PyObject *sc_exchange(PyObject *module, PyObject *args);
PyObject *sc_socketpair(PyObject *module, PyObject *unused);
PyObject *sc_packet_send(PyObject *module, PyObject *args);
PyObject *sc_packet_receive(PyObject *module, PyObject *args);
long sc_ranges_leave_out(PyObject *ranges);
void sc_ranges_take_back(PyObject *ranges);
bool sc_ranges_check(PyObject *ranges);

/* --- spawn.c: programs */
PyObject *sc_spawn(PyObject *module, PyObject *args);

/* --- rawclone.c */
PyObject *sc_lowlevel_clone3(PyObject *module, PyObject *args);
PyObject *sc_lowlevel_clone(PyObject *module, PyObject *args);
PyObject *sc_probe_clone3(PyObject *module, PyObject *args);
PyObject *sc_probe_clone(PyObject *module, PyObject *args);
int sc_entry_exit(void *status);

/* --- groups.c: share groups of many tasks */
PyObject *sc_groups(PyObject *module, PyObject *args);

/* --- bulk.c: many small files at once */
PyObject *sc_read_files(PyObject *module, PyObject *args);
PyObject *sc_read_links(PyObject *module, PyObject *args);
/* --- filesystem.c */
PyObject *sc_detached_mount(PyObject *module, PyObject *args);

/* --- tracer_object.c: a task that traces others */
extern PyType_Spec sc_tracer_spec;

/* --- namespace.c kcmp.c futex.c pidfd.c wait.c */
PyObject *sc_unshare(PyObject *module, PyObject *args);
PyObject *sc_setns(PyObject *module, PyObject *args);
PyObject *sc_kcmp(PyObject *module, PyObject *args);
PyObject *sc_futex_wait(PyObject *module, PyObject *args);
PyObject *sc_futex_wake(PyObject *module, PyObject *args);
void sc_lock(int *lock);
void sc_unlock(int *lock);
PyObject *sc_gettid(PyObject *module, PyObject *unused);
PyObject *sc_pidfd_open(PyObject *module, PyObject *args);
PyObject *sc_pidfd_send_signal(PyObject *module, PyObject *args);
PyObject *sc_pidfd_getfd(PyObject *module, PyObject *args);
PyObject *sc_pidfd_info(PyObject *module, PyObject *args);
PyObject *sc_waitid(PyObject *module, PyObject *args);
PyObject *sc_rusage_tuple(const struct rusage *usage);

#endif
