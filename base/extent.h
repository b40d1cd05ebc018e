/*
 * extent: an allocator of ranges [offset, offset + length) inside a fixed span.
 * Owns the list of free ranges; touches no memory of the span. One thread at a time.
 */
#ifndef OFL_BASE_EXTENT_H
#define OFL_BASE_EXTENT_H

#include <stdbool.h>
#include <stdint.h>

#define BASE_EXTENT_NONE UINT64_MAX

struct base_extents;

int base_extents_create(uint64_t span_bytes, struct base_extents **out);
void base_extents_destroy(struct base_extents *x); /* NULL accepted */
/* Lengthens the span; what is added is free. -ENOMEM changes nothing. */
int base_extents_grow(struct base_extents *x, uint64_t span_bytes);
/* Shortens it: nothing beyond is given out any more. What is taken there stays its owner's; given
 * back, it is gone. The span must not grow again before that. */
void base_extents_shrink(struct base_extents *x, uint64_t span_bytes);
/* Has memory for the next take, and for giving back what that takes. False: there is none. */
bool base_extents_ready(struct base_extents *x);
/* The offset of a range of so many bytes, the smallest free one that holds it (lowest
 * offset among equals); BASE_EXTENT_NONE if no free range is long enough, or if it is not ready. */
uint64_t base_extents_take(struct base_extents *x, uint64_t bytes);
/* Gives back a range that take returned, whole. Needs no memory. */
void base_extents_give(struct base_extents *x, uint64_t offset, uint64_t bytes);
/* How much is free at the end of the span: what a longer span would add to. */
uint64_t base_extents_tail(const struct base_extents *x);
uint64_t base_extents_free_bytes(const struct base_extents *x);
uint64_t base_extents_span(const struct base_extents *x);
uint64_t base_extents_largest(const struct base_extents *x);

#endif
