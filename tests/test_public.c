/*
 * The smaller calls of the public header, which no room's test needs: what they promise in offload.h.
 *  - texts: of every code of either sign, of the version, that of the header;
 *  - facts: of a tensor, of a source and its entries, of a drive, after bytes that the test moved;
 *  - ends: a source that is bound, and a stream with work, which destroying waits for;
 *  - the device arena of exactly so many footprints holds so many tensors, and not one more.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"
#include "tests/model_fixture.h"

#define MIB (1ull << 20)

static struct ofl_tensor *make_tensor(struct ofl_ctx *ctx, const char *name, uint64_t elems)
{
    struct ofl_tensor_desc desc = {.size = sizeof desc, .name = name, .dtype = OFL_F32, .elems = elems};
    struct ofl_tensor *t;

    if (ofl_tensor_create(ctx, &desc, &t) < 0)
        fail_msg("%s", ofl_error());
    return t;
}

/* ---- texts ---------------------------------------------------------------- */

/* Names are often those of somebody's file; what a terminal obeys does not reach it. */
static void sentences_are_printable(void **state)
{
    struct ofl_tensor_desc desc = {.size = sizeof desc, .name = "a\x1B[2Jb\x7F\n\xC3\xA9", .dtype = OFL_F32};
    struct ofl_ctx *ctx = fixture_ctx_open(*state, MIB);
    struct ofl_tensor *t;

    assert_int_equal(ofl_tensor_create(ctx, &desc, &t), -EINVAL);
    assert_non_null(strstr(ofl_error(), "a?[2Jb??\xC3\xA9"));
    assert_int_equal(ofl_source_open(ctx, "no\x7Fsuch", &(struct ofl_source *){0}), -ENOENT);
    assert_non_null(strstr(ofl_error(), "no?such"));
    assert_int_equal(ofl_close(ctx), 0);
}

static void texts(void **state)
{
    char version[32];

    (void)state;
    snprintf(version, sizeof version, "%d.%d.%d", OFL_VERSION_MAJOR, OFL_VERSION_MINOR, OFL_VERSION_PATCH);
    assert_string_equal(ofl_version(), version);
    assert_string_equal(ofl_strerror(-ENOENT), "No such file or directory");
    assert_string_equal(ofl_strerror(ENOENT), ofl_strerror(-ENOENT));
    for (int code = OFL_EBUDGET; code <= OFL_ESTATE; code++) {
        assert_string_equal(ofl_strerror(-code), ofl_strerror(code));
        assert_true(strlen(ofl_strerror(code)) > 5);
        for (int other = OFL_EBUDGET; other < code; other++)
            assert_string_not_equal(ofl_strerror(code), ofl_strerror(other));
    }
    /* No code of anybody: still a text, of any sign and size. */
    assert_non_null(ofl_strerror(INT32_MIN));
    assert_non_null(ofl_strerror(INT32_MAX));
    assert_non_null(ofl_strerror(0));
}

/* ---- facts ---------------------------------------------------------------- */

static void facts_of_a_tensor(void **state)
{
    struct ofl_ctx *ctx = fixture_ctx_open(*state, MIB);
    struct ofl_tensor_desc desc = {.size = sizeof desc,
                                   .name = "layer.0.weight",
                                   .kind = OFL_KIND_WEIGHT,
                                   .dtype = OFL_BF16,
                                   .elems = 321};
    struct ofl_tensor_info info = {.size = sizeof info};
    struct ofl_tensor *t;

    assert_int_equal(ofl_tensor_create(ctx, &desc, &t), 0);
    desc.name = "gone"; /* it was copied */
    assert_int_equal(ofl_tensor_info_get(t, &info), 0);
    assert_string_equal(info.name, "layer.0.weight");
    assert_true(info.kind == OFL_KIND_WEIGHT && info.dtype == OFL_BF16);
    assert_true(info.elems == 321 && info.bytes == 642);
    assert_int_equal(ofl_close(ctx), 0);
}

static void facts_of_a_source(void **state)
{
    const char *dir = *state;
    struct ofl_ctx *ctx = fixture_ctx_open(dir, MIB);
    uint64_t shape[2] = {3, 5};
    json_t *tensors = json_object();
    char *path = files_path(dir, "model.safetensors");
    struct ofl_source_entry e;
    struct ofl_source *source;
    struct ofl_tensor *t;

    json_object_set_new(tensors, "a", files_tensor("F32", 2, shape));
    json_object_set_new(tensors, "b", files_tensor("BF16", 1, shape));
    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    if (ofl_source_open(ctx, path, &source) < 0)
        fail_msg("%s", ofl_error());
    assert_int_equal(ofl_source_count(source), 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(ofl_source_entry_get(source, i, &e), 0);
        if (strcmp(e.name, "a") == 0)
            assert_true(e.dims == 2 && e.shape[0] == 3 && e.shape[1] == 5 && e.elems == 15 && e.bytes == 60);
        else
            assert_true(strcmp(e.name, "b") == 0 && e.dims == 1 && e.dtype == OFL_BF16 && e.bytes == 6);
    }
    assert_true(ofl_source_entry_get(source, 2, &e) < 0);
    assert_int_equal(ofl_source_bind(source, "a", OFL_KIND_WEIGHT, &t), 0);
    assert_int_equal(ofl_source_close(source), -OFL_ESTATE);
    assert_int_equal(ofl_tensor_destroy(t), 0);
    assert_int_equal(ofl_source_close(source), 0);
    assert_int_equal(ofl_close(ctx), 0);
    unlink(path);
    free(path);
}

