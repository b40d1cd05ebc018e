/*
 * keep: a context's kept store: the public calls, and the thread that makes commits durable, since a flush may take as
 * long as it likes. Owns the program's note, and what is known of the commit that was resumed.
 *
 * Locks: keeper.lock is a leaf. The engine's is held by none that waits for the thread.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sized.h"
#include "liboffload/core/commit.h"
#include "liboffload/core/context.h"
#include "liboffload/core/slot.h"
#include "liboffload/core/tile.h"

#define NAME_MOST 65535u

struct core_keeper {
    struct kept *kept;
    struct ofl_ctx *ctx;
    /* step thread, or under the engine's lock */
    bool resumed;
    void *note; /* of the commit in flight, or the last one */
    uint64_t note_bytes;
    /* The job: made under the engine's lock, then the thread's until its op has come back. */
    struct kept_tensor *tensors;
    uint32_t count;
    _Atomic uint64_t begun_ns, spent_ns;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct core_op *job;
    bool quit;
    bool was; /* kept_state() is still what was committed before this context */
    pthread_t thread;
    bool runs;
};

/* ---- the thread --------------------------------------------------------- */

static void run_job(struct core_keeper *k, struct core_op *op)
{
    struct core_engine *e = &k->ctx->engine;
    struct pager *p = &e->pager;

    op->code = kept_commit(k->kept, k->tensors, k->count, p->tile_bytes, k->note, k->note_bytes);
    if (op->code < 0)
        base_error_save(&p->commit.error, op->code); /* nobody else looks at it before op is back */
    else
        k->spent_ns += base_now_ns() - k->begun_ns;
    free(k->tensors);
    k->tensors = NULL;
    engine_post(e, op);
}

static void *keeper(void *arg)
{
    struct core_keeper *k = arg;

    pthread_setname_np(pthread_self(), "ofl-commit");
    pthread_mutex_lock(&k->lock);
    for (;;) {
        struct core_op *op = k->job;

        if (op) {
            k->job = NULL;
            k->was = false;
            pthread_mutex_unlock(&k->lock);
            run_job(k, op);
            pthread_mutex_lock(&k->lock);
        } else if (k->quit) {
            break;
        } else {
            pthread_cond_wait(&k->wake, &k->lock);
        }
    }
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

/* What the commit has of t. */
static struct kept_tensor describe(const struct ofl_tensor *t)
{
    return (struct kept_tensor){.name = t->name,
                                .kind = t->kind,
                                .dtype = t->dtype,
                                .elems = t->elems,
                                .bytes = t->bytes,
                                .tile_bytes = t->tile_bytes,
                                .tiles_count = t->tiles_count,
                                .offset = t->file_off,
                                .slot_bytes = t->keep->slot_bytes,
                                .tiles = t->keep->next};
}

/* The pager's. Under the engine's lock. */
static void env_commit(void *arg, struct core_op *op)
{
    struct core_engine *e = arg;
    struct core_keeper *k = ((struct ofl_ctx *)((char *)e - offsetof(struct ofl_ctx, engine)))->keeper;
    struct pager *p = &e->pager;

    k->count = 0;
    k->tensors = calloc(p->commit.tensors + 1, sizeof *k->tensors);
    if (!k->tensors) {
        base_error_set(&p->commit.error, -ENOMEM, "commit %u tensors: out of memory", p->commit.tensors);
        op->code = -ENOMEM;
        engine_post(e, op);
        return;
    }
    for (const struct ofl_tensor *t = p->tensors; t; t = t->next)
        if (t->keep && t->keep->part)
            k->tensors[k->count++] = describe(t);
    pthread_mutex_lock(&k->lock);
    k->job = op;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->lock);
}

/* ---- life --------------------------------------------------------------- */

static int start_thread(struct core_keeper *k)
{
    sigset_t all, old;
    int err;

    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = -pthread_create(&k->thread, NULL, keeper, k);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err < 0)
        return base_fail_errno(err, "open context: start the thread for commits");
    k->runs = true;
    return 0;
}

