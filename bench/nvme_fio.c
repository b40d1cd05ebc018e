/*
 * fio as the yardstick of `ofl-bench nvme`: the same settings, on the very file that our own
 * runs use. See nvme_fio.h.
 */
#include "bench/nvme_fio.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/child.h"

#define ARGUMENTS 40u

/* ---- the command -------------------------------------------------------------------- */

struct command {
    char **argv;
    unsigned count;
    bool failed;
};

static void add(struct command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct command *c, const char *format, ...)
{
    va_list ap;

    if (c->failed || c->count + 1 == ARGUMENTS) {
        c->failed = true;
        return;
    }
    va_start(ap, format);
    c->failed = vasprintf(&c->argv[c->count], format, ap) < 0;
    va_end(ap);
    if (c->failed)
        c->argv[c->count] = NULL;
    else
        c->count++;
}

/* What our queue was asked for and got, fio is asked for too. */
static void add_ring(struct command *c, const struct nvme_target *t)
{
    if (t->registered) {
        add(c, "--fixedbufs=1");
        add(c, "--registerfiles=1");
    }
    if (t->options->flags & IO_QUEUE_SQPOLL)
        add(c, "--sqthread_poll=1");
    if (t->options->flags & IO_QUEUE_IOPOLL)
        add(c, "--hipri=1");
}

/* Its buffers: random bytes, made once and written again and again, as ours are. */
static void add_load(struct command *c, const struct nvme_case *n)
{
    static const char *const modes[RW_COUNT] = {"read", "write", "rw", "randread", "randwrite"};

    add(c, "--rw=%s", modes[n->rw]);
    add(c, "--bs=%llu", (ull)n->block_bytes);
    add(c, "--iodepth=%u", n->depth);
    if (n->rw == RW_MIXED)
        add(c, "--rwmixread=50");
    if (nvme_rw_random(n->rw)) {
        add(c, "--norandommap=1");
        add(c, "--randrepeat=0");
    }
    if (nvme_rw_writes(n->rw)) {
        add(c, "--end_fsync=1");
        add(c, "--refill_buffers=0");
        add(c, "--scramble_buffers=0");
    }
}

char **nvme_fio_command(const struct nvme_target *t, const struct nvme_case *n, double seconds,
                        uint64_t bytes)
{
    struct command c = {.argv = calloc(ARGUMENTS, sizeof *c.argv)};

    c.failed = !c.argv;
    /* Our buffers are in huge pages if the kernel has some; so may be what fio gets from malloc. */
    add(&c, "env");
    add(&c, "GLIBC_TUNABLES=glibc.malloc.hugetlb=1");
    add(&c, "fio");
    add(&c, "--name=ofl-bench");
    add(&c, "--output-format=json");
    /* The child inherits the descriptor of our nameless file. */
    add(&c, "--filename=/proc/self/fd/%d", io_file_fd(t->file, 0));
    add(&c, "--allow_file_create=0");
    add(&c, "--size=%llu", (ull)(t->bytes / n->block_bytes * n->block_bytes));
    add(&c, "--ioengine=io_uring");
    add(&c, "--direct=%d", io_file_direct(t->file));
    add_ring(&c, t);
    add_load(&c, n);
    add(&c, "--runtime=%lldms", (long long)(seconds * 1000));
    if (bytes)
        add(&c, "--io_size=%llu", (ull)bytes);
    else if (!nvme_once(t, n->rw))
        add(&c, "--time_based=1");
    if (!c.failed)
        return c.argv;
    nvme_fio_free_command(c.argv);
    return NULL;
}

void nvme_fio_free_command(char **argv)
{
    for (unsigned i = 0; argv && argv[i]; i++)
        free(argv[i]);
    free(argv);
}

int nvme_fio_check(char *version, size_t bytes)
{
    char *const argv[] = {(char[]){"fio"}, (char[]){"--version"}, NULL};
    struct bench_output out;
    int err = bench_child_run(argv, NULL, -1, &out), status = 0;

    if (err == -ENOENT)
        status =
            common_fail(EXIT_INPUT, "--compare fio: fio is not installed; on Debian: apt-get install fio");
    else if (err == -ECANCELED)
        status = common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    else if (err < 0)
        status = common_fail(EXIT_RUNTIME, "fio --version: %s", bench_first_line(out.err));
    else
        snprintf(version, bytes, "%s", bench_first_line(out.out));
    bench_output_free(&out);
    return status;
}

/* ---- its report ------------------------------------------------------------------------ */

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static uint64_t percentile(const json_t *direction, const char *key)
{
    const json_t *clat = json_object_get(direction, "clat_ns");

    return (uint64_t)number(json_object_get(clat, "percentile"), key);
}

/* Times are those of the job: neither its start nor that of fio counts. */
static int read_job(const json_t *job, struct nvme_fio_sample *out)
{
    const json_t *direction[2] = {json_object_get(job, "read"), json_object_get(job, "write")};
    const json_t *shown;
    double cpu_percent = number(job, "usr_cpu") + number(job, "sys_cpu");

    *out = (struct nvme_fio_sample){0};
    for (int op = IO_READ; op <= IO_WRITE; op++) {
        double ms = number(direction[op], "runtime");

        out->bytes[op] = (uint64_t)number(direction[op], "io_bytes");
        if (out->bytes[op] && ms / 1000 > out->seconds)
            out->seconds = ms / 1000;
    }
    out->cpu_s = cpu_percent / 100 * number(job, "job_runtime") / 1000;
    shown = direction[out->bytes[IO_READ] ? IO_READ : IO_WRITE];
    out->latency = (struct nvme_latency){
        .p50 = percentile(shown, "50.000000"),
        .p99 = percentile(shown, "99.000000"),
        .p999 = percentile(shown, "99.900000"),
        .max = (uint64_t)number(json_object_get(shown, "clat_ns"), "max"),
    };
    return number(job, "error") != 0 || out->seconds <= 0 ? -EIO : 0;
}

static int read_report(const char *text, struct nvme_fio_sample *out)
{
    const char *start = strchr(text, '{'); /* notes may stand before it */
    json_t *report = start ? json_loads(start, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    const json_t *job = json_array_get(json_object_get(report, "jobs"), 0);
    int err = job ? read_job(job, out) : -EIO;

    json_decref(report);
    return err;
}

int nvme_fio_run(struct nvme_target *t, const struct nvme_case *c, double seconds,
                 struct nvme_fio_sample *out)
{
    char **argv = nvme_fio_command(t, c, seconds, 0);
    struct bench_output text = {0};
    int err = argv ? 0 : -ENOMEM, status = 0;
    double start;

    nvme_target_drop_cache(t);
    start = common_seconds();
    if (err == 0)
        err = bench_child_run(argv, NULL, io_file_fd(t->file, 0), &text);
    if (err == 0)
        err = read_report(text.out, out);
    if (err == 0)
        out->start_s = fmax(0, common_seconds() - start - out->seconds);
    if (err == -ECANCELED || common_stopping())
        status = common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    else if (err < 0)
        status = common_fail(EXIT_RUNTIME, "fio, %s of %llu bytes at depth %u: %s", nvme_rw_name(c->rw),
                             (ull)c->block_bytes, c->depth,
                             text.err && *text.err ? bench_first_line(text.err) : strerror(-err));
    else
        t->written_bytes += out->bytes[IO_WRITE];
    bench_output_free(&text);
    nvme_fio_free_command(argv);
    return status;
}
