/*
 * Runs the instructions of a pattern over a text: what is tried first and what comes
 * after is Oniguruma's order, with a stack on the heap, so that a long text takes
 * memory and not the thread's stack. Bytes that make no character count as one each.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_regex_impl.h"

#define STACK_MAX (1u << 22) /* branches: more is given up */

enum branch_kind {
    BRANCH_HERE,  /* go on at pc, at pos */
    BRANCH_SPAN,  /* the same, one character less each time, down to low */
    BRANCH_MORE,  /* a lazy span, one character more, low of them at most */
    BRANCH_ROUND, /* loop pc began its round at pos */
};

struct tok_branch {
    enum branch_kind kind;
    uint32_t pc;
    size_t pos, low;
};

struct state {
    const struct tok_regex *re;
    struct tok_matcher *m;
    const unsigned char *text;
    size_t bytes;
};

void tok_matcher_free(struct tok_matcher *m)
{
    free(m->stack);
    free(m->loops);
    *m = (struct tok_matcher){0};
}

/* The character at text, which isn't the end, and its length. */
static inline uint32_t char_at(const unsigned char *text, size_t left, size_t *step)
{
    uint32_t lead = text[0];

    *step = 1;
    if (lead < 0x80)
        return lead;
    if (lead >= 0xC2 && lead < 0xE0 && left > 1) {
        *step = 2;
        return (lead & 0x1F) << 6 | (text[1] & 0x3F);
    }
    if (lead >= 0xE0 && lead < 0xF0 && left > 2) {
        *step = 3;
        return (lead & 0x0F) << 12 | (text[1] & 0x3Fu) << 6 | (text[2] & 0x3F);
    }
    if (lead >= 0xF0 && lead < 0xF5 && left > 3) {
        uint32_t code =
            (lead & 0x07) << 18 | (text[1] & 0x3Fu) << 12 | (text[2] & 0x3Fu) << 6 | (text[3] & 0x3F);
        *step = 4;
        return code < TOK_CODES ? code : 0xFFFD;
    }
    return 0xFFFD;
}

/* The start of the character that ends at pos, which isn't 0. */
static inline size_t char_before(const unsigned char *text, size_t pos)
{
    size_t least = pos > 4 ? pos - 4 : 0;

    for (pos--; pos > least && (text[pos] & 0xC0) == 0x80;)
        pos--;
    return pos;
}

static int push(struct state *s, size_t *top, struct tok_branch branch)
{
    struct tok_matcher *m = s->m;

    if (*top == m->room) {
        size_t room = m->room * 2 + 64;
        struct tok_branch *stack = room > STACK_MAX ? NULL : realloc(m->stack, room * sizeof *stack);
        if (!stack)
            return room > STACK_MAX ? -ELOOP : -ENOMEM;
        m->stack = stack;
        m->room = room;
    }
    m->stack[(*top)++] = branch;
    return 0;
}

static bool has_byte(const struct state *s, uint32_t first, size_t pos)
{
    if (first == RE_NONE)
        return true;
    if (pos == s->bytes)
        return false;
    unsigned byte = s->text[pos];
    return s->re->firsts[first][byte / 64] >> byte % 64 & 1;
}

static bool is_word_at(const struct state *s, size_t pos)
{
    size_t step;

    return tok_class_has(s->re->classes[s->re->word], char_at(s->text + pos, s->bytes - pos, &step));
}

static bool holds(const struct state *s, enum re_assert kind, size_t pos)
{
    bool begins = pos == 0, ends = pos == s->bytes;
    bool after_line = !begins && s->text[pos - 1] == '\n', at_line = !ends && s->text[pos] == '\n';
    bool before, after;

    switch (kind) {
    case RE_LINE_BEGIN:
        return begins || (after_line && !ends);
    case RE_LINE_END:
        return ends || at_line;
    case RE_BEGIN:
        return begins;
    case RE_END:
        return ends;
    case RE_END_OR_NEWLINE:
        return ends || (at_line && pos + 1 == s->bytes);
    default:
        before = !begins && is_word_at(s, char_before(s->text, pos));
        after = !ends && is_word_at(s, pos);
        return (before != after) == (kind == RE_WORD_EDGE);
    }
}

