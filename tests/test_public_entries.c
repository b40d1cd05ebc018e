/*
 * What every public call does with a caller's mistake.
 *  - A NULL where none may be is -EINVAL with a sentence that names it, of each pointer of each call; destroyers take
 *    it for nothing to do.
 *  - A forked child gets -EINVAL with a sentence from each call on what its parent opened, takes nothing from the
 *    parent, and can open a context of its own.
 *  - Absurd numbers are refused with them, before anything is taken. One table has all public functions of the headers.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "include/offload_cuda.h"
#include "include/offload_estimate.h"
#include "include/offload_landing.h"
#include "include/offload_metadata.h"
#include "include/offload_update.h"
#include "include/offload_writer.h"
#include "tests/core_fixture.h"
#include "tests/model_fixture.h"

#define MIB (1ull << 20)

/* ---- the table ------------------------------------------------------------ */

/* What calls are given: the objects of a context, a text, a struct to read and one to write, and memory. */
enum { CTX, TENSOR, GRAD, STREAM, SOURCE, OPTIMIZER, TEXT, IN, OUT, MORE, POINTERS };

struct call {
    const char *name;
    int (*run)(void *const *p);
    unsigned needs;  /* pointers that must not be NULL, as bits */
    unsigned object; /* of these, the one of a context; 0: none */
};

/* Of calls that have no code to return: what they return where they can't is nothing. */
static int nothing(int empty)
{
    return empty ? -EINVAL : 0;
}

#define CALL(name, ...)                                                                                      \
    static int run_##name(void *const *p)                                                                    \
    {                                                                                                        \
        (void)p;                                                                                             \
        return name(__VA_ARGS__);                                                                            \
    }
#define CALL_EMPTY(name, ...)                                                                                \
    static int run_##name(void *const *p)                                                                    \
    {                                                                                                        \
        (void)p;                                                                                             \
        return nothing(!name(__VA_ARGS__));                                                                  \
    }

static void no_work(void *arg)
{
    (void)arg;
}

