/* bits: see bits.h. */
#include "base/bits.h"

static uint64_t words_for(uint64_t n)
{
    return (n + 63) / 64;
}

uint64_t base_bits_words(uint32_t n)
{
    uint64_t words = 0, at = n;

    do {
        at = words_for(at);
        words += at;
    } while (at > 1);
    return words;
}

void base_bits_init(struct base_bits *b, uint32_t n, uint64_t *words)
{
    uint64_t at = n;

    *b = (struct base_bits){0};
    do {
        at = words_for(at);
        b->level[b->levels++] = words;
        words += at;
    } while (at > 1);
}

void base_bits_put(struct base_bits *b, uint32_t i, bool member)
{
    if (base_bits_has(b, i) == member)
        return;
    b->count += member ? 1 : UINT32_MAX;
    for (uint32_t k = 0; k < b->levels; k++, i /= 64) {
        uint64_t *word = &b->level[k][i / 64], before = *word;

        *word = member ? before | 1ull << i % 64 : before & ~(1ull << i % 64);
        if ((before == 0) == (*word == 0))
            break; /* nothing changes above */
    }
}

bool base_bits_has(const struct base_bits *b, uint32_t i)
{
    return b->level[0][i / 64] >> i % 64 & 1;
}

/* From bit i of level k down to a member. */
static uint32_t descend(const struct base_bits *b, uint32_t k, uint32_t i, bool first)
{
    while (k-- > 0) {
        uint64_t word = b->level[k][i];

        i = i * 64 + (uint32_t)(first ? __builtin_ctzll(word) : 63 - __builtin_clzll(word));
    }
    return i;
}

uint32_t base_bits_next(const struct base_bits *b, uint32_t i)
{
    if (base_bits_has(b, i))
        return i;
    for (uint32_t k = 0; k < b->levels; k++, i /= 64) {
        uint64_t rest = b->level[k][i / 64] & (i % 64 == 63 ? 0 : ~0ull << (i % 64 + 1));

        if (rest)
            return descend(b, k, i / 64 * 64 + (uint32_t)__builtin_ctzll(rest), true);
    }
    return BASE_BITS_NONE;
}

uint32_t base_bits_last(const struct base_bits *b, uint32_t i)
{
    if (base_bits_has(b, i))
        return i;
    for (uint32_t k = 0; k < b->levels; k++, i /= 64) {
        uint64_t rest = b->level[k][i / 64] & ((1ull << i % 64) - 1);

        if (rest)
            return descend(b, k, i / 64 * 64 + 63 - (uint32_t)__builtin_clzll(rest), false);
    }
    return BASE_BITS_NONE;
}
