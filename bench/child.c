/*
 * Other programs (fio, strace, gnuplot) as children. What they print goes to memory files,
 * so nobody has to read while they run. See bench.h.
 */
#include "bench/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "examples/common.h"

#define POLL_NS 20000000
#define GRACE_S 3.0 /* between SIGTERM and SIGKILL */

enum { EXEC_FAILED = 127 };

static _Noreturn void become(char *const argv[], const int fds[3], int keep_fd, pid_t parent)
{
    /* It must not outlive us: it may be writing to our file. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(EXEC_FAILED);
    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    if (keep_fd >= 0)
        fcntl(keep_fd, F_SETFD, 0);
    execvp(argv[0], argv);
    _exit(EXEC_FAILED);
}

/* Waits; ends the child if we are to end. Returns -ECANCELED then. */
static int wait_for(pid_t pid, int *status)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    double asked = 0;

    while (waitpid(pid, status, WNOHANG) == 0) {
        if (common_stopping() && asked == 0) {
            asked = common_seconds();
            kill(pid, SIGTERM);
        } else if (asked != 0 && common_seconds() - asked > GRACE_S) {
            kill(pid, SIGKILL);
        }
        nanosleep(&pause, NULL);
    }
    return asked != 0 ? -ECANCELED : 0;
}

static char *read_back(int fd, size_t *bytes)
{
    off_t size = lseek(fd, 0, SEEK_END);
    char *text = size < 0 ? NULL : malloc((size_t)size + 1);
    ssize_t got = text ? pread(fd, text, (size_t)size, 0) : -1;

    *bytes = got < 0 ? 0 : (size_t)got;
    if (text)
        text[*bytes] = '\0';
    return text;
}

static bool found(const char *program)
{
    const char *path = getenv("PATH");
    char *list = strdup(path ? path : "/usr/bin:/bin"), *rest = list, *dir, file[512];
    bool yes = false;

    while (!yes && (dir = strsep(&rest, ":")) != NULL)
        if ((size_t)snprintf(file, sizeof file, "%s/%s", dir, program) < sizeof file)
            yes = access(file, X_OK) == 0;
    free(list);
    return yes;
}

int bench_child_run(char *const argv[], const char *input, int keep_fd, struct bench_output *out)
{
    int fds[3] = {-1, -1, -1}, status = 0, err = 0;
    pid_t self = getpid(), pid;
    size_t err_bytes;

    *out = (struct bench_output){0};
    if (!found(argv[0]))
        return -ENOENT;
    for (int i = 0; i < 3; i++) {
        fds[i] = memfd_create(argv[0], MFD_CLOEXEC);
        if (fds[i] < 0)
            err = -errno;
    }
    if (err == 0 && input && (pwrite(fds[0], input, strlen(input), 0) != (ssize_t)strlen(input)))
        err = -EIO;
    pid = err == 0 ? fork() : -1;
    if (pid == 0)
        become(argv, fds, keep_fd, self);
    if (pid > 0)
        err = wait_for(pid, &status);
    else if (err == 0)
        err = -errno;
    if (pid > 0 && err == 0 && status != 0)
        err = -EIO;
    if (pid > 0) {
        out->out = read_back(fds[1], &out->out_bytes);
        out->err = read_back(fds[2], &err_bytes);
        if (err == 0 && (!out->out || !out->err))
            err = -ENOMEM;
    }
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return err;
}

void bench_output_free(struct bench_output *out)
{
    free(out->out);
    free(out->err);
    *out = (struct bench_output){0};
}

const char *bench_first_line(char *text)
{
    if (!text)
        return "";
    text += strspn(text, " \t\r\n");
    text[strcspn(text, "\r\n")] = '\0';
    return text;
}