CALL(ofl_open, p[IN], p[OUT])
CALL(ofl_close, p[CTX])
CALL(ofl_tensor_create, p[CTX], p[IN], p[OUT])
CALL(ofl_homes_check, p[IN], p[MORE], 1)
CALL(ofl_tensor_destroy, p[TENSOR])
CALL(ofl_tensor_info_get, p[TENSOR], p[OUT])
CALL(ofl_tensor_read, p[TENSOR], 0, p[OUT], 4)
CALL(ofl_tensor_write, p[TENSOR], 0, p[IN], 4)
CALL(ofl_tensor_write_async, p[TENSOR], 0, p[IN], 4, p[STREAM])
CALL(ofl_resume, p[CTX], p[OUT])
CALL(ofl_tensor_resumed, p[TENSOR])
CALL(ofl_commit, p[CTX], NULL, 0)
CALL(ofl_commit_wait, p[CTX], NULL)
CALL(ofl_source_open, p[CTX], p[TEXT], p[OUT])
CALL(ofl_source_close, p[SOURCE])
CALL(ofl_source_check, p[SOURCE])
CALL_EMPTY(ofl_source_count, p[SOURCE])
CALL(ofl_source_entry_get, p[SOURCE], 0, p[OUT])
CALL(ofl_source_find, p[SOURCE], p[TEXT], p[OUT])
CALL(ofl_source_bind, p[SOURCE], p[TEXT], OFL_KIND_WEIGHT, p[OUT])
CALL(ofl_source_gather, p[SOURCE], p[TEXT], p[IN], 1, p[OUT])
CALL(ofl_source_bind_part, p[SOURCE], p[TEXT], 0, 1, OFL_KIND_WEIGHT, p[OUT])
CALL_EMPTY(ofl_source_metadata_count, p[SOURCE])
CALL(ofl_source_metadata, p[SOURCE], 0, p[OUT])
CALL(ofl_source_metadata_find, p[SOURCE], p[TEXT], p[OUT])
CALL(ofl_stream_create, p[CTX], p[OUT])
CALL(ofl_stream_sync, p[STREAM])
CALL(ofl_stream_launch, p[STREAM], p[IN] ? no_work : NULL, NULL)
CALL(ofl_stream_label, p[STREAM], NULL)
CALL_EMPTY(ofl_stream_cuda, p[STREAM])
CALL_EMPTY(ofl_cuda_context, p[CTX])
CALL_EMPTY(ofl_cuda_symbol, p[CTX], p[TEXT])
CALL(ofl_acquire, p[CTX], p[IN], 1, p[STREAM])
CALL(ofl_release, p[CTX], p[IN], 1, p[STREAM])
CALL(ofl_step_begin, p[CTX], p[TEXT])
CALL(ofl_step_end, p[CTX])
CALL(ofl_hint, p[CTX], p[IN], 1, OFL_HINT_NEXT)
CALL(ofl_resident, p[TENSOR], 0, 0, p[OUT])
CALL(ofl_optimizer_create, p[CTX], p[OUT])
CALL(ofl_optimizer_method, p[OPTIMIZER], OFL_METHODS)
CALL(ofl_optimizer_destroy, p[OPTIMIZER])
CALL(ofl_optimizer_bind, p[OPTIMIZER], p[TENSOR], p[GRAD])
CALL(ofl_optimizer_decay, p[OPTIMIZER], p[TENSOR], 1)
CALL(ofl_optimizer_rates, p[OPTIMIZER], p[TENSOR], NULL)
CALL(ofl_optimizer_reduce, p[OPTIMIZER], NULL, NULL)
CALL(ofl_optimizer_state, p[OPTIMIZER], p[TENSOR], OFL_STATE_EXP_AVG, p[OUT])
CALL(ofl_optimizer_begin, p[OPTIMIZER], p[IN])
CALL(ofl_optimizer_apply, p[OPTIMIZER], p[TENSOR])
CALL(ofl_optimizer_end, p[OPTIMIZER])
CALL(ofl_optimizer_norm, p[OPTIMIZER], p[OUT])
CALL(ofl_stats_get, p[CTX], p[OUT])
CALL(ofl_path_stats_get, p[CTX], 0, p[OUT])
CALL(ofl_stall_get, p[CTX], 0, p[OUT])
CALL(ofl_stall_clear, p[CTX])
CALL(ofl_timeline_open, p[CTX], p[TEXT])
CALL(ofl_timeline_close, p[CTX], NULL, NULL)
CALL(ofl_dtype_info_get, OFL_F32, p[OUT])
CALL(ofl_device_info_get, "host", p[OUT])
CALL(ofl_place_get, p[TEXT], p[OUT])
CALL(ofl_place_rates_get, p[TEXT], 0, p[OUT])
CALL(ofl_machine_find, p[TEXT], p[OUT])
CALL(ofl_machine_at, 0, p[OUT])
CALL(ofl_machine_load, p[TEXT], p[OUT])
CALL(ofl_machine_fit, p[OUT], p[IN], 1)
CALL(ofl_estimate_get, p[IN], p[MORE], NULL, p[OUT])
CALL(ofl_estimate_ways_get, p[IN], p[MORE], NULL, p[OUT])
CALL(ofl_landing_run, p[IN])
CALL(ofl_landing_launch, p[STREAM], p[IN])
CALL(ofl_landing_matrix_run, p[IN])
CALL(ofl_landing_matrix_launch, p[STREAM], p[IN])
CALL(ofl_update_run, p[IN], p[MORE])
CALL(ofl_update_sum_squares, OFL_UPDATE_BEST, p[IN], 1, p[OUT])
CALL(ofl_writer_open, p[TEXT], p[IN], 1, NULL, p[OUT])
CALL(ofl_writer_put, p[MORE], p[IN], 8)
CALL(ofl_writer_put_tensor, p[MORE], p[TENSOR])
CALL(ofl_writer_finish, p[MORE])
/* Without pointers: what can't be. */
CALL_EMPTY(ofl_dtype_bytes, OFL_DTYPES)
CALL_EMPTY(ofl_optimizer_bytes, OFL_ADAMW, OFL_F16, 1)
CALL_EMPTY(ofl_dtype_name, OFL_DTYPES)
CALL(ofl_landing_find, OFL_DTYPES, OFL_LANDING_BEST)
CALL(ofl_update_find, OFL_UPDATE_FORMS)
CALL_EMPTY(ofl_error)
CALL_EMPTY(ofl_strerror, 12345678)
CALL_EMPTY(ofl_version)
CALL_EMPTY(ofl_device_footprint, 1)

