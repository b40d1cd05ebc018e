/*
 * Proves that kernels run on the CPU, by the stub driver, as on a device, and that a kernel's mistake
 * does not pass: threads of any shape, barriers, meetings of a warp, the tensor cores' fragments, and
 * asynchronous copies compute what plain loops do, for every order of threads; threads that wait for
 * each other in vain, shared memory written beyond its end and addresses that the device refuses end the
 * launch with a sentence; a missing barrier and a missing wait give wrong results for some seed, and are
 * races to ThreadSanitizer whatever the seed.
 * Launches and copies of one stream keep their order, arguments are read at once, what the driver
 * refuses is refused, and a lost device runs nothing.
 *
 * The kernels are those of cuda_emulate_cases.cu.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/cuda_fixture.h"
#include "tests/launch_fixture.h"

#define LOST 719

#if defined __SANITIZE_ADDRESS__
#define WITH_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifndef WITH_ASAN
#define WITH_ASAN 0
#endif
#if defined __SANITIZE_THREAD__
#define WITH_TSAN 1
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifndef WITH_TSAN
#define WITH_TSAN 0
#endif

static void begin(const struct cuda_stub_config *config)
{
    cuda_fixture_needs_kernels();
    launch_begin(config);
}

static void skip_racy(void)
{
    print_message("ThreadSanitizer ends a program whose kernels race: see test_races\n");
    skip();
}

/* ---- what is right -------------------------------------------------------- */

static void test_index(void **state)
{
    static const struct {
        struct launch_dims grid, block;
    } shapes[] = {{{1, 1, 1}, {1, 1, 1}},    {{3, 1, 1}, {5, 7, 3}},  {{2, 3, 5}, {33, 1, 1}},
                  {{1, 2, 1}, {1024, 1, 1}}, {{5, 1, 2}, {4, 8, 12}}, {{7, 1, 1}, {1, 1, 64}}};
    uint32_t *got = malloc(LAUNCH_BYTES);

    (void)state;
    assert_non_null(got);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct launch_dims g = shapes[i].grid, b = shapes[i].block;
        unsigned n = g.x * g.y * g.z * b.x * b.y * b.z;

        begin(&(struct cuda_stub_config){.seed = i});
        assert_int_equal(launch_try("case_index", g, b, 0, LAUNCH_ARGS(&launch_on.out)), 0);
        launch_receive(got, launch_on.out, n * sizeof *got);
        for (unsigned k = 0; k < n; k++)
            assert_int_equal(got[k], k);
        launch_end_well();
    }
    free(got);
}

static void test_sum(void **state)
{
    static const struct {
        unsigned blocks, threads;
        int n;
    } shapes[] = {{1, 32, 1}, {3, 64, 100}, {2, 256, 1000}, {4, 1024, 1025}, {1, 992, 777}};
    float in[4 * 1025], got[4];

    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int n = shapes[i].n;

        begin(&(struct cuda_stub_config){.seed = i, .pause_us = 20});
        launch_fill(in, sizeof in / sizeof in[0], (unsigned)i);
        launch_send(launch_on.in, in, sizeof in);
        launch_kernel("case_sum", shapes[i].blocks, shapes[i].threads, 128,
                      LAUNCH_ARGS(&launch_on.out, &launch_on.in, &n));
        launch_receive(got, launch_on.out, sizeof got);
        for (unsigned b = 0; b < shapes[i].blocks; b++) {
            float sum = 0.0f;

            for (int k = 0; k < n; k++)
                sum += in[(int)b * n + k];
            assert_true(got[b] == sum);
        }
        launch_end_well();
    }
}