/* Two tensors of 8 MiB, of which memory holds less than one and a half: some go to the drive and come back. */
static void facts_of_a_drive(void **state)
{
    const char *dir = *state;
    struct ofl_ctx *ctx = fixture_ctx_open(dir, 8 * MIB);
    struct ofl_path_stats s = {.size = sizeof s};
    const uint64_t bytes = 8 * MIB, least = 2 * MIB;
    unsigned char *data = malloc(bytes), *back = malloc(bytes);
    struct ofl_tensor *t[2];

    /* Drives are those that I/O went to. */
    assert_true(ofl_path_stats_get(ctx, 0, &s) == -ENOENT || (s.write_bytes == 0 && s.since_ns == 0));
    for (int i = 0; i < 2; i++) {
        t[i] = make_tensor(ctx, "large", bytes / 4);
        memset(data, 0x5a + i, bytes);
        assert_int_equal(ofl_tensor_write(t[i], 0, data, bytes), 0);
    }
    for (int i = 0; i < 2; i++) {
        memset(data, 0x5a + i, bytes);
        assert_int_equal(ofl_tensor_read(t[i], 0, back, bytes), 0);
        assert_memory_equal(data, back, bytes);
    }
    assert_int_equal(ofl_path_stats_get(ctx, 0, &s), 0);
    assert_non_null(strstr(s.name, dir));
    assert_true(s.write_bytes >= least && s.read_bytes >= least);
    assert_true(s.write_transfers > 0 && s.read_transfers > 0 && s.errors == 0);
    assert_true(s.write_p50_ns > 0 && s.write_p50_ns <= s.write_p99_ns && s.write_p99_ns <= s.write_p999_ns);
    assert_true(s.busy_ns > 0 && s.busy_ns <= s.since_ns);
    assert_int_equal(ofl_path_stats_get(ctx, 1, &s), -ENOENT);
    free(data);
    free(back);
    assert_int_equal(ofl_close(ctx), 0);
}

/* ---- ends, footprints ------------------------------------------------------- */

static void count_slowly(void *arg)
{
    usleep(20000);
    atomic_fetch_add((atomic_uint *)arg, 1);
}

static void destroying_a_stream_waits(void **state)
{
    struct ofl_ctx *ctx = fixture_ctx_open(*state, MIB);
    struct ofl_stream *s;
    atomic_uint done = 0;

    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ofl_stream_launch(s, count_slowly, &done), 0);
    ofl_stream_destroy(s);
    assert_int_equal(atomic_load(&done), 3);
    ofl_stream_destroy(NULL);
    assert_int_equal(ofl_close(ctx), 0);
}

static void footprints_add_up(void **state)
{
    static const uint64_t elems[] = {1, 63, 64, 65, 1000, 100001};

    for (size_t i = 0; i < sizeof elems / sizeof elems[0]; i++) {
        uint64_t bytes = ofl_device_footprint(4 * elems[i]);
        struct ofl_lease leases[4];
        struct ofl_stream *s;
        struct ofl_ctx *ctx;

        assert_true(bytes >= 4 * elems[i]);
        ctx = fixture_ctx_open(*state, 3 * bytes);
        assert_int_equal(ofl_stream_create(ctx, &s), 0);
        for (int k = 0; k < 4; k++)
            leases[k] = (struct ofl_lease){.tensor = make_tensor(ctx, "t", elems[i]), .mode = OFL_OVERWRITE};
        if (ofl_acquire(ctx, leases, 3, s) < 0)
            fail_msg("%llu elements: %s", (unsigned long long)elems[i], ofl_error());
        assert_int_equal(ofl_acquire(ctx, leases + 3, 1, s), -OFL_EBUDGET);
        assert_int_equal(ofl_release(ctx, leases, 3, s), 0);
        assert_int_equal(ofl_close(ctx), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(sentences_are_printable),
        cmocka_unit_test(facts_of_a_tensor),
        cmocka_unit_test(facts_of_a_source),
        cmocka_unit_test(facts_of_a_drive),
        cmocka_unit_test(destroying_a_stream_waits),
        cmocka_unit_test(footprints_add_up),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