static int run_ofl_stream_destroy(void *const *p)
{
    ofl_stream_destroy(p[STREAM]);
    return -EINVAL;
}

static int run_ofl_writer_destroy(void *const *p)
{
    (void)p;
    ofl_writer_destroy(NULL);
    return 0;
}

#define P(x) (1u << (x))
#define ROW(name, object)                                                                                    \
    {                                                                                                        \
#name, run_##name, 0, object                                                                         \
    }
#define ROW_NEEDS(name, object, needs)                                                                       \
    {                                                                                                        \
#name, run_##name, (object) | (needs), object                                                        \
    }

static const struct call calls[] = {
    ROW_NEEDS(ofl_open, 0, P(IN) | P(OUT)),
    ROW(ofl_close, P(CTX)),
    ROW_NEEDS(ofl_tensor_create, P(CTX), P(IN) | P(OUT)),
    ROW_NEEDS(ofl_homes_check, 0, P(IN) | P(MORE)),
    ROW(ofl_tensor_destroy, P(TENSOR)),
    ROW_NEEDS(ofl_tensor_info_get, P(TENSOR), P(OUT)),
    ROW_NEEDS(ofl_tensor_read, P(TENSOR), P(OUT)),
    ROW_NEEDS(ofl_tensor_write, P(TENSOR), P(IN)),
    ROW_NEEDS(ofl_tensor_write_async, P(TENSOR), P(IN) | P(STREAM)),
    ROW_NEEDS(ofl_resume, P(CTX), P(OUT)),
    ROW_NEEDS(ofl_tensor_resumed, P(TENSOR), 0),
    ROW_NEEDS(ofl_commit, P(CTX), 0),
    ROW_NEEDS(ofl_commit_wait, P(CTX), 0),
    ROW_NEEDS(ofl_source_open, P(CTX), P(TEXT) | P(OUT)),
    ROW(ofl_source_close, P(SOURCE)),
    ROW_NEEDS(ofl_source_check, P(SOURCE), 0),
    ROW_NEEDS(ofl_source_count, P(SOURCE), 0),
    ROW_NEEDS(ofl_source_entry_get, P(SOURCE), P(OUT)),
    ROW_NEEDS(ofl_source_find, P(SOURCE), P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_source_bind, P(SOURCE), P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_source_gather, P(SOURCE), P(TEXT) | P(IN) | P(OUT)),
    ROW_NEEDS(ofl_source_bind_part, P(SOURCE), P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_source_metadata_count, P(SOURCE), 0),
    ROW_NEEDS(ofl_source_metadata, P(SOURCE), P(OUT)),
    ROW_NEEDS(ofl_source_metadata_find, P(SOURCE), P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_stream_create, P(CTX), P(OUT)),
    ROW(ofl_stream_destroy, P(STREAM)),
    ROW_NEEDS(ofl_stream_sync, P(STREAM), 0),
    ROW_NEEDS(ofl_stream_launch, P(STREAM), P(IN)),
    ROW_NEEDS(ofl_stream_label, P(STREAM), 0),
    ROW_NEEDS(ofl_stream_cuda, P(STREAM), 0),
    ROW_NEEDS(ofl_cuda_context, P(CTX), 0),
    ROW_NEEDS(ofl_cuda_symbol, P(CTX), P(TEXT)),
    ROW_NEEDS(ofl_acquire, P(CTX), P(IN) | P(STREAM)),
    ROW_NEEDS(ofl_release, P(CTX), P(IN) | P(STREAM)),
    ROW_NEEDS(ofl_step_begin, P(CTX), P(TEXT)),
    ROW_NEEDS(ofl_step_end, P(CTX), 0),
    ROW_NEEDS(ofl_hint, P(CTX), P(IN)),
    ROW_NEEDS(ofl_resident, P(TENSOR), P(OUT)),
    ROW_NEEDS(ofl_optimizer_create, P(CTX), P(OUT)),
    ROW_NEEDS(ofl_optimizer_method, P(OPTIMIZER), 0),
    ROW(ofl_optimizer_destroy, P(OPTIMIZER)),
    ROW_NEEDS(ofl_optimizer_bind, P(OPTIMIZER), P(TENSOR) | P(GRAD)),
    ROW_NEEDS(ofl_optimizer_decay, P(OPTIMIZER), P(TENSOR)),
    ROW_NEEDS(ofl_optimizer_rates, P(OPTIMIZER), P(TENSOR)),
    ROW_NEEDS(ofl_optimizer_reduce, P(OPTIMIZER), 0),
    ROW_NEEDS(ofl_optimizer_state, P(OPTIMIZER), P(TENSOR) | P(OUT)),
    ROW_NEEDS(ofl_optimizer_begin, P(OPTIMIZER), P(IN)),
    ROW_NEEDS(ofl_optimizer_apply, P(OPTIMIZER), P(TENSOR)),
    ROW_NEEDS(ofl_optimizer_end, P(OPTIMIZER), 0),
    ROW_NEEDS(ofl_optimizer_norm, P(OPTIMIZER), P(OUT)),
    ROW_NEEDS(ofl_stats_get, P(CTX), P(OUT)),
    ROW_NEEDS(ofl_path_stats_get, P(CTX), P(OUT)),
    ROW_NEEDS(ofl_stall_get, P(CTX), P(OUT)),
    ROW_NEEDS(ofl_stall_clear, P(CTX), 0),
    ROW_NEEDS(ofl_timeline_open, P(CTX), P(TEXT)),
    ROW_NEEDS(ofl_timeline_close, P(CTX), 0),
    ROW_NEEDS(ofl_dtype_info_get, 0, P(OUT)),
    ROW_NEEDS(ofl_device_info_get, 0, P(OUT)),
    ROW_NEEDS(ofl_place_get, 0, P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_place_rates_get, 0, P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_machine_find, 0, P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_machine_at, 0, P(OUT)),
    ROW_NEEDS(ofl_machine_load, 0, P(TEXT) | P(OUT)),
    ROW_NEEDS(ofl_machine_fit, 0, P(OUT) | P(IN)),
    ROW_NEEDS(ofl_estimate_get, 0, P(IN) | P(MORE) | P(OUT)),
    ROW_NEEDS(ofl_estimate_ways_get, 0, P(IN) | P(MORE) | P(OUT)),
    ROW_NEEDS(ofl_landing_run, 0, P(IN)),
    ROW_NEEDS(ofl_landing_launch, P(STREAM), P(IN)),
    ROW_NEEDS(ofl_landing_matrix_run, 0, P(IN)),
    ROW_NEEDS(ofl_landing_matrix_launch, P(STREAM), P(IN)),
    ROW_NEEDS(ofl_update_run, 0, P(IN) | P(MORE)),
    ROW_NEEDS(ofl_update_sum_squares, 0, P(IN) | P(OUT)),
    ROW_NEEDS(ofl_writer_open, 0, P(TEXT) | P(IN) | P(OUT)),
    ROW_NEEDS(ofl_writer_put, 0, P(MORE) | P(IN)),
    {"ofl_writer_put_tensor", run_ofl_writer_put_tensor, P(MORE) | P(TENSOR), P(TENSOR)},
    ROW_NEEDS(ofl_writer_finish, 0, P(MORE)),
    ROW(ofl_writer_destroy, 0),
    ROW(ofl_dtype_bytes, 0),
    ROW(ofl_optimizer_bytes, 0),
    ROW(ofl_dtype_name, 0),
    ROW(ofl_landing_find, 0),
    ROW(ofl_update_find, 0),
    ROW(ofl_error, 0),
    ROW(ofl_strerror, 0),
    ROW(ofl_version, 0),
    ROW(ofl_device_footprint, 0),
};

