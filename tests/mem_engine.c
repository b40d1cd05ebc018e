/* The memory engine of the io room's tests: see mem_engine.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/mem_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE   4096u
#define FD_MAX 1024

/* A member's bytes. */
struct drive {
    unsigned char *bytes;
    uint64_t size, mapped;
    uint32_t block;           /* whatever the file believes */
    struct io_member *member; /* NULL: unused */
    uint32_t *writers;        /* of each page: direct ones, and CACHED times the cached ones */
    uint64_t period, busy_until;
};

#define CACHED (1u << 16)

static struct drive drives[MEM_DRIVES_MAX];
static struct {
    struct drive *drive;
    bool cached;
} by_fd[FD_MAX];

/* ---- files in RAM -------------------------------------------------------- */

static void open_drive(struct io_member *m)
{
    struct drive *d = drives;

    while (d < drives + MEM_DRIVES_MAX && d->member)
        d++;
    assert_true(d < drives + MEM_DRIVES_MAX);
    m->cached_fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 0);
    assert_true(m->fd >= 0 && m->fd < FD_MAX && m->cached_fd >= 0 && m->cached_fd < FD_MAX);
    *d = (struct drive){.member = m, .size = m->bytes, .mapped = m->bytes ? m->bytes : 1, .block = m->block};
    d->bytes = mmap(NULL, d->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    assert_true(d->bytes != MAP_FAILED);
    d->writers = calloc(m->bytes / PAGE + 2, sizeof *d->writers);
    assert_non_null(d->writers);
    by_fd[m->fd].drive = by_fd[m->cached_fd].drive = d;
    by_fd[m->fd].cached = false;
    by_fd[m->cached_fd].cached = true;
}

