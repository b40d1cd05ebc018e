/*
 * System calls of a run, counted by strace in short runs of their own: tracing slows a
 * program down, so nothing else is measured in them. See nvme_syscalls.h.
 *
 * Ours: a forked copy of this process opens its queue, waits until strace has attached, and
 * moves some bytes. fio: run twice under strace, with different numbers of bytes; the
 * difference is free of what starting and ending cost.
 */
#include "bench/nvme_syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/child.h"
#include "bench/nvme_fio.h"
#include "bench/nvme_progress.h"
#include "bench/nvme_run.h"

#define BLOCKS    8192u /* of a counted run, at most */
#define SECONDS   20.0  /* and its length */
#define ATTACH_S  5.0
#define PAUSE_NS  5000000
#define ARGUMENTS 64u

static void unknown(struct nvme_calls *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void unknown(struct nvme_calls *out, const char *format, ...)
{
    va_list ap;

    out->per_gb = -1;
    va_start(ap, format);
    vsnprintf(out->note, sizeof out->note, format, ap);
    va_end(ap);
}

static uint64_t counted_bytes(const struct nvme_target *t, const struct nvme_case *c)
{
    uint64_t blocks = t->bytes / c->block_bytes;

    return (blocks < BLOCKS ? blocks : BLOCKS) * c->block_bytes;
}

/* Adds up the table of `strace -c -U calls,name`; sendto and recvfrom are not the engine's, but how
 * the copy and this process talk. -1 if it has none. */
static int64_t sum_calls(const char *text)
{
    int64_t sum = -1;

    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        long long calls;
        char name[64];

        if (sscanf(line, " %lld %63s", &calls, name) != 2 || strcmp(name, "total") == 0 ||
            strcmp(name, "sendto") == 0 || strcmp(name, "recvfrom") == 0)
            continue;
        sum = (sum < 0 ? 0 : sum) + calls;
    }
    return sum;
}

static char *read_file(FILE *f)
{
    char *text = calloc(1, 65536);

    rewind(f);
    if (text && fread(text, 1, 65535, f) == 0)
        text[0] = '\0';
    return text;
}

/* ---- ours ------------------------------------------------------------------------------- */

/* The forked copy: says that it is ready, moves bytes when told to, says how many it were, and
 * waits for its end. */
static _Noreturn void move_traced(struct nvme_target *t, const struct nvme_case *c, int socket)
{
    struct nvme_sample sample = {0};
    uint64_t moved = 0;
    struct nvme_run r;
    char go;

    nvme_progress.quiet = true;
    t->buffers = NULL; /* not inherited */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (nvme_target_renew_buffers(t) != 0 || nvme_run_open(&r, t, c, 1) != 0 ||
        send(socket, "r", 1, 0) != 1 || recv(socket, &go, 1, 0) != 1)
        _exit(EXIT_RUNTIME);
    if (nvme_run_move(&r, SECONDS, counted_bytes(t, c), &sample) == 0)
        moved = sample.bytes[IO_READ] + sample.bytes[IO_WRITE];
    if (send(socket, &moved, sizeof moved, 0) == sizeof moved)
        (void)!recv(socket, &go, 1, 0);
    _exit(0);
}

static pid_t start_strace(pid_t pid, FILE *table, int complaints)
{
    pid_t child = fork();
    char target[16], path[32];

    if (child != 0)
        return child;
    snprintf(target, sizeof target, "%d", pid);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(table));
    fcntl(fileno(table), F_SETFD, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    dup2(complaints, STDERR_FILENO);
    execlp("strace", "strace", "-f", "-c", "-q", "-U", "calls,name", "-o", path, "-p", target, (char *)NULL);
    _exit(127);
}

static bool traced(pid_t pid)
{
    char path[64], line[128];
    long tracer = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "TracerPid:", 10) == 0)
            tracer = strtol(line + 10, NULL, 10);
    if (f)
        fclose(f);
    return tracer != 0;
}

static bool wait_attached(pid_t pid, pid_t strace)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    double end = common_seconds() + ATTACH_S;

    while (!traced(pid)) {
        if (common_seconds() > end || waitpid(strace, NULL, WNOHANG) == strace)
            return false;
        nanosleep(&pause, NULL);
    }
    nanosleep(&pause, NULL); /* its other threads */
    return true;
}

