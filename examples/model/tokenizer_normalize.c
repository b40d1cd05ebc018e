/*
 * The normalizer's steps. Each takes the whole text between two added tokens. The
 * forms NFC to NFKD are the standard's algorithms over Hugging Face's tables, whose
 * Unicode is older than that of any library: newer characters stay as they are.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"
#include "examples/model/tokenizer_tables.h"

/* Hangul syllables are computed (Unicode Standard, section 3.12). */
#define HANGUL      0xAC00u
#define HANGUL_END  0xD7A4u
#define JAMO_L      0x1100u
#define JAMO_V      0x1161u
#define JAMO_T      0x11A7u
#define JAMO_L_END  0x1113u
#define JAMO_V_END  0x1176u
#define JAMO_T_END  0x11C3u
#define JAMO_VS     21u
#define JAMO_TS     28u
#define COMPAT_ONE  (1u << 30) /* of a decomposition: the one character that it is */
#define COMPAT_MANY (1u << 31) /* where in uni_compat_texts it is */

/* plain: characters that the form leaves as they are, and that neither join with what
 * is before them nor pass it. */
struct tok_form {
    bool compose, compat;
    struct tok_pairs parts;  /* (character, 0) -> its place in uni_pairs, or COMPAT_... */
    struct tok_pairs wholes; /* (first, second) -> what they compose to */
    struct tok_class *plain;
};

void tok_form_free(struct tok_form *form)
{
    if (!form)
        return;
    free(form->parts.slots);
    free(form->wholes.slots);
    free(form->plain);
    free(form);
}

static unsigned rank_of(uint32_t code)
{
    size_t low = 0, high = uni_combining_count;

    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (uni_combining[middle] >> 8 <= code)
            low = middle;
        else
            high = middle;
    }
    return uni_combining[low] & 255;
}

static void remove_range(struct tok_bits *bits, uint32_t from, uint32_t to)
{
    for (uint32_t code = from; code < to; code++)
        bits->word[code / 64] &= ~((uint64_t)1 << code % 64);
}

/* Fills the tables of a form; bits become those of plain. */
static void fill_form(struct tok_form *form, struct tok_bits *bits)
{
    tok_bits_range(bits, 0, TOK_CODES - 1);
    for (size_t i = 0; i < uni_combining_count; i++)
        if (uni_combining[i] & 255)
            remove_range(bits, uni_combining[i] >> 8,
                         i + 1 < uni_combining_count ? uni_combining[i + 1] >> 8 : TOK_CODES);
    for (size_t i = 0; form->compat && i < uni_compat_count; i += 4) {
        for (uint32_t code = uni_compat[i]; code <= uni_compat[i + 1]; code += uni_compat[i + 2]) {
            tok_pairs_set(&form->parts, code, 0, COMPAT_ONE | (uni_compat[i + 3] + code - uni_compat[i]));
            remove_range(bits, code, code + 1);
        }
    }
    for (size_t i = 0; form->compat && i < uni_compat_texts_count; i += 1 + (uni_compat_texts[i] & 31)) {
        tok_pairs_set(&form->parts, uni_compat_texts[i] >> 5, 0, COMPAT_MANY | (uint32_t)i);
        remove_range(bits, uni_compat_texts[i] >> 5, (uni_compat_texts[i] >> 5) + 1);
    }
    for (size_t i = 0; i < uni_pairs_count; i += 3) {
        uint32_t code = uni_pairs[i] >> 1;
        bool composes = uni_pairs[i] & 1;
        tok_pairs_set(&form->parts, code, 0, (uint32_t)i);
        if (composes) {
            tok_pairs_set(&form->wholes, uni_pairs[i + 1], uni_pairs[i + 2], code);
            remove_range(bits, uni_pairs[i + 2], uni_pairs[i + 2] + 1);
        }
        if (!form->compose || !composes || form->compat)
            remove_range(bits, code, code + 1);
    }
    remove_range(bits, JAMO_V, JAMO_V_END);
    remove_range(bits, JAMO_T + 1, JAMO_T_END);
    if (!form->compose)
        remove_range(bits, HANGUL, HANGUL_END);
}

struct tok_form *tok_form_make(const char *name)
{
    struct tok_form *form = calloc(1, sizeof *form);
    struct tok_bits *bits = calloc(1, sizeof *bits);
    size_t singles = 0;

