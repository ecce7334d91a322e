/* What a child does between its birth and execve, and the whole of what it may know. */
#ifndef SC_CHILD_H
#define SC_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sc_step {
    SC_STEP_NONE = 0,
    SC_STEP_DUP,
    SC_STEP_CHDIR,
    SC_STEP_SETSID,
    SC_STEP_SETPGID,
    SC_STEP_SETGROUPS,
    SC_STEP_SETGID,
    SC_STEP_SETUID,
    SC_STEP_SETUP,
    SC_STEP_CLOSE,
    SC_STEP_EXEC,
    SC_STEP_TERMINAL,
    SC_STEP_SUBREAPER,
};

typedef struct sc_child {
    char *const *paths; /* tried in order, NULL at the end */
    char *const *argv, *const *envp;
    const char *cwd;
    int stdio[3]; /* what becomes 0, 1, 2; -1: as it is */
    const int *keep;
    size_t keep_count; /* sorted, for exec to leave open */
    bool close_others, restore_ignored, setsid;
    const bool *handlers_cleared; /* the kernel did it, as the creator knows when it clones */
    bool is_subreaper;
    int exec_fd;       /* the program, or -1 for paths */
    bool exec_fd_stays; /* open in the program: a script's, which its interpreter opens again */
    int terminal; /* what becomes the terminal of its session, or -1 */
    long pgid, uid, gid, umask; /* -1: as it is */
    const unsigned *groups;
    long group_count; /* -1: as they are */
    uint64_t mask;    /* to have at exec */
    int *ready; /* NULL, or 0 while the child is to wait for its creator; then 1, or -errno */
    int (*setup)(void *), (*let_go)(void *);
    void *setup_argument;
    /* Out, in shared memory: 0 while nothing failed. place is which of them it was: a stream, one of keep, one of paths. */
    int step, error, place;
} sc_child;

int sc_child_main(void *child);

#endif
