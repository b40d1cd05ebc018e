/*
 * Loads: keeps so many bytes in flight on a scratch file for a while, and says how fast
 * that was. Owns the file and the buffers; what to try is decided in tune.c.
 */
#include "io/tune.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "include/offload.h"
#include "base/clock.h"

#define BUFFER_BYTES   (32ull << 20) /* the largest window */
#define LEAST_BYTES    (64ull << 20) /* less would measure the drive's cache */
#define LEAST_ROUNDS   4u            /* of completions, or there is no rate */
#define LONGEST_S      0.6           /* for drives that need longer for them */
#define DEADLINE_NS    10000000000ull
#define WAIT_NS        50000000ull
#define LATENCIES_MOST 4096u

static uint64_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

/* ---- file and buffers ---------------------------------------------------- */

static int choose_size(const char *dir, uint64_t most, uint64_t *bytes)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    struct statvfs fs;
    uint64_t free_bytes;

    if (statvfs(dir, &fs) < 0)
        return base_fail_errno(-errno, "measure %s", dir);
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    *bytes = free_bytes / 8 < most ? free_bytes / 8 : most;
    (void)getrlimit(RLIMIT_FSIZE, &limit); /* can't fail */
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < *bytes)
        *bytes = limit.rlim_cur;
    *bytes &= ~(LEAST_BYTES / 16 - 1);
    if (*bytes < LEAST_BYTES)
        return base_fail(-ENOSPC,
                         "measure %s: an eighth of %" PRIu64 " free bytes, and the file-size limit, allow a "
                         "file of %" PRIu64 " bytes: %llu are needed",
                         dir, free_bytes, *bytes, LEAST_BYTES);
    return 0;
}

static int make_buffers(struct io_bench *b, const char *dir)
{
    uint64_t random = 0x9e3779b97f4a7c15u, *word;
    void *p = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return base_fail_errno(-ENOMEM, "measure %s: %llu bytes of buffers", dir, BUFFER_BYTES);
    b->buffers = p;
    b->buffer_bytes = BUFFER_BYTES;
    word = p;
    for (uint64_t i = 0; i < BUFFER_BYTES / sizeof *word; i++)
        word[i] = draw(&random);
    return 0;
}

int io_bench_open(struct io_bench *b, const char *dir, uint64_t bytes)
{
    int rc;

    *b = (struct io_bench){0};
    rc = choose_size(dir, bytes, &b->file_bytes);
    if (rc == 0)
        rc = io_file_open_scratch(dir, 0, &b->file);
    if (rc == 0 && !io_file_direct(b->file))
        rc = base_fail(-OFL_EDIRECT, "measure %s: %s", dir, io_file_note(b->file));
    if (rc == 0)
        rc = io_file_reserve(b->file, b->file_bytes);
    if (rc == 0)
        rc = make_buffers(b, dir);
    if (rc < 0)
        io_bench_close(b);
    return rc;
}

void io_bench_close(struct io_bench *b)
{
    if (b->buffers)
        munmap(b->buffers, b->buffer_bytes);
    io_file_close(b->file);
    *b = (struct io_bench){0};
}

/* ---- one load -------------------------------------------------------------- */

struct run {
    const struct io_load *load;
    struct io_bench *bench;
    struct io_queue *queue;
    struct io_request *requests;
    unsigned count;
    uint64_t next[2], from[2], to[2]; /* by enum io_op */
    /* from the first completion to the last one before the time was up */
    uint64_t start_ns, base_ns, last_ns, bytes, base_bytes, rounds;
    struct base_error error; /* the first */
};

static bool submit_next(struct run *r, struct io_request *q)
{
    const uint64_t block = r->load->block_bytes;
    const enum io_op op = q->op;
    void *buf = r->bench->buffers + (uint64_t)(q - r->requests) * block % r->bench->buffer_bytes;

    if (r->next[op] + block > r->to[op]) {
        if (r->load->once)
            return false;
        r->next[op] = r->from[op];
    }
    *q = (struct io_request){.op = op,
                             .class = op == IO_READ ? IO_PREFETCH : IO_WRITEBACK,
                             .file = r->bench->file,
                             .buf = buf,
                             .offset = r->next[op],
                             .bytes = block};
    r->next[op] += block;
    io_submit(r->queue, q);
    return true;
}

/* One round of completions. Counts, and keeps the queue full, while `going`. */
static void collect(struct run *r, bool going)
{
    struct io_request *done[64];
    unsigned n = io_wait(r->queue, done, 64, WAIT_NS);

    for (unsigned i = 0; i < n; i++) {
        if (done[i]->error.code && !r->error.code)
            r->error = done[i]->error;
        r->bytes += done[i]->done_bytes;
    }
    if (n && going) {
        r->last_ns = base_now_ns();
        if (r->rounds++ == 0) {
            r->base_ns = r->last_ns;
            r->base_bytes = r->bytes;
        }
    }
    for (unsigned i = 0; going && i < n && !r->error.code; i++)
        (void)submit_next(r, done[i]); /* false: the end of the range */
}

static bool time_is_left(const struct run *r)
{
    double passed = (double)(base_now_ns() - r->start_ns) * 1e-9;

    return passed < r->load->seconds || (r->rounds < LEAST_ROUNDS && passed < LONGEST_S);
}