struct io_file *mem_file_open(const struct mem_part *parts, unsigned count, uint64_t bytes, unsigned flags)
{
    struct io_file *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->member = calloc(count, sizeof *f->member);
    assert_non_null(f->member);
    *f = (struct io_file){.member = f->member, .count = count, .block = 1, .path = strdup("mem")};
    f->writable = true;
    f->require_direct = flags & MEM_REQUIRE_DIRECT;
    for (unsigned i = 0; i < count; i++) {
        struct io_member *m = &f->member[i];

        *m = (struct io_member){.fd = memfd_create("mem_engine", MFD_CLOEXEC),
                                .cached_fd = -1,
                                .direct = parts[i].block > 1,
                                .block = parts[i].block,
                                .device = parts[i].device,
                                .limit_bytes = parts[i].limit_bytes ? parts[i].limit_bytes : UINT64_MAX,
                                .weight = parts[i].weight > 0 ? parts[i].weight : 1};
        assert_true(asprintf(&m->path, "mem-%u", i) > 0);
        if (m->block > f->block)
            f->block = m->block;
    }
    if (count == 1) {
        assert_int_equal(ftruncate(f->member[0].fd, (off_t)bytes), 0);
        f->bytes = f->member[0].bytes = bytes;
    } else if (io_file_reserve(f, bytes) < 0) {
        io_file_close(f);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        open_drive(&f->member[i]);
    f->writable = !(flags & MEM_READ_ONLY);
    return f;
}

void mem_file_close(struct io_file *f)
{
    for (unsigned i = 0; i < f->count; i++) {
        struct drive *d = by_fd[f->member[i].fd].drive;

        by_fd[f->member[i].fd].drive = by_fd[f->member[i].cached_fd].drive = NULL;
        munmap(d->bytes, d->mapped);
        free(d->writers);
        *d = (struct drive){0};
    }
    io_file_close(f);
}

unsigned char *mem_file_at(const struct io_file *f, uint64_t offset, uint64_t *run)
{
    unsigned member;
    uint64_t at = io_file_locate(f, offset, &member, run);

    return by_fd[f->member[member].fd].drive->bytes + at;
}

void mem_file_truncate(struct io_file *f, unsigned index, uint64_t bytes)
{
    assert_int_equal(ftruncate(f->member[index].fd, (off_t)bytes), 0);
    by_fd[f->member[index].fd].drive->size = bytes;
}

void mem_file_throttle(struct io_file *f, unsigned index, uint64_t rounds)
{
    by_fd[f->member[index].fd].drive->period = rounds;
}

/* ---- the contract -------------------------------------------------------- */

/* What the engine knows of one of the queue's transfers. */
struct mem_slot {
    struct io_transfer *t; /* NULL: it is not here */
    struct drive *drive;
    struct mem_user *user;
    uint64_t due;
    bool cached, cancelled;
    /* what it was when it was here last, to tell a retry from a new piece */
    const struct io_request *last_request;
    uint64_t last_end;
};

static void breach(struct mem_engine *e, const struct io_transfer *t, const char *what)
{
    e->breaches++;
    if (!e->config.tolerant)
        fail_msg("engine contract, seed %lu: %s: %s, member %s, offset %lu, %u bytes, block %u, buffer %p",
                 (unsigned long)e->config.seed, what, t->op == IO_WRITE ? "write" : "read", t->member->path,
                 (unsigned long)t->offset, t->bytes, t->block, t->buf);
}

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            breach(e, t, #condition);                                                                        \
    } while (0)

/* The transfer is the piece of the request that it claims to be, at a place that the drive takes. */
static void check_place(struct mem_engine *e, const struct io_transfer *t, const struct mem_slot *s)
{
    const struct io_request *r = t->request;
    const struct drive *d = s->drive;
    uint32_t block = s->cached ? 1 : d->block;
    unsigned member;
    uint64_t run, at = io_file_locate(r->file, r->offset + t->at, &member, &run);

    MUST(&r->file->member[member] == t->member && t->member == d->member);
    MUST(t->want > 0 && t->want <= run && t->at + t->want <= r->bytes);
    MUST(t->bytes > 0 && t->bytes <= t->asked_bytes);
    MUST(t->offset + t->skip == at && t->skip < t->block);
    MUST(t->offset + t->asked_bytes >= at + t->want);
    MUST(t->offset + t->asked_bytes < at + t->want + t->block);
    MUST(t->offset % block == 0 && t->bytes % block == 0 && (uintptr_t)t->buf % block == 0);
    if (t->op == IO_WRITE)
        MUST(t->offset + t->asked_bytes == at + t->want && t->offset + t->bytes <= d->size);
    if (t->bounce && t->buf == t->bounce)
        return;
    MUST((char *)t->buf == (char *)r->buf + t->at && t->skip == 0 && t->asked_bytes == t->want);
}

/* It is the turn of this class, and the depth and the window have room for it. */
static void check_turn(struct mem_engine *e, const struct io_transfer *t, const struct mem_slot *s)
{
    const struct io_path *path = t->path;
    /* behind a decorator the engine does not see each attempt */
    bool decorated = e->q->backend != &e->base;
    bool retry = s->last_request == t->request && s->last_end == t->at + t->want;

    MUST(!t->request->cancelled);
    MUST(path->inflight <= path->tuning.depth);
    MUST(mem_engine_inside(e) < e->q->transfer_count);
    if (path->background_bytes > e->background_max)
        e->background_max = path->background_bytes;
    if (t->request->class == IO_DEMAND)
        return;
    MUST(t->charged >= t->want);
    if (retry || decorated)
        return;
    MUST(path->background_bytes <= path->tuning.window_bytes || path->background_bytes == t->charged);
    for (int c = 0; c < (int)t->request->class; c++)
        MUST(!path->waiting[c].head);
}

/* Two writers of one page, of which one goes through the page cache, may undo each other. */
static void mark_pages(struct mem_engine *e, const struct io_transfer *t, const struct mem_slot *s, bool on)
{
    uint32_t one = s->cached || t->block == 1 ? CACHED : 1;

    if (t->op != IO_WRITE || t->offset + t->asked_bytes > s->drive->mapped)
        return;
    for (uint64_t p = t->offset / PAGE; p * PAGE < t->offset + t->asked_bytes; p++) {
        s->drive->writers[p] += on ? one : 0u - one;
        if (on)
            MUST(s->drive->writers[p] < CACHED || s->drive->writers[p] % CACHED == 0);
    }
}

/* ---- the engine ---------------------------------------------------------- */

static bool strikes(struct mem_engine *e, uint32_t per_thousand)
{
    return per_thousand && mem_below(&e->random, 1000) < per_thousand;
}

static uint64_t due_round(struct mem_engine *e, struct drive *d)
{
    uint64_t due = e->round;

    if (d->period) {
        due = (d->busy_until > due ? d->busy_until : due) + d->period;
        d->busy_until = due;
    }
    if (strikes(e, e->config.late))
        return due + MEM_LATE;
    return strikes(e, e->config.delay) ? due + 1 + mem_below(&e->random, 32) : due;
}

static int mem_start(struct io_backend *b, struct io_transfer *t)
{
    struct mem_engine *e = (struct mem_engine *)b;
    uint32_t index = (uint32_t)(t - e->q->transfers);
    struct mem_slot *s = &e->slot[index];
    int fd = t->slot < 0 ? t->fd : (uint32_t)t->slot < e->slot_count ? e->slot_member[t->slot]->fd : -1;

    MUST(index < e->q->transfer_count && !s->t);
    MUST(fd >= 0 && fd < FD_MAX && by_fd[fd].drive);
    s->drive = by_fd[fd].drive;
    s->cached = by_fd[fd].cached;
    check_place(e, t, s);
    check_turn(e, t, s);
    mark_pages(e, t, s, true);
    s->t = t;
    s->cancelled = false;
    s->due = due_round(e, s->drive);
    s->last_request = t->request;
    s->last_end = t->at + t->want;
    s->user = t->request->cookie;
    if (s->user)
        s->user->inside++;
    e->started++;
    if (s->due > e->round)
        e->parked[e->parked_count++] = index;
    else
        e->ready[e->ready_count++] = index;
    return 0;
}

static int mem_flush(struct io_backend *b)
{
    struct mem_engine *e = (struct mem_engine *)b;

    if (mem_engine_inside(e) && (e->q->armed || !e->config.wait))
        io_event_signal(e->q->event_fd);
    return 0;
}

static int mem_wait(struct io_backend *b, uint64_t timeout_ns)
{
    (void)timeout_ns; /* there is something to collect, or there soon is */
    return mem_flush(b);
}

/* What the drive says, and moves. */
static int64_t perform(struct mem_engine *e, const struct mem_slot *s)
{
    const struct io_transfer *t = s->t;
    uint64_t room = t->offset < s->drive->size ? s->drive->size - t->offset : 0;
    uint64_t n = t->bytes < room ? t->bytes : room;
    bool cut = n > 1 && strikes(e, e->config.cut_short);

    if (s->cancelled)
        return -ECANCELED;
    if (strikes(e, e->config.error))
        return -EIO;
    if (t->op == IO_WRITE && strikes(e, e->config.no_space))
        return -ENOSPC;
    if (strikes(e, e->config.again))
        return mem_draw(&e->random) % 2 ? -EAGAIN : -EINTR;
    if (cut)
        n = 1 + mem_below(&e->random, n - 1);
    if (cut && n > t->block && mem_draw(&e->random) % 2)
        n -= n % t->block;
    if (t->op == IO_READ)
        memcpy(t->buf, s->drive->bytes + t->offset, n);
    else
        memcpy(s->drive->bytes + t->offset, t->buf, n);
    return (int64_t)(cut && e->config.overstate ? n + 1 : n);
}

static struct io_transfer *finish(struct mem_engine *e, uint32_t index)
{
    struct mem_slot *s = &e->slot[index];
    struct io_transfer *t = s->t;