#define CALLS (sizeof calls / sizeof calls[0])

/* ---- what the headers declare ------------------------------------------------ */

static const struct call *find(const char *name, size_t length)
{
    for (size_t i = 0; i < CALLS; i++)
        if (strlen(calls[i].name) == length && memcmp(calls[i].name, name, length) == 0)
            return &calls[i];
    return NULL;
}

/* Of one header: how many of its functions the table has; fails for one that it lacks. */
static size_t count_header(const char *path)
{
    char *text, *at;
    size_t bytes, count = 0;
    unsigned char *got = files_get(path, &bytes);

    text = at = malloc(bytes + 1);
    assert_non_null(text);
    memcpy(text, got, bytes);
    text[bytes] = '\0';
    free(got);
    while ((at = strstr(at, "\nOFL_API "))) {
        char *end = strchr(at + 1, '('), *name = end;

        assert_non_null(end);
        while (name[-1] != ' ' && name[-1] != '*')
            name--;
        if (!find(name, (size_t)(end - name)))
            fail_msg("%s: the table of this test has no %.*s", path, (int)(end - name), name);
        count++;
        at = end;
    }
    free(text);
    return count;
}

static void every_public_function_is_here(void **state)
{
    static const char *const headers[] = {"include/offload.h",          "include/offload_cuda.h",
                                          "include/offload_estimate.h", "include/offload_landing.h",
                                          "include/offload_metadata.h", "include/offload_update.h",
                                          "include/offload_writer.h"};
    size_t count = 0;

    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++)
        count += count_header(headers[i]);
    assert_int_equal(count, CALLS);
}

