/*
 * Kernels of the random programs of test_core.c and test_core_homes.c: they check a tensor's words against
 * what is known of them, write all anew, or flip bits of all. After cmocka.h.
 */
#ifndef OFL_TESTS_CORE_WORDS_H
#define OFL_TESTS_CORE_WORDS_H

#include <stdatomic.h>
#include <stdlib.h>

#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

/* Word i of a tensor; seed 0: it was never written. */
static inline uint64_t word_at(uint64_t seed, uint64_t mask, uint64_t i)
{
    return (seed ? (seed + i) * 0x9e3779b97f4a7c15u : 0) ^ mask;
}

struct word_kernel {
    uint64_t *words, count;
    uint64_t seed, mask; /* expected, if check */
    uint64_t new_seed, new_mask;
    bool check, overwrite, flip;
    atomic_uint *wrong_words;
};

static inline void word_kernel_run(void *arg)
{
    struct word_kernel *k = arg;
    uint64_t *words = fixture_view(k->words);
    unsigned wrong = 0;

    if (k->check)
        for (uint64_t i = 0; i < k->count; i++)
            wrong += words[i] != word_at(k->seed, k->mask, i);
    if (wrong)
        atomic_fetch_add(k->wrong_words, wrong);
    if (k->overwrite)
        for (uint64_t i = 0; i < k->count; i++)
            words[i] = word_at(k->new_seed, k->new_mask, i);
    if (k->flip)
        for (uint64_t i = 0; i < k->count; i++)
            words[i] ^= k->new_mask;
    free(k);
}

/* For a lease of a tensor of so many words: what its mode allows. *seed, *mask and *defined are what is
 * known of them, before and after. */
static inline void words_launch(struct ofl_stream *s, const struct ofl_lease *l, uint64_t words,
                                uint64_t *seed, uint64_t *mask, bool *defined, struct random *random,
                                atomic_uint *wrong_words)
{
    struct word_kernel *k = calloc(1, sizeof *k);
    struct fixture_range range = {l->ptr, words * sizeof *k->words, l->mode != OFL_READ};

    assert_non_null(k);
    *k = (struct word_kernel){.words = l->ptr,
                              .count = words,
                              .seed = *seed,
                              .mask = *mask,
                              .check = l->mode != OFL_OVERWRITE && *defined,
                              .overwrite = l->mode == OFL_OVERWRITE,
                              .flip = l->mode == OFL_UPDATE,
                              .new_seed = random_next(random) | 1,
                              .new_mask = random_next(random),
                              .wrong_words = wrong_words};
    if (l->mode == OFL_OVERWRITE) {
        *seed = k->new_seed;
        *mask = k->new_mask;
        *defined = true;
    }
    if (l->mode == OFL_UPDATE)
        *mask ^= k->new_mask;
    assert_int_equal(fixture_kernel(s, word_kernel_run, k, range), 0);
}

#endif
