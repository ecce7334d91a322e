/* What the tracer reads of a stopped task: its memory, its registers, its line in /proc. By raw calls alone. */
#include "tracer.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

#define SC_PAGE 4096
#define SC_PATH_BYTES 4096
#define SC_ARGV_BYTES (72 * 1024)
#define SC_ARGV_COUNT 4096
#define SC_ENV_COUNT 65536
#define SC_STRUCT_BYTES 88
#define SC_SET_TIDS 32

/* Reads up to the first page that is not there; answers how many bytes it got. */
static size_t
sc_read(int32_t tid, uint64_t from, void *to, size_t bytes)
{
    size_t got = 0;
    while (got < bytes) {
        size_t piece = SC_PAGE - (from + got) % SC_PAGE;
        if (piece > bytes - got) piece = bytes - got;
        struct iovec here = {(char *)to + got, piece}, there = {(void *)(uintptr_t)(from + got), piece};
        if (sc_raw6(SYS_process_vm_readv, tid, &here, 1, &there, 1, 0) != (long)piece) break;
        got += piece;
    }
    return got;
}

/* A string with its zero, if that is among the first most bytes. Answers its length, or -1 where memory ended before. */
static long
sc_read_string(int32_t tid, uint64_t from, char *to, size_t most)
{
    size_t got = 0;
    while (got < most) {
        size_t piece = most - got < 256 ? most - got : 256;
        size_t to_page_end = SC_PAGE - (from + got) % SC_PAGE;
        if (piece > to_page_end) piece = to_page_end;
        if (sc_read(tid, from + got, to + got, piece) != piece) return -1;
        for (size_t i = 0; i < piece; i++)
            if (!to[got + i]) return (long)(got + i);
        got += piece;
    }
    return (long)most;
}

bool
sc_look_int(int32_t tid, uint64_t address, int32_t *value)
{
    return address && sc_read(tid, address, value, sizeof *value) == sizeof *value;
}

static bool
sc_starts(const char *text, const char *word)
{
    while (*word)
        if (*text++ != *word++) return false;
    return true;
}

static int32_t
sc_number(const char **text)
{
    int32_t number = 0;
    while (**text == '\t' || **text == ' ') ++*text;
    while (**text >= '0' && **text <= '9') number = number * 10 + (*(*text)++ - '0');
    return number;
}

/* "/proc/TID" and what follows; 40 bytes are enough. */
static void
sc_proc_path(char *path, int32_t tid, const char *tail)
{
    char digits[12];
    int count = 0;
    for (const char *head = "/proc/"; *head; head++) *path++ = *head;
    for (int32_t rest = tid; rest || !count; rest /= 10) digits[count++] = (char)('0' + rest % 10);
    while (count) *path++ = digits[--count];
    while (*tail) *path++ = *tail++;
    *path = 0;
}

/* The caller's id as the tracer knows it: /proc is the tracer's, even for a child in a new pid namespace. */
int32_t
sc_look_own_id(void)
{
    char text[16] = {0};
    int32_t id = 0;
    if (sc_raw4(SYS_readlinkat, AT_FDCWD, "/proc/self", text, sizeof text - 1) <= 0) return (int32_t)sc_raw0(SYS_getpid);
    for (int i = 0; text[i] >= '0' && text[i] <= '9'; i++) id = id * 10 + (text[i] - '0');
    return id;
}

/* /proc/TID/status: thread group, parent, and the ids in each pid namespace, the one of this /proc first. */
bool
sc_look_status(int32_t tid, sc_status_file *status)
{
    char path[40], text[4096];
    sc_proc_path(path, tid, "/status");
    *status = (sc_status_file){.group = 0};
    long fd = sc_raw4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return false;
    long got = sc_raw3(SYS_read, fd, text, sizeof text - 1);
    sc_raw1(SYS_close, fd);
    if (got <= 0) return false;
    text[got] = 0;
    for (const char *line = text; *line; line++) {
        if (sc_starts(line, "Tgid:")) line += 5, status->group = sc_number(&line);
        else if (sc_starts(line, "PPid:")) line += 5, status->parent = sc_number(&line);
        else if (sc_starts(line, "NSpid:")) {
            line += 6;
            while (*line && *line != '\n') {
                int32_t number = sc_number(&line);
                if (status->depth < 4) status->pids[status->depth] = number;
                status->depth++;
            }
        }
        while (*line && *line != '\n') line++;
        if (!*line) break;
    }
    if (!status->depth) status->depth = 1; /* before Linux 4.1 there is no NSpid */
    return status->group > 0;
}