static void test_warp(void **state)
{
    static uint64_t got[8][96];

    (void)state;
    for (unsigned seed = 0; seed < 20; seed++) {
        begin(&(struct cuda_stub_config){.seed = seed});
        launch_kernel("case_warp", 1, 96, 0, LAUNCH_ARGS(&launch_on.out));
        launch_receive(got, launch_on.out, sizeof got);
        for (unsigned t = 0; t < 96; t++) {
            unsigned lane = t % 32, warp = t / 32 * 32;

            assert_true(got[0][t] == (((uint64_t)((lane * 5 + 3) % 32) << 32) | 7));
            assert_int_equal(got[1][t], t ^ 9);
            assert_int_equal(got[2][t], lane + 3 < 32 ? t + 3 : t);
            assert_int_equal(got[3][t], lane % 8 >= 4 ? t - 4 : t);
            assert_int_equal(got[4][t], 0x49249249);
            assert_int_equal(got[5][t], warp == 32);
            assert_int_equal(got[6][t], lane / 8 * 8 + 2);
            assert_int_equal(got[7][t], lane % 2 ? lane ^ 2 : lane ^ 4);
        }
        launch_end_well();
    }
}

static uint16_t bf16_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16); /* exact for the small integers used here */
}

static void test_mma(void **state)
{
    float a[16][16], b[16][8], got[16][8];
    uint16_t narrow_a[16][16], narrow_b[16][8];

    (void)state;
    for (int by_hand = 0; by_hand < 2; by_hand++) {
        begin(&(struct cuda_stub_config){.seed = (uint64_t)by_hand});
        launch_fill(&a[0][0], 256, 1);
        launch_fill(&b[0][0], 128, 2);
        for (int i = 0; i < 256; i++)
            narrow_a[i / 16][i % 16] = bf16_of(a[i / 16][i % 16]);
        for (int i = 0; i < 128; i++)
            narrow_b[i / 8][i % 8] = bf16_of(b[i / 8][i % 8]);
        launch_send(launch_on.in, narrow_a, sizeof narrow_a);
        launch_send(launch_on.in + sizeof narrow_a, narrow_b, sizeof narrow_b);
        launch_kernel("case_mma", 1, 32, 0,
                      LAUNCH_ARGS(&launch_on.out, &launch_on.in,
                                  &(cuda_pointer){launch_on.in + sizeof narrow_a}, &by_hand));
        launch_receive(got, launch_on.out, sizeof got);
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                float sum = (float)(row / 8 * 2 + column % 2 + 1);

                for (int k = 0; k < 16; k++)
                    sum += a[row][k] * b[k][column];
                assert_true(got[row][column] == sum);
            }
        launch_end_well();
    }
}

/* Runs case_copy or the one that doesn't wait; true if every number is right. */
static bool copies_right(const char *name, unsigned seed, unsigned threads, unsigned tiles, unsigned end_elem)
{
    static float in[4096], got[4096];
    unsigned n = tiles * threads * 4;
    bool right = true;

    begin(&(struct cuda_stub_config){.seed = seed});
    launch_fill(in, n, seed);
    launch_send(launch_on.in, in, n * sizeof in[0]);
    launch_kernel(name, 1, threads, 2 * threads * 16,
                  LAUNCH_ARGS(&launch_on.out, &launch_on.in, &tiles, &end_elem));
    launch_receive(got, launch_on.out, n * sizeof got[0]);
    for (unsigned i = 0; i < n; i++)
        right = right && got[i] == (i < end_elem ? in[i] : 0.0f);
    launch_end_well();
    return right;
}

static void test_copy(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 20; seed++)
        if (!copies_right("case_copy", seed, 32 + seed % 2 * 64, 1 + seed % 8, 900))
            fail_msg("seed %u", seed);
}

static void test_fill(void **state)
{
    float value = 1.5f, got[256];
    uint64_t wide = 0x0123456789abcdef, got_wide[7];

    (void)state;
    begin(&(struct cuda_stub_config){0});
    launch_kernel("case_fill_f32", 1, 256, 0, LAUNCH_ARGS(&launch_on.out, &value));
    value = 2.5f; /* read at once */
    launch_kernel("case_fill_u64", 1, 7, 0, LAUNCH_ARGS(&launch_on.in, &wide));
    launch_receive(got, launch_on.out, sizeof got);
    launch_receive(got_wide, launch_on.in, sizeof got_wide);
    assert_true(got[0] == 1.5f && got[255] == 1.5f);
    assert_true(got_wide[0] == wide && got_wide[6] == wide);
    launch_end_well();
}

