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

/* Pages that were found to be mapped last: words of a stack lead to few. */
typedef struct {
    uintptr_t pages[64];
} sc_known;

static bool
sc_is_known(sc_known *known, const struct llist_node *node)
{
    uintptr_t first = (uintptr_t)node / SC_PAGE, last = ((uintptr_t)(node + 1) - 1) / SC_PAGE;
    if (first == last && known->pages[first % 64] == first) return true;
    if (!sc_frames_is_mapped(node, sizeof *node)) return false;
    known->pages[first % 64] = first;
    return true;
}

__attribute__((no_sanitize("address"))) static bool
sc_is_node(sc_known *known, const struct llist_node *node)
{
    return sc_may_be_node(node) && sc_is_known(known, node->next) && node->next->prev == node && sc_is_known(known, node->prev)
           && node->prev->next == node;
}

__attribute__((no_sanitize("address"))) static void
sc_unpark_page(sc_known *known, uintptr_t page, uintptr_t low, uintptr_t high)
{
    uintptr_t end = page + SC_PAGE < high ? page + SC_PAGE : high;
    /* The second word, or some of those before, may be on a page beside it. */
    for (uintptr_t at = page; at < end; at += sizeof(void *)) {
        uintptr_t *words = (uintptr_t *)at;
        if (at - low < SC_WORDS_BEFORE * sizeof *words || at + sizeof(struct llist_node) > high) continue;
        if (!sc_is_node(known, (struct llist_node *)at)) continue;
        for (int n = 1; n <= SC_WORDS_BEFORE && sc_is_node(known, (struct llist_node *)at); n++)
            if (words[-n]) _PyParkingLot_UnparkAll((void *)words[-n]);
    }
}

/* On a stack that nobody runs on any more. With or without the GIL. */
void
sc_unpark_dead(uintptr_t low, size_t bytes)
{
    unsigned char there[64];
    sc_known known = {{0}};
    uintptr_t high = low + bytes;
    low = (low + SC_PAGE - 1) & ~(uintptr_t)(SC_PAGE - 1);
    /* From the top: the main thread's stack is not mapped to its lowest address. */
    for (uintptr_t to = (high + SC_PAGE - 1) & ~(uintptr_t)(SC_PAGE - 1); to > low;) {
        size_t pages = (to - low) / SC_PAGE, count = pages < sizeof there ? pages : sizeof there;
        while (sc_raw3(SYS_mincore, to - count * SC_PAGE, count * SC_PAGE, there) < 0)
            if (!(count /= 2)) return;
        to -= count * SC_PAGE;
        for (size_t i = 0; i < count; i++)
            if (there[i] & 1) sc_unpark_page(&known, to + i * SC_PAGE, low, high);
    }
}
#else
void
sc_unpark_dead(uintptr_t low, size_t bytes)
{
    (void)low, (void)bytes;
}
#endif
