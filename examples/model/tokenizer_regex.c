/*
 * Nodes to instructions. Repeats of one character become one instruction; others are
 * written out as often as they must be there, with a loop behind them where they have
 * no end. Where the way parts, each side has the set of bytes that it can begin with,
 * so that most ways are never tried.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"
#include "examples/model/tokenizer_regex_impl.h"

struct compiler {
    struct tok_regex *re;
    const struct re_node *nodes;
    struct tok_regex_error *error;
};

int re_grow(void *pointer, size_t *room, size_t need, size_t each)
{
    void **data = pointer, *moved;
    size_t more = need + need / 2 + 8;

    if (need <= *room)
        return 0;
    moved = realloc(*data, more * each);
    if (!moved)
        return -ENOMEM;
    *data = moved;
    *room = more;
    return 0;
}

static void first_of_class(const struct tok_class *c, uint64_t set[4])
{
    for (uint32_t code = 0; code < 128; code++)
        if (tok_class_has(c, code))
            set[code / 64] |= (uint64_t)1 << code % 64;
    for (uint32_t block = 2; block < TOK_CODES / 64; block++) {
        unsigned page = c->page[block / 4];
        if (!(page < 2 ? page : c->bits[page - 2][block % 4] != 0))
            continue;
        uint32_t code = block * 64;
        uint32_t lead = code < 0x800     ? 0xC0 | code >> 6
                        : code < 0x10000 ? 0xE0 | code >> 12
                                         : 0xF0 | code >> 18;
        set[lead / 64] |= (uint64_t)1 << lead % 64;
    }
}

int re_add_class(struct tok_regex *re, const struct tok_bits *bits)
{
    struct tok_class *made;

    if (re_grow(&re->classes, &re->class_room, re->class_count + 1, sizeof made) < 0 ||
        re_grow(&re->class_firsts, &re->class_first_room, re->class_count + 1, sizeof *re->class_firsts) < 0)
        return -ENOMEM;
    made = tok_class_make(bits);
    if (!made)
        return -ENOMEM;
    re->classes[re->class_count] = made;
    memset(re->class_firsts[re->class_count], 0, sizeof *re->class_firsts);
    first_of_class(made, re->class_firsts[re->class_count]);
    return (int)re->class_count++;
}

/* ---- what a node can begin with, and how long it is ---------------------- */

static void first_of_code(uint32_t code, uint64_t set[4])
{
    uint32_t lead = code < 0x80      ? code
                    : code < 0x800   ? 0xC0 | code >> 6
                    : code < 0x10000 ? 0xE0 | code >> 12
                                     : 0xF0 | code >> 18;

    set[lead / 64] |= (uint64_t)1 << lead % 64;
}

/* Adds the bytes that a node can begin with; true: it may also take nothing. */
static bool first_of(const struct compiler *c, uint32_t index, uint64_t set[4])
{
    const struct re_node *node = &c->nodes[index];
    bool empty = true;

    switch (node->kind) {
    case RE_CHAR:
        first_of_code(node->value, set);
        return false;
    case RE_SET:
        for (size_t i = 0; i < 4; i++)
            set[i] |= c->re->class_firsts[node->value][i];
        return false;
    case RE_CAT:
        for (uint32_t i = node->child; empty && i != RE_NONE; i = c->nodes[i].next)
            empty = first_of(c, i, set);
        return empty;
    case RE_ALT:
        empty = false;
        for (uint32_t i = node->child; i != RE_NONE; i = c->nodes[i].next)
            empty |= first_of(c, i, set);
        return empty;
    case RE_REPEAT:
        return node->max == 0 || first_of(c, node->child, set) || node->min == 0;
    case RE_ATOMIC:
        return first_of(c, node->child, set);
    default:
        return true;
    }
}

static uint32_t times(uint32_t count, uint32_t length)
{
    uint64_t product = (uint64_t)count * length;

    return length == 0 || count == 0                                     ? 0
           : count == RE_NONE || length == RE_NONE || product >= RE_NONE ? RE_NONE
                                                                         : (uint32_t)product;
}

static uint32_t plus(uint32_t a, uint32_t b)
{
    return a == RE_NONE || b == RE_NONE || a > RE_NONE - 1 - b ? RE_NONE : a + b;
}

