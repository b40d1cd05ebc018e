/* source: files read in place, and tensors whose home they are. Their formats: liboffload/source/. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/sized.h"
#include "include/offload_metadata.h"
#include "io/gather.h"
#include "liboffload/core/context.h"
#include "liboffload/core/shape.h"
#include "liboffload/source/source.h"

struct ofl_source {
    struct ofl_ctx *ctx;
    struct source_file *header; /* what the file holds */
    struct io_file *file;       /* its bytes */
    struct ofl_source *next;
    pthread_mutex_t gather_lock; /* a leaf; guards: */
    struct io_gather *gather;    /* NULL: nothing was gathered yet */
};

void core_source_free(struct ofl_source *s)
{
    struct ofl_source **at;

    pthread_mutex_lock(&s->ctx->lists_lock);
    for (at = &s->ctx->sources; *at && *at != s; at = &(*at)->next)
        ;
    if (*at)
        *at = s->next;
    pthread_mutex_unlock(&s->ctx->lists_lock);
    io_gather_close(s->gather);
    pthread_mutex_destroy(&s->gather_lock);
    io_file_close(s->file);
    source_close(s->header);
    free(s);
}

bool core_source_direct(const struct ofl_source *s)
{
    return io_file_direct(s->file);
}

const struct ofl_source *core_source_next(const struct ofl_source *s)
{
    return s->next;
}

static int check(const struct ofl_source *s, struct base_error *error)
{
    return source_state_check(&s->header->state, io_file_fd(s->file, 0), s->header->path, error);
}

/* A read has ended: what it brought counts only if the file is still the one that was opened. A write
 * sets the file's time before it changes a byte, so bytes that were read before this look are old ones. */
void core_source_read(struct core_op *op)
{
    struct base_error changed;

    if (op->tensor->source && check(op->tensor->source, &changed) < 0)
        op->io.error = changed;
}

int ofl_source_open(struct ofl_ctx *ctx, const char *path, struct ofl_source **out)
{
    struct base_error changed;
    struct ofl_source *s;
    int err;

    if (out)
        *out = NULL;
    if (core_refused(ctx, ctx, path, out))
        return -EINVAL;
    if (ctx->engine.pager.host_bytes == 0)
        return base_fail(-OFL_EBUDGET,
                         "open %s: reading it takes host memory, and the host budget is 0 bytes", path);
    s = calloc(1, sizeof *s);
    if (!s)
        return base_fail(-ENOMEM, "open %s: out of memory", path);
    s->ctx = ctx;
    err = source_open(path, &s->header);
    if (err == 0)
        err = io_file_open_read(path, ctx->file_flags, &s->file);
    if (err == 0)
        err = io_file_limit_block(s->file, CORE_HOST_ALIGN);
    if (err == 0 && check(s, &changed) < 0)
        err = base_error_restore(&changed);
    if (err < 0) {
        io_file_close(s->file);
        source_close(s->header);
        free(s);
        return err;
    }
    if (!io_file_direct(s->file))
        core_log(ctx, OFL_LOG_WARNING, "%s: %s", path, io_file_note(s->file));
    pthread_mutex_init(&s->gather_lock, NULL);
    pthread_mutex_lock(&ctx->lists_lock);
    s->next = ctx->sources;
    ctx->sources = s;
    pthread_mutex_unlock(&ctx->lists_lock);
    *out = s;
    return 0;
}

static int bound_run(struct ofl_ctx *ctx, void *arg)
{
    struct ofl_source *s = arg;

    for (struct ofl_tensor *t = ctx->engine.pager.tensors; t; t = t->next)
        if (t->source == s)
            return base_fail(-OFL_ESTATE, "close %s: %s is bound to it", s->header->path, t->name);
    return 0;
}

int ofl_source_close(struct ofl_source *s)
{
    int err;

    if (!s)
        return 0;
    if (core_refused(s->ctx, s))
        return -EINVAL;
    err = core_call(s->ctx, bound_run, s);
    if (err == 0)
        core_source_free(s);
    return err;
}

int ofl_source_check(const struct ofl_source *s)
{
    struct base_error changed;

    if (core_refused(s->ctx, s))
        return -EINVAL;
    source_state_refresh(io_file_fd(s->file, 0));
    return check(s, &changed) < 0 ? base_error_restore(&changed) : 0;
}

size_t ofl_source_count(const struct ofl_source *s)
{
    return core_refused(s->ctx, s) ? 0 : s->header->count;
}

static void describe(const struct source_entry *e, struct ofl_source_entry *out)
{
    *out = (struct ofl_source_entry){
        .name = e->name, .dtype = e->dtype, .dims = e->dims, .elems = e->elems, .bytes = e->bytes};
    memcpy(out->shape, e->shape, sizeof out->shape);
}

int ofl_source_entry_get(const struct ofl_source *s, size_t index, struct ofl_source_entry *out)
{
    if (core_refused(s->ctx, s, out))
        return -EINVAL;
    if (index >= s->header->count)
        return base_fail(-EINVAL, "%s: tensor %zu of %zu", s->header->path, index, s->header->count);
    describe(&s->header->entries[index], out);
    return 0;
}

static int missing(const struct ofl_source *s, const char *name)
{
    return base_fail(-ENOENT, "%s: there is no tensor %s in it", s->header->path, name);
}

int ofl_source_find(const struct ofl_source *s, const char *name, struct ofl_source_entry *out)
{
    const struct source_entry *e;

    if (core_refused(s->ctx, s, name, out))
        return -EINVAL;
    e = source_find(s->header, name);
    if (!e)
        return missing(s, name);
    describe(e, out);
    return 0;
}

size_t ofl_source_metadata_count(const struct ofl_source *s)
{
    return core_refused(s->ctx, s) ? 0 : s->header->metadata_count;
}