int core_keep_open(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    struct kept_config config = {.dir = c->keep_dir,
                                 .bytes = c->keep_bytes,
                                 .file_flags = ctx->file_flags,
                                 .in_place = c->flags & OFL_KEEP_IN_PLACE,
                                 .memory_bytes = ctx->memory_left,
                                 .memory_text = ctx->memory_text,
                                 .written = &ctx->written};
    struct core_keeper *k = calloc(1, sizeof *k);
    int err;

    if (!k)
        return base_fail(-ENOMEM, "open context: out of memory");
    k->ctx = ctx;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->wake, NULL);
    ctx->keeper = k;
    err = kept_open(&config, &k->kept);
    if (err < 0)
        return err;
    if (kept_warning(k->kept)[0])
        core_log(ctx, OFL_LOG_WARNING, "kept store in %s: %s", c->keep_dir, kept_warning(k->kept));
    ctx->memory_left -= kept_memory(k->kept) < ctx->memory_left ? kept_memory(k->kept) : ctx->memory_left;
    ctx->engine.pager.env.commit = env_commit;
    ctx->engine.pager.commit.durable = kept_state(k->kept)->generation;
    k->was = kept_state(k->kept)->generation > 0;
    return start_thread(k);
}

void core_keep_close(struct ofl_ctx *ctx)
{
    struct core_keeper *k = ctx->keeper;

    if (!k)
        return;
    if (k->runs) {
        pthread_mutex_lock(&k->lock);
        k->quit = true;
        pthread_cond_signal(&k->wake);
        pthread_mutex_unlock(&k->lock);
        pthread_join(k->thread, NULL);
    }
    kept_close(k->kept, !ctx->engine.pager.commit.dirty);
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->lock);
    free(k->note);
    free(k);
    ctx->keeper = NULL;
}

struct kept *core_kept(const struct ofl_ctx *ctx)
{
    return ctx->keeper ? ctx->keeper->kept : NULL;
}

void core_keep_stats(struct ofl_ctx *ctx, struct ofl_stats *s)
{
    if (!ctx->keeper)
        return;
    s->commit_ns = ctx->keeper->spent_ns;
    s->kept_reserved_bytes = kept_reserved(ctx->keeper->kept);
}

/* ---- tensors ------------------------------------------------------------ */

/* As docs/format.md has it. */
static bool name_is_good(const char *name)
{
    size_t n = 0;

    while (name[n] && (unsigned char)name[n] >= 0x20 && name[n] != 0x7F)
        n++;
    return n > 0 && n <= NAME_MOST && !name[n];
}

int core_keep_check(struct ofl_ctx *ctx, const struct ofl_tensor *t)
{
    const struct core_keeper *k = ctx->keeper;
    uint64_t generation = ctx->engine.pager.commit.durable;

    if (!k)
        return base_fail(-OFL_ESTATE,
                         "create %s: it is to be kept, but there is no kept store: see ofl_config.keep_dir",
                         t->name);
    if (!name_is_good(t->name))
        return base_fail(-EINVAL,
                         "create %.200s: a kept tensor's name has 1 to %u bytes, and no control characters",
                         t->name, NAME_MOST);
    if (commit_find(&ctx->engine.pager, t->name))
        return base_fail(-EEXIST, "create %s: a kept tensor of this name is there already", t->name);
    if (generation && !k->resumed && ctx->engine.pager.stats.commits == 0)
        return base_fail(-EEXIST,
                         "create %s: the store in %s holds commit %llu: take it up with ofl_resume, or give "
                         "another directory",
                         t->name, kept_dir(k->kept), (ull)generation);
    return 0;
}