/* The least and the most characters of a node. */
static void length_of(const struct compiler *c, uint32_t index, uint32_t *least, uint32_t *most)
{
    const struct re_node *node = &c->nodes[index];
    uint32_t low, high;

    *least = *most = node->kind == RE_CHAR || node->kind == RE_SET;
    if (node->kind == RE_CAT || node->kind == RE_ALT) {
        for (uint32_t i = node->child; i != RE_NONE; i = c->nodes[i].next) {
            length_of(c, i, &low, &high);
            if (node->kind == RE_CAT) {
                *least = plus(*least, low);
                *most = plus(*most, high);
            } else {
                *least = i == node->child || low < *least ? low : *least;
                *most = high > *most ? high : *most;
            }
        }
    } else if (node->kind == RE_REPEAT) {
        length_of(c, node->child, &low, &high);
        *least = times(node->min, low);
        *most = times(node->max, high);
    } else if (node->kind == RE_ATOMIC) {
        length_of(c, node->child, least, most);
    }
}

/* ---- instructions --------------------------------------------------------- */

static int emit(struct compiler *c, struct re_inst inst)
{
    struct tok_regex *re = c->re;

    if (re->count == RE_CODE) {
        c->error->cause = "it is too large once its repeats are written out";
        return -ENOTSUP;
    }
    if (re_grow(&re->code, &re->room, re->count + 1, sizeof *re->code) < 0)
        return -ENOMEM;
    re->code[re->count++] = inst;
    return 0;
}

static uint32_t here(const struct compiler *c)
{
    return (uint32_t)c->re->count;
}

static int add_first(struct compiler *c, const uint64_t set[4], uint32_t *out)
{
    struct tok_regex *re = c->re;

    if (re_grow(&re->firsts, &re->first_room, re->first_count + 1, sizeof *re->firsts) < 0)
        return -ENOMEM;
    memcpy(re->firsts[re->first_count], set, sizeof *re->firsts);
    *out = (uint32_t)re->first_count++;
    return 0;
}

/* The set of a node's first bytes, or RE_NONE where it may take nothing. */
static int first_index(struct compiler *c, uint32_t node, uint32_t *out)
{
    uint64_t set[4] = {0};

    *out = RE_NONE;
    return first_of(c, node, set) ? 0 : add_first(c, set, out);
}

static int compile(struct compiler *c, uint32_t index);

/* A character behind another one joins its text. A jump may lead to here, so only
 * what this call has begun is added to. */
static int compile_text(struct compiler *c, uint32_t *index)
{
    struct tok_regex *re = c->re;
    struct tok_buffer text = {0};
    int rc = 0;

    while (rc == 0 && *index != RE_NONE && c->nodes[*index].kind == RE_CHAR) {
        rc = tok_buffer_add_char(&text, c->nodes[*index].value);
        *index = c->nodes[*index].next;
    }
    if (rc == 0)
        rc = re_grow(&re->texts, &re->text_room, re->text_bytes + text.used, 1);
    if (rc == 0) {
        memcpy(re->texts + re->text_bytes, text.data, text.used);
        rc = emit(c, (struct re_inst){OP_TEXT, 0, (uint32_t)re->text_bytes, (uint32_t)text.used, 0, 0});
        re->text_bytes += text.used;
    }
    tok_buffer_free(&text);
    return rc;
}

static int compile_row(struct compiler *c, uint32_t index)
{
    int rc = 0;

    while (rc == 0 && index != RE_NONE) {
        if (c->nodes[index].kind == RE_CHAR) {
            rc = compile_text(c, &index);
        } else {
            rc = compile(c, index);
            index = c->nodes[index].next;
        }
    }
    return rc;
}

static int compile_alternatives(struct compiler *c, uint32_t index)
{
    uint32_t ends = RE_NONE; /* jumps to the end, linked by what they jump to */
    int rc = 0;

    for (; rc == 0 && c->nodes[index].next != RE_NONE; index = c->nodes[index].next) {
        uint64_t rest[4] = {0};
        uint32_t split = here(c), one, others = RE_NONE;
        bool empty = false;
        rc = first_index(c, index, &one);
        for (uint32_t i = c->nodes[index].next; i != RE_NONE; i = c->nodes[i].next)
            empty |= first_of(c, i, rest);
        if (rc == 0 && !empty)
            rc = add_first(c, rest, &others);
        if (rc == 0)
            rc = emit(c, (struct re_inst){OP_SPLIT, 0, split + 1, 0, one, others});
        if (rc == 0)
            rc = compile(c, index);
        if (rc == 0)
            rc = emit(c, (struct re_inst){OP_JUMP, 0, ends, 0, 0, 0});
        if (rc < 0)
            return rc;
        ends = here(c) - 1;
        c->re->code[split].b = here(c);
    }
    if (rc == 0)
        rc = compile(c, index);
    while (rc == 0 && ends != RE_NONE) {
        uint32_t next = c->re->code[ends].a;
        c->re->code[ends].a = here(c);
        ends = next;
    }
    return rc;
}