/* ---- a context with one of everything ------------------------------------------ */

struct world {
    void *p[POINTERS];
    char *path;
    struct ofl_lease lease;
    /* Large enough for any struct; only its size is set. */
    union {
        size_t size;
        char bytes[4096];
    } in, more, out;
};

static struct ofl_tensor *make_tensor(struct ofl_ctx *ctx, const char *name)
{
    struct ofl_tensor_desc desc = {.size = sizeof desc, .name = name, .dtype = OFL_F32, .elems = 1000};
    struct ofl_tensor *t;

    if (ofl_tensor_create(ctx, &desc, &t) < 0)
        fail_msg("%s", ofl_error());
    return t;
}

static struct world *world_open(const char *dir)
{
    const uint64_t shape[] = {8};
    struct world *w = calloc(1, sizeof *w);
    json_t *tensors = json_object();
    struct ofl_source *source;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_ctx *ctx = fixture_ctx_open(dir, MIB);

    assert_non_null(w);
    json_object_set_new(tensors, "a", files_tensor("F32", 1, shape));
    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    w->path = files_path(dir, "model.safetensors");
    assert_int_equal(ofl_source_open(ctx, w->path, &source), 0);
    assert_int_equal(ofl_stream_create(ctx, &stream), 0);
    assert_int_equal(ofl_optimizer_create(ctx, &optimizer), 0);
    w->in.size = w->more.size = w->out.size = sizeof w->in;
    w->p[CTX] = ctx;
    w->p[TENSOR] = make_tensor(ctx, "weight");
    w->p[GRAD] = make_tensor(ctx, "gradient");
    w->p[STREAM] = stream;
    w->p[SOURCE] = source;
    w->p[OPTIMIZER] = optimizer;
    w->p[TEXT] = w->path;
    w->p[IN] = &w->in;
    w->p[MORE] = &w->more;
    w->p[OUT] = &w->out;
    return w;
}

static void world_close(struct world *w)
{
    assert_int_equal(fixture_ctx_close(w->p[CTX]), 0);
    unlink(w->path);
    free(w->path);
    free(w);
}

/* ---- NULL ------------------------------------------------------------------- */

