/*
 * ofl_config.max_written_bytes: the write that would pass the limit is not begun, nor is any after it, whoever makes them,
 * on either engine and with faults; what was counted is what the kernel and the queue have counted; the sentence has the
 * numbers, and stays; a kept store has the last commit that was durable, to the byte.
 *
 * It can fail: without the limit the same programs write more than it (the first loop of each test).
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/limit.h"
#include "include/offload.h"
#include "tests/core_fixture.h"
#include "tests/keep_fixture.h"

#define TENSORS 12
#define BYTES   MIB

/* ---- the count -------------------------------------------------------------- */

static void a_limit_is_never_passed(void **state)
{
    struct base_limit l = {.most = 10}, none = {0};

    (void)state;
    assert_true(base_limit_take(&l, 7));
    assert_true(base_limit_take(&l, 3));
    assert_int_equal(base_limit_left(&l), 0);
    base_limit_give(&l, 4);
    assert_int_equal(base_limit_left(&l), 4);
    assert_false(base_limit_take(&l, UINT64_MAX));
    assert_false(base_limit_take(&l, 1)); /* nor what would fit, from then on */
    assert_int_equal(l.taken, 6);
    assert_true(base_limit_take(&none, UINT64_MAX / 2));
    assert_true(base_limit_take(NULL, 1));
    assert_true(base_limit_left(&none) == UINT64_MAX);
}

static void *take_all(void *arg)
{
    struct base_limit *l = arg;
    uintptr_t n = 0;

    while (base_limit_take(l, 3))
        n++;
    return (void *)n;
}

static void many_threads_do_not_pass_it(void **state)
{
    struct base_limit l = {.most = 100000};
    pthread_t threads[4];
    uintptr_t sum = 0;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_all, &l), 0);
    for (int i = 0; i < 4; i++) {
        void *n;

        pthread_join(threads[i], &n);
        sum += (uintptr_t)n;
    }
    assert_int_equal(sum, 33333);
    assert_int_equal(l.taken, 99999);
}

/* ---- scratch stores ----------------------------------------------------------- */

/* What a file system writes for itself (its journal, bitmaps, directories) counts to whoever happens to be there: half a
 * MiB was seen of a program that wrote nothing. */
#define KERNEL_OWN (4 * MIB)

/* What the kernel has counted of this process; 0: it does not say. */
static uint64_t kernel_written(void)
{
    unsigned long long n = 0;
    char line[128];
    FILE *f = fopen("/proc/self/io", "re");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "write_bytes: %llu", &n) == 1)
            break;
    if (f)
        fclose(f);
    return n;
}

static struct ofl_stats stats_of(struct ofl_ctx *ctx)
{
    struct ofl_stats s = {.size = sizeof s};

    assert_int_equal(ofl_stats_get(ctx, &s), 0);
    return s;
}

struct outcome {
    int code, close_code;
    uint64_t counted, stored, kernel;
    char sentence[1024], after[1024];
};

/* Writes tensors in turns, more than memory holds, until it fails, or 6 rounds. */
static struct outcome write_rounds(const char *dir, uint64_t most, uint32_t flags, uint64_t seed)
{
    struct ofl_config c = {.size = sizeof c,
                           .device_bytes = 3 * MIB,
                           .host_bytes = 2 * MIB,
                           .nvme = fixture_nvme(dir, 64 * MIB),
                           .nvme_count = 1,
                           .flags = flags,
                           .test_seed = seed,
                           .max_written_bytes = most};
    struct ofl_tensor *t[TENSORS];
    struct outcome o = {.kernel = kernel_written()};
    uint8_t *bytes = malloc(BYTES);
    struct ofl_stats s;
    struct ofl_ctx *ctx;

    assert_non_null(bytes);
    o.code = ofl_open(&c, &ctx);
    if (o.code < 0) {
        o.kernel = o.kernel ? kernel_written() - o.kernel : 0;
        snprintf(o.sentence, sizeof o.sentence, "%s", ofl_error());
        free(bytes);
        return o;
    }
    for (int i = 0; i < TENSORS; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d, .name = "t", .dtype = OFL_U8, .elems = BYTES};