int ofl_source_metadata(const struct ofl_source *s, size_t index, struct ofl_metadata *out)
{
    if (core_refused(s->ctx, s, out))
        return -EINVAL;
    if (index >= s->header->metadata_count)
        return base_fail(-EINVAL, "%s: metadata %zu of %zu", s->header->path, index,
                         s->header->metadata_count);
    return base_sized_write(out, &s->header->metadata[index].is, sizeof *out, "get metadata: metadata");
}

int ofl_source_metadata_find(const struct ofl_source *s, const char *key, struct ofl_metadata *out)
{
    const struct source_metadata *m;

    if (core_refused(s->ctx, s, key, out))
        return -EINVAL;
    m = source_metadata_find(s->header, key);
    if (!m)
        return base_fail(-ENOENT, "%s: there is no key %s in it", s->header->path, key);
    return base_sized_write(out, &m->is, sizeof *out, "get metadata: metadata");
}

/* Elements offset .. offset + desc->elems - 1 of the entry. */
static int bind(struct ofl_source *s, const struct source_entry *e, uint64_t offset,
                struct ofl_tensor_desc *desc, struct ofl_tensor **out)
{
    const struct base_dtype *dtype = base_dtype(e->dtype);
    uint64_t file_off = e->offset + offset / dtype->block_elems * dtype->block_bytes;
    struct ofl_tensor *t;
    int err;

    desc->size = sizeof *desc;
    desc->dtype = e->dtype;
    err = core_tensor_make(s->ctx, desc, &file_off, &t);
    if (err < 0)
        return err;
    t->source = s;
    t->file = s->file;
    for (uint32_t i = 0; i < t->tiles_count; i++)
        t->tiles[i].stored = true;
    err = core_tensor_add(t);
    if (err < 0) {
        pager_tensor_free(t);
        return err;
    }
    *out = t;
    return 0;
}

int ofl_source_bind(struct ofl_source *s, const char *name, enum ofl_kind kind, struct ofl_tensor **out)
{
    struct ofl_tensor_desc desc = {.name = name, .kind = kind};
    const struct source_entry *e;

    if (out)
        *out = NULL;
    if (core_refused(s->ctx, s, name, out))
        return -EINVAL;
    e = source_find(s->header, name);
    if (!e)
        return missing(s, name);
    desc.elems = e->elems;
    return bind(s, e, 0, &desc, out);
}

int ofl_source_bind_part(struct ofl_source *s, const char *name, uint64_t offset_elems, uint64_t count_elems,
                         enum ofl_kind kind, struct ofl_tensor **out)
{
    struct ofl_tensor_desc desc = {.kind = kind, .elems = count_elems};
    const struct source_entry *e;
    char *part;
    int err;

    if (out)
        *out = NULL;
    if (core_refused(s->ctx, s, name, out))
        return -EINVAL;
    e = source_find(s->header, name);
    if (!e)
        return missing(s, name);
    if (offset_elems > e->elems || count_elems > e->elems - offset_elems)
        return base_fail(-EINVAL, "bind %s: %llu elements from %llu on: it has %llu", name, (ull)count_elems,
                         (ull)offset_elems, (ull)e->elems);
    if (offset_elems % base_dtype(e->dtype)->block_elems)
        return base_fail(-EINVAL, "bind %s: from element %llu on: not the first of a block of %s", name,
                         (ull)offset_elems, ofl_dtype_name(e->dtype));
    if (asprintf(&part, "%s[%llu:%llu]", name, (ull)offset_elems, (ull)(offset_elems + count_elems)) < 0)
        return base_fail(-ENOMEM, "bind %s: out of memory", name);
    desc.name = part;
    err = bind(s, e, offset_elems, &desc, out);
    free(part);
    return err;
}

/* ---- rows --------------------------------------------------------------------------- */

static int count_read(struct ofl_ctx *ctx, void *arg)
{
    ctx->engine.pager.stats.source_read_bytes += *(uint64_t *)arg;
    return 0;
}

static int gather(struct ofl_source *s, uint64_t offset, uint64_t row_bytes, const uint64_t *rows,
                  size_t count, void *out)
{
    struct ofl_ctx *ctx = s->ctx;
    uint64_t read_bytes = 0;
    int err = 0;

    pthread_mutex_lock(&s->gather_lock);
    if (!s->gather)
        err = io_gather_open(io_queue_engine(ctx->engine.io), &s->gather);
    if (err == 0)
        err = io_gather_rows(s->gather, s->file, offset, row_bytes, rows, count, out, &read_bytes);
    pthread_mutex_unlock(&s->gather_lock);
    core_call(ctx, count_read, &read_bytes);
    return err;
}

int ofl_source_gather(struct ofl_source *s, const char *name, const uint64_t *rows, size_t count, void *out)
{
    const struct source_entry *e; /* rows and out: of a list of no elements they may be NULL */
    struct base_error changed;
    uint64_t height;
    int err;

    if (core_refused(s->ctx, s, name))
        return -EINVAL;
    if (count && base_need(rows, out) < 0)
        return -EINVAL;
    e = source_find(s->header, name);
    if (!e)
        return missing(s, name);
    height = e->dims ? e->shape[0] : 1;
    for (size_t i = 0; i < count; i++)
        if (rows[i] >= height)
            return base_fail(-EINVAL, "gather %s: row %llu, at %llu of the list: it has %llu", name,
                             (ull)rows[i], (ull)i, (ull)height);
    if (count == 0)
        return 0;
    err = gather(s, e->offset, e->bytes / height, rows, count, out);
    if (err == 0 && check(s, &changed) < 0)
        err = base_error_restore(&changed);
    return err;
}