/* Bytes [at, at + count) of what was kept, as they lie in the file: whole blocks are read, since it may be direct. */
static int read_kept(struct io_file *f, uint64_t at, uint64_t count, uint8_t *buf, uint64_t *skip)
{
    uint64_t from = at / KEPT_BLOCK * KEPT_BLOCK,
             end = (at + count + KEPT_BLOCK - 1) / KEPT_BLOCK * KEPT_BLOCK, done = 0;

    *skip = at - from;
    while (done < *skip + count) {
        ssize_t got = pread(io_file_fd(f, 0), buf + done, (size_t)(end - from - done), (off_t)(from + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return base_fail_errno(got < 0 ? -errno : -EIO, "read %s: offset %llu, %llu bytes",
                                   io_file_path(f), (ull)from, (ull)(end - from));
        done += (uint64_t)got / KEPT_BLOCK * KEPT_BLOCK;
        if (got % KEPT_BLOCK)
            done += (uint64_t)got % KEPT_BLOCK; /* the end of the file */
    }
    return 0;
}

/* Tiles of ours inside tile i of what was kept: its seal is checked, and theirs are made. */
static int cut_tile(struct ofl_tensor *t, const struct kept_tensor *was, uint32_t i, struct io_file *f,
                    uint8_t *buf)
{
    const struct kept_tile *old = &was->tiles[i];
    uint64_t start = i * was->tile_bytes, skip = 0;
    uint64_t bytes = was->bytes - start < was->tile_bytes ? was->bytes - start : was->tile_bytes;
    int err;

    if (old->there) {
        err = read_kept(f, was->offset + (old->slot ? was->slot_bytes : 0) + start, bytes, buf, &skip);
        if (err < 0)
            return err;
        if (store_seal(buf + skip, bytes) != old->seal)
            return base_fail(
                -OFL_ECHECKSUM,
                "create %s: tile %u, %llu bytes, of commit %llu in %s: its bytes are not those that "
                "were committed: see ofl-bench store verify",
                t->name, i, (ull)bytes, (ull)old->generation, io_file_path(f));
    }
    for (uint64_t at = 0; at < bytes; at += t->tile_bytes) {
        struct kept_tile *new = &t->keep->whole[(start + at) / t->tile_bytes];
        uint64_t count = bytes - at < t->tile_bytes ? bytes - at : t->tile_bytes;

        *new = *old;
        new->seal = old->there ? store_seal(buf + skip + at, count) : 0;
    }
    return 0;
}

/* The store was made with larger tiles than these budgets carry. */
static int cut_smaller(struct ofl_tensor *t, const struct kept_tensor *was, struct io_file *f)
{
    void *buf;
    int err = 0;

    if (was->tile_bytes < t->tile_bytes || was->tile_bytes % t->tile_bytes)
        return base_fail(
            -EINVAL,
            "create %s: it was kept in tiles of %llu bytes, which can't be cut into those of %llu "
            "bytes that these budgets need: raise the host budget",
            t->name, (ull)was->tile_bytes, (ull)t->tile_bytes);
    if (posix_memalign(&buf, KEPT_BLOCK, (size_t)(was->tile_bytes + 2 * KEPT_BLOCK)) != 0)
        return base_fail(-ENOMEM, "create %s: out of memory", t->name);
    for (uint32_t i = 0; i < was->tiles_count && err == 0; i++)
        err = cut_tile(t, was, i, f, buf);
    free(buf);
    return err;
}

static int take_up(struct ofl_tensor *t, const struct kept_tensor *was, struct io_file *f)
{
    int err = 0;

    if (was->dtype != t->dtype || was->elems != t->elems)
        return base_fail(
            -EINVAL, "create %s: %llu elements of %s: the commit that was resumed has %llu of %s", t->name,
            (ull)t->elems, ofl_dtype_name(t->dtype), (ull)was->elems, ofl_dtype_name(was->dtype));
    if (was->tile_bytes == t->tile_bytes)
        memcpy(t->keep->whole, was->tiles, t->tiles_count * sizeof *was->tiles);
    else
        err = cut_smaller(t, was, f);
    if (err < 0)
        return err;
    t->file_off = was->offset;
    slot_resume(t);
    return 0;
}

int core_keep_prepare(struct ofl_tensor *t)
{
    struct core_keeper *k = t->ctx->keeper;
    const struct kept_tensor *was;
    int err = 0;

    if (!k)
        return 0; /* as it will be told */
    pthread_mutex_lock(&k->lock);
    was = k->was && k->resumed ? kept_find(k->kept, t->name) : NULL;
    if (was)
        err = take_up(t, was, kept_file(k->kept));
    pthread_mutex_unlock(&k->lock);
    return err;
}

int ofl_tensor_resumed(const struct ofl_tensor *t)
{
    if (core_refused(t->ctx, t))
        return -EINVAL;
    return t->keep && t->keep->resumed;
}

/* ---- the calls ---------------------------------------------------------- */

static int no_store(const char *what)
{
    return base_fail(-OFL_ESTATE, "%s: the context has no kept store: see ofl_config.keep_dir", what);
}

static int resume_run(struct ofl_ctx *ctx, void *arg)
{
    (void)arg;
    if (ctx->engine.pager.kept_names.root)
        return base_fail(-OFL_ESTATE, "resume: there are kept tensors already");
    ctx->keeper->resumed = true;
    return 0;
}

int ofl_resume(struct ofl_ctx *ctx, struct ofl_resumed *out)
{
    const struct kept_state *s;
    struct core_keeper *k;
    struct ofl_resumed r;
    bool was;
    int err;

    if (core_refused(ctx, ctx, out))
        return -EINVAL;
    k = ctx->keeper;
    if (!k)
        return no_store("resume");
    s = kept_state(k->kept);
    pthread_mutex_lock(&k->lock);
    was = k->was;
    pthread_mutex_unlock(&k->lock);
    if (s->generation == 0)
        return base_fail(-ENOENT, "resume: nothing was committed in %s", kept_dir(k->kept));
    if (!was)
        return base_fail(-OFL_ESTATE, "resume: the context has commits of its own");
    err = core_call(ctx, resume_run, NULL);
    if (err < 0)
        return err;
    r = (struct ofl_resumed){.generation = s->generation,
                             .tensors = s->count,
                             .bytes = s->bytes,
                             .note = s->note,
                             .note_bytes = s->note_bytes};
    return base_sized_write(out, &r, sizeof r, "resume: struct ofl_resumed");
}

static int commit_run(struct ofl_ctx *ctx, void *arg)
{
    struct core_keeper *k = ctx->keeper;
    struct core_keeper *fresh = arg;
    int err = pager_commit(&ctx->engine.pager);

    if (err < 0)
        return err;
    free(k->note);
    k->note = fresh->note;
    k->note_bytes = fresh->note_bytes;
    k->begun_ns = base_now_ns();
    return 0;
}

static const struct core_hook *open_hook(struct ofl_ctx *ctx)
{
    const struct core_hook *h;

    pthread_mutex_lock(&ctx->lists_lock);
    for (h = ctx->hooks; h && !h->open(h); h = h->next)
        ;
    pthread_mutex_unlock(&ctx->lists_lock);
    return h;
}

int ofl_commit(struct ofl_ctx *ctx, const void *note, uint64_t note_bytes)
{
    struct core_keeper fresh = {.note_bytes = note_bytes};
    int err;

    if (core_refused(ctx, ctx))
        return -EINVAL;
    if (!ctx->keeper)
        return no_store("commit");
    if (note_bytes > OFL_NOTE_MAX || (note_bytes && !note))
        return base_fail(-EINVAL, "commit: a note of %llu bytes: at most %u", (ull)note_bytes, OFL_NOTE_MAX);
    if (open_hook(ctx))
        return base_fail(-OFL_ESTATE, "commit: an optimizer step is open");
    fresh.note = malloc(note_bytes + 1);
    if (!fresh.note)
        return base_fail(-ENOMEM, "commit: a note of %llu bytes: out of memory", (ull)note_bytes);
    if (note_bytes)
        memcpy(fresh.note, note, note_bytes);
    err = core_call(ctx, commit_run, &fresh);
    if (err < 0)
        free(fresh.note);
    return err;
}

static int wait_run(struct ofl_ctx *ctx, void *arg)
{
    int err = pager_commit_over(&ctx->engine.pager);

    *(uint64_t *)arg = ctx->engine.pager.commit.durable;
    return err;
}

int ofl_commit_wait(struct ofl_ctx *ctx, uint64_t *generation)
{
    uint64_t last = 0;
    int err;

    if (core_refused(ctx, ctx))
        return -EINVAL;
    if (!ctx->keeper)
        return no_store("commit");
    err = core_call(ctx, wait_run, &last);
    if (generation)
        *generation = last;
    return err;
}
