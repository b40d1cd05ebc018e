/*
 * Files, inside the io room: what an open file is, and the guard against
 * SIGXFSZ. The queue and the tests see this; other rooms see io/io.h.
 */
#ifndef OFL_IO_FILE_H
#define OFL_IO_FILE_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct io_file {
    int fd;
    bool direct, writable;
    uint32_t block; /* 1 if buffered */
    uint64_t bytes; /* size at open, then what was reserved */
    char *path;     /* as opened; scratch files: "<dir>/(scratch)" */
    char note[160];
};

/* Size of the file now; it may have been truncated since it was opened. 0 or -errno. */
int io_file_size_now(const struct io_file *f, uint64_t *bytes);

/*
 * The kernel kills a thread that writes past RLIMIT_FSIZE with SIGXFSZ, unless
 * the signal is blocked; then the call just fails with EFBIG. A library has no
 * business with the process's handlers, so we block it around such calls, and
 * swallow it if it was raised meanwhile.
 */
struct io_sigxfsz {
    sigset_t saved;
    bool armed; /* it was neither blocked nor pending before: what is pending after is ours */
};

static inline void io_sigxfsz_block(struct io_sigxfsz *g)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    g->armed = !pthread_sigmask(SIG_BLOCK, &set, &g->saved) && !sigismember(&g->saved, SIGXFSZ);
}

static inline void io_sigxfsz_restore(const struct io_sigxfsz *g)
{
    const struct timespec now = {0};
    sigset_t set;

    if (!g->armed)
        return;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    (void)sigtimedwait(&set, NULL, &now); /* EAGAIN: none was raised */
    pthread_sigmask(SIG_SETMASK, &g->saved, NULL);
}

#endif
