/* System calls by the 32-bit table, from a 64-bit program: fork, an untraced clone, unshare, a failing execve. */
static long
call(long number, long first)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(0), "d"(0) : "memory");
    return result;
}

int
main(void)
{
    if (call(2, 0) == 0) call(1, 7);
    if (call(120, 0x00800011) == 0) call(1, call(2, 0) == 0 ? 9 : 8);
    call(310, 0x400);
    call(11, 0);
    return 0;
}
