/* Helper threads for start(): each waits for a run, clones its child, parks, reaps, and waits again.

   A helper never needs the GIL while all goes well: the child takes and drops it on the helper's own thread state.
   Only a child that died by itself, or was asked to stop, makes the helper go in and set its state to rights.

   Idle helpers belong to the thread group that made them: a light process that starts tasks gets helpers of its own,
   which end with their one run, since whoever's threads they are is the parent of the tasks they clone.

   A thread may have a cwd, a file table or namespaces of its own (unshare, setns), and a helper has those of the thread
   that made it. So once any thread was set apart, a run goes to a helper that the kernel says is in the caller's place, or
   to a new one. */
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define SC_MOST_IDLE 1024
#define SC_LASTING_IDLE 8
#define SC_LINGER_S 2
#define SC_LEAST_HELPER_STACK (512 * 1024)

typedef struct sc_helper {
    struct sc_helper *next;       /* idle */
    struct sc_helper *next_of_all;
    sc_run *run; /* guarded by the lock: NULL before the run may be freed */
    size_t stack_bytes;
    PyInterpreterState *interp;
    PyThreadState *ts;
    int go; /* 0: wait */
    pid_t group;
    pid_t tid;
    bool lasting;
    bool pinned; /* threads of a light process that it made live on, and are to die with the program */
} sc_helper;

static pthread_mutex_t sc_pool_lock = PTHREAD_MUTEX_INITIALIZER;
static sc_helper *sc_idle, *sc_all;
static int sc_idle_count, sc_busy_count;
static unsigned sc_generation;
static int sc_draining;
static pid_t sc_main_group;
static int sc_set_apart;

void
sc_pool_begin(void)
{
    sc_main_group = (pid_t)sc_raw0(SYS_getpid);
    sc_guard_begin();
}

/* A thread of this process is about to have things of its own. In a light process it concerns nobody else. */
void
sc_pool_set_apart(void)
{
    if (sc_raw0(SYS_getpid) == sc_main_group) __atomic_store_n(&sc_set_apart, 1, __ATOMIC_SEQ_CST);
}

/* Whether the kernel says that the calling thread and another of the process see the same files, cwd and namespaces. */
static bool
sc_is_in_my_place(pid_t tid)
{
    static const char *const names[] = {"ns/mnt", "ns/net", "ns/uts", "ns/ipc", "ns/cgroup", "ns/pid_for_children",
                                        "ns/time_for_children"};
    long me = sc_raw0(SYS_gettid);
    if (tid == me) return true;
    if (sc_raw5(SYS_kcmp, me, tid, KCMP_FS, 0, 0) != 0 || sc_raw5(SYS_kcmp, me, tid, KCMP_FILES, 0, 0) != 0) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char mine[64], others[64];
        struct stat a = {0}, b = {0};
        sc_proc_path(mine, me, names[i]);
        sc_proc_path(others, tid, names[i]);
        long first = sc_raw4(SYS_newfstatat, AT_FDCWD, mine, &a, 0), second = sc_raw4(SYS_newfstatat, AT_FDCWD, others, &b, 0);
        if (first != second || a.st_ino != b.st_ino) return false;
    }
    return true;
}

unsigned
sc_pool_generation(void)
{
    return sc_generation;
}

void
sc_pool_hold(void)
{
    pthread_mutex_lock(&sc_pool_lock);
}

void
sc_pool_let_go(void)
{
    pthread_mutex_unlock(&sc_pool_lock);
}