    t->result = perform(e, s);
    if (s->user) {
        s->user->failures += t->result < 0 && t->result != -EAGAIN && t->result != -EINTR;
        s->user->inside--;
    }
    mark_pages(e, t, s, false);
    s->t = NULL;
    return t;
}

static void unpark(struct mem_engine *e)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < e->parked_count; i++)
        if (e->hurry || e->slot[e->parked[i]].due <= e->round || e->slot[e->parked[i]].cancelled)
            e->ready[e->ready_count++] = e->parked[i];
        else
            e->parked[kept++] = e->parked[i];
    e->parked_count = kept;
}

static unsigned mem_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct mem_engine *e = (struct mem_engine *)b;
    uint32_t n;

    e->round++;
    unpark(e);
    n = e->ready_count < max ? e->ready_count : max;
    if (!e->config.seed || e->hurry) {
        for (uint32_t i = 0; i < n; i++)
            done[i] = finish(e, e->ready[i]);
        e->ready_count -= n;
        memmove(e->ready, e->ready + n, e->ready_count * sizeof *e->ready);
        return n;
    }
    n = (uint32_t)mem_below(&e->random, n + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (uint32_t)mem_below(&e->random, e->ready_count);

        done[i] = finish(e, e->ready[at]);
        e->ready[at] = e->ready[--e->ready_count];
    }
    return n;
}