/* The struct and the list of pids that it points to, as far as they can be read. */
void
sc_look_clone3(int32_t tid, sc_record *record, size_t *extra)
{
    char *out = (char *)(record + 1);
    uint64_t at = record->words[0], size = record->words[1];
    size_t wanted = size < SC_STRUCT_BYTES ? (size_t)size : SC_STRUCT_BYTES;
    for (size_t i = 0; i < SC_STRUCT_BYTES; i++) out[i] = 0;
    *extra = SC_STRUCT_BYTES;
    if (wanted < 64 || sc_read(tid, at, out, wanted) != wanted) return;
    record->has |= SC_HAS_STRUCT;
    const uint64_t *fields = (const uint64_t *)out;
    uint64_t count = fields[9];
    if (!fields[8] || !count || count > SC_SET_TIDS) return;
    if (sc_read(tid, fields[8], out + SC_STRUCT_BYTES, count * sizeof(int32_t)) != count * sizeof(int32_t)) return;
    record->extra[1] = (uint32_t)count;
    *extra += count * sizeof(int32_t);
}

static bool
sc_read_pointer(int32_t tid, uint64_t at, int word_bytes, uint64_t *pointer)
{
    *pointer = 0;
    return sc_read(tid, at, pointer, (size_t)word_bytes) == (size_t)word_bytes;
}

/* How many pointers stand before a null, or -1. */
static int32_t
sc_count_pointers(int32_t tid, uint64_t at, int word_bytes)
{
    char page[SC_PAGE];
    int32_t count = 0;
    if (!at) return -1;
    while (count < SC_ENV_COUNT) {
        size_t piece = SC_PAGE - at % SC_PAGE;
        size_t got = sc_read(tid, at, page, piece) / (size_t)word_bytes;
        if (!got) return -1;
        for (size_t i = 0; i < got; i++, count++) {
            uint64_t pointer = word_bytes == 4 ? ((uint32_t *)page)[i] : ((uint64_t *)page)[i];
            if (!pointer) return count;
        }
        at += got * (size_t)word_bytes;
    }
    return -1;
}

/* The path, the arguments with their lengths, and the number of variables. */
void
sc_look_exec(int32_t tid, sc_record *record, size_t *extra)
{
    bool at_form = record->call == SC_EXECVEAT;
    uint64_t path = record->words[at_form], argv = record->words[1 + at_form], env = record->words[2 + at_form];
    int word_bytes = sc_call_tables[record->machine].word_bytes;
    char *out = (char *)(record + 1);
    long length = sc_read_string(tid, path, out, SC_PATH_BYTES);
    size_t used = 0;
    if (length >= 0) {
        record->has |= SC_HAS_PATH;
        record->extra[0] = (uint32_t)length;
        used = ((size_t)length + 3) & ~(size_t)3;
    }
    size_t begin = used;
    bool whole = argv;
    uint32_t count = 0;
    for (uint64_t pointer; argv && whole; argv += (uint64_t)word_bytes) {
        whole = sc_read_pointer(tid, argv, word_bytes, &pointer);
        if (!whole || !pointer) break;
        size_t room = used - begin < SC_ARGV_BYTES ? SC_ARGV_BYTES - (used - begin) : 0;
        if (count == SC_ARGV_COUNT || room < 64) {
            record->has |= SC_HAS_MORE;
            break;
        }
        length = sc_read_string(tid, pointer, out + used + 4, room - 8);
        whole = length >= 0;
        if (!whole) break;
        if ((size_t)length == room - 8) record->has |= SC_HAS_MORE;
        *(uint32_t *)(out + used) = (uint32_t)length;
        used += (4 + (size_t)length + 3) & ~(size_t)3;
        count++;
    }
    if (whole) {
        record->has |= SC_HAS_ARGV;
        record->extra[1] = count;
        record->extra[2] = (uint32_t)(used - begin);
    } else used = begin;
    int32_t variables = sc_count_pointers(tid, env, word_bytes);
    if (variables >= 0) {
        record->has |= SC_HAS_ENV;
        record->extra[3] = (uint32_t)variables;
    }
    *extra = used;
}

/* The same of a program that runs already: its file and its command line, from /proc. */
void
sc_look_program(int32_t tid, sc_record *record, size_t *extra)
{
    char path[40], *out = (char *)(record + 1);
    sc_proc_path(path, tid, "/exe");
    long length = sc_raw4(SYS_readlinkat, AT_FDCWD, path, out, SC_PATH_BYTES);
    size_t used = 0;
    if (length >= 0) {
        record->has |= SC_HAS_PATH;
        record->extra[0] = (uint32_t)length;
        used = ((size_t)length + 3) & ~(size_t)3;
    }
    *extra = used;
    sc_proc_path(path, tid, "/cmdline");
    long fd = sc_raw4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return;
    /* Read behind where the lengths will stand: each argument takes at most seven bytes more there. */
    char *text = out + used + 8 * SC_ARGV_COUNT;
    long got = sc_raw3(SYS_read, fd, text, SC_ARGV_BYTES / 2);
    sc_raw1(SYS_close, fd);
    if (got < 0) return;
    if (got == SC_ARGV_BYTES / 2) record->has |= SC_HAS_MORE;
    size_t begin = used;
    uint32_t count = 0;
    for (long at = 0; at < got && count < SC_ARGV_COUNT; count++) {
        long end = at;
        while (end < got && text[end]) end++;
        uint32_t size = (uint32_t)(end - at);
        *(uint32_t *)(out + used) = size;
        for (uint32_t i = 0; i < size; i++) out[used + 4 + i] = text[at + i];
        used += (4 + size + 3) & ~(size_t)3;
        at = end + 1;
    }
    record->has |= SC_HAS_ARGV;
    record->extra[1] = count;
    record->extra[2] = (uint32_t)(used - begin);
    *extra = used;
}

