/* The model behind test_io_fuzz.c: see io_model.h. */
#include "tests/io_model.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "include/offload.h"
#include "base/clock.h"

#define GUARD      64u
#define GUARD_BYTE 0x5a
#define PAGE       4096u
#define ALIGN      (64u << 10) /* of memory: an address modulo any block is the seed's, not the system's */
#define SMALL      (64u << 10) /* buffers that stay with their slot */
#define POOL_BYTES (4u << 20)
#define HOT_BYTES  (256u << 10)

static void complain(struct model *m, const struct model_slot *s, const char *what)
{
    const struct io_request *r = &s->r;

    m->mismatches++;
    if (!m->tolerant)
        fail_msg("seed %lu, after %lu requests: %s: %s %s, class %d, offset %lu, %lu bytes, need %lu, buffer "
                 "%p, expected %d and %lu bytes, got %d and %lu: %s",
                 (unsigned long)io_test.seed, (unsigned long)m->submitted, what,
                 r->op == IO_WRITE ? "write" : "read", s->file->name, (int)r->class, (unsigned long)r->offset,
                 (unsigned long)r->bytes, (unsigned long)r->need_bytes, r->buf, s->expect,
                 (unsigned long)s->expect_bytes, r->error.code, (unsigned long)r->done_bytes, r->error.text);
}

/* ---- making -------------------------------------------------------------- */