        assert_int_equal(ofl_tensor_create(ctx, &d, &t[i]), 0);
    }
    for (int i = 0; i < 6 * TENSORS && o.code == 0; i++) {
        memset(bytes, i, BYTES);
        o.code = ofl_tensor_write(t[i % TENSORS], 0, bytes, BYTES);
    }
    snprintf(o.sentence, sizeof o.sentence, "%s", ofl_error());
    if (o.code < 0 && ofl_tensor_write(t[0], 0, bytes, BYTES) < 0) /* what comes after says the same */
        snprintf(o.after, sizeof o.after, "%s", ofl_error());
    s = stats_of(ctx);
    o.counted = s.written_bytes;
    o.stored = s.nvme_write_bytes;
    o.close_code = ofl_close(ctx);
    o.kernel = o.kernel ? kernel_written() - o.kernel : 0;
    free(bytes);
    return o;
}

static void check_outcome(const struct outcome *o, uint64_t most)
{
    char limit[64];

    if (o->counted > most || o->stored > most || o->kernel > most + KERNEL_OWN)
        fail_msg("limit %llu: counted %llu, stored %llu, the kernel %llu", (unsigned long long)most,
                 (unsigned long long)o->counted, (unsigned long long)o->stored,
                 (unsigned long long)o->kernel);
    if (o->code != -OFL_EBROKEN && o->code != -OFL_EWRITTEN)
        fail_msg("limit %llu: %d, %s", (unsigned long long)most, o->code, o->sentence);
    snprintf(limit, sizeof limit, "the limit of %llu", (unsigned long long)most);
    assert_non_null(strstr(o->sentence, limit));
    assert_non_null(strstr(o->sentence, "raise max_written_bytes"));
    if (o->after[0]) {
        assert_non_null(strstr(o->after, limit));
        assert_int_equal(o->close_code, -OFL_EWRITTEN);
        assert_true(o->stored + 2 * BYTES + 65536 > most); /* nor is much left */
    }
}

static void scratch_stops_before_the_byte(void **state)
{
    struct outcome free_run = write_rounds(*state, 0, 0, 0);
    struct random r = {.state = 7};

    assert_int_equal(free_run.code, 0);
    assert_int_equal(free_run.close_code, 0);
    assert_true(free_run.stored > 40 * MIB);
    assert_true(free_run.counted >= free_run.stored);
    assert_true(free_run.counted <= free_run.stored + 65536 + 2 * MIB); /* what is under way */
    for (unsigned i = 0; i < fixture_rounds(24); i++) {
        uint64_t most = 1 + random_below(&r, 40 * MIB);
        struct outcome o = write_rounds(*state, most,
                                        i % 3 == 1   ? OFL_USE_THREADS
                                        : i % 3 == 2 ? OFL_USE_BUFFERED
                                                     : 0,
                                        i % 4 == 3 ? 1 + i : 0);

        if (i % 4 == 3)
            o.kernel = 0; /* what a fault reports as short was written whole, and is written again */
        check_outcome(&o, most);
    }
}

/* To the byte: with exactly what a run takes it goes through, with one less it does not. */
static void the_last_byte_counts(void **state)
{
    struct outcome o = write_rounds(*state, 65536, 0, 0);

    assert_int_equal(o.counted, 65536); /* opening alone */
    assert_int_not_equal(o.code, 0);
    o = write_rounds(*state, 65535, 0, 0);
    assert_int_equal(o.code, -OFL_EWRITTEN);
    assert_non_null(
        strstr(o.sentence, "open context: 0 bytes were written to drives so far, and these 65536"));
    assert_true(o.kernel <= KERNEL_OWN);
}

/* ---- kept stores ------------------------------------------------------------------ */

