/*
 * Budgets of `ofl-bench decode`: the tiers hold the weights together. Chooses what is not given; refuses what
 * can't work with the smallest of each budget that does beside the others, for the whole model.
 */
#ifndef BENCH_DECODE_BUDGET_H
#define BENCH_DECODE_BUDGET_H

#include "bench/bench.h"
#include "examples/common_budget.h"
#include "examples/model/generator.h"
#include "examples/model/slices.h"

/* The weights as they will be made, and what else it takes. */
struct bench_decode_model {
    struct llama_generator_need need;
    struct ofl_tensor_desc *weights;
    struct llama_cut *cuts; /* of which they are */
    uint32_t count;
};

/* Of config.fresh. Returns a status. */
int bench_decode_model_make(struct bench_decode_model *m, const struct llama_generator_config *config);
void bench_decode_model_free(struct bench_decode_model *m);
/* out names the budgets' directories. Returns a status. */
int bench_decode_budgets(const struct common_budget *b, const struct bench_decode_model *m,
                         struct ofl_config *out);

#endif
