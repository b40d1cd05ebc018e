/*
 * Pieces: how a request is cut into transfers, and what a transfer's result means.
 * See queue.h.
 *
 * Direct I/O takes whole blocks at block addresses. A piece that is not such a thing
 * is fetched with the blocks around it into a bounce buffer and trimmed (reads), copied
 * into one (writes from odd addresses), or, for parts of pages, written through the page
 * cache, where neighbours that share the page can't undo each other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/queue.h"

#define PAGE           4096u
#define POPULATE_WRITE 23 /* MADV_POPULATE_WRITE, of Linux 5.14: headers may be older */

/* What a transfer of this file must be made of to go without detours. */
static uint64_t unit_of(const struct io_file *f, const struct io_member *m, enum io_op op)
{
    return op == IO_WRITE && m->block > 1 && m->block < PAGE && !f->require_direct ? PAGE
                                                                                   : io_member_block(m, op);
}

int io_request_check(const struct io_request *r, const char **cause)
{
    if (!r->file)
        return *cause = "no file", -EINVAL;
    if ((unsigned)r->op > IO_WRITE)
        return *cause = "unknown operation", -EINVAL;
    if ((unsigned)r->class >= IO_CLASSES)
        return *cause = "unknown class", -EINVAL;
    if (r->op == IO_WRITE && !r->file->writable)
        return *cause = "file is open for reading only", -EBADF;
    if (r->bytes > INT64_MAX - IO_PIECE_MAX || r->offset > INT64_MAX - IO_PIECE_MAX - r->bytes)
        return *cause = "past any file's end", -EINVAL;
    if (r->bytes && !r->buf)
        return *cause = "no buffer", -EINVAL;
    if (r->need_bytes > r->bytes)
        return *cause = "needs more than it asks for", -EINVAL;
    if (r->file->count > 1 && r->offset + r->bytes > r->file->bytes)
        return *cause = "beyond what was reserved", -EINVAL;
    if (r->op == IO_WRITE && r->file->require_direct && r->offset % r->file->block)
        return *cause = "offset is inside a block, and direct I/O is required", -EINVAL;
    if (r->op == IO_WRITE && r->file->require_direct && r->bytes % r->file->block)
        return *cause = "length is not in whole blocks, and direct I/O is required", -EINVAL;
    return 0;
}

/* From `at` on, the first byte of r that lies in m; r->bytes if none does. */
static uint64_t seek(const struct io_request *r, const struct io_member *m, uint64_t at)
{
    while (at < r->bytes) {
        unsigned member;
        uint64_t run;

        io_file_locate(r->file, r->offset + at, &member, &run);
        if (&r->file->member[member] == m)
            return at;
        at += run;
    }
    return r->bytes;
}

int io_shares_open(struct io_queue *q, struct io_request *r)
{
    struct io_file *f = r->file;

    r->share_count = f->count;
    r->shares = &r->share;
    if (f->count > 1) {
        r->shares = calloc(f->count, sizeof *r->shares);
        if (!r->shares)
            return -ENOMEM;
    }
    r->open = 0;
    for (unsigned i = 0; i < f->count; i++) {
        struct io_member *m = &f->member[i];
        struct io_path *path = io_path_get(q, m->device, m->path);

        if (!path)
            return -ENOMEM;
        r->shares[i] = (struct io_share){.request = r, .member = m, .path = path, .at = seek(r, m, 0)};
    }
    return 0;
}

void io_shares_close(struct io_request *r)
{
    if (r->shares != &r->share)
        free(r->shares);
    r->shares = NULL;
}

/*
 * How many of the `left` bytes at member offset `at` and address `user` the next piece takes: a
 * head up to the next whole unit, as many whole units as fit the limit, or a tail. Reads into a
 * buffer that lies otherwise than the file take the detour as a whole.
 */
static uint64_t cut_bytes(uint64_t unit, uint64_t limit, bool congruent, uint64_t at, uint64_t left)
{
    uint64_t head = at % unit;

    if (limit < unit)
        limit = unit;
    limit -= limit % unit;
    if (head && congruent)
        return left < unit - head ? left : unit - head;
    if (left > limit - head)
        return limit - head;
    return congruent && left > unit ? left - left % unit : left;
}

void io_piece_cut(struct io_share *s, struct io_transfer *t)
{
    struct io_request *r = s->request;
    unsigned member;
    uint64_t run, at = io_file_locate(r->file, r->offset + s->at, &member, &run);
    uint64_t unit = unit_of(r->file, s->member, r->op), left = r->bytes - s->at;
    uintptr_t user = (uintptr_t)r->buf + s->at;
    bool congruent = r->op == IO_WRITE || (user - at) % io_member_block(s->member, r->op) == 0;

    t->request = r;
    t->member = s->member;
    t->path = s->path;
    t->op = r->op;
    t->at = s->at;
    t->want = cut_bytes(unit, s->path->tuning.piece_bytes, congruent, at, left < run ? left : run);
    s->at = seek(r, s->member, s->at + t->want);
}

