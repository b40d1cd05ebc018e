/*
 * base: a count that never passes its limit. Whoever is about to use something up takes it here first; once somebody
 * was refused everybody is, so that what is left does not depend on who asks for less.
 */
#ifndef OFL_BASE_LIMIT_H
#define OFL_BASE_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct base_limit {
    uint64_t most; /* 0: there is none, and all is counted */
    _Atomic uint64_t taken;
    _Atomic bool over; /* somebody was refused */
};

/* For the limit of bytes written to drives: what was taken, what was asked for, the limit. */
#define BASE_LIMIT_WRITTEN                                                                                   \
    "%llu bytes were written to drives so far, and these %llu would pass the limit of %llu: "                \
    "raise max_written_bytes (--max-written), or leave it out"

/* Any thread, as all here. NULL: nothing is counted. */
bool base_limit_take(struct base_limit *l, uint64_t n);
/* What was taken and not used. */
void base_limit_give(struct base_limit *l, uint64_t n);
uint64_t base_limit_left(const struct base_limit *l); /* UINT64_MAX: there is no limit */

#endif
