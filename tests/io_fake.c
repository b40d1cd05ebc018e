/* An engine that a test plays by hand: see io_fake.h. */
#include "tests/io_fake.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#define HOUR_NS 3600000000000u

unsigned fake_closed;
uint64_t fake_now_ns;

static int fake_start(struct io_backend *b, struct io_transfer *t)
{
    struct fake *f = (struct fake *)b;

    if (f->start_code)
        return f->start_code;
    assert_true(f->held_count < FAKE_HELD_MAX);
    f->held[f->held_count++] = t;
    return 0;
}

static int fake_flush(struct io_backend *b)
{
    return ((struct fake *)b)->flush_code;
}

static unsigned fake_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct fake *f = (struct fake *)b;
    unsigned n = 0;

    while (n < max && (done[n] = io_transfers_pop(&f->done)))
        n++;
    return n;
}

/* While the kernel takes nothing, what it should give up has never reached it. */
static void fake_cancel(struct io_backend *b, struct io_transfer *t)
{
    struct fake *f = (struct fake *)b;
    unsigned at = 0;

    f->cancels++;
    while (at < f->held_count && f->held[at] != t)
        at++;
    assert_true(at < f->held_count);
    if (!f->flush_code)
        return;
    memmove(f->held + at, f->held + at + 1, (--f->held_count - at) * sizeof f->held[0]);
    t->result = -ECANCELED;
    io_transfers_push(&f->done, t);
}

static void fake_close(struct io_backend *b)
{
    fake_closed++;
    free(b);
}

static const struct io_backend_ops fake_ops = {.start = fake_start,
                                               .flush = fake_flush,
                                               .collect = fake_collect,
                                               .cancel = fake_cancel,
                                               .close = fake_close};

struct fake *fake_create(void)
{
    struct fake *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->base.ops = &fake_ops;
    return f;
}

uint64_t fake_clock(void)
{
    return fake_now_ns ? fake_now_ns : base_now_ns() + 4 * HOUR_NS;
}

struct io_queue *fake_queue_open(const struct io_queue_config *config, struct fake **out)
{
    struct io_queue *q;

    *out = fake_create();
    assert_int_equal(io_queue_open_on(config, &(*out)->base, &q), 0);
    q->clock = fake_clock;
    q->now_ns = fake_clock();
    return q;
}

struct io_queue *fake_open(uint32_t depth, struct fake **out)
{
    const struct io_queue_config config = {
        .depth = depth, .deadline_ns = HOUR_NS, .piece_bytes = IO_PIECE_MAX, .window_bytes = 64 * GIB};

    return fake_queue_open(&config, out);
}

void fake_finish(struct fake *f, int64_t result)
{
    assert_true(f->held_count > 0);
    f->held[0]->result = result;
    io_transfers_push(&f->done, f->held[0]);
    memmove(f->held, f->held + 1, --f->held_count * sizeof f->held[0]);
}

void fake_age(struct io_queue *q, struct io_request *r)
{
    r->submit_ns = q->clock() - 2 * HOUR_NS;
    r->expire_ns = r->submit_ns - q->away_ns + HOUR_NS;
    q->expire_ns = 0;
}

struct io_file *fake_file_make(struct fake_file *f, uint64_t bytes, uint32_t block)
{
    *f = (struct fake_file){
        .file = {.member = &f->member, .count = 1, .block = block, .writable = true, .bytes = bytes},
        .member = {.cached_fd = -1, .block = block, .direct = block > 1, .bytes = bytes, .weight = 1},
        .path = "pool-0",
    };
    f->file.path = f->member.path = f->path;
    f->member.fd = memfd_create("io_fake", MFD_CLOEXEC);
    assert_true(f->member.fd >= 0);
    assert_int_equal(ftruncate(f->member.fd, (off_t)bytes), 0);
    return &f->file;
}

void fake_file_drop(struct fake_file *f)
{
    close(f->member.fd);
}

struct io_request *fake_reap(struct io_queue *q)
{
    struct io_request *r = NULL;

    return io_reap(q, &r, 1) == 1 ? r : NULL;
}

bool fake_readable(struct io_queue *q)
{
    struct pollfd p = {.fd = io_queue_fd(q), .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

void *fake_address(uint64_t at)
{
    return (void *)(uintptr_t)(GIB + at);
}