static int take_bounce(struct io_queue *q, struct io_transfer *t, uint64_t bytes)
{
    uint64_t align = t->member->block > PAGE ? t->member->block : PAGE;

    /* What is left of a piece never needs more than the piece did. */
    if (!t->bounce)
        t->bounce = aligned_alloc(align, (bytes + align - 1) / align * align);
    q->stats.copied_bytes += t->want;
    return t->bounce ? 0 : -ENOMEM;
}

/* Has all pages there. Where the kernel can't, reads may pass the page cache, and are right all the same. */
static void touch(void *buf, uint64_t bytes)
{
    uintptr_t from = (uintptr_t)buf & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);

    (void)madvise((void *)from, (uintptr_t)buf + bytes - from, POPULATE_WRITE);
}

int io_piece_prepare(struct io_queue *q, struct io_transfer *t)
{
    struct io_request *r = t->request;
    struct io_member *m = t->member;
    unsigned member;
    uint64_t run, at = io_file_locate(r->file, r->offset + t->at, &member, &run);
    uint64_t unit = unit_of(r->file, m, r->op), end = at + t->want;
    char *user = (char *)r->buf + t->at;
    bool whole = at % unit == 0 && end % unit == 0;
    int rc = 0;

    t->fd = m->fd;
    t->slot = m->slot_queue == q->id ? m->slot : -1;
    t->block = io_member_block(m, r->op);
    t->skip = 0;
    t->buf = user;
    t->result = 0;
    if (t->block == 1 || (whole && (uintptr_t)user % t->block == 0)) {
        ; /* as it is */
    } else if (r->op == IO_READ) {
        t->skip = (uint32_t)(at % t->block);
        at -= t->skip;
        end = (end + t->block - 1) / t->block * t->block;
        rc = take_bounce(q, t, end - at);
        t->buf = t->bounce;
    } else if (whole) {
        rc = take_bounce(q, t, t->want);
        t->buf = t->bounce;
        if (rc == 0)
            memcpy(t->bounce, user, t->want);
    } else {
        rc = io_member_cached_fd(m);
        t->fd = rc;
        t->slot = -1;
        t->block = 1;
    }
    t->offset = at;
    t->bytes = t->asked_bytes = (uint32_t)(end - at);
    if (rc >= 0 && r->op == IO_READ && m->touch_first)
        touch(t->buf, t->bytes);
    return rc < 0 ? rc : 0;
}

/* Whether a read that fell short met the end of the file. */
static bool at_end(const struct io_transfer *t)
{
    uint64_t size;

    return t->op == IO_READ && (t->result == 0 || (io_member_size_now(t->member, &size) == 0 &&
                                                   t->offset + (uint64_t)t->result >= size));
}

static enum io_verdict failed(int *code, const char **cause, int c, const char *text)
{
    *code = c;
    *cause = text;
    return IO_PIECE_FAILED;
}

enum io_verdict io_piece_judge(struct io_transfer *t, int *code, const char **cause)
{
    struct io_request *r = t->request;
    uint64_t got, rest;
    bool end;

    if (t->result == -EAGAIN || t->result == -EINTR)
        return r->cancelled ? failed(code, cause, -ECANCELED, NULL) : IO_PIECE_AGAIN;
    if (t->result < 0)
        return failed(code, cause, (int)t->result, NULL);
    if (t->result > t->asked_bytes)
        return failed(code, cause, -EIO, "the engine reports more bytes than were asked for");
    if (t->op == IO_WRITE && t->result == 0)
        return failed(code, cause, -EIO, "the file system takes no more, and does not say why");
    got = (uint64_t)t->result > t->skip ? (uint64_t)t->result - t->skip : 0;
    if (got > t->want)
        got = t->want;
    end = got < t->want && at_end(t);
    if (got < t->want && !end) {
        /* A direct transfer can't continue inside a block. */
        rest = (t->offset + t->skip + got) % t->block;
        got -= rest < got ? rest : got;
    }
    if (t->bounce && t->buf == t->bounce && t->op == IO_READ)
        memcpy((char *)r->buf + t->at, (char *)t->bounce + t->skip, got);
    t->at += got;
    t->want -= got;
    r->done_bytes += got;
    if (t->want == 0)
        return IO_PIECE_DONE;
    if (!end)
        return r->cancelled ? failed(code, cause, -ECANCELED, NULL) : IO_PIECE_AGAIN;
    if (t->at < r->eof_at)
        r->eof_at = t->at;
    return IO_PIECE_END;
}
