/* tree: see tree.h. Seidel & Aragon, 1996, "Randomized Search Trees". */
#include "base/tree.h"

static uint32_t next_rank(struct base_tree *t)
{
    uint32_t x = t->state ? t->state : 2463534242u; /* xorshift (Marsaglia, 2003) */

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return t->state = x;
}

static void resum(const struct base_tree *t, struct base_node *n)
{
    if (t->sum)
        t->sum(n);
}

/* Cuts the subtree n in what comes before key and what does not. */
static void split(const struct base_tree *t, struct base_node *n, const struct base_node *key,
                  struct base_node **low, struct base_node **high)
{
    if (!n) {
        *low = *high = NULL;
    } else if (t->before(n, key)) {
        *low = n;
        split(t, n->right, key, &n->right, high);
        resum(t, n);
    } else {
        *high = n;
        split(t, n->left, key, low, &n->left);
        resum(t, n);
    }
}

static struct base_node *merge(const struct base_tree *t, struct base_node *low, struct base_node *high)
{
    struct base_node *n;

    if (!low || !high)
        return low ? low : high;
    if (low->rank > high->rank) {
        n = low;
        n->right = merge(t, n->right, high);
    } else {
        n = high;
        n->left = merge(t, low, n->left);
    }
    resum(t, n);
    return n;
}

static struct base_node *insert(const struct base_tree *t, struct base_node *at, struct base_node *n)
{
    if (!at || n->rank > at->rank) {
        split(t, at, n, &n->left, &n->right);
        resum(t, n);
        return n;
    }
    if (t->before(n, at))
        at->left = insert(t, at->left, n);
    else
        at->right = insert(t, at->right, n);
    resum(t, at);
    return at;
}

void base_tree_insert(struct base_tree *t, struct base_node *n)
{
    n->left = n->right = NULL;
    n->rank = next_rank(t);
    t->root = insert(t, t->root, n);
}

static struct base_node *take_out(const struct base_tree *t, struct base_node *at, struct base_node *n)
{
    if (at == n)
        return merge(t, n->left, n->right);
    if (t->before(n, at))
        at->left = take_out(t, at->left, n);
    else
        at->right = take_out(t, at->right, n);
    resum(t, at);
    return at;
}

void base_tree_remove(struct base_tree *t, struct base_node *n)
{
    t->root = take_out(t, t->root, n);
    n->left = n->right = NULL;
}

static void resum_path(const struct base_tree *t, struct base_node *at, const struct base_node *n)
{
    if (at != n)
        resum_path(t, t->before(n, at) ? at->left : at->right, n);
    resum(t, at);
}

void base_tree_resum(struct base_tree *t, struct base_node *n)
{
    if (t->sum)
        resum_path(t, t->root, n);
}

struct base_node *base_tree_first(const struct base_tree *t)
{
    struct base_node *n = t->root;

    while (n && n->left)
        n = n->left;
    return n;
}

struct base_node *base_tree_last(const struct base_tree *t)
{
    struct base_node *n = t->root;

    while (n && n->right)
        n = n->right;
    return n;
}

struct base_node *base_tree_after(const struct base_tree *t, const struct base_node *key)
{
    struct base_node *found = NULL;

    for (struct base_node *n = t->root; n;) {
        if (t->before(key, n)) {
            found = n;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return found;
}

struct base_node *base_tree_before(const struct base_tree *t, const struct base_node *key)
{
    struct base_node *found = NULL;

    for (struct base_node *n = t->root; n;) {
        if (t->before(n, key)) {
            found = n;
            n = n->right;
        } else {
            n = n->left;
        }
    }
    return found;
}