static void mem_cancel(struct io_backend *b, struct io_transfer *t)
{
    struct mem_engine *e = (struct mem_engine *)b;

    e->cancels++;
    MUST(e->slot[t - e->q->transfers].t == t);
    if (!e->config.seed || mem_draw(&e->random) % 2)
        e->slot[t - e->q->transfers].cancelled = true;
}

static int mem_register_file(struct io_backend *b, int fd)
{
    struct mem_engine *e = (struct mem_engine *)b;

    if (e->slot_count == sizeof e->slot_member / sizeof e->slot_member[0])
        return -ENOSPC;
    e->slot_member[e->slot_count] = by_fd[fd].drive->member;
    return (int)e->slot_count++;
}

/* What is still here moves now, or not at all. */
static void mem_close(struct io_backend *b)
{
    struct mem_engine *e = (struct mem_engine *)b;

    e->hurry = true;
    unpark(e);
    for (uint32_t i = 0; i < e->ready_count; i++)
        (void)finish(e, e->ready[i]);
    free(e->slot);
    free(e->ready);
    free(e->parked);
    free(e);
}

static const struct io_backend_ops mem_ops = {
    .start = mem_start,
    .flush = mem_flush,
    .collect = mem_collect,
    .close = mem_close,
    .cancel = mem_cancel,
    .register_file = mem_register_file,
};

static const struct io_backend_ops mem_wait_ops = {
    .start = mem_start,
    .flush = mem_flush,
    .collect = mem_collect,
    .close = mem_close,
    .wait = mem_wait,
    .cancel = mem_cancel,
    .register_file = mem_register_file,
};

struct io_queue *mem_queue_open(const struct io_queue_config *queue, const struct mem_config *config,
                                struct mem_engine **out)
{
    struct mem_engine *e = calloc(1, sizeof *e);
    struct io_queue *q;

    assert_non_null(e);
    e->base.ops = config->wait ? &mem_wait_ops : &mem_ops;
    e->config = *config;
    e->random = config->seed;
    assert_int_equal(io_queue_open_on(queue, &e->base, &q), 0);
    e->q = q;
    e->slot = calloc(q->transfer_count, sizeof *e->slot);
    e->ready = calloc(q->transfer_count, sizeof *e->ready);
    e->parked = calloc(q->transfer_count, sizeof *e->parked);
    assert_true(e->slot && e->ready && e->parked);
    *out = e;
    return q;
}
