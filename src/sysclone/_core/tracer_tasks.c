/* The tasks that are traced, found by their ids: a table in two levels, since ids are small and dense. */
#include "tracer.h"

#include <sys/mman.h>

#define SC_LEAF 1024
#define SC_MOST_PIDS (4 * 1024 * 1024) /* the kernel's PID_MAX_LIMIT on 64-bit machines */
#define SC_LEAVES (SC_MOST_PIDS / SC_LEAF)

static void *
sc_pages(size_t bytes)
{
    long at = sc_raw6(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at < 0 && at > -4096 ? NULL : (void *)at;
}

bool
sc_tasks_begin(sc_tasks *tasks)
{
    tasks->leaves = sc_pages(SC_LEAVES * sizeof *tasks->leaves);
    return tasks->leaves;
}

void
sc_tasks_free(sc_tasks *tasks)
{
    if (!tasks->leaves) return;
    for (int i = 0; i < SC_LEAVES; i++)
        if (tasks->leaves[i]) sc_raw2(SYS_munmap, tasks->leaves[i], SC_LEAF * sizeof(sc_traced));
    sc_raw2(SYS_munmap, tasks->leaves, SC_LEAVES * sizeof *tasks->leaves);
}

/* NULL for a task that is not known. */
sc_traced *
sc_tasks_find(sc_tasks *tasks, int32_t tid)
{
    if (tid <= 0 || tid >= SC_MOST_PIDS || !tasks->leaves[tid / SC_LEAF]) return NULL;
    sc_traced *task = &tasks->leaves[tid / SC_LEAF][tid % SC_LEAF];
    return task->live ? task : NULL;
}

/* A task that was not known, or that was known by the same id before. NULL where there is no memory. */
sc_traced *
sc_tasks_add(sc_tasks *tasks, int32_t tid)
{
    if (tid <= 0 || tid >= SC_MOST_PIDS) return NULL;
    sc_traced **leaf = &tasks->leaves[tid / SC_LEAF];
    if (!*leaf) *leaf = sc_pages(SC_LEAF * sizeof(sc_traced));
    if (!*leaf) return NULL;
    sc_traced *task = &(*leaf)[tid % SC_LEAF];
    *task = (sc_traced){.tid = tid, .live = true, .depth = 1, .next = tasks->first};
    if (tasks->first) sc_tasks_find(tasks, tasks->first)->previous = tid;
    tasks->first = tid;
    tasks->count++;
    return task;
}

void
sc_tasks_remove(sc_tasks *tasks, sc_traced *task)
{
    if (task->next) sc_tasks_find(tasks, task->next)->previous = task->previous;
    if (task->previous) sc_tasks_find(tasks, task->previous)->next = task->next;
    else tasks->first = task->next;
    if (task->held) tasks->held--;
    tasks->count--;
    task->live = false;
}