static void null_is_refused(void **state)
{
    struct world *w = world_open(*state);
    size_t tried = 0;

    for (size_t i = 0; i < CALLS; i++) {
        for (unsigned at = 0; at < POINTERS; at++) {
            void *p[POINTERS];
            int err;

            if (!(calls[i].needs & P(at)))
                continue;
            memcpy(p, w->p, sizeof p);
            p[at] = NULL;
            assert_int_equal(ofl_landing_find(OFL_DTYPES, OFL_LANDING_BEST), -EINVAL); /* another sentence */
            err = calls[i].run(p);
            if (err != -EINVAL || !strstr(ofl_error(), " is NULL"))
                fail_msg("%s, pointer %u NULL: %d, %s", calls[i].name, at, err, ofl_error());
            tried++;
        }
    }
    assert_true(tried > 90);
    world_close(w);
}

static void destroyers_take_null(void **state)
{
    (void)state;
    assert_int_equal(ofl_close(NULL), 0);
    assert_int_equal(ofl_tensor_destroy(NULL), 0);
    assert_int_equal(ofl_source_close(NULL), 0);
    assert_int_equal(ofl_optimizer_destroy(NULL), 0);
    ofl_stream_destroy(NULL);
}

/* What may be left out: bytes of none, and what a call's comment says. */
static void null_that_may_be(void **state)
{
    struct world *w = world_open(*state);

    assert_int_equal(ofl_tensor_read(w->p[TENSOR], 0, NULL, 0), 0);
    assert_int_equal(ofl_tensor_write(w->p[TENSOR], 0, NULL, 0), 0);
    assert_int_equal(ofl_acquire(w->p[CTX], NULL, 0, w->p[STREAM]), 0);
    assert_int_equal(ofl_release(w->p[CTX], NULL, 0, w->p[STREAM]), 0);
    assert_int_equal(ofl_hint(w->p[CTX], NULL, 0, OFL_HINT_NEXT), 0);
    assert_int_equal(ofl_stream_label(w->p[STREAM], NULL), 0);
    world_close(w);
}

/* ---- another context's, another process's ---------------------------------------- */

static void objects_of_another_context(void **state)
{
    struct world *w = world_open(*state);
    struct ofl_ctx *other = fixture_ctx_open(*state, MIB);
    struct ofl_tensor *t = make_tensor(other, "other");
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_READ};

    assert_int_equal(ofl_acquire(w->p[CTX], &lease, 1, w->p[STREAM]), -EINVAL);
    assert_non_null(strstr(ofl_error(), "another context"));
    assert_int_equal(ofl_acquire(other, &lease, 1, w->p[STREAM]), -EINVAL);
    assert_int_equal(ofl_release(other, &lease, 1, w->p[STREAM]), -EINVAL);
    assert_int_equal(ofl_hint(w->p[CTX], &lease, 1, OFL_HINT_NEXT), -EINVAL);
    assert_int_equal(ofl_optimizer_bind(w->p[OPTIMIZER], w->p[TENSOR], t), -EINVAL);
    assert_int_equal(fixture_ctx_close(other), 0);
    world_close(w);
}

/* In the child. Returns its exit status. */
static int all_are_refused(struct world *w)
{
    for (size_t i = 0; i < CALLS; i++) {
        int err;

        if (!calls[i].object)
            continue;
        ofl_landing_find(OFL_DTYPES, OFL_LANDING_BEST); /* another sentence */
        err = calls[i].run(w->p);
        if (err == -EINVAL && strstr(ofl_error(), "forked"))
            continue;
        fprintf(stderr, "%s in a forked child: %d, %s\n", calls[i].name, err, ofl_error());
        return 1;
    }
    return 0;
}

/* ThreadSanitizer ends a forked child that starts a thread. */
#if defined(__SANITIZE_THREAD__)
#define CHILD_STARTS_THREADS 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CHILD_STARTS_THREADS 0
#endif
#endif
#ifndef CHILD_STARTS_THREADS
#define CHILD_STARTS_THREADS 1
#endif

