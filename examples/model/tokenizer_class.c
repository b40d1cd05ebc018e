/*
 * Sets of characters and their names. Knows nothing of patterns.
 */
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_class.h"
#include "examples/model/tokenizer_tables.h"

#define NAME_MAX 40

void tok_bits_range(struct tok_bits *bits, uint32_t from, uint32_t to)
{
    for (uint32_t code = from; code <= to; code++) {
        if (code % 64 == 0 && to - code >= 63) {
            bits->word[code / 64] = UINT64_MAX;
            code += 63;
        } else {
            bits->word[code / 64] |= (uint64_t)1 << code % 64;
        }
    }
}

void tok_bits_ranges(struct tok_bits *bits, const uint32_t *ranges, size_t count)
{
    for (size_t i = 0; i < count; i += 2)
        tok_bits_range(bits, ranges[i], ranges[i + 1]);
}

void tok_bits_or(struct tok_bits *bits, const struct tok_bits *other)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++)
        bits->word[i] |= other->word[i];
}

void tok_bits_and(struct tok_bits *bits, const struct tok_bits *other)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++)
        bits->word[i] &= other->word[i];
}

void tok_bits_invert(struct tok_bits *bits)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++)
        bits->word[i] = ~bits->word[i];
}

/* The order is that of the numbers in uni_categories. */
static const char category_names[][3] = {"cc", "cf", "cn", "co", "cs", "ll", "lm", "lo", "lt", "lu",
                                         "mc", "me", "mn", "nd", "nl", "no", "pc", "pd", "pe", "pf",
                                         "pi", "po", "ps", "sc", "sk", "sm", "so", "zl", "zp", "zs"};
#define CATEGORIES (sizeof category_names / sizeof *category_names)

/* The categories of each letter in from: "ll", or all of "l". A bit each. */
static uint32_t category_mask(const char *name)
{
    uint32_t mask = 0;

    for (size_t i = 0; i < CATEGORIES; i++)
        if (name[0] == category_names[i][0] && (!name[1] || strcmp(name, category_names[i]) == 0))
            mask |= 1u << i;
    return mask;
}

static void add_categories(struct tok_bits *bits, uint32_t mask)
{
    for (size_t i = 0; i < uni_categories_count; i++) {
        uint32_t to = i + 1 < uni_categories_count ? uni_categories[i + 1] >> 5 : TOK_CODES;
        if (mask >> (uni_categories[i] & 31) & 1)
            tok_bits_range(bits, uni_categories[i] >> 5, to - 1);
    }
}

static void add_letters(struct tok_bits *bits, const char *first, const char *second, const uint32_t *others,
                        size_t count)
{
    add_categories(bits, category_mask(first) | category_mask(second));
    tok_bits_ranges(bits, others, count);
}

static void add_alphabetic(struct tok_bits *bits)
{
    add_letters(bits, "l", "nl", uni_other_alphabetic, uni_other_alphabetic_count);
}

static void add_space(struct tok_bits *bits)
{
    tok_bits_range(bits, 9, 13);
    tok_bits_range(bits, 0x85, 0x85);
    add_categories(bits, category_mask("z"));
}

static void add_ascii_digits(struct tok_bits *bits, bool letters)
{
    tok_bits_range(bits, '0', '9');
    if (letters) {
        tok_bits_range(bits, 'A', 'F');
        tok_bits_range(bits, 'a', 'f');
    }
}

/* What has ink: everything but white space, controls and what isn't assigned. print
 * adds the spaces. */
static void add_graph(struct tok_bits *bits, bool print)
{
    uint32_t mask = ~(category_mask("cc") | category_mask("cn") | category_mask("cs") | category_mask("z"));

    if (print)
        mask |= category_mask("zs");
    add_categories(bits, mask);
}

/* The names that Oniguruma shares with POSIX, and those of the whole. */
static bool add_common(struct tok_bits *bits, const char *name)
{
    if (strcmp(name, "alpha") == 0 || strcmp(name, "alphabetic") == 0) {
        add_alphabetic(bits);
    } else if (strcmp(name, "alnum") == 0) {
        add_alphabetic(bits);
        add_categories(bits, category_mask("nd"));
    } else if (strcmp(name, "word") == 0) {
        add_alphabetic(bits);
        add_categories(bits, category_mask("m") | category_mask("nd") | category_mask("pc"));
    } else if (strcmp(name, "upper") == 0 || strcmp(name, "uppercase") == 0) {
        add_letters(bits, "lu", "lu", uni_other_uppercase, uni_other_uppercase_count);
    } else if (strcmp(name, "lower") == 0 || strcmp(name, "lowercase") == 0) {
        add_letters(bits, "ll", "ll", uni_other_lowercase, uni_other_lowercase_count);
    } else if (strcmp(name, "digit") == 0) {
        add_categories(bits, category_mask("nd"));
    } else if (strcmp(name, "space") == 0 || strcmp(name, "whitespace") == 0) {
        add_space(bits);
    } else if (strcmp(name, "blank") == 0) {
        tok_bits_range(bits, '\t', '\t');
        add_categories(bits, category_mask("zs"));
    } else if (strcmp(name, "cntrl") == 0) {
        add_categories(bits, category_mask("cc"));
    } else if (strcmp(name, "xdigit") == 0) {
        add_ascii_digits(bits, true);
    } else if (strcmp(name, "graph") == 0 || strcmp(name, "print") == 0) {
        add_graph(bits, name[0] == 'p');
    } else if (strcmp(name, "ascii") == 0) {
        tok_bits_range(bits, 0, 127);
    } else if (strcmp(name, "any") == 0) {
        tok_bits_range(bits, 0, TOK_CODES - 1);
    } else if (strcmp(name, "assigned") == 0) {
        add_categories(bits, ~category_mask("cn"));
    } else {
        return false;
    }
    return true;
}

