/*
 * bits: a set of small numbers, with a summary of each 64 words, so that the next or the last member
 * is found in a few steps however many there could be. Memory is the caller's. One thread at a time.
 */
#ifndef OFL_BASE_BITS_H
#define OFL_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

#define BASE_BITS_LEVELS 6u /* of 64 each: any uint32_t */
#define BASE_BITS_NONE   UINT32_MAX

struct base_bits {
    uint64_t *level[BASE_BITS_LEVELS]; /* level 0 are the members; a bit above is 64 below */
    uint32_t levels, count;            /* count: members */
};

/* 64-bit words that a set of numbers below n takes. */
uint64_t base_bits_words(uint32_t n);
/* An empty set of numbers below n in zeroed memory of so many words. */
void base_bits_init(struct base_bits *b, uint32_t n, uint64_t *words);
void base_bits_put(struct base_bits *b, uint32_t i, bool member);
bool base_bits_has(const struct base_bits *b, uint32_t i);
/* The smallest member that is not below i, the largest that is not above i. BASE_BITS_NONE: there is none.
 * i below n. */
uint32_t base_bits_next(const struct base_bits *b, uint32_t i);
uint32_t base_bits_last(const struct base_bits *b, uint32_t i);

#endif
