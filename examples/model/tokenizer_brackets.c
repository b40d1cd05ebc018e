/*
 * Classes of patterns: what stands between [ and ], and the escapes that name a set.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_parse.h"

/* Oniguruma's \w takes these, its [\w] does not. */
void re_add_word(struct tok_bits *bits)
{
    static const uint32_t more[] = {0xB2, 0xB3, 0xB9, 0xB9, 0xBC, 0xBE};

    tok_bits_named(bits, "word", 4);
    tok_bits_ranges(bits, more, sizeof more / sizeof *more);
}

/* Only ASCII has its other case here; what has none, and never is a part of one,
 * stands for itself. */
int re_fold_range(struct re_parser *p, struct tok_bits *bits, uint32_t from, uint32_t to)
{
    static const char *const caseless[] = {"P", "Sc", "Sk", "Sm", "Z", "Nd", "No", "Cc", "Cn"};

    tok_bits_range(bits, from, to);
    if (!p->fold)
        return 0;
    for (uint32_t code = from; code <= to && code < 128; code++) {
        uint32_t lower = code | 32;
        if (lower < 'a' || lower > 'z')
            continue;
        tok_bits_range(bits, code ^ 32, code ^ 32);
        if (lower == 'k')
            tok_bits_range(bits, 0x212A, 0x212A);
        if (lower == 's')
            tok_bits_range(bits, 0x17F, 0x17F);
    }
    if (to < 128)
        return 0;
    struct tok_bits *known = calloc(1, sizeof *known);
    if (!known)
        return -ENOMEM;
    tok_bits_range(known, 0, 127);
    for (size_t i = 0; i < sizeof caseless / sizeof *caseless; i++)
        tok_bits_named(known, caseless[i], strlen(caseless[i]));
    bool covered = true;
    for (uint32_t code = from; code <= to && covered; code++)
        covered = known->word[code / 64] >> code % 64 & 1;
    free(known);
    return covered ? 0 : re_fail(p, -ENOTSUP, "letters beyond ASCII are not supported behind (?i)");
}

/* \p{...} and \P{...}, also \p{^...}: 1, or 0 where no brace follows. */
static int parse_property(struct re_parser *p, struct tok_bits *bits)
{
    bool negate = *p->at == 'P';
    const char *close;

    if (p->end - p->at < 2 || p->at[1] != '{')
        return 0;
    p->at += 2;
    if (re_takes(p, "^"))
        negate = !negate;
    close = memchr(p->at, '}', (size_t)(p->end - p->at));
    if (!close)
        return re_fail(p, -EINVAL, "a property's name has no end");
    if (!tok_bits_named(bits, p->at, (size_t)(close - p->at)))
        return re_fail(p, -ENOTSUP, "this property is not supported");
    p->at = close + 1;
    if (negate)
        tok_bits_invert(bits);
    return 1;
}

int re_escaped_set(struct re_parser *p, struct tok_bits *bits, bool in_class)
{
    static const char *const names[] = {"digit", "space", "word", "xdigit"};
    static const char letters[] = "dswhDSWH";
    struct tok_bits *set;
    const char *found;
    int rc = 1;

    if (p->at == p->end || *p->at == 0)
        return 0;
    found = strchr(letters, *p->at);
    if (!found && *p->at != 'p' && *p->at != 'P')
        return 0;
    set = calloc(1, sizeof *set);
    if (!set)
        return -ENOMEM;
    if (!found) {
        rc = parse_property(p, set);
        /* Oniguruma adds the other case of what a class has, but not of \p{Lu} alone. */
        if (rc == 1 && p->fold && in_class)
            rc = re_fail(p, -ENOTSUP, "properties in brackets are not supported behind (?i)");
    } else {
        size_t which = (size_t)(found - letters) % 4;
        if (which == 2 && !in_class)
            re_add_word(set);
        else
            tok_bits_named(set, names[which], strlen(names[which]));
        if (found - letters >= 4)
            tok_bits_invert(set);
        if (p->fold && in_class && found[0] != 'd' && found[0] != 's')
            rc = re_fail(p, -ENOTSUP, "this escape in brackets is not supported behind (?i)");
        p->at++;
    }
    if (rc == 1)
        tok_bits_or(bits, set);
    free(set);
    return rc;
}

/* [:name:] or [:^name:]: 1, or 0 where it is no such thing. */
static int parse_posix(struct re_parser *p, struct tok_bits *bits)
{
    const char *name = p->at + 2, *close = name;
    struct tok_bits *set;
    int rc = 1;

    while (close < p->end && ((*close >= 'a' && *close <= 'z') || *close == '^'))
        close++;
    if (p->end - close < 2 || close[0] != ':' || close[1] != ']')
        return 0;
    bool negate = *name == '^';
    set = calloc(1, sizeof *set);
    if (!set)
        return -ENOMEM;
    name += negate;
    if (!tok_bits_posix(set, name, (size_t)(close - name)))
        rc = re_fail(p, -EINVAL, "there is no class of this name");
    if (rc == 1 && p->fold)
        rc = re_fail(p, -ENOTSUP, "classes by name are not supported behind (?i)");
    if (negate)
        tok_bits_invert(set);
    if (rc == 1)
        tok_bits_or(bits, set);
    free(set);
    p->at = close + 2;
    return rc;
}

