/* CPython's parking lot, after threads that died while they waited there.

   From 3.14 on whoever waits for a lock is in a list whose nodes stand on the waiters' own stacks. (3.13 has that list for a few
   of its own locks alone.) A dead one's would be woken in place of a living one's, and that part of its stack is used again if it
   ran as its creator's thread: then the list leads anywhere.

   So each node of such a list is looked for on a dead stack: two words that lead to two nodes which lead back. What it waits for
   is one of the few words before it, and all who wait for one of these are woken: the living look again. */
#include "tstate.h"

#include <sys/mman.h>

#if SC_PY(14)
#include "internal/pycore_llist.h"
#include "internal/pycore_parking_lot.h"

#define SC_PAGE 4096
#define SC_WORDS_BEFORE 12

static bool
sc_may_be_node(const struct llist_node *node)
{
    uintptr_t next = (uintptr_t)node->next, prev = (uintptr_t)node->prev, most = (uintptr_t)1 << 47;
    return next >= SC_PAGE && prev >= SC_PAGE && next < most && prev < most && !((next | prev) % sizeof(void *))
           && node->next != node && node->prev != node;
}

__attribute__((no_sanitize("address"))) static bool
sc_is_node(const struct llist_node *node)
{
    return sc_may_be_node(node) && sc_frames_is_mapped(node->next, sizeof *node) && sc_frames_is_mapped(node->prev, sizeof *node)
           && node->next->prev == node && node->prev->next == node;
}

__attribute__((no_sanitize("address"))) static void
sc_unpark_page(uintptr_t page, uintptr_t low, uintptr_t high)
{
    uintptr_t end = page + SC_PAGE < high ? page + SC_PAGE : high;
    /* The second word, or some of those before, may be on a page beside it. */
    for (uintptr_t at = page; at < end; at += sizeof(void *)) {
        uintptr_t *words = (uintptr_t *)at;
        if (at - low < SC_WORDS_BEFORE * sizeof *words || at + sizeof(struct llist_node) > high) continue;
        if (!sc_is_node((struct llist_node *)at)) continue;
        for (int n = 1; n <= SC_WORDS_BEFORE && sc_is_node((struct llist_node *)at); n++)
            if (words[-n]) _PyParkingLot_UnparkAll((void *)words[-n]);
    }
}

/* On a stack that nobody runs on any more. With or without the GIL. */
void
sc_unpark_dead(uintptr_t low, size_t bytes)
{
    unsigned char there[64];
    uintptr_t high = low + bytes;
    low = (low + SC_PAGE - 1) & ~(uintptr_t)(SC_PAGE - 1);
    for (uintptr_t from = low; from < high; from += sizeof there * SC_PAGE) {
        size_t pages = (high - from + SC_PAGE - 1) / SC_PAGE, count = pages < sizeof there ? pages : sizeof there;
        /* The main thread's stack is not mapped to its lowest address. */
        bool whole = sc_raw3(SYS_mincore, from, count * SC_PAGE, there) == 0;
        for (size_t i = 0; i < count; i++)
            if (whole ? there[i] & 1 : sc_raw3(SYS_mincore, from + i * SC_PAGE, SC_PAGE, there) == 0 && there[0] & 1)
                sc_unpark_page(from + i * SC_PAGE, low, high);
    }
}
#else
void
sc_unpark_dead(uintptr_t low, size_t bytes)
{
    (void)low, (void)bytes;
}
#endif