/* A class of the one character of a literal, so that its repeat is a span. */
static int class_of(struct compiler *c, const struct re_node *node)
{
    struct tok_bits *bits;
    int index;

    if (node->kind == RE_SET)
        return (int)node->value;
    bits = calloc(1, sizeof *bits);
    if (!bits)
        return -ENOMEM;
    tok_bits_range(bits, node->value, node->value);
    index = re_add_class(c->re, bits);
    free(bits);
    return index;
}

/* One round that may be left out: the split's other side is set by the caller. */
static int compile_optional(struct compiler *c, const struct re_node *node, uint32_t *split)
{
    bool lazy = node->value == RE_LAZY;
    uint32_t first;
    int rc = first_index(c, node->child, &first);

    *split = here(c);
    if (rc == 0)
        rc = emit(c, lazy ? (struct re_inst){OP_SPLIT, 0, 0, *split + 1, RE_NONE, first}
                          : (struct re_inst){OP_SPLIT, 0, *split + 1, 0, first, RE_NONE});
    return rc;
}

static void leave_at(struct compiler *c, const struct re_node *node, uint32_t split, uint32_t to)
{
    if (node->value == RE_LAZY)
        c->re->code[split].a = to;
    else
        c->re->code[split].b = to;
}

/* Rounds without end. One that took nothing is the last, as in Oniguruma. */
static int compile_loop(struct compiler *c, const struct re_node *node)
{
    uint32_t split, loop = c->re->loops, low, high;
    int rc = compile_optional(c, node, &split);

    length_of(c, node->child, &low, &high);
    if (rc == 0 && low == 0) {
        c->re->loops++;
        rc = emit(c, (struct re_inst){OP_ENTER, 0, loop, 0, 0, 0});
    }
    if (rc == 0)
        rc = compile(c, node->child);
    if (rc == 0 && low == 0)
        rc = emit(c, (struct re_inst){OP_LEAVE, 0, loop, here(c) + 2, 0, 0});
    if (rc == 0)
        rc = emit(c, (struct re_inst){OP_JUMP, 0, split, 0, 0, 0});
    if (rc == 0)
        leave_at(c, node, split, here(c));
    return rc;
}

static int compile_rounds(struct compiler *c, const struct re_node *node)
{
    uint32_t splits = RE_NONE, split, min = node->min, max = node->max, low, high;
    int rc = 0;

    length_of(c, node->child, &low, &high);
    if (high == 0) { /* what takes nothing is the same once and often */
        min = min > 1 ? 1 : min;
        max = max > 1 ? 1 : max;
    }
    for (uint32_t i = 0; rc == 0 && i < min; i++)
        rc = compile(c, node->child);
    if (rc == 0 && max == RE_NONE)
        return compile_loop(c, node);
    for (uint32_t i = min; rc == 0 && i < max; i++) {
        rc = compile_optional(c, node, &split);
        if (rc == 0)
            leave_at(c, node, split, splits); /* linked until the end is known */
        splits = split;
        if (rc == 0)
            rc = compile(c, node->child);
    }
    while (rc == 0 && splits != RE_NONE) {
        const struct re_inst *inst = &c->re->code[splits];
        uint32_t next = node->value == RE_LAZY ? inst->a : inst->b;
        leave_at(c, node, splits, here(c));
        splits = next;
    }
    return rc;
}

static int compile_repeat(struct compiler *c, const struct re_node *node)
{
    const struct re_node *child = &c->nodes[node->child];
    uint32_t atomic = here(c);
    int rc = 0;

    if (child->kind == RE_CHAR || child->kind == RE_SET) {
        int index = class_of(c, child);
        return index < 0 ? index
                         : emit(c, (struct re_inst){OP_SPAN, node->value, (uint32_t)index, 0, node->min,
                                                    node->max});
    }
    if (node->value != RE_POSSESSIVE)
        return compile_rounds(c, node);
    rc = emit(c, (struct re_inst){OP_ATOMIC, 0, 0, 0, 0, 0});
    if (rc == 0)
        rc = compile_rounds(c, node);
    if (rc == 0)
        rc = emit(c, (struct re_inst){OP_ACCEPT, 0, 0, 0, 0, 0});
    if (rc == 0)
        c->re->code[atomic].a = here(c);
    return rc;
}