static void
sc_wake(int *word)
{
    sc_raw6(SYS_futex, word, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

/* The fds stand in the table of the process that started the task; in another's the same numbers are strangers. */
void
sc_run_close(sc_run *run)
{
    bool ours = run->light.creator == (pid_t)sc_raw0(SYS_getpid) || run->generation != sc_generation;
    if (ours && run->light.pidfd >= 0) sc_raw1(SYS_close, run->light.pidfd);
    if (ours && run->light.event_fd >= 0) sc_raw1(SYS_close, run->light.event_fd);
    run->light.pidfd = run->light.event_fd = -1;
}

void
sc_run_free(sc_run *run)
{
    for (Py_ssize_t i = 0; i < run->total; i++) Py_DECREF(run->args[i]);
    PyMem_Free(run->args);
    Py_XDECREF(run->fn);
    Py_XDECREF(run->plan);
    Py_XDECREF(run->kwnames);
    Py_XDECREF(run->light.value);
    Py_XDECREF(run->light.frames);
    if (run->bell) sc_bell_leave(run);
    sc_run_close(run);
    PyMem_RawFree(run);
}

/* Answers whether the function left threads behind. */
static bool
sc_helper_finish(sc_helper *helper, sc_run *run)
{
    sc_light *l = &run->light;
    bool threads_left = l->threads_left;
    bool inside = sc_tstate_attached(helper->ts);
    bool settle = l->end == SC_DIED || l->pokes || l->threads_left || sc_tstate_is_watched(helper->ts);
    if (!inside && l->pid > 0 && settle) {
        PyEval_RestoreThread(helper->ts);
        inside = true;
    }
    if (inside) {
        if (l->pid > 0) sc_light_settle(l, run->module_state);
        PyEval_SaveThread();
    }
    if (l->lives_on) sc_light_reap(l, true);
    if (l->end == SC_DIED && l->own_group && l->pid > 0) sc_pool_bury((pid_t)l->pid);
    /* The eventfd is written to first: once the state is set, the Job may close it. Whoever reads of the end before the state
       tells of it waits the moment out (sc_job_is_over): nothing below needs the GIL. */
    pthread_mutex_lock(&sc_pool_lock);
    __atomic_store_n(&l->ending, 1, __ATOMIC_SEQ_CST);
    sc_bell_ring(run);
    pthread_mutex_unlock(&sc_pool_lock);
    int event_fd = __atomic_load_n(&l->event_fd, __ATOMIC_SEQ_CST);
    uint64_t one = 1;
    if (event_fd >= 0) sc_raw3(SYS_write, event_fd, &one, sizeof one);
    int running = SC_RUNNING;
    pthread_mutex_lock(&sc_pool_lock);
    helper->run = NULL;
    bool owned = __atomic_compare_exchange_n(&run->state, &running, SC_DONE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&sc_pool_lock);
    if (!owned) {
        PyEval_RestoreThread(helper->ts);
        sc_run_free(run);
        PyEval_SaveThread();
        return threads_left;
    }
    /* From here on the run may be freed by its Python object: only its address is used, by the kernel, to find sleepers. */
    sc_wake(&run->state);
    return threads_left;
}

/* A process that is gone took its helpers with it, in the middle of whatever they did: their runs are over, and how is
   not known. A run that its Task had let go of stays, since freeing it may need the GIL. */
void
sc_pool_bury(pid_t group)
{
    pthread_mutex_lock(&sc_pool_lock);
    sc_helper **link = &sc_all, *helper;
    while ((helper = *link)) {
        if (helper->group != group) {
            link = &helper->next_of_all;
            continue;
        }
        *link = helper->next_of_all;
        sc_helper **idle = &sc_idle;
        while (*idle && *idle != helper) idle = &(*idle)->next;
        if (*idle) {
            *idle = helper->next;
            sc_idle_count--;
        } else {
            sc_busy_count--;
        }
        sc_run *run = helper->run;
        int running = SC_RUNNING;
        if (run) {
            __atomic_store_n(&run->light.started, 1, __ATOMIC_SEQ_CST);
            if (run->light.pid == 0) run->light.pid = -ESRCH;
            if (__atomic_compare_exchange_n(&run->state, &running, SC_DONE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                sc_wake(&run->state);
        }
    }
    pthread_mutex_unlock(&sc_pool_lock);
    if (__atomic_load_n(&sc_draining, __ATOMIC_SEQ_CST)) sc_wake(&sc_busy_count);
}

/* Answers false when the helper is to end. */
static bool
sc_helper_go_idle(sc_helper *helper)
{
    pthread_mutex_lock(&sc_pool_lock);
    bool stay = (sc_idle_count < SC_MOST_IDLE && helper->lasting) || helper->pinned;
    sc_busy_count--;
    if (stay) {
        helper->go = 0;
        helper->next = sc_idle;
        sc_idle = helper;
        sc_idle_count++;
    }
    pthread_mutex_unlock(&sc_pool_lock);
    if (__atomic_load_n(&sc_draining, __ATOMIC_SEQ_CST)) sc_wake(&sc_busy_count);
    return stay;
}

/* Waits for work. Answers false when none came for a while and there are enough others. */
static bool
sc_helper_wait(sc_helper *helper)
{
    struct timespec linger = {.tv_sec = SC_LINGER_S};
    bool stay = true;
    while (stay && !__atomic_load_n(&helper->go, __ATOMIC_SEQ_CST)) {
        if (sc_raw6(SYS_futex, &helper->go, FUTEX_WAIT, 0, &linger, 0, 0) != -ETIMEDOUT) continue;
        pthread_mutex_lock(&sc_pool_lock);
        sc_helper **link = &sc_idle;
        while (*link && *link != helper) link = &(*link)->next;
        if (*link && sc_idle_count > SC_LASTING_IDLE && !helper->pinned) {
            *link = helper->next;
            sc_idle_count--;
            stay = false;
        }
        pthread_mutex_unlock(&sc_pool_lock);
    }
    return stay;
}

static void *
sc_helper_main(void *argument)
{
    sc_helper *helper = argument;
    helper->tid = (pid_t)sc_raw0(SYS_gettid);
    helper->ts = PyThreadState_New(helper->interp);
    while (sc_helper_wait(helper)) {
        sc_run *run = helper->run;
        sc_light *l = &run->light;
        l->ts = helper->ts;
        l->lasting = helper->lasting;
        sc_tstate_save(&l->saved, l->ts);
        sc_light_run(l);
        bool threads_left = sc_helper_finish(helper, run);
        helper->pinned |= threads_left && helper->lasting;
        if (!sc_helper_go_idle(helper)) break;
    }
    pthread_mutex_lock(&sc_pool_lock);
    sc_helper **link = &sc_all;
    while (*link && *link != helper) link = &(*link)->next_of_all;
    if (*link) *link = helper->next_of_all;
    pthread_mutex_unlock(&sc_pool_lock);
    PyEval_RestoreThread(helper->ts);
    PyThreadState_Clear(helper->ts);
    PyThreadState_DeleteCurrent();
    free(helper);
    return NULL;
}

static int
sc_helper_create(sc_run *run, size_t stack_bytes)
{
    sc_helper *helper = calloc(1, sizeof *helper);
    if (!helper) return ENOMEM;
    helper->run = run;
    helper->go = 1;
    helper->stack_bytes = stack_bytes;
    helper->interp = PyInterpreterState_Get();
    helper->group = (pid_t)sc_raw0(SYS_getpid);
    bool at_home = !__atomic_load_n(&sc_set_apart, __ATOMIC_SEQ_CST) || sc_is_in_my_place(helper->group);
    helper->lasting = helper->group == sc_main_group && at_home;
    pthread_attr_t attr;
    pthread_t thread;
    int error = pthread_attr_init(&attr);
    if (!error) {
        size_t usual = 0;
        pthread_attr_getstacksize(&attr, &usual);
        if (stack_bytes > usual) error = pthread_attr_setstacksize(&attr, stack_bytes);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        /* Signals for the program are for threads that run Python, never for one that is parked. */
        uint64_t old;
        sc_signals_block(&old);
        pthread_mutex_lock(&sc_pool_lock);
        helper->next_of_all = sc_all;
        if (!error) error = pthread_create(&thread, &attr, sc_helper_main, helper);
        if (!error) sc_all = helper;
        pthread_mutex_unlock(&sc_pool_lock);
        sc_signals_set(&old);
        pthread_attr_destroy(&attr);
    }
    if (error) free(helper);
    /* pthread_create says EAGAIN for a stack that cannot be had. */
    if (error == EAGAIN && stack_bytes) {
        void *room = mmap(NULL, stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (room == MAP_FAILED || mprotect(room, stack_bytes, PROT_READ | PROT_WRITE) < 0) error = ENOMEM;
        if (room != MAP_FAILED) munmap(room, stack_bytes);
    }
    return error;
}

/* Hands run to a helper. Returns 0 or an errno, with the run still the caller's; *created tells that the helper is new:
   it makes itself a thread state, which may need the GIL (tracemalloc). */
int
sc_pool_submit(sc_run *run, size_t stack_bytes, bool *created)
{
    *created = false;
    pid_t group = (pid_t)sc_raw0(SYS_getpid);
    if (stack_bytes < SC_LEAST_HELPER_STACK) stack_bytes = SC_LEAST_HELPER_STACK;
    pthread_mutex_lock(&sc_pool_lock);
    sc_helper **link = &sc_idle, *helper;
    bool apart = __atomic_load_n(&sc_set_apart, __ATOMIC_SEQ_CST);
    while ((helper = *link)
           && (helper->group != group || helper->stack_bytes < stack_bytes || (apart && !sc_is_in_my_place(helper->tid))))
        link = &helper->next;
    if (helper) {
        *link = helper->next;
        sc_idle_count--;
    }
    sc_busy_count++;
    pthread_mutex_unlock(&sc_pool_lock);
    if (helper) {
        pthread_mutex_lock(&sc_pool_lock);
        helper->run = run;
        pthread_mutex_unlock(&sc_pool_lock);
        __atomic_store_n(&helper->go, 1, __ATOMIC_SEQ_CST);
        sc_wake(&helper->go);
        return 0;
    }
    int error = sc_helper_create(run, stack_bytes);
    *created = true;
    if (error) {
        pthread_mutex_lock(&sc_pool_lock);
        sc_busy_count--;
        pthread_mutex_unlock(&sc_pool_lock);
    }
    return error;
}

/* pool_info() -> (helpers without a run, helpers with one) */
PyObject *
sc_pool_info(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    int idle = 0, busy = 0;
    pthread_mutex_lock(&sc_pool_lock);
    for (sc_helper *helper = sc_all; helper; helper = helper->next_of_all) helper->run ? busy++ : idle++;
    pthread_mutex_unlock(&sc_pool_lock);
    return Py_BuildValue("ii", idle, busy);
}

/* In a forked child: its creator's helpers are not there. */
PyObject *
sc_pool_after_fork(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    pthread_mutex_init(&sc_pool_lock, NULL);
    sc_caught_after_fork();
    sc_main_thread_after_fork();
    sc_guard_after_fork();
    sc_gil_after_fork();
    sc_reap_after_fork();
    sc_idle = sc_all = NULL;
    sc_idle_count = sc_busy_count = 0;
    sc_generation++;
    sc_main_group = (pid_t)sc_raw0(SYS_getpid);
    Py_RETURN_NONE;
}

/* pool_drain(seconds) -> whether no helper is busy any more, waiting at most so long; negative: for ever. For interpreter
   exit: a light process that is still running then would wait for a GIL that nobody hands on. Signals may raise. */
PyObject *
sc_pool_drain(PyObject *module, PyObject *args)
{
    (void)module;
    double seconds;
    if (!PyArg_ParseTuple(args, "d:pool_drain", &seconds)) return NULL;
    struct timespec until;
    sc_raw2(SYS_clock_gettime, CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += ns / SC_NANOSECONDS;
    until.tv_nsec = ns % SC_NANOSECONDS;
    __atomic_store_n(&sc_draining, 1, __ATOMIC_SEQ_CST);
    int busy;
    while ((busy = __atomic_load_n(&sc_busy_count, __ATOMIC_SEQ_CST)) > 0) {
        long answer;
        Py_BEGIN_ALLOW_THREADS
        answer = sc_raw6(SYS_futex, &sc_busy_count, FUTEX_WAIT_BITSET, busy, seconds < 0 ? NULL : &until, 0,
                         FUTEX_BITSET_MATCH_ANY);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) return NULL;
        if (answer == -ETIMEDOUT) break;
    }
    return PyBool_FromLong(__atomic_load_n(&sc_busy_count, __ATOMIC_SEQ_CST) == 0);
}

/* pool_stop(): asks every function on a helper to end. */
PyObject *
sc_pool_stop(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    pthread_mutex_lock(&sc_pool_lock);
    for (sc_helper *helper = sc_all; helper; helper = helper->next_of_all)
        if (helper->run && __atomic_load_n(&helper->run->light.started, __ATOMIC_SEQ_CST))
            sc_light_request_stop(&helper->run->light, SC_STOP_CANCEL);
    pthread_mutex_unlock(&sc_pool_lock);
    Py_RETURN_NONE;
}