/* --- registers: only where no stop of a system call tells more */

#if defined(__x86_64__)

bool
sc_look_registers(int32_t tid, uint32_t *arch, uint64_t *number, uint64_t words[6])
{
    struct user_regs_struct regs;
    if (sc_raw4(SYS_ptrace, PTRACE_GETREGS, tid, 0, &regs) < 0) return false;
    /* 0x23 is the code segment of 32-bit code. An int 0x80 from 64-bit code is not told apart here. */
    bool compat = regs.cs == 0x23;
    *arch = compat ? AUDIT_ARCH_I386 : AUDIT_ARCH_X86_64;
    *number = (uint32_t)regs.orig_rax;
    const uint64_t native[6] = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
    const uint64_t small[6] = {regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp};
    for (int i = 0; i < 6; i++) words[i] = compat ? (uint32_t)small[i] : native[i];
    return true;
}

bool
sc_set_argument(int32_t tid, uint32_t arch, uint64_t value)
{
    struct user_regs_struct regs;
    if (sc_raw4(SYS_ptrace, PTRACE_GETREGS, tid, 0, &regs) < 0) return false;
    if (arch == AUDIT_ARCH_I386) regs.rbx = value;
    else regs.rdi = value;
    return sc_raw4(SYS_ptrace, PTRACE_SETREGS, tid, 0, &regs) == 0;
}

static uint64_t
sc_stack_pointer(int32_t tid)
{
    struct user_regs_struct regs;
    return sc_raw4(SYS_ptrace, PTRACE_GETREGS, tid, 0, &regs) < 0 ? 0 : regs.rsp;
}

#else

typedef struct {
    uint64_t regs[31], sp, pc, pstate;
} sc_arm_registers;

static bool
sc_arm_get(int32_t tid, sc_arm_registers *regs)
{
    struct iovec vector = {regs, sizeof *regs};
    /* A 32-bit task's set is another, and shorter. */
    return sc_raw4(SYS_ptrace, PTRACE_GETREGSET, tid, NT_PRSTATUS, &vector) == 0 && vector.iov_len == sizeof *regs;
}

bool
sc_look_registers(int32_t tid, uint32_t *arch, uint64_t *number, uint64_t words[6])
{
    sc_arm_registers regs;
    if (!sc_arm_get(tid, &regs)) return false;
    *arch = AUDIT_ARCH_AARCH64;
    *number = (uint32_t)regs.regs[8];
    for (int i = 0; i < 6; i++) words[i] = regs.regs[i];
    return true;
}

bool
sc_set_argument(int32_t tid, uint32_t arch, uint64_t value)
{
    sc_arm_registers regs;
    if (arch != AUDIT_ARCH_AARCH64 || !sc_arm_get(tid, &regs)) return false;
    struct iovec vector = {&regs, sizeof regs};
    regs.regs[0] = value;
    return sc_raw4(SYS_ptrace, PTRACE_SETREGSET, tid, NT_PRSTATUS, &vector) == 0;
}

static uint64_t
sc_stack_pointer(int32_t tid)
{
    sc_arm_registers regs;
    return sc_arm_get(tid, &regs) ? regs.sp : 0;
}

#endif

/* A copy of clone3's struct with other flags, on the caller's stack below what it uses: a signal's frame would go there
   too. Answers its address, or 0. */
uint64_t
sc_copy_struct(int32_t tid, uint64_t from, size_t bytes, uint64_t flags)
{
    char copy[SC_STRUCT_BYTES];
    uint64_t sp = sc_stack_pointer(tid);
    if (!sp || bytes > sizeof copy || bytes < 64 || sc_read(tid, from, copy, bytes) != bytes) return 0;
    *(uint64_t *)copy = flags;
    uint64_t to = (sp - SC_RED_ZONE - 512) & ~(uint64_t)63;
    struct iovec here = {copy, bytes}, there = {(void *)(uintptr_t)to, bytes};
    return sc_raw6(SYS_process_vm_writev, tid, &here, 1, &there, 1, 0) == (long)bytes ? to : 0;
}
