/*
 * What tools/unicode_tables.py has asked Hugging Face's tokenizers of characters.
 * The package's parts follow different versions of Unicode; so no library's tables
 * would do for all of them.
 */
#ifndef MODEL_TOKENIZER_TABLES_H
#define MODEL_TOKENIZER_TABLES_H

#include <stddef.h>
#include <stdint.h>

/* Runs: start << 5 | category, in the order of tok_bits_named's names. */
extern const uint32_t uni_categories[];
extern const size_t uni_categories_count;
/* Runs: start << 8 | script, 0 for none. */
extern const uint32_t uni_scripts[];
extern const size_t uni_scripts_count;
/* Sorted by name. */
struct uni_script {
    const char *name;
    unsigned number;
};
extern const struct uni_script uni_script_names[];
extern const size_t uni_script_names_count;
/* Ranges, from and to: what is beside L and Nl, Lu, Ll, and N. */
extern const uint32_t uni_other_alphabetic[];
extern const size_t uni_other_alphabetic_count;
extern const uint32_t uni_other_uppercase[];
extern const size_t uni_other_uppercase_count;
extern const uint32_t uni_other_lowercase[];
extern const size_t uni_other_lowercase_count;
extern const uint32_t uni_rust_numeric[];
extern const size_t uni_rust_numeric_count;
/* Ranges of what the pre-tokenizer Punctuation cuts at. */
extern const uint32_t uni_rust_punctuation[];
extern const size_t uni_rust_punctuation_count;

/* Runs: start << 8 | canonical combining class. */
extern const uint32_t uni_combining[];
extern const size_t uni_combining_count;
/* Threes: code point << 1 | whether the two others compose to it, first, second or
 * 0. By code point. */
extern const uint32_t uni_pairs[];
extern const size_t uni_pairs_count;
/* Fours: from, to, step, what from becomes; those behind it become what is as far
 * behind that. Compatibility decompositions to one character. */
extern const uint32_t uni_compat[];
extern const size_t uni_compat_count;
/* code point << 5 | how many, and that many: those to more. */
extern const uint32_t uni_compat_texts[];
extern const size_t uni_compat_texts_count;
/* Fours, as uni_compat. U+0130 alone becomes two, and isn't in it. */
extern const uint32_t uni_lowercase[];
extern const size_t uni_lowercase_count;
/* Ranges of what StripAccents removes. */
extern const uint32_t uni_accents[];
extern const size_t uni_accents_count;

#endif