/* As many characters of a class as there are, up to most; how many, and where they end. */
static uint32_t span(const struct state *s, const struct tok_class *c, size_t *pos, uint32_t most)
{
    uint32_t count = 0;
    size_t step;

    while (count < most && *pos < s->bytes &&
           tok_class_has(c, char_at(s->text + *pos, s->bytes - *pos, &step))) {
        *pos += step;
        count++;
    }
    return count;
}

/* 1, 0 or an error. */
static int do_span(struct state *s, const struct re_inst *inst, uint32_t pc, size_t *pos, size_t *top)
{
    const struct tok_class *c = s->re->classes[inst->a];
    size_t low;
    int rc = 0;

    if (span(s, c, pos, inst->min) < inst->min)
        return 0;
    low = *pos;
    if (inst->mode == RE_LAZY) {
        if (inst->max > inst->min)
            rc = push(s, top,
                      (struct tok_branch){BRANCH_MORE, pc, *pos,
                                          inst->max == RE_NONE ? SIZE_MAX : inst->max - inst->min});
        return rc < 0 ? rc : 1;
    }
    span(s, c, pos, inst->max == RE_NONE ? RE_NONE : inst->max - inst->min);
    if (inst->mode == RE_GREEDY && *pos > low)
        rc = push(s, top, (struct tok_branch){BRANCH_SPAN, pc + 1, *pos, low});
    return rc < 0 ? rc : 1;
}

static int run(struct state *s, uint32_t pc, size_t pos, size_t base, size_t target, size_t *end);

/* What an OP_LOOK or OP_ATOMIC holds, tried by itself: 1, 0 or an error. */
static int run_inner(struct state *s, const struct re_inst *inst, uint32_t pc, size_t *pos, size_t top)
{
    size_t end = *pos, from = *pos;
    int found = 0;

    if (inst->op == OP_ATOMIC) {
        found = run(s, pc + 1, *pos, top, SIZE_MAX, &end);
        *pos = end;
        return found;
    }
    if (!(inst->mode & RE_BEHIND)) {
        found = run(s, pc + 1, *pos, top, SIZE_MAX, &end);
    } else {
        for (uint32_t back = 0; found == 0 && back <= inst->max; back++) {
            if (back >= inst->min)
                found = run(s, pc + 1, from, top, *pos, &end);
            if (from == 0)
                break;
            from = char_before(s->text, from);
        }
    }
    return found < 0 ? found : found == !(inst->mode & RE_NEGATED);
}

/* Takes the last branch that is left: 1, or 0 for none. */
static int back(struct state *s, size_t base, size_t *top, uint32_t *pc, size_t *pos)
{
    while (*top > base) {
        struct tok_branch *branch = &s->m->stack[*top - 1];
        size_t step;
        if (s->m->budget == 0)
            return -ELOOP;
        s->m->budget--;
        switch (branch->kind) {
        case BRANCH_ROUND:
            s->m->loops[branch->pc] = branch->pos;
            --*top;
            continue;
        case BRANCH_HERE:
            *pc = branch->pc;
            *pos = branch->pos;
            --*top;
            return 1;
        case BRANCH_SPAN:
            *pos = branch->pos = char_before(s->text, branch->pos);
            *pc = branch->pc;
            *top -= branch->pos <= branch->low;
            return 1;
        default: /* BRANCH_MORE */
            *pos = branch->pos;
            if (*pos == s->bytes || !tok_class_has(s->re->classes[s->re->code[branch->pc].a],
                                                   char_at(s->text + *pos, s->bytes - *pos, &step))) {
                --*top;
                continue;
            }
            *pos = branch->pos += step;
            *pc = branch->pc + 1;
            *top -= --branch->low == 0;
            return 1;
        }
    }
    return 0;
}