struct model *model_create(uint64_t seed, uint64_t limit_bytes)
{
    struct model *m = calloc(1, sizeof *m);
    uint64_t *pool = mmap(NULL, POOL_BYTES + limit_bytes + PAGE + ALIGN, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(m && pool != MAP_FAILED);
    m->mapping = pool;
    pool = (uint64_t *)(((uintptr_t)pool + ALIGN - 1) / ALIGN * ALIGN);
    m->random = seed | 1;
    m->limit_bytes = limit_bytes;
    for (uint64_t i = 0; i < (POOL_BYTES + limit_bytes + PAGE) / sizeof *pool; i++)
        pool[i] = mem_draw(&m->random);
    /* who writes into a buffer that is to be written dies */
    assert_int_equal(mprotect(pool, POOL_BYTES + limit_bytes + PAGE, PROT_READ), 0);
    m->pool = (const unsigned char *)pool;
    for (unsigned i = 0; i < MODEL_SLOTS; i++)
        m->slot[i].file = &m->file[0];
    return m;
}

void model_destroy(struct model *m)
{
    for (unsigned i = 0; i < MODEL_SLOTS; i++)
        free(m->slot[i].memory);
    for (unsigned i = 0; i < m->file_count; i++) {
        free(m->file[i].now);
        free(m->file[i].unknown);
    }
    munmap(m->mapping, POOL_BYTES + m->limit_bytes + PAGE + ALIGN);
    free(m);
}

void model_add(struct model *m, const char *name, struct io_file *f, uint64_t bytes)
{
    struct model_file *file = &m->file[m->file_count++];

    assert_true(m->file_count <= MODEL_FILES && f);
    *file = (struct model_file){.file = f, .name = name, .bytes = bytes};
    file->writable = f->writable;
    file->require_direct = f->require_direct;
    file->now = calloc(1, bytes);
    file->unknown = calloc(1, bytes);
    assert_true(file->now && file->unknown);
}

static struct {
    uint64_t now_ns, random;
} virtual = {3600000000000u, 1};

static uint64_t virtual_clock(void)
{
    return virtual.now_ns += mem_below(&virtual.random, 2000);
}

void model_set_clock(struct model *m)
{
    virtual.random = mem_draw(&m->random) | 1;
    m->q->clock = virtual_clock;
    m->q->now_ns = virtual_clock();
}

/* ---- what to ask for ------------------------------------------------------ */

static uint64_t below(struct model *m, uint64_t limit)
{
    return mem_below(&m->random, limit);
}

/* Mostly small, often about a border, seldom as large as the limit. */
static uint64_t random_bytes(struct model *m)
{
    uint64_t kind = below(m, 4000), bytes;

    if (kind < 40)
        return 0;
    if (kind < 1800)
        bytes = 1 + below(m, 600);
    else if (kind < 2300)
        bytes = 512 * (1 + below(m, 17)) + below(m, 5) - 2;
    else if (kind < 2900)
        bytes = PAGE * (1 + below(m, 3));
    else if (kind < 3930)
        bytes = 1 + below(m, 9000);
    else if (kind < 3985)
        bytes = 1 + below(m, 100000);
    else if (kind < 3999)
        bytes = PAGE * (1 + below(m, 64));
    else
        bytes = 1 + below(m, m->limit_bytes);
    return bytes < m->limit_bytes ? bytes : m->limit_bytes;
}

static uint64_t random_offset(struct model *m, struct model_file *f, uint64_t bytes)
{
    uint64_t at, room = f->bytes > bytes ? f->bytes - bytes : 0;

    if (below(m, 256) == 0)
        f->hot = below(m, f->bytes);
    at = below(m, 2) ? f->hot + below(m, HOT_BYTES) : below(m, f->bytes);
    switch (below(m, 4)) {
    case 0:
        at -= at % PAGE;
        break;
    case 1:
        at -= at % 512;
        break;
    default:
        break;
    }
    /* Beyond its end a file may be read, and at it, but only a little. */
    if (!f->writable && below(m, 8) == 0)
        return f->bytes - below(m, f->bytes < 20000 ? f->bytes : 20000) + below(m, 10000);
    return at < room ? at : room;
}

static bool is_free(const struct model *m, const struct model_range *mine)
{
    for (unsigned i = 0; i < MODEL_SLOTS; i++) {
        const struct model_range *g = &m->range[i];

        if (g->file == mine->file && g->begin < mine->end && mine->begin < g->end &&
            (mine->write || g->write))
            return false;
    }
    return true;
}

/* What must come back if nothing is injected. */
static void predict(struct model_slot *s)
{
    const struct io_request *r = &s->r;
    const struct model_file *f = s->file;
    uint64_t left = r->offset < f->bytes ? f->bytes - r->offset : 0;
    uint32_t block = io_file_block(f->file);

    s->expect = 0;
    s->expect_bytes = r->bytes;
    if (r->op == IO_WRITE && !f->writable)
        s->expect = -EBADF;
    else if (r->need_bytes > r->bytes || (io_file_parts(f->file) > 1 && left < r->bytes) ||
             (r->op == IO_WRITE && f->require_direct && (r->offset % block || r->bytes % block)))
        s->expect = -EINVAL;
    else if (left < r->bytes && r->op == IO_READ) {
        s->expect_bytes = left;
        s->expect = left < (r->need_bytes ? r->need_bytes : r->bytes) ? -ENODATA : 0;
    }
}

/* A buffer at an address that fits the offset, or a page, or nothing. */
static void place_buffer(struct model *m, struct model_slot *s)
{
    struct io_request *r = &s->r;
    uint64_t kind = below(m, 4), shift = kind < 2 ? r->offset % PAGE : kind == 2 ? 0 : below(m, PAGE);
    uint64_t wanted = r->bytes + 2 * PAGE + 2 * GUARD;

    if (r->op == IO_WRITE) {
        r->buf = (void *)(uintptr_t)(m->pool + below(m, POOL_BYTES / PAGE) * PAGE + shift);
        return;
    }
    if (wanted < SMALL)
        wanted = SMALL;
    if (s->capacity < wanted) {
        free(s->memory);
        s->memory = aligned_alloc(ALIGN, (wanted + ALIGN - 1) / ALIGN * ALIGN);
        assert_non_null(s->memory);
        s->capacity = wanted;
    }
    r->buf = s->memory + (shift >= GUARD ? shift : shift + PAGE);
    memset((char *)r->buf - GUARD, GUARD_BYTE, r->bytes + 2 * GUARD);
}

static struct model_slot *free_slot(struct model *m)
{
    unsigned at = (unsigned)below(m, MODEL_SLOTS);