static int own_context_works(const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = MIB,
                                .host_bytes = 4 * MIB,
                                .nvme = fixture_nvme(dir, 16 * MIB),
                                .nvme_count = 1,
                                .flags = OFL_NO_MEASURE};
    struct ofl_tensor_desc desc = {.size = sizeof desc, .name = "own", .dtype = OFL_F32, .elems = 1};
    float put = 3, got = 0;
    struct ofl_ctx *ctx;
    struct ofl_tensor *t;

    return ofl_open(&config, &ctx) < 0 || ofl_tensor_create(ctx, &desc, &t) < 0 ||
           ofl_tensor_write(t, 0, &put, sizeof put) < 0 || ofl_tensor_read(t, 0, &got, sizeof got) < 0 ||
           got != put || ofl_close(ctx) < 0;
}

/* The arenas are not copied: a child that lives long would keep as much memory again as is written meanwhile. */
static int sees(const void *at)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    unsigned char resident;

    return mincore((void *)((uintptr_t)at / page * page), 1, &resident) == 0;
}

/* A child that hangs is ended by the alarm. */
static void a_forked_child(void **state)
{
    struct world *w = world_open(*state);
    const float put = 5;
    float got = 0;
    struct ofl_lease lease = {.size = sizeof lease, .tensor = w->p[GRAD], .mode = OFL_OVERWRITE};
    int status;
    pid_t child;

    assert_int_equal(ofl_acquire(w->p[CTX], &lease, 1, w->p[STREAM]), 0);
    assert_true(sees(lease.ptr));
    assert_int_equal(ofl_tensor_write(w->p[TENSOR], 0, &put, sizeof put), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(120);
        if (all_are_refused(w))
            _exit(1);
        _exit(CHILD_STARTS_THREADS && own_context_works(*state) ? 2 : sees(lease.ptr) ? 3 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the child ended with status 0x%x", (unsigned)status);
    assert_int_equal(ofl_release(w->p[CTX], &lease, 1, w->p[STREAM]), 0);
    /* The parent has what it had. */
    assert_int_equal(ofl_tensor_read(w->p[TENSOR], 0, &got, sizeof got), 0);
    assert_true(got == put);
    world_close(w);
}

static struct ofl_ctx *open_kept(const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = MIB,
                                .host_bytes = 4 * MIB,
                                .keep_dir = dir,
                                .flags = OFL_NO_MEASURE};
    struct ofl_ctx *ctx;

    if (ofl_open(&config, &ctx) < 0)
        fail_msg("%s", ofl_error());
    return ctx;
}

/* A child that lives on has the files of its parent, and yet does not keep a store from being opened again. */
static void a_child_keeps_no_store(void **state)
{
    char *dir = files_dir(*state, "kept");
    struct ofl_ctx *ctx = open_kept(dir);
    int pipes[2], status;
    pid_t child;
    char c;

    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(120);
        close(pipes[1]);
        _exit(read(pipes[0], &c, 1) == 0 ? 0 : 1); /* until the parent is done */
    }
    close(pipes[0]);
    assert_int_equal(ofl_close(ctx), 0);
    assert_int_equal(ofl_close(open_kept(dir)), 0);
    close(pipes[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    files_remove(dir);
}

/* ---- absurd numbers --------------------------------------------------------------- */

static void absurd_configs(void **state)
{
    static const struct {
        const char *what;
        size_t at, bytes;
        int code; /* 0: it may open */
    } cases[] = {
#define FIELD(name, code)                                                                                    \
    {#name, offsetof(struct ofl_config, name), sizeof(((struct ofl_config *)0)->name), code}
        FIELD(device_bytes, -OFL_EBUDGET), FIELD(host_bytes, -OFL_EBUDGET), FIELD(nvme_count, -EINVAL),
        FIELD(tile_bytes, -EINVAL),        FIELD(workers, -EINVAL),         FIELD(flags, -EINVAL),
        FIELD(expected_bytes, 0),          FIELD(leased_bytes, -EINVAL),    FIELD(keep_bytes, 0),
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ofl_config config = {.size = sizeof config,
                                    .device_bytes = MIB,
                                    .host_bytes = 4 * MIB,
                                    .nvme = fixture_nvme(*state, 16 * MIB),
                                    .nvme_count = 1,
                                    .flags = OFL_NO_MEASURE};
        struct ofl_ctx *ctx = NULL;
        int err;

        memset((char *)&config + cases[i].at, 0xFF, cases[i].bytes);
        err = ofl_open(&config, &ctx);
        if (cases[i].code ? err != cases[i].code : err < 0 && err != -OFL_EBUDGET)
            fail_msg("%s of all ones: %d, %s", cases[i].what, err, err < 0 ? ofl_error() : "opened");
        assert_int_equal(ofl_close(ctx), 0);
    }
}

static void too_many_workers(void **state)
{
    struct ofl_config config = {.size = sizeof config, .device_bytes = MIB, .host_bytes = 4 * MIB};
    struct ofl_ctx *ctx;

    (void)state;
    config.workers = 100000;
    assert_int_equal(ofl_open(&config, &ctx), -EINVAL);
    assert_null(ctx);
    assert_non_null(strstr(ofl_error(), "100000 workers: at most 1024"));
}

static void absurd_tensors(void **state)
{
    static const uint64_t elems[] = {
        UINT64_MAX, UINT64_MAX / 4, INT64_MAX / 4, 1ull << 60, 1ull << 50, 1ull << 34, 0};
    struct ofl_ctx *ctx = fixture_ctx_open(*state, MIB);

    for (size_t i = 0; i < sizeof elems / sizeof elems[0]; i++) {
        struct ofl_tensor_desc desc = {.size = sizeof desc, .name = "t", .dtype = OFL_F32, .elems = elems[i]};
        struct ofl_tensor *t = (void *)&desc;
        int err = ofl_tensor_create(ctx, &desc, &t);

        if (err != -OFL_EBUDGET && err != -EOVERFLOW && err != -EINVAL)
            fail_msg("%llu elements: %d, %s", (unsigned long long)elems[i], err, ofl_error());
        assert_null(t);
    }
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static void absurd_batches(void **state)
{
    struct world *w = world_open(*state);
    static const size_t counts[] = {SIZE_MAX, SIZE_MAX / sizeof(struct ofl_lease), OFL_LEASES_MAX + 1};
    struct ofl_lease lease = {.size = sizeof lease, .tensor = w->p[TENSOR], .mode = OFL_READ};

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        assert_int_equal(ofl_acquire(w->p[CTX], &lease, counts[i], w->p[STREAM]), -EINVAL);
        assert_non_null(strstr(ofl_error(), "at most 1048576"));
        assert_int_equal(ofl_release(w->p[CTX], &lease, counts[i], w->p[STREAM]), -EINVAL);
        assert_int_equal(ofl_hint(w->p[CTX], &lease, counts[i], OFL_HINT_NEXT), -EINVAL);
    }
    lease.offset_elems = UINT64_MAX;
    assert_int_equal(ofl_acquire(w->p[CTX], &lease, 1, w->p[STREAM]), -EINVAL);
    lease.offset_elems = 1;
    lease.count_elems = UINT64_MAX;
    assert_int_equal(ofl_acquire(w->p[CTX], &lease, 1, w->p[STREAM]), -EINVAL);
    assert_int_equal(ofl_tensor_read(w->p[TENSOR], UINT64_MAX, &w->out, 8), -EINVAL);
    assert_int_equal(ofl_tensor_write(w->p[TENSOR], 8, &w->in, UINT64_MAX), -EINVAL);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_public_function_is_here),
        cmocka_unit_test(null_is_refused),
        cmocka_unit_test(destroyers_take_null),
        cmocka_unit_test(null_that_may_be),
        cmocka_unit_test(objects_of_another_context),
        cmocka_unit_test(a_forked_child),
        cmocka_unit_test(a_child_keeps_no_store),
        cmocka_unit_test(absurd_configs),
        cmocka_unit_test(too_many_workers),
        cmocka_unit_test(absurd_tensors),
        cmocka_unit_test(absurd_batches),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
