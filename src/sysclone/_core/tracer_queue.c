/* Records on their way from the tracer to whoever reads: chunks of shared memory, one writer, one reader, no locks.

   The writer never waits for the reader: the reader may be a task that it has stopped. So the queue grows. */
#include "tracer.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#define SC_CHUNK_BYTES (256 * 1024)
#define SC_ENOUGH_TO_TELL (64 * 1024)

int64_t
sc_now(void)
{
    struct timespec now = {0};
    sc_raw2(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static sc_chunk *
sc_chunk_new(void)
{
    long at = sc_raw6(SYS_mmap, 0, SC_CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096) return NULL;
    sc_chunk *chunk = (sc_chunk *)at;
    chunk->bytes = SC_CHUNK_BYTES - sizeof *chunk;
    return chunk;
}

bool
sc_queue_begin(sc_queue *q)
{
    q->writing = q->reading = sc_chunk_new();
    q->armed = 1;
    return q->writing;
}

void
sc_queue_free(sc_queue *q)
{
    while (q->reading) {
        sc_chunk *next = q->reading->next;
        sc_raw2(SYS_munmap, q->reading, SC_CHUNK_BYTES);
        q->reading = next;
    }
}

/* Room for a record and so many bytes after it. Where there is no memory it waits: nothing is lost. */
sc_record *
sc_queue_reserve(sc_queue *q, size_t extra)
{
    sc_chunk *chunk = q->writing;
    if (q->silent) chunk->used = 0; /* the same place again and again */
    if (chunk->bytes - chunk->used < sizeof(sc_record) + extra) {
        sc_chunk *next;
        while (!(next = sc_chunk_new())) {
            sc_queue_tell(q);
            struct timespec pause = {.tv_nsec = 10000000};
            sc_raw2(SYS_nanosleep, &pause, 0);
        }
        __atomic_store_n(&chunk->next, next, __ATOMIC_RELEASE);
        q->writing = chunk = next;
    }
    sc_record *record = (sc_record *)(chunk->data + chunk->used);
    *record = (sc_record){.bytes = 0};
    return record;
}

void
sc_queue_commit(sc_queue *q, sc_record *record, size_t extra)
{
    record->bytes = (uint32_t)((sizeof *record + extra + 7) & ~(size_t)7);
    q->unsaid += record->bytes;
    __atomic_store_n(&q->writing->used, q->writing->used + record->bytes, __ATOMIC_RELEASE);
    if (q->unsaid >= SC_ENOUGH_TO_TELL) sc_queue_tell(q);
}

/* Wakes the reader, if it waits. */
void
sc_queue_tell(sc_queue *q)
{
    uint64_t one = 1;
    if (q->silent) return;
    q->unsaid = 0;
    if (__atomic_exchange_n(&q->armed, 0, __ATOMIC_SEQ_CST)) sc_raw3(SYS_write, q->event_fd, &one, sizeof one);
}

/* The reader's: the next record, or NULL when there is none yet. It is good until the next call. */
const sc_record *
sc_queue_next(sc_queue *q)
{
    for (;;) {
        sc_chunk *chunk = q->reading;
        sc_chunk *next = __atomic_load_n(&chunk->next, __ATOMIC_ACQUIRE);
        size_t used = __atomic_load_n(&chunk->used, __ATOMIC_ACQUIRE);
        if (q->read < used) {
            const sc_record *record = (const sc_record *)(chunk->data + q->read);
            q->read += record->bytes;
            return record;
        }
        if (!next) return NULL;
        q->reading = next;
        q->read = 0;
        sc_raw2(SYS_munmap, chunk, SC_CHUNK_BYTES);
    }
}
