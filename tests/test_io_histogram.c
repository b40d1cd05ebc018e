/*
 * Proves the histograms of times: each value has one bucket, none is left out up to 2^64 - 1, and
 * buckets are no wider than an eighth of their values; quantiles agree with a sorted array of random
 * values to within that; merging is the same as adding all to one.
 *
 * Negative controls: values at both sides of every border; quantiles are never below the exact ones.
 */
#include "tests/io_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "io/histogram.h"

#define VALUES 20000u

static uint64_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* The only bucket that counts value. */
static unsigned bucket_of(uint64_t value)
{
    struct io_histogram h = {0};
    unsigned found = IO_HISTOGRAM_BUCKETS;

    io_histogram_add(&h, value);
    for (unsigned i = 0; i < IO_HISTOGRAM_BUCKETS; i++)
        if (h.bucket[i]) {
            assert_int_equal(found, IO_HISTOGRAM_BUCKETS);
            assert_int_equal(h.bucket[i], 1);
            found = i;
        }
    assert_int_equal(h.count, 1);
    assert_true(h.sum == value && h.max == value);
    return found;
}

static void buckets_are_contiguous(void **state)
{
    (void)state;
    assert_int_equal(io_histogram_low(0), 0);
    assert_true(io_histogram_high(IO_HISTOGRAM_BUCKETS - 1) == UINT64_MAX);
    for (unsigned i = 0; i < IO_HISTOGRAM_BUCKETS; i++) {
        uint64_t low = io_histogram_low(i), high = io_histogram_high(i);

        assert_true(low <= high);
        assert_true(high - low <= low / 8);
        assert_int_equal(bucket_of(low), i);
        assert_int_equal(bucket_of(high), i);
        if (i + 1 < IO_HISTOGRAM_BUCKETS)
            assert_true(io_histogram_low(i + 1) == high + 1);
    }
}

/* Not above the exact one by more than an eighth, and never below it. */
static void check_quantile(const struct io_histogram *h, const uint64_t *sorted, unsigned count, double share)
{
    unsigned rank = (unsigned)(share * count);
    uint64_t exact, got = io_histogram_quantile(h, share);

    if ((double)rank < share * count || rank == 0)
        rank++;
    exact = sorted[rank - 1];
    if (got < exact || got - exact > exact / 8)
        fail_msg("seed %lu: of %u values, %g do not exceed %lu: got %lu", (unsigned long)io_test.seed, count,
                 share, (unsigned long)exact, (unsigned long)got);
}

static void quantiles_of_random_values(void **state)
{
    static const double shares[] = {0, 0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
    uint64_t *values = calloc(VALUES, sizeof *values), random = io_test.seed | 1;

    (void)state;
    assert_non_null(values);
    for (unsigned bits = 1; bits <= 64; bits += 7) {
        struct io_histogram h = {0};
        unsigned count = 1 + (unsigned)(draw(&random) % VALUES);

        for (unsigned i = 0; i < count; i++) { /* as many small ones as large ones */
            values[i] = draw(&random) >> (64 - bits) >> draw(&random) % bits;
            io_histogram_add(&h, values[i]);
        }
        qsort(values, count, sizeof *values, compare);
        for (unsigned i = 0; i < sizeof shares / sizeof shares[0]; i++)
            check_quantile(&h, values, count, shares[i]);
        assert_true(io_histogram_quantile(&h, 1) == values[count - 1]); /* exactly the maximum */
    }
    free(values);
}

static void few_values(void **state)
{
    struct io_histogram h = {0};

    (void)state;
    assert_int_equal(io_histogram_quantile(&h, 0.5), 0);
    assert_int_equal(io_histogram_quantile(&h, 1), 0);
    io_histogram_add(&h, 1000);
    assert_int_equal(io_histogram_quantile(&h, 0), 1000);
    assert_int_equal(io_histogram_quantile(&h, 0.001), 1000);
    assert_int_equal(io_histogram_quantile(&h, 1), 1000);
    io_histogram_add(&h, 5);
    assert_int_equal(io_histogram_quantile(&h, 0.5), 5);
    assert_true(io_histogram_quantile(&h, 0.51) == 1000);
    io_histogram_add(&h, 0);
    assert_int_equal(io_histogram_quantile(&h, 0), 0);
    assert_int_equal(h.sum, 1005);
}

static void merging_adds(void **state)
{
    struct io_histogram one = {0}, two = {0}, all = {0}, empty = {0};
    uint64_t random = io_test.seed | 1;

    (void)state;
    for (unsigned i = 0; i < VALUES; i++) {
        uint64_t value = draw(&random) >> draw(&random) % 64;

        io_histogram_add(i % 3 ? &one : &two, value);
        io_histogram_add(&all, value);
    }
    assert_true(memcmp(&one, &all, sizeof all) != 0);
    io_histogram_merge(&one, &two);
    assert_memory_equal(&one, &all, sizeof all);
    io_histogram_merge(&one, &empty);
    assert_memory_equal(&one, &all, sizeof all);
    io_histogram_merge(&empty, &all);
    assert_memory_equal(&empty, &all, sizeof all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_are_contiguous),
        cmocka_unit_test(quantiles_of_random_values),
        cmocka_unit_test(few_values),
        cmocka_unit_test(merging_adds),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