    for (size_t i = 0; i < uni_compat_count; i += 4)
        singles += (uni_compat[i + 1] - uni_compat[i]) / uni_compat[i + 2] + 1;
    if (form && bits && tok_pairs_init(&form->wholes, uni_pairs_count / 3) == 0 &&
        tok_pairs_init(&form->parts, uni_pairs_count / 3 + singles + uni_compat_texts_count / 2) == 0) {
        form->compat = name[2] == 'K';
        form->compose = name[strlen(name) - 1] == 'C';
        fill_form(form, bits);
        form->plain = tok_class_make(bits);
    }
    free(bits);
    if (form && !form->plain) {
        tok_form_free(form);
        form = NULL;
    }
    return form;
}

static int codes_add(struct tok_codes *codes, uint32_t code)
{
    if (codes->count == codes->room) {
        size_t room = 2 * codes->room + 64;
        uint32_t *code_room = realloc(codes->code, room * sizeof *code_room);
        if (code_room)
            codes->code = code_room;
        uint8_t *rank_room = realloc(codes->rank, room);
        if (rank_room)
            codes->rank = rank_room;
        if (!code_room || !rank_room)
            return -ENOMEM;
        codes->room = room;
    }
    codes->code[codes->count] = code;
    codes->rank[codes->count++] = (uint8_t)rank_of(code);
    return 0;
}

/* Adds the decomposition of a character; it is a few deep at most. */
static int decompose(const struct tok_form *form, uint32_t code, struct tok_codes *out)
{
    uint32_t part = tok_pairs_find(&form->parts, code, 0);
    int rc;

    if (code >= HANGUL && code < HANGUL_END) {
        uint32_t at = code - HANGUL;
        rc = codes_add(out, JAMO_L + at / (JAMO_VS * JAMO_TS));
        if (rc == 0)
            rc = codes_add(out, JAMO_V + at / JAMO_TS % JAMO_VS);
        return rc < 0 || at % JAMO_TS == 0 ? rc : codes_add(out, JAMO_T + at % JAMO_TS);
    }
    if (part == TOK_NONE)
        return codes_add(out, code);
    if (part & COMPAT_MANY) {
        const uint32_t *text = &uni_compat_texts[part & ~COMPAT_MANY];
        rc = 0;
        for (uint32_t i = 1; rc == 0 && i <= (text[0] & 31); i++)
            rc = codes_add(out, text[i]);
        return rc;
    }
    if (part & COMPAT_ONE)
        return codes_add(out, part & ~COMPAT_ONE);
    rc = decompose(form, uni_pairs[part + 1], out);
    return rc < 0 || uni_pairs[part + 2] == 0 ? rc : decompose(form, uni_pairs[part + 2], out);
}

/* Sorts runs of marks by rank, those of one rank in their order. Counting keeps a run
 * of any length linear. */
static int sort_marks(struct tok_codes *codes, struct tok_codes *spare)
{
    for (size_t from = 0, to; from < codes->count; from = to) {
        size_t at[256] = {0}, sum = 0;
        for (to = from + 1; to < codes->count && codes->rank[from] && codes->rank[to];)
            to++;
        if (to - from < 2)
            continue;
        spare->count = 0;
        for (size_t i = from; i < to; i++) {
            int rc = codes_add(spare, codes->code[i]);
            if (rc < 0)
                return rc;
            at[codes->rank[i]]++;
        }
        for (size_t rank = 0; rank < 256; rank++) {
            size_t count = at[rank];
            at[rank] = sum;
            sum += count;
        }
        for (size_t i = 0; i < spare->count; i++) {
            size_t place = from + at[spare->rank[i]]++;
            codes->code[place] = spare->code[i];
            codes->rank[place] = spare->rank[i];
        }
    }
    return 0;
}

/* What two characters compose to, or TOK_NONE. */
static uint32_t compose_two(const struct tok_form *form, uint32_t first, uint32_t second)
{
    if (first >= JAMO_L && first < JAMO_L_END && second >= JAMO_V && second < JAMO_V_END)
        return HANGUL + ((first - JAMO_L) * JAMO_VS + second - JAMO_V) * JAMO_TS;
    if (first >= HANGUL && first < HANGUL_END && (first - HANGUL) % JAMO_TS == 0 && second > JAMO_T &&
        second < JAMO_T_END)
        return first + second - JAMO_T;
    return tok_pairs_find(&form->wholes, first, second);
}

