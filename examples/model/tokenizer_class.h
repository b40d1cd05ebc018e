/*
 * Sets of characters: as one bit for each code point while they are put together,
 * and as pages of 256 once they are only asked. Names are those that Oniguruma takes
 * in \p{...}; its Unicode version is that of tokenizer_tables.h.
 */
#ifndef MODEL_TOKENIZER_CLASS_H
#define MODEL_TOKENIZER_CLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOK_CODES 0x110000u

struct tok_bits {
    uint64_t word[TOK_CODES / 64];
};

/* page: 0 none of the page's characters, 1 all, else bits[page - 2]. */
struct tok_class {
    uint16_t page[TOK_CODES / 256];
    uint64_t bits[][4];
};

void tok_bits_range(struct tok_bits *bits, uint32_t from, uint32_t to);
/* From and to, count numbers of them. */
void tok_bits_ranges(struct tok_bits *bits, const uint32_t *ranges, size_t count);
void tok_bits_or(struct tok_bits *bits, const struct tok_bits *other);
void tok_bits_and(struct tok_bits *bits, const struct tok_bits *other);
void tok_bits_invert(struct tok_bits *bits);
/* Adds the characters of a property. Case, spaces, - and _ don't count in names.
 * False: no property of that name is known. */
bool tok_bits_named(struct tok_bits *bits, const char *name, size_t bytes);
/* The same of a class in [: and :]: punct means other characters there. */
bool tok_bits_posix(struct tok_bits *bits, const char *name, size_t bytes);

/* NULL: no memory. To be free()d. */
struct tok_class *tok_class_make(const struct tok_bits *bits);

static inline bool tok_class_has(const struct tok_class *c, uint32_t code)
{
    unsigned page = c->page[code >> 8];

    return page < 2 ? page : c->bits[page - 2][code >> 6 & 3] >> (code & 63) & 1;
}

#endif