static int compile_inner(struct compiler *c, const struct re_node *node)
{
    struct re_inst inst = {node->kind == RE_LOOK ? OP_LOOK : OP_ATOMIC, node->value, 0, 0, 0, 0};
    uint32_t at = here(c);
    int rc;

    if (node->kind == RE_LOOK && node->value & RE_BEHIND) {
        length_of(c, node->child, &inst.min, &inst.max);
        if (inst.max > 1000) {
            c->error->cause = "a look-behind without a longest length is not supported";
            return -ENOTSUP;
        }
    }
    rc = emit(c, inst);
    if (rc == 0)
        rc = compile(c, node->child);
    if (rc == 0)
        rc = emit(c, (struct re_inst){OP_ACCEPT, 0, 0, 0, 0, 0});
    if (rc == 0)
        c->re->code[at].a = here(c);
    return rc;
}

static int compile(struct compiler *c, uint32_t index)
{
    const struct re_node *node = &c->nodes[index];

    switch (node->kind) {
    case RE_EMPTY:
        return 0;
    case RE_CHAR: {
        struct re_node alone = *node;
        struct compiler inner = {c->re, &alone, c->error};
        uint32_t only = 0;
        alone.next = RE_NONE;
        return compile_text(&inner, &only);
    }
    case RE_SET:
        return emit(c, (struct re_inst){OP_SET, 0, node->value, 0, 0, 0});
    case RE_CAT:
        return compile_row(c, node->child);
    case RE_ALT:
        return compile_alternatives(c, node->child);
    case RE_REPEAT:
        return compile_repeat(c, node);
    case RE_ASSERT:
        return emit(c, (struct re_inst){OP_ASSERT, 0, node->value, 0, 0, 0});
    default: /* RE_LOOK, RE_ATOMIC */
        return compile_inner(c, node);
    }
}

int tok_regex_compile(const char *pattern, size_t bytes, bool literal, struct tok_regex **out,
                      struct tok_regex_error *error)
{
    struct re_tree tree = {0};
    int rc;

    *out = NULL;
    *error = (struct tok_regex_error){0};
    struct tok_regex *re = calloc(1, sizeof *re);
    if (!re)
        return -ENOMEM;
    re->word = re->first = RE_NONE;
    rc = bytes > RE_CODE ? -ENOTSUP : re_parse(re, pattern, bytes, literal, &tree, error);
    if (bytes > RE_CODE)
        error->cause = "it is longer than 65536 bytes";
    struct compiler c = {re, tree.nodes, error};
    if (rc == 0)
        rc = first_index(&c, tree.root, &re->first);
    if (rc == 0)
        rc = compile(&c, tree.root);
    if (rc == 0)
        rc = emit(&c, (struct re_inst){OP_ACCEPT, 0, 0, 0, 0, 0});
    free(tree.nodes);
    if (rc == 0)
        *out = re;
    else
        tok_regex_free(re);
    return rc;
}

int tok_regex_characters(const struct tok_bits *bits, struct tok_regex **out)
{
    struct tok_regex_error error = {0};
    struct tok_regex *re = calloc(1, sizeof *re);
    struct compiler c = {re, NULL, &error};
    int rc = re ? 0 : -ENOMEM;

    *out = re;
    if (rc == 0) {
        re->word = RE_NONE;
        rc = re_add_class(re, bits);
    }
    if (rc >= 0)
        rc = add_first(&c, (const uint64_t *)re->class_firsts[0], &re->first);
    if (rc == 0)
        rc = emit(&c, (struct re_inst){OP_SET, 0, 0, 0, 0, 0});
    if (rc == 0)
        rc = emit(&c, (struct re_inst){OP_ACCEPT, 0, 0, 0, 0, 0});
    if (rc < 0) {
        tok_regex_free(re);
        *out = NULL;
    }
    return rc;
}

void tok_regex_free(struct tok_regex *re)
{
    if (!re)
        return;
    for (size_t i = 0; i < re->class_count; i++)
        free(re->classes[i]);
    free(re->classes);
    free(re->class_firsts);
    free(re->code);
    free(re->texts);
    free(re->firsts);
    free(re);
}