/* Each character joins the last starter, unless one between them has its rank or a
 * higher one, or is a starter. */
static void compose_all(const struct tok_form *form, struct tok_codes *codes)
{
    size_t starter = SIZE_MAX, used = 0;
    unsigned last = 0;

    for (size_t i = 0; i < codes->count; i++) {
        uint32_t code = codes->code[i], whole = TOK_NONE;
        unsigned rank = codes->rank[i];
        bool adjacent = starter != SIZE_MAX && used == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last < rank))
            whole = compose_two(form, codes->code[starter], code);
        if (whole != TOK_NONE) {
            codes->code[starter] = whole;
            continue;
        }
        if (rank == 0)
            starter = used;
        last = rank;
        codes->code[used] = code;
        codes->rank[used++] = (uint8_t)rank;
    }
    codes->count = used;
}

static int flush(const struct tok_form *form, struct tok_work *work, struct tok_buffer *out)
{
    int rc = sort_marks(&work->codes, &work->sorted);

    if (rc == 0 && form->compose)
        compose_all(form, &work->codes);
    for (size_t i = 0; rc == 0 && i < work->codes.count; i++)
        rc = tok_buffer_add_char(out, work->codes.code[i]);
    work->codes.count = 0;
    return rc;
}

/* A plain character before another one is copied. Others are collected, with the
 * plain one before them, until the next plain one. */
static int to_form(const struct tok_form *form, const char *text, size_t bytes, struct tok_work *work,
                   struct tok_buffer *out)
{
    size_t copied = 0, held = 0, at = 0; /* held: where the last plain character began */
    uint32_t code;
    int rc = 0;

    work->codes.count = 0;
    while (rc == 0 && at < bytes) {
        size_t step = (size_t)tok_utf8_next(text + at, bytes - at, &code);
        if (tok_class_has(form->plain, code)) {
            if (work->codes.count) {
                rc = flush(form, work, out);
                copied = at;
            }
            held = at;
        } else if (rc == 0) {
            if (work->codes.count == 0) {
                rc = tok_buffer_add(out, text + copied, held - copied);
                if (rc == 0 && held < at) {
                    uint32_t plain;
                    tok_utf8_next(text + held, bytes - held, &plain);
                    rc = decompose(form, plain, &work->codes);
                }
            }
            if (rc == 0)
                rc = decompose(form, code, &work->codes);
            copied = held = at + step;
        }
        at += step;
    }
    if (rc == 0 && work->codes.count)
        return flush(form, work, out);
    return rc < 0 ? rc : tok_buffer_add(out, text + copied, bytes - copied);
}

static int lowercase(const char *text, size_t bytes, struct tok_buffer *out)
{
    uint32_t code;
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < bytes;) {
        at += (size_t)tok_utf8_next(text + at, bytes - at, &code);
        size_t low = 0, high = uni_lowercase_count / 4;
        while (high - low > 1) {
            size_t middle = (low + high) / 2;
            if (uni_lowercase[4 * middle] <= code)
                low = middle;
            else
                high = middle;
        }
        const uint32_t *run = &uni_lowercase[4 * low];
        if (code >= run[0] && code <= run[1] && (code - run[0]) % run[2] == 0)
            rc = tok_buffer_add_char(out, run[3] + code - run[0]);
        else if (code == 0x130) /* the only one that becomes two */
            rc = tok_buffer_add(out, "i\u0307", 3);
        else
            rc = tok_buffer_add_char(out, code);
    }
    return rc;
}

static int remove_set(const struct tok_class *set, const char *text, size_t bytes, struct tok_buffer *out)
{
    uint32_t code;
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < bytes;) {
        size_t step = (size_t)tok_utf8_next(text + at, bytes - at, &code);
        if (!tok_class_has(set, code))
            rc = tok_buffer_add(out, text + at, step);
        at += step;
    }
    return rc;
}