/* Long names of categories -> what category_mask takes. */
static const char *const long_names[][2] = {{"closepunctuation", "pe"},
                                            {"combiningmark", "m"},
                                            {"connectorpunctuation", "pc"},
                                            {"control", "cc"},
                                            {"currencysymbol", "sc"},
                                            {"dashpunctuation", "pd"},
                                            {"decimalnumber", "nd"},
                                            {"enclosingmark", "me"},
                                            {"finalpunctuation", "pf"},
                                            {"format", "cf"},
                                            {"initialpunctuation", "pi"},
                                            {"letter", "l"},
                                            {"letternumber", "nl"},
                                            {"lineseparator", "zl"},
                                            {"lowercaseletter", "ll"},
                                            {"mark", "m"},
                                            {"mathsymbol", "sm"},
                                            {"modifierletter", "lm"},
                                            {"modifiersymbol", "sk"},
                                            {"nonspacingmark", "mn"},
                                            {"number", "n"},
                                            {"openpunctuation", "ps"},
                                            {"other", "c"},
                                            {"otherletter", "lo"},
                                            {"othernumber", "no"},
                                            {"otherpunctuation", "po"},
                                            {"othersymbol", "so"},
                                            {"paragraphseparator", "zp"},
                                            {"privateuse", "co"},
                                            {"punct", "p"},
                                            {"punctuation", "p"},
                                            {"separator", "z"},
                                            {"spaceseparator", "zs"},
                                            {"spacingmark", "mc"},
                                            {"surrogate", "cs"},
                                            {"symbol", "s"},
                                            {"titlecaseletter", "lt"},
                                            {"unassigned", "cn"},
                                            {"uppercaseletter", "lu"}};

static bool add_script(struct tok_bits *bits, const char *name)
{
    unsigned number = 0;

    for (size_t i = 0; i < uni_script_names_count; i++)
        if (strcmp(name, uni_script_names[i].name) == 0)
            number = uni_script_names[i].number;
    for (size_t i = 0; number && i < uni_scripts_count; i++) {
        uint32_t to = i + 1 < uni_scripts_count ? uni_scripts[i + 1] >> 8 : TOK_CODES;
        if ((uni_scripts[i] & 255) == number)
            tok_bits_range(bits, uni_scripts[i] >> 8, to - 1);
    }
    return number != 0;
}

bool tok_bits_named(struct tok_bits *bits, const char *name, size_t bytes)
{
    char plain[NAME_MAX];
    size_t used = 0;

    for (size_t i = 0; i < bytes; i++) {
        char c = name[i];
        if (c == ' ' || c == '-' || c == '_')
            continue;
        if (used + 1 == sizeof plain || (unsigned char)c > 127 || c == 0)
            return false;
        plain[used++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    plain[used] = 0;
    if (used == 0)
        return false;
    if (used <= 2 && category_mask(plain)) {
        add_categories(bits, category_mask(plain));
        return true;
    }
    if (strcmp(plain, "lc") == 0 || strcmp(plain, "casedletter") == 0) {
        add_categories(bits, category_mask("ll") | category_mask("lt") | category_mask("lu"));
        return true;
    }
    for (size_t i = 0; i < sizeof long_names / sizeof *long_names; i++) {
        if (strcmp(plain, long_names[i][0]) == 0) {
            add_categories(bits, category_mask(long_names[i][1]));
            return true;
        }
    }
    return add_common(bits, plain) || add_script(bits, plain);
}

bool tok_bits_posix(struct tok_bits *bits, const char *name, size_t bytes)
{
    static const char *const names[] = {"alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph",
                                        "lower", "print", "space", "upper", "word",  "xdigit"};

    if (bytes == 5 && memcmp(name, "punct", 5) == 0) {
        add_categories(bits, category_mask("p") | category_mask("s"));
        return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == bytes && memcmp(name, names[i], bytes) == 0)
            return add_common(bits, names[i]);
    return false;
}

struct tok_class *tok_class_make(const struct tok_bits *bits)
{
    size_t mixed = 0;
    struct tok_class *c;

    for (size_t page = 0; page < TOK_CODES / 256; page++) {
        const uint64_t *word = &bits->word[4 * page];
        bool none = !(word[0] | word[1] | word[2] | word[3]);
        bool all = (word[0] & word[1] & word[2] & word[3]) == UINT64_MAX;
        mixed += !none && !all;
    }
    c = calloc(1, sizeof *c + mixed * sizeof *c->bits);
    if (!c)
        return NULL;
    mixed = 0;
    for (size_t page = 0; page < TOK_CODES / 256; page++) {
        const uint64_t *word = &bits->word[4 * page];
        if ((word[0] & word[1] & word[2] & word[3]) == UINT64_MAX) {
            c->page[page] = 1;
        } else if (word[0] | word[1] | word[2] | word[3]) {
            memcpy(c->bits[mixed], word, sizeof *c->bits);
            c->page[page] = (uint16_t)(2 + mixed++);
        }
    }
    return c;
}
