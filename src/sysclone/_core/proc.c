/* Paths under /proc, put together without libc. */
#include "core.h"

/* Writes "/proc/<pid>/<name>" into path, which has room for 64; pid 0 is "self". */
void
sc_proc_path(char *path, long pid, const char *name)
{
    static const char prefix[] = "/proc/";
    char digits[24];
    size_t at = 0, n = 0;
    while (prefix[at]) path[at] = prefix[at], at++;
    if (!pid) digits[n++] = 'f', digits[n++] = 'l', digits[n++] = 'e', digits[n++] = 's';
    for (; pid; pid /= 10) digits[n++] = (char)('0' + pid % 10);
    while (n) path[at++] = digits[--n];
    path[at++] = '/';
    while (*name && at < 63) path[at++] = *name++;
    path[at] = 0;
}
