/* keep_fixture: see keep_fixture.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/core_fixture.h"
#include "tests/keep_fixture.h"

char keep_dir[300];

/* The store of the test before. */
static void remove_store(void)
{
    static const char *const files[] = {"store.ofl", "data.ofl", "manifest-0.ofl", "manifest-1.ofl"};
    char path[400];

    for (size_t i = 0; i < sizeof files / sizeof files[0] && keep_dir[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", keep_dir, files[i]);
        unlink(path);
    }
    if (keep_dir[0] && rmdir(keep_dir) < 0 && errno != ENOENT)
        fail_msg("%s: %s", keep_dir, strerror(errno));
    keep_dir[0] = '\0';
}

void keep_set_dir(void **state, const char *name)
{
    remove_store();
    snprintf(keep_dir, sizeof keep_dir, "%s/%s", (const char *)*state, name);
}

const struct keep_budgets keep_usual = {4 * MIB, 8 * MIB, 0, 0, 0, 0};

int keep_try_open(const struct keep_budgets *b, struct ofl_ctx **ctx)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = "host",
                                .device_bytes = b->device_bytes,
                                .host_bytes = b->host_bytes,
                                .tile_bytes = b->tile_bytes,
                                .flags = b->flags,
                                .test_seed = b->test_seed,
                                .test_errors = b->test_errors,
                                .keep_dir = keep_dir,
                                .keep_bytes = 256 * MIB};

    return ofl_open(&config, ctx);
}

struct ofl_ctx *keep_open(const struct keep_budgets *b)
{
    struct ofl_ctx *ctx;

    if (keep_try_open(b, &ctx) < 0)
        fail_msg("open: %s", ofl_error());
    return ctx;
}

struct ofl_tensor *keep_make(struct ofl_ctx *ctx, const char *name, enum ofl_dtype dtype, uint64_t elems)
{
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = name,
                                .kind = OFL_KIND_WEIGHT,
                                .dtype = dtype,
                                .elems = elems,
                                .flags = OFL_TENSOR_KEPT};
    struct ofl_tensor *t;

    if (ofl_tensor_create(ctx, &d, &t) < 0)
        fail_msg("create: %s", ofl_error());
    return t;
}

void keep_resume(struct ofl_ctx *ctx, uint64_t generation, uint64_t tensors)
{
    struct ofl_resumed was = {.size = sizeof was};

    if (ofl_resume(ctx, &was) < 0)
        fail_msg("resume: %s", ofl_error());
    assert_int_equal(was.generation, generation);
    assert_int_equal(was.tensors, tensors);
}

void keep_commit(struct ofl_ctx *ctx, uint64_t generation)
{
    uint64_t last = 0;

    if (ofl_commit(ctx, "note", 4) < 0 || ofl_commit_wait(ctx, &last) < 0)
        fail_msg("commit: %s", ofl_error());
    assert_int_equal(last, generation);
}

void keep_write(struct ofl_tensor *t, uint32_t seed, uint64_t bytes)
{
    uint32_t *words = malloc(bytes);

    for (uint64_t i = 0; i < bytes / 4; i++)
        words[i] = seed * 2654435761u + (uint32_t)i;
    assert_int_equal(ofl_tensor_write(t, 0, words, bytes), 0);
    free(words);
}

void keep_check(struct ofl_tensor *t, uint32_t seed, uint64_t bytes)
{
    uint32_t *words = malloc(bytes);

    if (ofl_tensor_read(t, 0, words, bytes) < 0)
        fail_msg("read: %s", ofl_error());
    for (uint64_t i = 0; i < bytes / 4; i++)
        if (words[i] != (seed ? seed * 2654435761u + (uint32_t)i : 0))
            fail_msg("word %llu is 0x%x after seed %u", (unsigned long long)i, words[i], seed);
    free(words);
}

int keep_teardown(void **state)
{
    remove_store();
    return scratch_teardown(state);
}
