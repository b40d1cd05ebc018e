/* check_space: see check_space.h. */
#include "liboffload/plan/check_space.h"

#include <stdlib.h>

static struct check_span *span_of(const struct base_node *n)
{
    return BASE_TREE_OWNER(n, struct check_span, node);
}

static struct check_use *use_of(const struct base_node *n)
{
    return BASE_TREE_OWNER(n, struct check_use, node);
}

static bool span_before(const struct base_node *a, const struct base_node *b)
{
    return span_of(a)->off < span_of(b)->off;
}

static bool use_before(const struct base_node *a, const struct base_node *b)
{
    const struct check_use *x = use_of(a), *y = use_of(b);

    return x->off != y->off ? x->off < y->off : x->order < y->order;
}

static void use_sum(struct base_node *n)
{
    struct check_use *u = use_of(n);

    u->end_max = u->end;
    if (n->left && use_of(n->left)->end_max > u->end_max)
        u->end_max = use_of(n->left)->end_max;
    if (n->right && use_of(n->right)->end_max > u->end_max)
        u->end_max = use_of(n->right)->end_max;
}

void check_space_open(struct check_space *s, int number, uint64_t limit,
                      void (*gone)(void *arg, int space, const struct check_label *label), void *arg)
{
    *s = (struct check_space){.limit = limit, .gone = gone, .arg = arg, .number = number};
    s->spans.before = span_before;
    s->readers.before = s->writers.before = use_before;
    s->readers.sum = s->writers.sum = use_sum;
}

void check_space_close(struct check_space *s)
{
    struct base_node *n;

    while ((n = base_tree_first(&s->spans))) {
        base_tree_remove(&s->spans, n);
        free(span_of(n));
    }
    while ((n = base_tree_first(&s->readers)))
        check_space_end(s, use_of(n), false);
    while ((n = base_tree_first(&s->writers)))
        check_space_end(s, use_of(n), true);
    while (s->free_uses) {
        struct check_use *u = s->free_uses;

        s->free_uses = u->next;
        free(u);
    }
}

/* ---- labels ------------------------------------------------------------ */

/* The first span that does not begin before off. */
static struct check_span *span_from(const struct check_space *s, uint64_t off)
{
    struct base_node *n = s->spans.root, *found = NULL;

    while (n) {
        if (span_of(n)->off >= off) {
            found = n;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return found ? span_of(found) : NULL;
}

struct check_label *check_space_at(const struct check_space *s, uint64_t off, uint64_t len)
{
    struct check_span *span = span_from(s, off);

    return span && span->off == off && span->len == len ? &span->label : NULL;
}

static void remove_span(struct check_space *s, struct check_span *span)
{
    struct check_label label = span->label;

    base_tree_remove(&s->spans, &span->node);
    free(span);
    s->gone(s->arg, s->number, &label);
}

void check_space_clear(struct check_space *s, uint64_t off, uint64_t len)
{
    struct check_span key = {.off = off}, *span;
    struct base_node *before = base_tree_before(&s->spans, &key.node);

    if (before && span_of(before)->off + span_of(before)->len > off)
        remove_span(s, span_of(before));
    while ((span = span_from(s, off)) && span->off < off + len)
        remove_span(s, span);
}

void check_space_put(struct check_space *s, uint64_t off, uint64_t len, const struct check_label *label)
{
    struct check_span *span = calloc(1, sizeof *span);

    check_space_clear(s, off, len);
    if (!span) {
        s->out_of_memory = true;
        return;
    }
    span->off = off;
    span->len = len;
    span->label = *label;
    base_tree_insert(&s->spans, &span->node);
}

/* ---- uses -------------------------------------------------------------- */

/* Where something of the left subtree reaches beyond off and does not overlap, it begins at end or later, and so does
 * all that follows. */
static const struct check_use *overlap(const struct base_node *n, uint64_t off, uint64_t end)
{
    while (n) {
        const struct check_use *u = use_of(n);

        if (u->off < end && u->end > off)
            return u;
        n = n->left && use_of(n->left)->end_max > off ? n->left : n->right;
    }
    return NULL;
}

const struct check_use *check_space_busy(const struct check_space *s, uint64_t off, uint64_t len, bool write)
{
    const struct check_use *u = overlap(s->writers.root, off, off + len);

    return u || !write ? u : overlap(s->readers.root, off, off + len);
}

struct check_use *check_space_begin(struct check_space *s, uint64_t off, uint64_t len, bool write, bool move)
{
    struct check_use *u = s->free_uses;

    if (u)
        s->free_uses = u->next;
    else if (!(u = malloc(sizeof *u))) {
        s->out_of_memory = true;
        return NULL;
    }
    *u = (struct check_use){.off = off, .end = off + len, .move = move, .order = s->order++};
    base_tree_insert(write ? &s->writers : &s->readers, &u->node);
    return u;
}

void check_space_end(struct check_space *s, struct check_use *use, bool write)
{
    if (!use)
        return;
    base_tree_remove(write ? &s->writers : &s->readers, &use->node);
    use->next = s->free_uses;
    s->free_uses = use;
}