/* The same for the same seed; any thread may be the first. */
static void test_random(void **state)
{
    static const uint32_t zero;
    uint32_t got[33], again[33], firsts = 0;

    (void)state;
    if (WITH_TSAN)
        skip_racy();
    for (unsigned i = 0; i < 128; i++) {
        begin(&(struct cuda_stub_config){.seed = i / 2});
        launch_send(launch_on.out, &zero, sizeof zero);
        launch_kernel("case_order", 1, 32, 0, LAUNCH_ARGS(&launch_on.out));
        launch_receive(i % 2 ? again : got, launch_on.out, sizeof got);
        launch_end_well();
        assert_int_equal(got[0], 32);
        if (i % 2)
            assert_memory_equal(got, again, sizeof got);
        firsts |= 1u << got[1];
    }
    print_message("%d of 32 threads came first\n", __builtin_popcount(firsts));
    assert_true(__builtin_popcount(firsts) > 16);
}

/* Nobody can take what was there before for what is copied there. */
static void test_copy_peek(void **state)
{
    unsigned early = 0;

    (void)state;
    for (unsigned seed = 0; seed < 40; seed++) {
        const float in[4] = {7.0f, 8.0f, 9.0f, 10.0f};
        float got[2];

        begin(&(struct cuda_stub_config){.seed = seed});
        launch_send(launch_on.in, in, sizeof in);
        launch_kernel("case_copy_peek", 1, 1, 16, LAUNCH_ARGS(&launch_on.out, &launch_on.in));
        launch_receive(got, launch_on.out, sizeof got);
        launch_end_well();
        early += got[0] == 7.0f;
        assert_true(got[0] == 7.0f || got[0] != got[0]);
        assert_true(got[1] == 7.0f);
    }
    assert_true(early > 0 && early < 40);
}

static void test_garbage(void **state)
{
    float got[6];

    (void)state;
    begin(&(struct cuda_stub_config){.seed = 5});
    launch_kernel("case_garbage", 3, 32, 64, LAUNCH_ARGS(&launch_on.out));
    launch_receive(got, launch_on.out, sizeof got);
    for (int i = 0; i < 6; i++)
        assert_true(got[i] != got[i]);
    launch_end_well();
}

static void test_order(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 20; seed++) {
        unsigned n = 1000;
        float x[1000], got[1000], by = 2.0f;
        double plus = 1.0;

        begin(&(struct cuda_stub_config){.seed = seed, .pause_us = 100});
        launch_fill(x, n, seed);
        launch_send(launch_on.in, x, sizeof x);
        for (int round = 0; round < 3; round++) {
            launch_kernel("case_scale", 1 + seed % 5, 96, 0, LAUNCH_ARGS(&launch_on.in, &n, &by, &plus));
            assert_int_equal(launch_cu.copy(launch_on.out, launch_on.in, sizeof x, launch_on.stream), 0);
            plus = 3.0;
            launch_kernel("case_scale", 2, 32, 0, LAUNCH_ARGS(&launch_on.out, &n, &by, &plus));
            plus = 1.0;
            assert_int_equal(launch_cu.copy(launch_on.in, launch_on.out, sizeof x, launch_on.stream), 0);
        }
        launch_receive(got, launch_on.out, sizeof got);
        for (unsigned i = 0; i < n; i++) {
            for (int round = 0; round < 3; round++)
                x[i] = (x[i] * 2.0f + 1.0f) * 2.0f + 3.0f;
            if (got[i] != x[i])
                fail_msg("seed %u, element %u", seed, i);
        }
        launch_end_well();
    }
}

/* ---- what is wrong -------------------------------------------------------- */

#define SEEDS 64

/* Of a kernel that is right with a barrier: how many of the seeds give a wrong result without. */
static unsigned wrong_seeds(const char *name, int barrier, unsigned seeds)
{
    float in[96], got[96], want[96], sum = 0.0f;
    unsigned wrong = 0;

    launch_fill(in, 96, 3);
    for (int i = 0; i < 96; i++)
        sum += in[i];
    for (int i = 0; i < 96; i++)
        want[i] = strcmp(name, "case_reverse") == 0 ? in[95 - i] : 10.0f * sum;
    for (unsigned seed = 0; seed < seeds; seed++) {
        begin(&(struct cuda_stub_config){.seed = seed});
        launch_send(launch_on.in, in, sizeof in);
        launch_kernel(name, 1, 96, sizeof in, LAUNCH_ARGS(&launch_on.out, &launch_on.in, &barrier));
        launch_receive(got, launch_on.out, sizeof got);
        wrong += memcmp(got, want, sizeof got) != 0;
        launch_end_well();
    }
    return wrong;
}

