/*
 * tree: an ordered set of nodes that lie inside their owners' structs (a treap). Allocates nothing.
 * A set may keep a sum of each subtree in its nodes (a maximum, say), for searches of its own that
 * walk from root. One thread at a time.
 */
#ifndef OFL_BASE_TREE_H
#define OFL_BASE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct base_node {
    struct base_node *left, *right;
    uint32_t rank; /* random: parents have the larger one */
};

struct base_tree {
    struct base_node *root;
    /* A strict order: no two nodes of the set are equal in it. */
    bool (*before)(const struct base_node *a, const struct base_node *b);
    /* n's children, or what n itself is worth, have changed. NULL: there is no sum. */
    void (*sum)(struct base_node *n);
    uint32_t state; /* of the generator of ranks */
};

#define BASE_TREE_OWNER(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

void base_tree_insert(struct base_tree *t, struct base_node *n);
/* n is in t, and its place in the order is still what it was. */
void base_tree_remove(struct base_tree *t, struct base_node *n);
/* What n is worth has changed, not its place: sums on the way to it are made anew. */
void base_tree_resum(struct base_tree *t, struct base_node *n);
/* NULL: the set is empty. */
struct base_node *base_tree_first(const struct base_tree *t);
struct base_node *base_tree_last(const struct base_tree *t);
/* Neighbours of key in the order; key need not be in the set. NULL: there is none. */
struct base_node *base_tree_after(const struct base_tree *t, const struct base_node *key);
struct base_node *base_tree_before(const struct base_tree *t, const struct base_node *key);

#endif