/* The rules of SentencePiece's nmt, without its compatibility forms. */
static int nmt(const char *text, size_t bytes, struct tok_buffer *out)
{
    uint32_t code;
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < bytes;) {
        at += (size_t)tok_utf8_next(text + at, bytes - at, &code);
        if ((code >= 1 && code <= 8) || code == 0x0B || (code >= 0x0E && code <= 0x1F) || code == 0x7F ||
            code == 0x8F || code == 0x9F)
            continue;
        bool space = code == 9 || code == 0x0A || code == 0x0C || code == 0x0D || code == 0x1680 ||
                     (code >= 0x200B && code <= 0x200F) || code == 0x2028 || code == 0x2029 ||
                     code == 0x2581 || code == 0xFEFF || code == 0xFFFD;
        rc = tok_buffer_add_char(out, space ? ' ' : code);
    }
    return rc;
}

static int strip_spaces(const struct tok_step *step, const char *text, size_t bytes, struct tok_buffer *out)
{
    size_t from = 0, to = 0;
    uint32_t code;

    for (size_t at = 0; at < bytes;) {
        at += (size_t)tok_utf8_next(text + at, bytes - at, &code);
        if (!tok_is_space(code))
            to = at;
        else if (to == 0)
            from = at;
    }
    if (!step->start)
        from = 0;
    if (!step->stop)
        to = bytes;
    return from < to ? tok_buffer_add(out, text + from, to - from) : 0;
}

int tok_replace_regex(struct tok_buffer *out, const char *text, size_t bytes, const struct tok_regex *re,
                      const struct tok_text *content, struct tok_matcher *matcher)
{
    struct tok_find find = {0};
    size_t from = 0;
    int rc;

    if (bytes == 0)
        return 0;
    while ((rc = tok_regex_next(re, matcher, text, bytes, &find)) == 1) {
        rc = tok_buffer_add(out, text + from, find.start - from);
        if (rc == 0)
            rc = tok_buffer_add(out, content->text, content->bytes);
        if (rc < 0)
            return rc;
        from = find.end;
    }
    return rc < 0 ? rc : tok_buffer_add(out, text + from, bytes - from);
}

static int normalize_step(const struct tok_step *step, const char *text, size_t bytes, struct tok_work *work,
                          struct tok_buffer *out)
{
    int rc;

    switch (step->kind) {
    case TOK_PREPEND:
        rc = bytes ? tok_buffer_add(out, step->content.text, step->content.bytes) : 0;
        return rc < 0 ? rc : tok_buffer_add(out, text, bytes);
    case TOK_REPLACE:
        return step->re ? tok_replace_regex(out, text, bytes, step->re, &step->content, &work->matcher)
                        : tok_replace(out, text, bytes, &step->pattern, &step->content);
    case TOK_FORM:
        return to_form(step->form, text, bytes, work, out);
    case TOK_LOWERCASE:
        return lowercase(text, bytes, out);
    case TOK_REMOVE_ACCENTS:
        return remove_set(step->set, text, bytes, out);
    case TOK_NMT:
        return nmt(text, bytes, out);
    case TOK_STRIP_SPACES:
        return strip_spaces(step, text, bytes, out);
    default: /* TOK_BYTE_MAP */
        return tok_map_bytes(out, text, bytes);
    }
}

int tok_normalize(const struct tok_steps *steps, const char *text, size_t bytes, struct tok_work *work,
                  const char **result, size_t *result_bytes)
{
    size_t limit = bytes < SIZE_MAX / TOK_GROWTH - TOK_GROWTH ? TOK_GROWTH * (bytes + TOK_GROWTH) : 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < steps->count; i++) {
        struct tok_buffer *buffer = &work->text[i % 2];
        buffer->used = 0;
        buffer->limit = limit;
        rc = normalize_step(&steps->step[i], text, bytes, work, buffer);
        text = buffer->data;
        bytes = buffer->used;
    }
    *result = text ? text : "";
    *result_bytes = bytes;
    return rc;
}

void tok_work_free(struct tok_work *work)
{
    tok_buffer_free(&work->text[0]);
    tok_buffer_free(&work->text[1]);
    tok_matcher_free(&work->matcher);
    free(work->codes.code);
    free(work->codes.rank);
    free(work->sorted.code);
    free(work->sorted.rank);
    *work = (struct tok_work){0};
}