static void test_missing_barrier(void **state)
{
    static const char *const names[] = {"case_reverse", "case_sum_twice"};
    unsigned wrong;

    (void)state;
    if (WITH_TSAN)
        skip_racy();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(wrong_seeds(names[i], true, SEEDS), 0);
        wrong = wrong_seeds(names[i], false, SEEDS);
        print_message("%s: %u of %u seeds\n", names[i], wrong, SEEDS);
        assert_true(wrong > SEEDS / 4);
    }
}

static void test_missing_wait(void **state)
{
    unsigned wrong = 0;

    (void)state;
    if (WITH_TSAN)
        skip_racy();
    for (unsigned seed = 0; seed < SEEDS; seed++)
        wrong += !copies_right("case_copy_no_wait", seed, 32, 3, 1000);
    print_message("%u of %u seeds\n", wrong, SEEDS);
    assert_true(wrong > SEEDS / 4);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *name;
        unsigned threads, shared;
        const char *says[2]; /* one of them, by the order of threads */
    } cases[] = {
        {"case_half_barrier", 64, 0, {"returns while", "after"}},
        {"case_half_barrier", 48, 0, {"returns while", "after"}},
        {"case_two_barriers", 64, 0, {"__syncthreads at", "__syncthreads at"}},
        {"case_early_return", 32, 0, {"returns while its warp waits", "lanes that have returned"}},
        {"case_barrier_or_shuffle", 32, 0, {"deadlock: thread", "deadlock: thread"}},
        {"case_foreign_mask", 32, 0, {"lacks its own lane", "lacks its own lane"}},
        {"case_foreign_lane", 32, 0, {"reads lane 16", "reads lane 16"}},
        {"case_early_return", 20, 0, {"lanes that the block lacks", "lanes that the block lacks"}},
        {"case_trap", 32, 0, {"block 1 0 0, thread 2 0 0: __trap at cuda_emulate_cases.cu", "block 1 0 0"}},
        {"case_unaligned_copy", 1, 64, {"not aligned to 16 bytes", "not aligned to 16 bytes"}},
        {"case_copy_to_global", 1, 64, {"not to shared memory", "not to shared memory"}},
        {"case_matrices_beyond", 32, 31 * 16, {"not in shared memory", "not in shared memory"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned seed = 0; seed < 10; seed++) {
            char text[300];
            unsigned rc;

            begin(&(struct cuda_stub_config){.seed = seed});
            launch_kernel(cases[i].name, 2, cases[i].threads, cases[i].shared,
                          LAUNCH_ARGS(&launch_on.out, &launch_on.in));
            rc = launch_end(text, sizeof text);
            if (rc != LOST || !strstr(text, cases[i].name) ||
                (!strstr(text, cases[i].says[0]) && !strstr(text, cases[i].says[1])))
                fail_msg("%s, seed %u: device says %u: %s", cases[i].name, seed, rc, text);
        }
    test_sum(state); /* nothing of it stays */
}

static void launch_beyond(int at, unsigned shared, char *text, size_t size)
{
    begin(&(struct cuda_stub_config){0});
    launch_kernel("case_beyond", 1, 32, shared, LAUNCH_ARGS(&at));
    (void)launch_end(text, size);
}

/* Runs this program for one kernel, as child() has it, where a sanitizer is to end it; text: what it
 * said. A process of its own, not a fork: ThreadSanitizer wants no threads after one. */
static void run_child(const char *name, int arg, unsigned shared, char *text, size_t size)
{
    char arg_text[16], shared_text[16];
    size_t length = 0;
    int ends[2];
    ssize_t n;
    pid_t pid;

    snprintf(arg_text, sizeof arg_text, "%d", arg);
    snprintf(shared_text, sizeof shared_text, "%u", shared);
    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        execl("/proc/self/exe", "test_cuda_emulate", name, arg_text, shared_text, (char *)NULL);
        _exit(1);
    }
    close(ends[1]);
    while ((n = read(ends[0], text + length, size - 1 - length)) > 0)
        length += (size_t)n;
    text[length] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int child(const char *name, int arg, unsigned shared)
{
    char said[300] = "";

    launch_load();
    if (strcmp(name, "case_beyond") == 0)
        launch_beyond(arg, shared, said, sizeof said);
    else if (strncmp(name, "case_copy", 9) == 0)
        (void)copies_right(name, 1, 32, 3, 1000);
    else
        (void)wrong_seeds(name, arg, 1);
    fprintf(stderr, "%s\nended\n", said);
    return 0;
}

/* ThreadSanitizer finds what is missing, whether the result is right or wrong. */
static void test_races(void **state)
{
    static const struct {
        const char *name;
        int barrier;
        bool race;
    } cases[] = {{"case_reverse", true, false},   {"case_reverse", false, true},
                 {"case_sum_twice", true, false}, {"case_sum_twice", false, true},
                 {"case_copy", 0, false},         {"case_copy_no_wait", 0, true}};
    static char text[1 << 20];

    (void)state;
    if (!WITH_TSAN) {
        print_message("for ThreadSanitizer alone\n");
        skip();
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_child(cases[i].name, cases[i].barrier, 0, text, sizeof text);
        if ((strstr(text, "ThreadSanitizer: data race") != NULL) != cases[i].race ||
            (!cases[i].race && !strstr(text, "ended")))
            fail_msg("%s, %d: %s", cases[i].name, cases[i].barrier, text);
    }
}

/* Launches case_beyond: the stub notes the mistake, or AddressSanitizer ends the program. Returns
 * whether the one or the other happened; *text is what was said. */
static bool beyond_noticed(int at, unsigned shared, char *text, size_t size)
{
    if (!WITH_ASAN) {
        launch_beyond(at, shared, text, size);
        return strstr(text, "outside its") != NULL;
    }
    run_child("case_beyond", at, shared, text, size);
    assert_true(strstr(text, "ended") || strstr(text, "AddressSanitizer"));
    return strstr(text, "AddressSanitizer: use-after-poison") != NULL;
}

static void test_beyond(void **state)
{
    static const struct {
        int at;
        unsigned shared;
        bool beyond;
    } cases[] = {{100, 100, true}, {99, 100, false}, {0, 0, true},      {-1, 64, true},
                 {1000, 64, true}, {0, 1, false},    {1001, 1000, true}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static char text[1 << 20];

        if (beyond_noticed(cases[i].at, cases[i].shared, text, sizeof text) != cases[i].beyond)
            fail_msg("byte %d of %u: %s", cases[i].at, cases[i].shared, text);
    }
}

/* ---- what the driver refuses ---------------------------------------------- */

static void test_refused(void **state)
{
    static const struct {
        struct launch_dims grid, block;
        unsigned code;
    } cases[] = {{{0, 1, 1}, {1, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 0, 1}, {1, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 0}, {1, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 1}, {0, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 1}, {1, 0, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 1}, {1025, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 1}, {32, 33, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 1}, {1, 1, 65}, CUDA_INVALID_VALUE},
                 {{1, 65536, 1}, {1, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 65536}, {1, 1, 1}, CUDA_INVALID_VALUE},
                 {{1, 1, 1}, {1024, 1, 1}, CUDA_OK},
                 {{2, 1, 1}, {16, 8, 8}, CUDA_OK}};
    void *function, *other;
    int value;

    (void)state;
    begin(&(struct cuda_stub_config){0});
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(
            launch_try("case_index", cases[i].grid, cases[i].block, 0, LAUNCH_ARGS(&launch_on.out)),
            cases[i].code);
    assert_int_equal(launch_cu.find(&function, launch_on.module, "case_of_nobody"), 500);
    assert_int_equal(launch_cu.find(&function, launch_on.module, "case_beyond"), 0);
    assert_int_equal(launch_cu.allow(function, 8, 227 << 10), 0);
    assert_int_equal(launch_cu.allow(function, 8, (227 << 10) + 1), CUDA_INVALID_VALUE);
    assert_int_equal(launch_cu.launch(function, 1, 1, 1, 32, 1, 1, 227 << 10, launch_on.stream,
                                      LAUNCH_ARGS(&(int){232447}), NULL),
                     0);
    assert_int_equal(launch_cu.load(&other, NULL), CUDA_INVALID_VALUE);
    assert_int_equal(launch_cu.attribute(&value, 16, 0), 0);
    assert_int_equal(value, 4);
    assert_int_equal(launch_cu.attribute(&value, 75, 0), 0);
    assert_int_equal(value, 9);
    launch_end_well();
}

static void test_violations(void **state)
{
    char text[300];
    void *module, *function;
    int at = 0;

    (void)state;
    begin(&(struct cuda_stub_config){0});
    assert_int_equal(launch_try("case_beyond", (struct launch_dims){1, 1, 1}, (struct launch_dims){32, 1, 1},
                                (48 << 10) + 1, LAUNCH_ARGS(&at)),
                     CUDA_INVALID_VALUE);
    (void)launch_end(text, sizeof text);
    assert_non_null(strstr(text, "49153 bytes of shared memory, 49152 allowed"));

    begin(&(struct cuda_stub_config){0});
    assert_int_equal(launch_cu.load(&module, ""), 0);
    assert_int_equal(launch_cu.find(&function, module, "case_beyond"), 0);
    assert_int_equal(launch_cu.unload(module), 0);
    assert_int_not_equal(
        launch_cu.launch(function, 1, 1, 1, 1, 1, 1, 4, launch_on.stream, LAUNCH_ARGS(&at), NULL), 0);
    (void)launch_end(text, sizeof text);
    assert_non_null(strstr(text, "module is not alive"));

    begin(&(struct cuda_stub_config){0});
    assert_int_not_equal(launch_cu.copy(launch_on.out, launch_on.in, LAUNCH_BYTES + 1, launch_on.stream), 0);
    (void)launch_end(text, sizeof text);
    assert_non_null(strstr(text, "outside device memory"));
}

static void test_lost(void **state)
{
    float value = 1.0f, got = 0.0f;
    char text[300];
    void *function;

    (void)state;
    for (unsigned after = 1; after <= 3; after++) {
        begin(&(struct cuda_stub_config){.seed = after, .lose_after = after, .pause_us = 50});
        for (int i = 0; i < 3; i++) {
            value = (float)i + 1.0f;
            (void)launch_try("case_fill_f32", (struct launch_dims){1, 1, 1}, (struct launch_dims){32, 1, 1},
                             0, LAUNCH_ARGS(&launch_on.out, &value));
        }
        assert_int_equal(launch_cu.sync(), LOST);
        memcpy(&got, (void *)(uintptr_t)launch_on.out, sizeof got); /* device memory is RAM here */
        assert_true(after == 1 ? memcmp(&got, "\xCD\xCD\xCD\xCD", 4) == 0 : got == (float)after - 1.0f);
        assert_int_equal(launch_end(text, sizeof text), LOST);
        assert_string_equal(text, "");
    }
    begin(&(struct cuda_stub_config){.fail_call = "cuLaunchKernel", .fail_nth = 2, .fail_code = 701});
    assert_int_equal(launch_cu.find(&function, launch_on.module, "case_fill_f32"), 0);
    for (unsigned i = 1; i <= 3; i++)
        assert_int_equal(launch_cu.launch(function, 1, 1, 1, 32, 1, 1, 0, launch_on.stream,
                                          LAUNCH_ARGS(&launch_on.out, &value), NULL),
                         i == 2 ? 701 : 0);
    assert_int_equal(launch_cu.control->calls("cuLaunchKernel"), 3);
    launch_end_well();
}

static int setup(void **state)
{
    (void)state;
    launch_load();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_warp),
        cmocka_unit_test(test_mma),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_copy_peek),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_missing_barrier),
        cmocka_unit_test(test_missing_wait),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_races),
        cmocka_unit_test(test_beyond),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_violations),
        cmocka_unit_test(test_lost),
    };

    if (argc == 4)
        return child(argv[1], atoi(argv[2]), (unsigned)atoi(argv[3]));
    return cmocka_run_group_tests(tests, setup, NULL);
}