/* Bytes that the copy moved under strace, or 0. strace ends in every case, and its table is whole. */
static uint64_t conduct(pid_t pid, int socket, FILE *table, FILE *complaints)
{
    uint64_t moved = 0;
    pid_t strace;
    char ready;

    if (recv(socket, &ready, 1, 0) != 1)
        return 0;
    strace = start_strace(pid, table, fileno(complaints));
    if (strace < 0)
        return 0;
    if (wait_attached(pid, strace)) {
        if (send(socket, "g", 1, MSG_NOSIGNAL) == 1)
            (void)!recv(socket, &moved, sizeof moved, 0);
        kill(strace, SIGINT); /* it lets go, and prints */
        waitpid(strace, NULL, 0);
    }
    return moved;
}

void nvme_count_calls(struct nvme_target *t, const struct nvme_case *c, struct nvme_calls *out)
{
    FILE *table = tmpfile(), *complaints = tmpfile();
    char *text = NULL, *said = NULL;
    uint64_t moved = 0;
    int pair[2] = {-1, -1};
    pid_t pid = -1;

    *out = (struct nvme_calls){0};
    if (table && complaints && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0)
        pid = fork();
    if (pid == 0) {
        close(pair[0]);
        move_traced(t, c, pair[1]);
    }
    if (pid > 0) {
        close(pair[1]);
        moved = conduct(pid, pair[0], table, complaints);
        close(pair[0]);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        t->written_bytes += nvme_rw_writes(c->rw) ? moved / (c->rw == RW_MIXED ? 2 : 1) : 0;
        text = read_file(table);
        said = read_file(complaints);
    }
    if (!moved || sum_calls(text) < 0)
        unknown(out, "strace: %s",
                said && *said ? bench_first_line(said) : "not installed, or not allowed to attach");
    else
        out->per_gb = (double)sum_calls(text) / ((double)moved / 1e9);
    free(text);
    free(said);
    if (table)
        fclose(table);
    if (complaints)
        fclose(complaints);
}

/* ---- fio's ------------------------------------------------------------------------------------ */

/* System calls of a whole fio that moves so many bytes, or -1 with the note. */
static int64_t count_fio(struct nvme_target *t, const struct nvme_case *c, uint64_t bytes,
                         struct nvme_calls *out)
{
    static char *const trace[] = {"strace", "-f", "-c", "-q", "-U", "calls,name", "-o"};
    char **fio = nvme_fio_command(t, c, SECONDS, bytes), *argv[ARGUMENTS], path[32], *text = NULL;
    struct bench_output said = {0};
    FILE *table = tmpfile();
    int64_t sum = -1;
    unsigned n = 0;

    if (fio && table) {
        for (; n < ARRAY_COUNT(trace); n++)
            argv[n] = trace[n];
        /* By pid: strace and fio have descriptors of their own at that number. */
        snprintf(path, sizeof path, "/proc/%d/fd/%d", getpid(), fileno(table));
        argv[n++] = path;
        for (unsigned i = 0; fio[i] && n + 1 < ARGUMENTS; i++)
            argv[n++] = fio[i];
        argv[n] = NULL;
        if (bench_child_run(argv, NULL, io_file_fd(t->file, 0), &said) == 0) {
            text = read_file(table);
            sum = sum_calls(text);
        }
    }
    if (sum < 0)
        unknown(out, "strace of fio: %s",
                said.err && *said.err ? bench_first_line(said.err) : "not installed");
    else if (nvme_rw_writes(c->rw))
        t->written_bytes += bytes / (c->rw == RW_MIXED ? 2 : 1);
    bench_output_free(&said);
    nvme_fio_free_command(fio);
    free(text);
    if (table)
        fclose(table);
    return sum;
}

void nvme_count_fio_calls(struct nvme_target *t, const struct nvme_case *c, struct nvme_calls *out)
{
    uint64_t most = counted_bytes(t, c), few = most / 4 / c->block_bytes * c->block_bytes;
    int64_t of_few, of_most;

    *out = (struct nvme_calls){0};
    if (few == 0) {
        unknown(out, "the test file has too few blocks");
        return;
    }
    of_few = count_fio(t, c, few, out);
    of_most = of_few < 0 ? -1 : count_fio(t, c, most, out);
    if (of_most >= 0)
        out->per_gb = (double)(of_most - of_few) / ((double)(most - few) / 1e9);
}
