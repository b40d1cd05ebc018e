/* Learning rates over a training. Knows nothing else of it. */
#ifndef LLAMA_SCHEDULE_H
#define LLAMA_SCHEDULE_H

#include <stdint.h>

enum schedule_kind {
    SCHEDULE_CONSTANT,
    SCHEDULE_LINEAR,
    SCHEDULE_COSINE,
    SCHEDULE_WSD, /* warmup, stable, decay: linear over the last steps */
};

struct schedule {
    enum schedule_kind kind;
    double rate, end; /* end: where decays go to */
    uint64_t steps;   /* of the whole training */
    uint64_t warmup;  /* steps over which it rises linearly to the rate, from rate / warmup on */
    uint64_t decay;   /* WSD: the last steps */
};

/* step: from 1 on. A decay begins with the full rate, and would reach its end one step behind the last. */
double schedule_rate(const struct schedule *s, uint64_t step);

#endif
