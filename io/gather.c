/* io: see gather.h. */
#include "io/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK   4096u
#define WAIT_NS 1000000000u

/* One read: whole blocks, and the rows that have bytes in them. */
struct piece {
    struct io_request request;
    uint8_t *buffer;
    size_t first, end; /* of the sorted rows */
};

struct row {
    uint64_t at;    /* in the file */
    size_t ordinal; /* in the caller's order */
};

struct io_gather {
    struct io_queue *queue;
    uint8_t *buffers;
    struct piece pieces[IO_GATHER_DEPTH];
};

/* A call. */
struct job {
    struct io_file *file;
    struct row *rows; /* sorted */
    size_t count, next;
    uint64_t covered; /* everything of rows before it is in a piece */
    uint64_t row_bytes, file_bytes, read_bytes;
    uint8_t *out;
    struct base_error error;
};

int io_gather_open(enum io_engine engine, struct io_gather **out)
{
    const struct io_queue_config config = {
        .engine = engine, .depth = IO_GATHER_DEPTH, .piece_bytes = IO_GATHER_PIECE_BYTES};
    struct io_gather *g = calloc(1, sizeof *g);
    int err;

    *out = NULL;
    if (!g)
        return base_fail(-ENOMEM, "gather: out of memory");
    g->buffers = aligned_alloc(BLOCK, (size_t)IO_GATHER_DEPTH * IO_GATHER_PIECE_BYTES);
    err = g->buffers ? io_queue_open(&config, &g->queue) : base_fail(-ENOMEM, "gather: out of memory");
    if (err < 0) {
        io_gather_close(g);
        return err;
    }
    for (unsigned i = 0; i < IO_GATHER_DEPTH; i++)
        g->pieces[i].buffer = g->buffers + (size_t)i * IO_GATHER_PIECE_BYTES;
    /* Costs a look-up of pages a read where limits forbid it. */
    (void)io_queue_register(g->queue, g->buffers, (uint64_t)IO_GATHER_DEPTH * IO_GATHER_PIECE_BYTES);
    *out = g;
    return 0;
}

void io_gather_close(struct io_gather *g)
{
    if (!g)
        return;
    io_queue_close(g->queue);
    free(g->buffers);
    free(g);
}

/* ---- what to read ------------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    return x->at != y->at ? (x->at > y->at) - (x->at < y->at)
                          : (x->ordinal > y->ordinal) - (x->ordinal < y->ordinal);
}

static uint64_t down(uint64_t at)
{
    return at / BLOCK * BLOCK;
}

static uint64_t up(uint64_t at)
{
    return down(at + BLOCK - 1);
}

/* The next piece of what is left: rows in the same block as those before, or in the next one, are joined. */
static void cut(struct job *j, struct piece *p)
{
    uint64_t from = down(j->rows[j->next].at > j->covered ? j->rows[j->next].at : j->covered), end = from;
    size_t k = j->next;

    for (; k < j->count && down(j->rows[k].at) <= end; k++)
        if (up(j->rows[k].at + j->row_bytes) > end)
            end = up(j->rows[k].at + j->row_bytes);
    if (end - from > IO_GATHER_PIECE_BYTES)
        end = from + IO_GATHER_PIECE_BYTES;
    p->first = j->next;
    while (k > p->first && j->rows[k - 1].at >= end)
        k--;
    p->end = k;
    while (j->next < j->count && j->rows[j->next].at + j->row_bytes <= end)
        j->next++;
    j->covered = end;
    p->request = (struct io_request){.op = IO_READ,
                                     .class = IO_DEMAND,
                                     .file = j->file,
                                     .buf = p->buffer,
                                     .offset = from,
                                     .bytes = (end < j->file_bytes ? end : j->file_bytes) - from,
                                     .cookie = p};
}

static void deliver(struct job *j, const struct piece *p)
{
    const uint64_t from = p->request.offset, end = from + p->request.bytes;

    for (size_t k = p->first; k < p->end; k++) {
        uint64_t row = j->rows[k].at, a = row > from ? row : from,
                 b = row + j->row_bytes < end ? row + j->row_bytes : end;

        if (a < b)
            memcpy(j->out + j->rows[k].ordinal * j->row_bytes + (a - row), p->buffer + (a - from), b - a);
    }
    j->read_bytes += p->request.bytes;
}

/* ---- reading ---------------------------------------------------------------------------- */

static void run(struct io_gather *g, struct job *j)
{
    struct io_request *done[IO_GATHER_DEPTH], *late;

    for (unsigned i = 0; i < IO_GATHER_DEPTH && j->next < j->count; i++) {
        cut(j, &g->pieces[i]);
        io_submit(g->queue, &g->pieces[i].request);
    }
    while (io_queue_pending(g->queue)) {
        unsigned n = io_wait(g->queue, done, IO_GATHER_DEPTH, WAIT_NS);

        while (io_late(g->queue, &late, 1)) /* it comes back once nothing touches its buffer */
            if (j->error.code == 0)
                j->error = late->error;
        for (unsigned i = 0; i < n; i++) {
            struct piece *p = done[i]->cookie;

            if (done[i]->error.code == 0)
                deliver(j, p);
            else if (j->error.code == 0)
                j->error = done[i]->error;
            if (j->error.code == 0 && j->next < j->count) {
                cut(j, p);
                io_submit(g->queue, &p->request);
            }
        }
    }
}

int io_gather_rows(struct io_gather *g, struct io_file *f, uint64_t offset, uint64_t row_bytes,
                   const uint64_t *rows, size_t count, void *out, uint64_t *read_bytes)
{
    struct job j = {.file = f,
                    .rows = calloc(count + 1, sizeof *j.rows),
                    .count = count,
                    .row_bytes = row_bytes,
                    .file_bytes = io_file_bytes(f),
                    .out = out};

    if (!j.rows)
        return base_fail(-ENOMEM, "gather %llu rows: out of memory", (unsigned long long)count);
    for (size_t i = 0; i < count; i++)
        j.rows[i] = (struct row){offset + rows[i] * row_bytes, i};
    qsort(j.rows, count, sizeof *j.rows, compare);
    if (row_bytes)
        run(g, &j);
    free(j.rows);
    if (read_bytes)
        *read_bytes = j.read_bytes;
    return j.error.code < 0 ? base_error_restore(&j.error) : 0;
}