/* Commits with all bytes new, until one fails; the last generation that was durable. */
static uint64_t commit_rounds(uint64_t most, int *code)
{
    struct ofl_config c = {.size = sizeof c,
                           .device_bytes = 4 * MIB,
                           .host_bytes = 8 * MIB,
                           .keep_dir = keep_dir,
                           .keep_bytes = 64 * MIB,
                           .max_written_bytes = most};
    struct ofl_resumed was = {.size = sizeof was};
    struct ofl_tensor *t[2];
    uint64_t durable = 0, kernel = kernel_written();
    struct ofl_ctx *ctx;

    *code = ofl_open(&c, &ctx);
    if (*code < 0)
        return 0;
    assert_int_equal(ofl_resume(ctx, &was), -ENOENT);
    for (uint32_t i = 0; i < 2; i++)
        t[i] = keep_make(ctx, i ? "b" : "a", OFL_F32, BYTES / 4);
    for (uint32_t g = 1; g <= 8 && *code == 0; g++) {
        uint32_t words[1024];

        for (uint32_t i = 0; i < 2 && *code == 0; i++)
            for (uint64_t at = 0; at < BYTES && *code == 0; at += sizeof words) {
                for (uint32_t k = 0; k < 1024; k++)
                    words[k] = g * 1000003u + i * 7919u + (uint32_t)at + k;
                *code = ofl_tensor_write(t[i], at, words, sizeof words);
            }
        if (*code == 0)
            *code = ofl_commit(ctx, &g, sizeof g);
        if (*code == 0)
            *code = ofl_commit_wait(ctx, &durable);
    }
    if (most) {
        struct ofl_stats s = stats_of(ctx);

        if (s.written_bytes > most)
            fail_msg("limit %llu: counted %llu", (unsigned long long)most,
                     (unsigned long long)s.written_bytes);
    }
    ofl_close(ctx);
    kernel = kernel ? kernel_written() - kernel : 0;
    if (most && kernel > most + KERNEL_OWN)
        fail_msg("limit %llu: the kernel has %llu", (unsigned long long)most, (unsigned long long)kernel);
    return durable;
}

static void check_generation(uint64_t generation)
{
    struct ofl_resumed was = {.size = sizeof was};
    struct ofl_ctx *ctx = keep_open(&keep_usual);
    uint32_t *words = malloc(BYTES);

    assert_non_null(words);
    if (generation == 0) {
        assert_int_equal(ofl_resume(ctx, &was), -ENOENT);
    } else {
        assert_int_equal(ofl_resume(ctx, &was), 0);
        assert_int_equal(was.generation, generation);
    }
    for (uint32_t i = 0; i < 2 && generation; i++) {
        struct ofl_tensor *t = keep_make(ctx, i ? "b" : "a", OFL_F32, BYTES / 4);

        assert_int_equal(ofl_tensor_read(t, 0, words, BYTES), 0);
        for (uint32_t k = 0; k < BYTES / 4; k++)
            if (words[k] != generation * 1000003u + i * 7919u + (k / 1024) * 4096 + k % 1024)
                fail_msg("generation %llu, tensor %u: word %u is not its own", (unsigned long long)generation,
                         i, k);
    }
    free(words);
    assert_int_equal(ofl_close(ctx), 0);
}

static void a_kept_store_has_its_last_commit(void **state)
{
    struct random r = {.state = 11};
    unsigned stopped = 0;
    int code;

    keep_set_dir(state, "free");
    assert_int_equal(commit_rounds(0, &code), 8);
    assert_int_equal(code, 0);
    for (unsigned i = 0; i < fixture_rounds(16); i++) {
        uint64_t most = 200 * KIB + random_below(&r, 16 * MIB), durable;
        char name[32];

        snprintf(name, sizeof name, "limit-%u", i);
        keep_set_dir(state, name);
        durable = commit_rounds(most, &code);
        assert_true(durable < 8 && code < 0);
        assert_true(durable * 2 * BYTES <= most);
        assert_true((durable + 2) * 2 * BYTES > most); /* it came as far as it could */
        assert_non_null(strstr(ofl_error(), "would pass the limit"));
        stopped += durable > 0;
        check_generation(durable);
    }
    assert_true(stopped > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_is_never_passed),          cmocka_unit_test(many_threads_do_not_pass_it),
        cmocka_unit_test(scratch_stops_before_the_byte),    cmocka_unit_test(the_last_byte_counts),
        cmocka_unit_test(a_kept_store_has_its_last_commit),
    };

    return cmocka_run_group_tests(tests, scratch_setup, keep_teardown);
}
