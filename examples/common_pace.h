/*
 * When to commit, so that commits take at most a share of a run's time. Knows only seconds.
 *
 * What a commit costs is what the call took, and by how much the steps beside it were longer than others are.
 */
#ifndef EXAMPLES_COMMON_PACE_H
#define EXAMPLES_COMMON_PACE_H

#include <stdbool.h>

#define COMMON_PACE_STEPS   8
#define COMMON_PACE_FIRST_S 300.0 /* the first commit comes by then, whatever it may cost */

struct common_pace {
    double share;      /* of the time; set by the caller, as the next one */
    double expected_s; /* what the next commit may cost: a guess, until there was one */
    double elapsed_s, spent_s;
    double plain_s[COMMON_PACE_STEPS]; /* steps without a commit beside them, the last ones */
    unsigned plain, commits;
    double shortest_s;     /* of all steps; 0: there was none */
    double cost_s, over_s; /* of the commit that is under way: what the call took, and the steps beside it */
    bool busy;             /* one is */
};

/* A step has ended. */
void common_pace_step(struct common_pace *p, double seconds);
/* A commit was begun, and the call took so long. */
void common_pace_begin(struct common_pace *p, double seconds);
/* It is durable, or has failed. */
void common_pace_end(struct common_pace *p);
/* Whether one more may be begun now. */
bool common_pace_due(const struct common_pace *p);

#endif