static void keep_full(struct run *r, struct io_load_rate *out)
{
    uint64_t counted, counted_all;

    r->start_ns = base_now_ns();
    for (unsigned i = 0; i < r->count; i++)
        (void)submit_next(r, &r->requests[i]);
    while (!r->error.code && io_queue_pending(r->queue) && time_is_left(r))
        collect(r, true);
    counted_all = r->bytes;
    counted = counted_all - r->base_bytes;
    while (io_queue_pending(r->queue))
        collect(r, false);
    /* Leaves out the time in which the queue fills, if enough was seen after it. */
    if (r->rounds >= LEAST_ROUNDS && r->last_ns > r->base_ns)
        out->bps = (double)counted * 1e9 / (double)(r->last_ns - r->base_ns);
    else if (r->rounds)
        out->bps = (double)counted_all * 1e9 / (double)(r->last_ns - r->start_ns + 1);
    else
        out->bps = (double)r->bytes * 1e9 / (double)(base_now_ns() - r->start_ns + 1);
    out->end = r->next[r->load->write ? IO_WRITE : IO_READ];
}

static double cpu_seconds(void)
{
    struct rusage u = {0};

    (void)getrusage(RUSAGE_SELF, &u); /* can't fail */
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void plan(struct run *r)
{
    const struct io_load *l = r->load;
    uint64_t half = (l->to - l->from) / 2 / l->block_bytes * l->block_bytes;
    unsigned slots = (unsigned)(l->window_bytes / l->block_bytes), least = l->read && l->write ? 2 : 1;
    bool both = l->read && l->write;

    r->count = slots < least ? least : slots;
    r->from[IO_READ] = r->from[IO_WRITE] = l->from;
    r->to[IO_READ] = r->to[IO_WRITE] = l->to;
    if (both)
        r->to[IO_READ] = r->from[IO_WRITE] = l->from + half;
    r->next[IO_READ] = r->from[IO_READ];
    r->next[IO_WRITE] = r->from[IO_WRITE];
    for (unsigned i = 0; i < r->count; i++)
        r->requests[i].op = both ? (i % 2 ? IO_WRITE : IO_READ) : l->write ? IO_WRITE : IO_READ;
}

int io_load_run(struct io_bench *b, const struct io_load *load, struct io_load_rate *out)
{
    struct run r = {.load = load, .bench = b};
    unsigned most = (unsigned)(load->window_bytes / load->block_bytes) + 2;
    struct io_queue_config config = {.flags = load->flags,
                                     .depth = most,
                                     .piece_bytes = load->block_bytes,
                                     .window_bytes = load->window_bytes,
                                     .deadline_ns = DEADLINE_NS};
    double cpu;
    int rc;

    *out = (struct io_load_rate){0};
    r.requests = calloc(most, sizeof *r.requests);
    if (!r.requests)
        return base_fail_errno(-ENOMEM, "measure %s", io_file_path(b->file));
    rc = io_queue_open(&config, &r.queue);
    if (rc == 0) {
        plan(&r);
        /* As those who use the result do; where it is refused, for them it is too. */
        (void)io_queue_register(r.queue, b->buffers, b->buffer_bytes);
        cpu = cpu_seconds();
        keep_full(&r, out);
        if (r.bytes)
            out->cpu_s_per_byte = (cpu_seconds() - cpu) / (double)r.bytes;
        if (r.error.code)
            rc = base_error_restore(&r.error);
        else if (r.bytes == 0)
            rc = base_fail(-EIO, "measure %s: nothing was moved", io_file_path(b->file));
    }
    /* before the buffers: a request past its deadline may still use them */
    io_queue_close(r.queue);
    free(r.requests);
    return rc;
}

/* ---- latency ----------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* One request, start to end. */
static int transfer(struct io_queue *q, struct io_request *r)
{
    struct io_request *done;

    io_submit(q, r);
    while (io_queue_pending(q))
        (void)io_wait(q, &done, 1, WAIT_NS);
    return r->error.code ? base_error_restore(&r->error) : 0;
}

int io_load_latency(struct io_bench *b, uint64_t bytes, double seconds, uint64_t *median_ns)
{
    struct io_queue_config config = {.depth = 1, .deadline_ns = DEADLINE_NS};
    uint64_t random = 0x2545f4914f6cdd1du, start, *samples = calloc(LATENCIES_MOST, sizeof *samples);
    struct io_queue *q = NULL;
    struct io_request r;
    unsigned count = 0;
    int rc =
        samples ? io_queue_open(&config, &q) : base_fail_errno(-ENOMEM, "measure %s", io_file_path(b->file));

    start = base_now_ns();
    while (rc == 0 && count < LATENCIES_MOST && (double)(base_now_ns() - start) * 1e-9 < seconds) {
        r = (struct io_request){.op = IO_READ,
                                .class = IO_DEMAND,
                                .file = b->file,
                                .buf = b->buffers,
                                .offset = draw(&random) % (b->filled_bytes / bytes) * bytes,
                                .bytes = bytes};
        rc = transfer(q, &r);
        if (rc == 0)
            samples[count++] = r.elapsed_ns;
    }
    io_queue_close(q);
    if (rc == 0) {
        qsort(samples, count, sizeof *samples, compare);
        *median_ns = count ? samples[count / 2] : 0;
    }
    free(samples);
    return rc;
}
