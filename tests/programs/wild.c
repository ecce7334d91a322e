/* wild COUNT SEED: so many tasks by clone, clone3, fork and vfork with flags at random, in trees of processes, threads and
   light tasks that exec themselves, unshare, exit in every way, and kill their parents and children. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK 65536
#define DEEPEST 6

struct shared {
    int left;
    pid_t root;
};

static struct shared *shared;
static const char *own_path, *own_fd;

struct life {
    unsigned seed;
    int depth;
};

static void live(struct life life);

static unsigned
any(unsigned *seed, unsigned below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed % below;
}

static int
live_on_a_stack(void *life)
{
    live(*(struct life *)life);
    syscall(SYS_exit, 1);
    return 0;
}

static unsigned long
any_flags(unsigned *seed)
{
    static const unsigned long one_of_four[] = {CLONE_PARENT, CLONE_PTRACE, CLONE_UNTRACED, CLONE_FILES, CLONE_FS};
    static const unsigned long one_of_nine[] = {CLONE_NEWPID, CLONE_NEWNS, CLONE_NEWUSER};
    unsigned long flags = 0;
    for (size_t i = 0; i < sizeof one_of_four / sizeof *one_of_four; i++)
        if (!any(seed, 4)) flags |= one_of_four[i];
    for (size_t i = 0; i < sizeof one_of_nine / sizeof *one_of_nine; i++)
        if (!any(seed, 9)) flags |= one_of_nine[i];
    return flags;
}

static void
begin_again(struct life life)
{
    char seed[16], depth[16];
    snprintf(seed, sizeof seed, "%u", life.seed);
    snprintf(depth, sizeof depth, "%d", life.depth);
    char *words[] = {(char *)own_path, seed, depth, (char *)own_fd, NULL};
    if (life.depth < DEEPEST) execv(life.seed % 4 ? own_path : "/nonexistent", words);
}

static pid_t
make_with_shared_memory(unsigned *seed, struct life child)
{
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long flags = any_flags(seed) | CLONE_VM | (any(seed, 5) ? 0 : CLONE_VFORK);
    if (any(seed, 2)) flags = (flags & ~(CLONE_NEWPID | CLONE_NEWUSER)) | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    else flags |= SIGCHLD;
    *(struct life *)stack = child;
    return clone(live_on_a_stack, stack + STACK - 64, (int)flags, stack);
}

/* With its own copy of memory: by the old call (with 0 for an exit signal at times), by clone3, by fork. */
static pid_t
make_with_own_memory(unsigned *seed, unsigned way)
{
    unsigned long flags = any_flags(seed);
    struct clone_args args = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
    if (way == 0) return fork();
    if (way == 1) return (pid_t)syscall(SYS_clone3, &args, sizeof args);
    return (pid_t)syscall(SYS_clone, flags | (any(seed, 3) ? SIGCHLD : 0), 0, 0, 0, 0);
}

static void
live(struct life life)
{
    unsigned seed = life.seed | 1;
    for (unsigned acts = any(&seed, 8); acts && __atomic_sub_fetch(&shared->left, 1, __ATOMIC_SEQ_CST) >= 0; acts--) {
        struct life child = {any(&seed, ~0u), life.depth + 1};
        unsigned way = any(&seed, 16);
        pid_t pid = -1, parent = getppid();
        if (way < 7) {
            pid = make_with_own_memory(&seed, way % 3);
            if (pid == 0) {
                live(child);
                _exit(child.seed & 7);
            }
        } else if (way < 10) {
            pid = make_with_shared_memory(&seed, child);
        } else if (way == 10) {
            pid = vfork();
            if (pid == 0) {
                begin_again(child);
                _exit(2);
            }
        } else if (way == 11) {
            unshare((int)any_flags(&seed) & (CLONE_FILES | CLONE_FS | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUSER));
        } else if (way == 12) {
            begin_again(child);
        } else if (way == 13 && life.depth > 1 && parent > 1 && parent != shared->root) {
            kill(parent, SIGKILL);
        } else if (way == 14 && life.depth > 1) {
            syscall(any(&seed, 2) ? SYS_exit_group : SYS_exit, 5);
        } else {
            usleep(any(&seed, 2000));
        }
        if (pid > 0 && !any(&seed, 3)) waitpid(pid, NULL, __WALL);
        if (pid > 0 && !any(&seed, 7)) kill(pid, SIGKILL);
    }
}

int
main(int count, char **words)
{
    char number[16];
    int fd = count > 3 ? atoi(words[3]) : memfd_create("wild", 0);
    snprintf(number, sizeof number, "%d", fd);
    own_path = words[0];
    own_fd = number;
    if (count <= 3 && ftruncate(fd, sizeof *shared) < 0) return 1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) return 1;
    if (count > 3) {
        live((struct life){(unsigned)strtoul(words[1], NULL, 10), atoi(words[2])});
        return 0;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* or orphans would kill a stranger who is it */
    *shared = (struct shared){atoi(words[1]), getpid()};
    for (unsigned seed = (unsigned)atoi(words[2]) * 2654435761u | 1; shared->left > 0; any(&seed, 2)) {
        if (fork() == 0) {
            live((struct life){seed, 1});
            _exit(0);
        }
        if (!any(&seed, 3)) usleep(300);
    }
    while (waitpid(-1, NULL, __WALL) > 0) {
    }
    return 0;
}