    for (unsigned i = 0; i < MODEL_SLOTS; i++, at = (at + 1) % MODEL_SLOTS)
        if (!m->slot[at].busy)
            return &m->slot[at];
    return NULL;
}

/* Submits one random request, if a slot and a range are free. */
static void model_submit(struct model *m)
{
    struct model_slot *s = free_slot(m);
    struct io_request *r;
    struct model_range range;

    if (!s)
        return;
    r = &s->r;
    s->file = &m->file[below(m, m->file_count)];
    *r = (struct io_request){.file = s->file->file, .cookie = s};
    r->op = below(m, 2) ? IO_READ : IO_WRITE;
    if (!s->file->writable && below(m, 64))
        r->op = IO_READ;
    r->class = (enum io_class)below(m, IO_CLASSES);
    r->bytes = random_bytes(m);
    r->offset = random_offset(m, s->file, r->bytes);
    if (s->file->require_direct && r->op == IO_WRITE && below(m, 16)) {
        r->bytes -= r->bytes % io_file_block(r->file);
        r->offset -= r->offset % io_file_block(r->file);
    }
    if (r->op == IO_READ && below(m, 4) == 0)
        r->need_bytes = below(m, r->bytes + 1 + (below(m, 64) == 0));
    if (below(m, 1000) < m->deadline)
        r->deadline_ns = 1 + below(m, 1u << below(m, 20));
    range = (struct model_range){s->file, r->offset, r->offset + r->bytes, r->op == IO_WRITE};
    if (!is_free(m, &range))
        return;
    m->range[s - m->slot] = range;
    place_buffer(m, s);
    predict(s);
    s->busy = true;
    s->cancelled = s->told = false;
    s->user = (struct mem_user){0};
    m->out++;
    m->submitted++;
    s->submit_ns = m->q->clock();
    io_submit(m->q, r);
}

/* Cancels a random one that is out. */
static void model_cancel(struct model *m)
{
    struct model_slot *s = &m->slot[below(m, MODEL_SLOTS)];

    if (!s->busy)
        return;
    s->cancelled = true;
    io_cancel(m->q, &s->r);
}

/* ---- what has come back ---------------------------------------------------- */

/* Whether got is what must be there; what was not known is known from now on. */
static bool matches(struct model_file *f, uint64_t offset, const unsigned char *got, uint64_t bytes)
{
    unsigned char *now = f->now + offset, *unknown = f->unknown + offset;

    for (uint64_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < PAGE ? bytes - at : PAGE;
        if (memcmp(got + at, now + at, n) == 0)
            continue;
        for (uint64_t i = at; i < at + n; i++)
            if (got[i] != now[i] && !unknown[i])
                return false;
        memcpy(now + at, got + at, n);
    }
    memset(unknown, 0, bytes);
    return true;
}

static bool is_guarded(const struct io_request *r)
{
    const unsigned char *before = (unsigned char *)r->buf - GUARD,
                        *after = (unsigned char *)r->buf + r->bytes;

    for (unsigned i = 0; i < GUARD; i++)
        if (before[i] != GUARD_BYTE || after[i] != GUARD_BYTE)
            return false;
    return true;
}

static bool is_injected(const struct model *m, const struct model_slot *s)
{
    bool told = m->may_fail && (!m->engine || m->engine->q->backend != &m->engine->base || s->user.failures);

    switch (s->r.error.code) {
    case -ECANCELED:
        return s->cancelled;
    case -OFL_EDEADLINE:
        return s->r.deadline_ns > 0;
    case -EIO:
        return told;
    case -ENOSPC:
        return told && s->r.op == IO_WRITE;
    default:
        return false;
    }
}

/* Where it is that it is late, it tells what had moved by then. */
static void check_failure(struct model *m, const struct model_slot *s)
{
    const struct io_request *r = &s->r;
    bool write = r->op == IO_WRITE;
    char expected[160];
    int used;

    used = snprintf(expected, sizeof expected, ": offset %lu, %lu bytes: %s ", (unsigned long)r->offset,
                    (unsigned long)r->bytes, write ? "wrote" : "got");
    if (!r->late)
        snprintf(expected + used, sizeof expected - (size_t)used, "%lu: ", (unsigned long)r->done_bytes);
    if (r->late != (r->error.code == -OFL_EDEADLINE))
        complain(m, s, "late, or not");
    if (strncmp(r->error.text, write ? "write " : "read ", write ? 6 : 5) != 0 ||
        !strstr(r->error.text, expected))
        complain(m, s, "the sentence is wrong");
    if (r->error.code != s->expect && !is_injected(m, s))
        complain(m, s, "failed for no reason");
    if (r->error.code == -OFL_EDEADLINE && r->elapsed_ns < r->deadline_ns)
        complain(m, s, "expired too early");
}

static void check_success(struct model *m, struct model_slot *s)
{
    const struct io_request *r = &s->r;

    if (s->expect || r->done_bytes != s->expect_bytes)
        complain(m, s, "wrong success");
    if (r->error.text[0])
        complain(m, s, "a sentence without a failure");
    if (s->user.failures)
        complain(m, s, "an error was swallowed");
    if (r->op == IO_READ) {
        if (!matches(s->file, r->offset, r->buf, r->done_bytes))
            complain(m, s, "bytes differ");
    } else {
        memcpy(s->file->now + r->offset, r->buf, r->bytes);
        memset(s->file->unknown + r->offset, 0, r->bytes);
    }
    m->ok_bytes[r->op] += r->done_bytes;
    m->ok_ops[r->op]++;
}

static void forget_bytes(const struct model_slot *s)
{
    bool refused = s->expect == -EBADF || s->expect == -EINVAL; /* not one byte of it was written */

    if (s->r.op == IO_WRITE && !refused && s->r.offset < s->file->bytes)
        memset(s->file->unknown + s->r.offset, 1, s->r.bytes);
}

static void settle(struct model *m, struct model_slot *s)
{
    const struct io_request *r = &s->r;
    bool late = r->error.code == -OFL_EDEADLINE;

    if (!s->busy || r->cookie != s)
        complain(m, s, "came back, but was not out");
    if (r->elapsed_ns > m->q->clock() - s->submit_ns)
        complain(m, s, "took longer than it was out");
    if (r->op == IO_READ && !is_guarded(r))
        complain(m, s, "bytes beside the buffer were touched");
    if (s->user.inside)
        complain(m, s, "came back while the engine has its buffer");
    if (s->told && !late)
        complain(m, s, "was late, and is not any more");
    if (r->error.code == 0)
        check_success(m, s);
    else
        check_failure(m, s);
    m->moved_bytes[r->op] += r->done_bytes;
    m->succeeded += r->error.code == 0;
    m->failed += r->error.code < 0;
    m->cancelled += r->error.code == -ECANCELED;
    m->expired += late;
    if (r->error.code)
        forget_bytes(s);
    s->busy = false;
    m->out--;
    m->range[s - m->slot].file = NULL;
}

void model_take(struct model *m, struct io_request **done, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        settle(m, (struct model_slot *)((char *)done[i] - offsetof(struct model_slot, r)));
    if (io_queue_pending(m->q) != m->out)
        fail_msg("seed %lu: %u requests are pending, %u are out", (unsigned long)io_test.seed,
                 io_queue_pending(m->q), m->out);
}

/* Notices of requests whose buffers are still the queue's. */
static void take_late(struct model *m)
{
    struct io_request *late[8];
    unsigned n = io_late(m->q, late, 1 + (unsigned)below(m, 8));

    for (unsigned i = 0; i < n; i++) {
        struct model_slot *s = (struct model_slot *)((char *)late[i] - offsetof(struct model_slot, r));

        if (!s->busy || s->told || !s->r.late || s->r.error.code != -OFL_EDEADLINE)
            complain(m, s, "told that it is late");
        if (m->engine && m->q->backend == &m->engine->base && !s->user.inside)
            complain(m, s, "late, with nothing in flight, and not back");
        check_failure(m, s);
        s->told = true;
        m->told++;
    }
}

/* Where the owner waits for the descriptor, it is readable while something is to be reaped. */
static void check_wakeup(struct model *m)
{
    struct pollfd p = {.fd = m->q->event_fd, .events = POLLIN};

    if (m->q->armed && (m->q->done_head || m->q->late_news) && poll(&p, 1, 0) != 1)
        fail_msg("seed %lu, after %lu requests: something has finished, and the descriptor is silent",
                 (unsigned long)io_test.seed, (unsigned long)m->submitted);
}

void model_step(struct model *m)
{
    struct io_request *done[64];
    uint64_t kind = below(m, 256), before = m->submitted;

    for (uint64_t n = below(m, 5); n > 0; n--) {
        model_submit(m);
        if (m->submitted > before && below(m, 1000) < m->cancel)
            model_cancel(m);
    }
    if (kind < 64)
        io_flush(m->q);
    else if (kind < 160)
        model_take(m, done, io_reap(m->q, done, 1 + (unsigned)below(m, 64)));
    else if (kind < 164 || m->out == MODEL_SLOTS)
        model_take(m, done, io_wait(m->q, done, 1 + (unsigned)below(m, 64), below(m, 100000)));
    if (m->q->armed && kind % 16 == 0)
        check_wakeup(m);
    if (m->asks && kind % 8)
        take_late(m);
}

/* ---- the end of a queue ---------------------------------------------------- */

static void check_statistics(struct model *m)
{
    uint64_t bytes[2] = {0}, parts[2] = {0};
    struct io_path_stats path;
    struct io_stats stats;

    io_queue_stats(m->q, &stats);
    assert_int_equal(stats.read_bytes, m->ok_bytes[IO_READ]);
    assert_int_equal(stats.write_bytes, m->ok_bytes[IO_WRITE]);
    assert_int_equal(stats.read_ops, m->ok_ops[IO_READ]);
    assert_int_equal(stats.write_ops, m->ok_ops[IO_WRITE]);
    assert_true(stats.inflight_max <= m->q->transfer_count);
    for (unsigned i = 0; i < io_queue_paths(m->q); i++) {
        io_queue_path_stats(m->q, i, &path);
        for (int op = IO_READ; op <= IO_WRITE; op++) {
            bytes[op] += path.bytes[op];
            assert_int_equal(path.latency[op].count, path.transfers[op]);
        }
        assert_true(path.busy_ns + path.empty_ns <= path.since_ns);
        assert_int_equal(m->q->path[i]->inflight, 0);
        assert_int_equal(m->q->path[i]->background_bytes, 0);
    }
    for (unsigned i = 0; i < m->file_count; i++)
        for (unsigned k = 0; k < io_file_parts(m->file[i].file); k++)
            for (int op = IO_READ; op <= IO_WRITE; op++) {
                struct io_member *member = &m->file[i].file->member[k];

                parts[op] += member->moved_bytes[op];
                member->moved_bytes[op] = 0;
            }
    for (int op = IO_READ; op <= IO_WRITE; op++) {
        assert_int_equal(bytes[op], m->moved_bytes[op]);
        assert_int_equal(parts[op], m->moved_bytes[op]);
    }
}

static void close_queue(struct model *m)
{
    io_queue_close(m->q);
    m->q = NULL;
    m->engine = NULL;
    memset(m->ok_bytes, 0, sizeof m->ok_bytes);
    memset(m->ok_ops, 0, sizeof m->ok_ops);
    memset(m->moved_bytes, 0, sizeof m->moved_bytes);
    for (unsigned i = 0; i < m->file_count; i++)
        for (unsigned k = 0; k < m->file[i].file->count; k++)
            memset(m->file[i].file->member[k].moved_bytes, 0, 2 * sizeof(uint64_t));
}

void model_drain(struct model *m)
{
    uint64_t end_ns = base_now_ns() + 240000000000u; /* a hang */
    struct io_request *done[64];

    if (m->engine)
        m->engine->hurry = true;
    while (m->out || (m->engine && mem_engine_inside(m->engine))) {
        model_take(m, done, io_wait(m->q, done, 64, 1000000));
        if (!m->out)
            io_flush(m->q);
        if (base_now_ns() > end_ns)
            fail_msg("seed %lu: %u requests never came back", (unsigned long)io_test.seed, m->out);
    }
    check_statistics(m);
    close_queue(m);
}

void model_abandon(struct model *m)
{
    io_flush(m->q);
    close_queue(m);
    for (unsigned i = 0; i < MODEL_SLOTS; i++) {
        if (!m->slot[i].busy)
            continue;
        forget_bytes(&m->slot[i]);
        m->slot[i].busy = false;
        m->range[i].file = NULL;
        m->out--;
    }
}

static void compare_memory(struct model *m, struct model_file *f)
{
    for (uint64_t at = 0, run; at < f->bytes; at += run) {
        const unsigned char *there = mem_file_at(f->file, at, &run);

        if (run > f->bytes - at)
            run = f->bytes - at;
        if (!matches(f, at, there, run)) {
            m->mismatches++;
            if (!m->tolerant)
                fail_msg("seed %lu: %s differs behind %lu", (unsigned long)io_test.seed, f->name,
                         (unsigned long)at);
        }
    }
}

void model_compare(struct model *m, struct io_queue *q)
{
    for (unsigned i = 0; i < m->file_count; i++) {
        struct model_file *f = &m->file[i];
        struct io_request r = {.file = f->file, .bytes = f->bytes};

        if (!q) {
            compare_memory(m, f);
            continue;
        }
        r.buf = io_test_aligned(f->bytes);
        if (io_test_transfer(q, &r) != 0 || !matches(f, 0, r.buf, f->bytes))
            fail_msg("seed %lu: %s differs at the end: %s", (unsigned long)io_test.seed, f->name,
                     r.error.text);
        free(r.buf);
    }
}
