/*
 * Replays a list of tensors: whole tensors are read one after another, each where the one
 * before ended, with so many queued that the drive never waits. In turns with plain 1 MiB
 * reads of the same file. See nvme_tensors.h.
 */
#include "bench/nvme_tensors.h"
#include "bench/nvme_wait.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/nvme_progress.h"
#include "bench/nvme_run.h"

#define PIECE_BYTES  MIB
#define DEPTH        32u /* by default */
#define ALIGN        4096u
#define CHUNK_BYTES  (64 * MIB) /* of a tensor, in one request */
#define CHUNKS       1024u      /* requests queued at most */
#define AHEAD        4u         /* times the depth, in bytes queued */
#define BATCH        64u
#define WAIT_NS      100000000u
#define TENSOR_BYTES (1ull << 50)

/* ---- the list --------------------------------------------------------------------------- */

static const uint64_t class_limits[NVME_CLASSES] = {MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, UINT64_MAX};

static unsigned class_of(uint64_t bytes)
{
    unsigned i = 0;

    while (i + 1 < NVME_CLASSES && bytes >= class_limits[i])
        i++;
    return i;
}

/* Shipped lists lie beside the program where it was built, and in share/ where it is installed. */
static char *find_list(const char *name)
{
    static const struct {
        const char *name, *file;
    } lists[] = {{"7b", "llama-7b.txt"},
                 {"70b", "llama-70b.txt"},
                 {"175b", "gpt-175b.txt"},
                 {"mixed", "mixed-1-16m.txt"}};
    static const char *const places[] = {"shapes", "../share/liboffload/shapes"};
    char program[PATH_MAX] = {0}, *path;

    if (access(name, R_OK) == 0 || readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return strdup(name);
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++) {
        for (size_t k = 0; strcmp(name, lists[i].name) == 0 && k < ARRAY_COUNT(places); k++) {
            char copy[PATH_MAX];

            memcpy(copy, program, sizeof copy);
            if (asprintf(&path, "%s/%s/%s", dirname(copy), places[k], lists[i].file) < 0)
                return NULL;
            if (access(path, R_OK) == 0)
                return path;
            free(path);
        }
    }
    return strdup(name);
}

static int add_tensor(struct nvme_tensors *s, uint64_t bytes)
{
    struct nvme_class *class = &s->classes[class_of(bytes)];

    if ((s->tensors & (s->tensors - 1)) == 0) {
        uint64_t *more = realloc(s->bytes, (s->tensors ? 2 * s->tensors : 1) * sizeof *more);

        if (!more)
            return common_fail(EXIT_FULL, "--tensors %s: out of memory", s->path);
        s->bytes = more;
    }
    s->bytes[s->tensors++] = bytes;
    s->total_bytes += bytes;
    s->largest_bytes = bytes > s->largest_bytes ? bytes : s->largest_bytes;
    class->listed++;
    class->listed_bytes += bytes;
    return 0;
}

/* "name bytes", or nothing but a comment. */
static int parse_line(struct nvme_tensors *s, char *line, unsigned number)
{
    char *rest = line, *name, *size, *extra;
    uint64_t bytes;

    line[strcspn(line, "#\r\n")] = '\0';
    name = strtok_r(line, " \t", &rest);
    if (!name)
        return 0;
    size = strtok_r(NULL, " \t", &rest);
    extra = strtok_r(NULL, " \t", &rest);
    if (!size || extra)
        return common_fail(EXIT_INPUT, "--tensors %s: line %u: not `name bytes`: %s%s", s->path, number, name,
                           size ? " has more than two words" : " has no size");
    if (common_parse_count(size, 1, TENSOR_BYTES, &bytes) < 0)
        return common_fail(EXIT_INPUT, "--tensors %s: line %u: %s: not a number of bytes from 1 to %llu",
                           s->path, number, size, TENSOR_BYTES);
    return add_tensor(s, bytes);
}

static int parse_file(struct nvme_tensors *s, FILE *f)
{
    char *line = NULL;
    size_t room = 0;
    int status = 0;

    for (unsigned number = 1; status == 0 && getline(&line, &room, f) >= 0; number++)
        status = parse_line(s, line, number);
    free(line);
    if (status == 0 && ferror(f))
        status = common_fail(EXIT_INPUT, "--tensors %s: %s", s->path, strerror(errno));
    if (status == 0 && s->tensors == 0)
        status = common_fail(EXIT_INPUT, "--tensors %s: no tensors in it", s->path);
    return status;
}

