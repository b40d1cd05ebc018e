/*
 * Byte pair encoding of one piece: characters become symbols, and the pair of
 * neighbours whose merge has the lowest rank, leftmost first, is merged until no
 * neighbours have a merge.
 *
 * Pieces may be whole files, so this takes a heap of candidate pairs over a linked
 * list of symbols. A candidate that no longer holds is noticed when it comes up.
 * And since a merge needs one that joins just these two characters, a piece is cut
 * where no merge does: the parts don't touch each other, and stay small enough for
 * the caches.
 */
#include <errno.h>
#include <stdlib.h>

#include "examples/model/tokenizer_impl.h"

static int heap_push(struct tok_bpe *bpe, uint64_t key)
{
    if (bpe->heap_count == bpe->heap_room) {
        size_t room = bpe->heap_room + bpe->heap_room / 2 + 64;
        uint64_t *heap = realloc(bpe->heap, room * sizeof *heap);
        if (!heap)
            return -ENOMEM;
        bpe->heap = heap;
        bpe->heap_room = room;
    }
    size_t at = bpe->heap_count++;
    while (at > 0 && bpe->heap[(at - 1) / 4] > key) {
        bpe->heap[at] = bpe->heap[(at - 1) / 4];
        at = (at - 1) / 4;
    }
    bpe->heap[at] = key;
    return 0;
}

/* Four children to a node: half the depth, and one cache line. */
static uint64_t heap_pop(struct tok_bpe *bpe)
{
    uint64_t top = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
    size_t at = 0;

    for (;;) {
        size_t first = 4 * at + 1, least = first;
        if (first >= bpe->heap_count)
            break;
        for (size_t child = first + 1; child < first + 4 && child < bpe->heap_count; child++)
            if (bpe->heap[child] < bpe->heap[least])
                least = child;
        if (bpe->heap[least] >= last)
            break;
        bpe->heap[at] = bpe->heap[least];
        at = least;
    }
    if (bpe->heap_count)
        bpe->heap[at] = last;
    return top;
}

/* Pushes the merge of the symbol at left with its neighbour, if there is one. */
static int push_pair(const struct tokenizer *t, struct tok_bpe *bpe, uint32_t left)
{
    const struct tok_symbol *symbol = &bpe->symbols[left];
    uint32_t rank = tok_pairs_find(&t->merges, symbol->id, bpe->symbols[symbol->next].id);

    return rank == TOK_NONE ? 0 : heap_push(bpe, (uint64_t)rank << 32 | left);
}

/* Merges the symbols collected so far, and appends what remains to out. */
static int flush(const struct tokenizer *t, struct tok_bpe *bpe, struct tok_ids *out)
{
    struct tok_symbol *symbols = bpe->symbols;
    int rc = 0;

    if (bpe->count == 0)
        return 0;
    symbols[bpe->count - 1].next = TOK_NONE;
    bpe->heap_count = 0;
    for (uint32_t i = 0; rc == 0 && i + 1 < bpe->count; i++)
        rc = push_pair(t, bpe, i);
    while (rc == 0 && bpe->heap_count > 0) {
        uint64_t top = heap_pop(bpe);
        struct tok_symbol *left = &symbols[(uint32_t)top];
        if (left->id == TOK_NONE || left->next == TOK_NONE)
            continue;
        struct tok_symbol *right = &symbols[left->next];
        uint32_t rank = tok_pairs_find(&t->merges, left->id, right->id);
        /* An older candidate stands if the pair of today makes the same token:
         * not what one would choose, but what gives Hugging Face's ids. */
        if (rank == TOK_NONE || t->merged[rank] != t->merged[top >> 32])
            continue;
        left->id = t->merged[rank];
        left->next = right->next;
        right->id = TOK_NONE;
        if (left->next != TOK_NONE) {
            symbols[left->next].previous = (uint32_t)top;
            rc = push_pair(t, bpe, (uint32_t)top);
        }
        if (rc == 0 && left->previous != TOK_NONE)
            rc = push_pair(t, bpe, left->previous);
    }
    for (uint32_t i = 0; rc == 0 && i != TOK_NONE; i = symbols[i].next)
        rc = tok_ids_add(out, symbols[i].id);
    bpe->count = 0;
    return rc;
}

static int add_symbol(const struct tokenizer *t, struct tok_bpe *bpe, uint32_t id, struct tok_ids *out)
{
    if (t->cuttable && bpe->count > 0 &&
        tok_pairs_find(&t->joins, bpe->symbols[bpe->count - 1].id, id) == TOK_NONE) {
        int rc = flush(t, bpe, out);
        if (rc < 0)
            return rc;
    }
    if (bpe->count == TOK_NONE)
        return -EOVERFLOW;
    if (bpe->count == bpe->room) {
        size_t room = bpe->room + bpe->room / 2 + 64;
        struct tok_symbol *symbols = realloc(bpe->symbols, room * sizeof *symbols);
        if (!symbols)
            return -ENOMEM;
        bpe->symbols = symbols;
        bpe->room = room;
    }
    uint32_t at = (uint32_t)bpe->count++;
    bpe->symbols[at] = (struct tok_symbol){.id = id, .previous = at ? at - 1 : TOK_NONE, .next = at + 1};
    return 0;
}

/* Symbols for a character that the vocabulary lacks: its bytes if all of them have
 * tokens, else the unknown token, which is held back in *unknown to be fused with
 * those that follow, or nothing. */
static int add_missing(const struct tokenizer *t, struct tok_bpe *bpe, const char *text, int bytes,
                       bool *unknown, struct tok_ids *out)
{
    const unsigned char *s = (const unsigned char *)text;
    bool fallback = true;
    int rc = 0;

    for (int i = 0; i < bytes; i++)
        fallback = fallback && t->byte_ids[s[i]] != TOK_NONE;
    if (fallback) {
        for (int i = 0; rc == 0 && i < bytes; i++)
            rc = add_symbol(t, bpe, t->byte_ids[s[i]], out);
        return rc;
    }
    if (t->unk == TOK_NONE)
        return t->unk_missing ? -EILSEQ : 0;
    if (*unknown && !t->fuse_unk)
        rc = add_symbol(t, bpe, t->unk, out);
    *unknown = true;
    return rc;
}

int tok_bpe_encode(const struct tokenizer *t, struct tok_bpe *bpe, const char *text, size_t bytes,
                   struct tok_ids *out)
{
    bool unknown = false;
    uint32_t code = 0;
    int rc = 0, step;

    if (t->ignore_merges) {
        uint32_t whole = tok_map_find(&t->map, t->words, text, bytes);
        if (whole != TOK_NONE)
            return tok_ids_add(out, whole);
    }
    bpe->count = 0;
    for (size_t at = 0; rc == 0 && at < bytes; at += (size_t)step) {
        step = tok_utf8_next(text + at, bytes - at, &code);
        if (step < 0)
            return -EILSEQ;
        uint32_t id = code < t->chars ? t->char_ids[code] : TOK_NONE;
        if (id == TOK_NONE) {
            rc = add_missing(t, bpe, text + at, step, &unknown, out);
            continue;
        }
        if (unknown)
            rc = add_symbol(t, bpe, t->unk, out);
        unknown = false;
        if (rc == 0)
            rc = add_symbol(t, bpe, id, out);
    }
    if (rc == 0 && unknown)
        rc = add_symbol(t, bpe, t->unk, out);
    return rc < 0 ? rc : flush(t, bpe, out);
}

void tok_bpe_free(struct tok_bpe *bpe)
{
    free(bpe->symbols);
    free(bpe->heap);
    *bpe = (struct tok_bpe){0};
}
