/* One drive of a queue: its windows and its statistics. See queue.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/queue.h"

#define PIECE_MIN 4096u

/* A drive is not named by a file without a name on it, but as a profile names it: by the directory. */
static size_t directory_length(const char *name)
{
    static const char nameless[] = "/(scratch)"; /* as io_file_open_scratch has it */
    size_t n = strlen(name), tail = sizeof nameless - 1;

    return n > tail && strcmp(name + n - tail, nameless) == 0 ? n - tail : n;
}

struct io_path *io_path_get(struct io_queue *q, uint64_t device, const char *name)
{
    struct io_path **all, *path;

    for (unsigned i = 0; i < q->path_count; i++)
        if (q->path[i]->device == device)
            return q->path[i];
    all = realloc(q->path, (q->path_count + 1) * sizeof *all);
    if (!all)
        return NULL;
    q->path = all;
    path = calloc(1, sizeof *path);
    if (!path)
        return NULL;
    path->device = path->stats.device = device;
    snprintf(path->stats.name, sizeof path->stats.name, "%.*s", (int)directory_length(name), name);
    io_path_tune(q, path, &(struct io_tuning){0}); /* the queue's, within bounds */
    all[q->path_count++] = path;
    return path;
}

void io_path_tune(struct io_queue *q, struct io_path *path, const struct io_tuning *t)
{
    struct io_tuning *to = &path->tuning;

    to->piece_bytes = t->piece_bytes ? t->piece_bytes : q->tuning.piece_bytes;
    to->depth = t->depth ? t->depth : q->tuning.depth;
    to->window_bytes = t->window_bytes ? t->window_bytes : q->tuning.window_bytes;
    if (to->piece_bytes < PIECE_MIN)
        to->piece_bytes = PIECE_MIN;
    if (to->piece_bytes > IO_PIECE_MAX)
        to->piece_bytes = IO_PIECE_MAX;
    if (to->depth > q->depth_max)
        to->depth = q->depth_max;
}

void io_path_started(struct io_path *path, uint64_t now_ns)
{
    if (path->inflight++ > 0)
        return;
    if (!path->first_ns)
        path->first_ns = now_ns;
    else
        path->stats.empty_ns += now_ns - path->idle_since_ns;
}

void io_path_ended(struct io_path *path, uint64_t now_ns)
{
    if (--path->inflight == 0)
        path->idle_since_ns = now_ns;
}

void io_path_count(struct io_path *path, const struct io_transfer *t, uint64_t bytes, uint64_t now_ns)
{
    path->stats.transfers[t->op]++;
    path->stats.bytes[t->op] += bytes;
    io_histogram_add(&path->stats.latency[t->op], now_ns - t->start_ns);
    t->member->moved_bytes[t->op] += bytes;
}