/* One instruction at *pc: 1 it held, 0 it did not, 2 the end. */
static int step(struct state *s, uint32_t *pc, size_t *pos, size_t *top)
{
    const struct re_inst *inst = &s->re->code[*pc];
    size_t width;
    bool one, other;
    int rc = 1;

    switch (inst->op) {
    case OP_TEXT:
        if (s->bytes - *pos < inst->b || memcmp(s->text + *pos, s->re->texts + inst->a, inst->b) != 0)
            return 0;
        *pos += inst->b;
        break;
    case OP_SET:
        if (*pos == s->bytes ||
            !tok_class_has(s->re->classes[inst->a], char_at(s->text + *pos, s->bytes - *pos, &width)))
            return 0;
        *pos += width;
        break;
    case OP_SPAN:
        rc = do_span(s, inst, *pc, pos, top);
        break;
    case OP_SPLIT:
        one = has_byte(s, inst->min, *pos);
        other = has_byte(s, inst->max, *pos);
        if (one && other)
            rc = push(s, top, (struct tok_branch){BRANCH_HERE, inst->b, *pos, 0});
        *pc = one ? inst->a : inst->b;
        return rc < 0 ? rc : one || other;
    case OP_JUMP:
        *pc = inst->a;
        return 1;
    case OP_ASSERT:
        rc = holds(s, inst->a, *pos);
        break;
    case OP_ENTER:
        rc = push(s, top, (struct tok_branch){BRANCH_ROUND, inst->a, s->m->loops[inst->a], 0});
        s->m->loops[inst->a] = *pos;
        rc = rc < 0 ? rc : 1;
        break;
    case OP_LEAVE:
        if (s->m->loops[inst->a] == *pos) {
            *pc = inst->b;
            return 1;
        }
        break;
    case OP_ACCEPT:
        return 2;
    default: /* OP_LOOK, OP_ATOMIC */
        rc = run_inner(s, inst, *pc, pos, *top);
        *pc = inst->a;
        return rc;
    }
    ++*pc;
    return rc;
}

/* From pc on at pos, with branches above base: 1 and where it ended, 0, or an error.
 * target is where it must end, or SIZE_MAX. */
static int run(struct state *s, uint32_t pc, size_t pos, size_t base, size_t target, size_t *end)
{
    size_t top = base;
    int rc;

    for (;;) {
        rc = step(s, &pc, &pos, &top);
        if (rc == 2 && (target == SIZE_MAX || pos == target)) {
            *end = pos;
            return 1;
        }
        if (rc == 0 || rc == 2)
            rc = back(s, base, &top, &pc, &pos);
        if (rc <= 0)
            return rc;
    }
}

/* The first match from a place on. */
static int search(struct state *s, size_t from, size_t *start, size_t *end)
{
    int rc = 0;

    for (;;) {
        while (from < s->bytes && !has_byte(s, s->re->first, from))
            from++;
        if (from == s->bytes && s->re->first != RE_NONE)
            return 0;
        rc = run(s, 0, from, 0, SIZE_MAX, end);
        if (rc != 0 || from == s->bytes)
            break;
        for (from++; from < s->bytes && (s->text[from] & 0xC0) == 0x80;)
            from++;
    }
    *start = from;
    return rc;
}

int tok_regex_next(const struct tok_regex *re, struct tok_matcher *m, const char *text, size_t bytes,
                   struct tok_find *find)
{
    struct state s = {re, m, (const unsigned char *)text, bytes};
    int rc = re_grow(&m->loops, &m->loop_room, re->loops, sizeof *m->loops);

    m->budget = bytes > 100000 ? 100 * (uint64_t)bytes : 10000000;
    while (rc == 0 && !find->over) {
        size_t start, end;
        rc = find->seek > bytes ? 0 : search(&s, find->seek, &start, &end);
        if (rc <= 0) {
            find->over = true;
            break;
        }
        /* An empty match where the last one ended doesn't count. */
        if (start == end && find->found && find->end == end) {
            find->seek = end + 1;
            while (find->seek < bytes && (s.text[find->seek] & 0xC0) == 0x80)
                find->seek++;
            rc = 0;
            continue;
        }
        *find = (struct tok_find){.seek = end, .start = start, .end = end, .found = true};
    }
    return rc;
}