int nvme_tensors_load(const char *name, struct nvme_tensors *out)
{
    FILE *f;
    int status;

    *out = (struct nvme_tensors){.path = find_list(name)};
    for (unsigned i = 0; i < NVME_CLASSES; i++)
        out->classes[i].below_bytes = class_limits[i];
    if (!out->path)
        return common_fail(EXIT_FULL, "--tensors %s: out of memory", name);
    f = fopen(out->path, "re");
    if (!f)
        return common_fail(EXIT_INPUT, "--tensors %s: %s; shipped lists are 7b, 70b, 175b and mixed", name,
                           strerror(errno));
    status = parse_file(out, f);
    fclose(f);
    return status;
}

void nvme_tensors_free(struct nvme_tensors *s)
{
    free(s->path);
    free(s->bytes);
    free(s->sequential);
    free(s->replayed);
    *s = (struct nvme_tensors){0};
}

/* ---- a replay ------------------------------------------------------------------------------- */

/* Part of a tensor; its bytes lie at `at` of the buffers, a ring that is given back in order. */
struct chunk {
    struct io_request request;
    uint64_t at;
    double queued_s; /* when the tensor's first chunk was */
    unsigned class;  /* of the tensor */
    bool last, done; /* last: of its tensor */
};

struct replay {
    struct nvme_target *target;
    struct nvme_tensors *list;
    struct io_queue *queue;
    struct chunk *chunks;  /* CHUNKS of them, a ring too */
    uint64_t first, count; /* of those queued */
    uint64_t head, ahead_bytes, queued_bytes, moved_bytes;
    uint64_t limit_bytes; /* to be queued in all */
    uint64_t position;    /* in the file */
    unsigned tensor;
    uint64_t taken_bytes; /* of that tensor */
    double tensor_s;
    struct base_error error;
};

/* A place for so many bytes in the ring of buffers: false if there is none now. */
static bool take_space(struct replay *r, uint64_t bytes, uint64_t *at)
{
    uint64_t tail = r->count ? r->chunks[r->first % CHUNKS].at : 0, end = r->target->buffer_bytes;

    if (r->count == 0)
        r->head = 0;
    if (r->count && r->head <= tail) {
        if (r->head + bytes >= tail) /* not up to it: full would look like empty */
            return false;
    } else if (r->head + bytes > end) {
        if (bytes >= tail)
            return false;
        r->head = 0;
    }
    *at = r->head;
    r->head += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return true;
}

/* The next part of the current tensor: what one request, the ring and the rest of the file take. */
static uint64_t next_bytes(struct replay *r)
{
    uint64_t tensor = r->list->bytes[r->tensor], bytes = tensor - r->taken_bytes;
    uint64_t most = r->target->buffer_bytes / 4 / ALIGN * ALIGN;

    if (r->taken_bytes == 0) {
        /* Whole tensors lie in one piece, if the file is large enough. */
        r->position = (r->position + ALIGN - 1) / ALIGN * ALIGN;
        if (r->position >= r->target->bytes ||
            (r->position + tensor > r->target->bytes && tensor <= r->target->bytes))
            r->position = 0;
    } else if (r->position >= r->target->bytes) {
        r->position = 0;
    }
    if (most > CHUNK_BYTES)
        most = CHUNK_BYTES;
    if (bytes > most)
        bytes = most;
    return bytes < r->target->bytes - r->position ? bytes : r->target->bytes - r->position;
}

static bool queue_chunk(struct replay *r, double now)
{
    struct chunk *c = &r->chunks[(r->first + r->count) % CHUNKS];
    uint64_t bytes = next_bytes(r), at;

    if (r->count == CHUNKS || !take_space(r, bytes, &at))
        return false;
    if (r->taken_bytes == 0)
        r->tensor_s = now;
    *c = (struct chunk){.at = at, .queued_s = r->tensor_s, .class = class_of(r->list->bytes[r->tensor])};
    c->request.op = IO_READ;
    c->request.file = r->target->file;
    c->request.buf = r->target->buffers + at;
    c->request.offset = r->position;
    c->request.bytes = bytes;
    c->request.cookie = c;
    r->position += bytes;
    r->taken_bytes += bytes;
    r->ahead_bytes += bytes;
    r->queued_bytes += bytes;
    r->count++;
    if (r->taken_bytes == r->list->bytes[r->tensor]) {
        c->last = true;
        r->taken_bytes = 0;
        r->tensor = (r->tensor + 1) % r->list->tensors;
    }
    io_submit(r->queue, &c->request);
    return true;
}