/* One code point of a class: a literal or an escape. */
static int class_code(struct re_parser *p, uint32_t *code)
{
    if (!re_takes(p, "\\"))
        return re_next(p, code);
    if (p->at == p->end)
        return re_fail(p, -EINVAL, "it ends with a backslash");
    if (re_takes(p, "b")) {
        *code = '\b';
        return 0;
    }
    if (*p->at >= '1' && *p->at <= '7')
        return re_fail(p, -ENOTSUP, "octal escapes without a leading 0 are not supported");
    return re_escaped_code(p, code);
}

/* A code point, or a range from it. */
static int parse_range(struct re_parser *p, struct tok_bits *bits)
{
    uint32_t from, to;
    int rc = class_code(p, &from);

    if (rc < 0)
        return rc;
    if (!re_looks(p, "-") || p->end - p->at < 2 || p->at[1] == ']')
        return re_fold_range(p, bits, from, from);
    p->at++;
    if (re_looks(p, "[") || re_looks(p, "&&"))
        return re_fail(p, -ENOTSUP, "a range that ends in a class is not supported");
    if (re_looks(p, "\\") && p->end - p->at > 1 && p->at[1] && strchr("dswhDSWHpP", p->at[1]))
        return re_fail(p, -EINVAL, "a range that ends in a class");
    rc = class_code(p, &to);
    if (rc == 0 && to < from)
        rc = re_fail(p, -EINVAL, "a range that ends before it begins");
    if (rc == 0)
        rc = re_fold_range(p, bits, from, to);
    /* A hyphen that follows is one, as in [a-c-e]. */
    if (rc == 0 && re_looks(p, "-") && p->end - p->at > 1 && p->at[1] != ']') {
        p->at++;
        tok_bits_range(bits, '-', '-');
    }
    return rc;
}

/* A hyphen behind a set can't begin a range. */
static int after_set(struct re_parser *p)
{
    if (re_looks(p, "-") && p->end - p->at > 1 && p->at[1] != ']')
        return re_fail(p, -EINVAL, "a range that begins in a class");
    return 0;
}

static int parse_item(struct re_parser *p, struct tok_bits *bits, unsigned depth)
{
    struct tok_bits *inner;
    int rc;

    if (re_looks(p, "[:") && (rc = parse_posix(p, bits)) != 0)
        return rc < 0 ? rc : after_set(p);
    if (re_takes(p, "[")) {
        inner = calloc(1, sizeof *inner);
        if (!inner)
            return -ENOMEM;
        rc = re_parse_class(p, inner, depth + 1);
        tok_bits_or(bits, inner);
        free(inner);
        return rc < 0 ? rc : after_set(p);
    }
    if (re_looks(p, "\\")) {
        p->at++;
        rc = re_escaped_set(p, bits, true);
        if (rc != 0)
            return rc < 0 ? rc : after_set(p);
        p->at--;
    }
    return parse_range(p, bits);
}

/* What stands before && goes into all, and bits begins anew. */
static int intersect(struct tok_bits **all, struct tok_bits *bits)
{
    if (*all) {
        tok_bits_and(*all, bits);
    } else {
        *all = malloc(sizeof **all);
        if (!*all)
            return -ENOMEM;
        **all = *bits;
    }
    memset(bits, 0, sizeof *bits);
    return 0;
}

int re_parse_class(struct re_parser *p, struct tok_bits *bits, unsigned depth)
{
    bool negate = re_takes(p, "^"), first = true;
    struct tok_bits *all = NULL;
    int rc = depth > RE_DEPTH ? re_fail(p, -ENOTSUP, "classes are nested too deep") : 0;

    for (; rc == 0; first = false) {
        if (p->at == p->end) {
            rc = re_fail(p, -EINVAL, "a class is not closed");
        } else if (first && *p->at == ']') {
            p->at++;
            if (!memchr(p->at, ']', (size_t)(p->end - p->at)))
                rc = re_fail(p, -EINVAL, "a class is empty");
            tok_bits_range(bits, ']', ']');
        } else if (re_takes(p, "]")) {
            break;
        } else if (re_takes(p, "&&")) {
            rc = intersect(&all, bits);
        } else {
            rc = parse_item(p, bits, depth);
        }
    }
    if (all)
        tok_bits_and(bits, all);
    free(all);
    if (negate)
        tok_bits_invert(bits);
    return rc;
}