static void finish_chunk(struct replay *r, struct io_request *q)
{
    struct chunk *c = q->cookie;

    c->done = true;
    r->ahead_bytes -= q->bytes;
    r->moved_bytes += q->done_bytes;
    if (q->error.code && r->error.code == 0)
        r->error = q->error;
}

/* Gives back what is done, in order; so a tensor is complete when its last chunk is. */
static void retire(struct replay *r, double now)
{
    while (r->count && r->chunks[r->first % CHUNKS].done) {
        const struct chunk *c = &r->chunks[r->first % CHUNKS];

        if (c->last)
            io_histogram_add(&r->list->classes[c->class].latency, (uint64_t)((now - c->queued_s) * 1e9));
        r->first++;
        r->count--;
    }
}

static void move_tensors(struct replay *r, uint64_t ahead, double end)
{
    struct io_request *done[BATCH];
    double now = common_seconds();
    bool more = true;

    do {
        unsigned n;

        while (more && r->queued_bytes < r->limit_bytes && (r->ahead_bytes < ahead || r->count < 2) &&
               queue_chunk(r, now))
            ;
        n = nvme_wait(r->queue, done, BATCH, WAIT_NS);
        now = common_seconds();
        nvme_tick(now);
        for (unsigned i = 0; i < n; i++)
            finish_chunk(r, done[i]);
        retire(r, now);
        more = now < end && r->queued_bytes < r->limit_bytes && !common_stopping() && r->error.code == 0;
    } while (r->count > 0 || more);
}

/* Several times the depth is queued: bytes of a request count until its slowest piece has come. */
static int replay(struct nvme_target *t, struct nvme_tensors *s, uint32_t depth, double seconds, double *rate)
{
    struct replay r = {.target = t,
                       .list = s,
                       .chunks = calloc(CHUNKS, sizeof *r.chunks),
                       .limit_bytes = nvme_once(t, RW_READ) ? t->bytes : UINT64_MAX};
    int status = r.chunks ? nvme_queue_open(t, depth, PIECE_BYTES, depth * PIECE_BYTES, &r.queue)
                          : common_fail(EXIT_FULL, "--tensors: out of memory");
    double start;

    if (status == 0) {
        nvme_target_drop_cache(t);
        start = common_seconds();
        move_tensors(&r, AHEAD * depth * PIECE_BYTES, start + seconds);
        *rate = (double)r.moved_bytes / (common_seconds() - start);
        if (common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted: no results");
        else if (r.error.code)
            status = common_fail(EXIT_RUNTIME, "%s", r.error.text);
    }
    io_queue_close(r.queue);
    free(r.chunks);
    return status;
}

/* Into the same memory as the tensors: how much memory bytes go to has a speed of its own. */
static int sequential(struct nvme_target *t, uint32_t depth, double seconds, double *rate)
{
    const struct nvme_case c = {.rw = RW_READ, .block_bytes = PIECE_BYTES, .depth = depth};
    struct nvme_sample sample = {0};
    struct nvme_run r;
    int status = nvme_run_open(&r, t, &c, 1);

    r.rotate = true;
    if (status == 0) {
        nvme_target_drop_cache(t);
        status = nvme_run_move(&r, seconds, nvme_once(t, c.rw) ? t->bytes : UINT64_MAX, &sample);
    }
    nvme_run_close(&r, &sample, NULL);
    *rate = (double)sample.bytes[IO_READ] / sample.seconds;
    return status;
}

int nvme_tensors_measure(struct nvme_target *t, struct nvme_tensors *s)
{
    const struct nvme_options *o = t->options;
    uint32_t depth = o->depth ? (uint32_t)o->depth : DEPTH;
    int status = 0;

    s->sequential = calloc(o->repeat, sizeof *s->sequential);
    s->replayed = calloc(o->repeat, sizeof *s->replayed);
    if (!s->sequential || !s->replayed)
        return common_fail(EXIT_FULL, "--tensors: out of memory");
    for (unsigned i = 0; i < o->repeat && status == 0; i++) {
        bool plain_first = i % 2 == 0;

        nvme_progress.what = "tensors and plain reads in turns";
        if (plain_first)
            status = sequential(t, depth, o->time_s, &s->sequential[i]);
        if (status == 0)
            status = replay(t, s, depth, o->time_s, &s->replayed[i]);
        if (status == 0 && !plain_first)
            status = sequential(t, depth, o->time_s, &s->sequential[i]);
        nvme_progress.step += 2;
        s->count += status == 0;
    }
    return status;
}
