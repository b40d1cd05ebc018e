/*
 * Budgets: chooses what is not given, and refuses what can't work, before anything is opened. The same
 * check for all programs: what a run takes of RAM is device memory, where that is RAM, host memory, a
 * store that lies in memory, and what the program needs beside them.
 */
#ifndef EXAMPLES_COMMON_BUDGET_H
#define EXAMPLES_COMMON_BUDGET_H

#include "examples/common.h"
#include "examples/common_memory.h"
#include "examples/common_options.h"

/* Options of a struct common_budget. The second table is for programs that only read weights: it knows
 * --nvme too, for a better complaint than "unknown". */
extern const struct common_option common_budget_options[], common_read_options[];
void common_budget_free(struct common_budget *b);
/* A common_set_fn: "DIR" or "DIR:SIZE" into a struct ofl_nvme. A directory of the whole name is one. */
bool common_set_directory(void *field, const char *text, struct common_complaint *c);
/* That the combination makes sense, and that the report could be written. */
int common_budget_check(const struct common_budget *b);

struct llama_trainer_need;

/* A training's budgets. array_bytes: what the program itself will allocate. Returns a status. */
int common_budget_training(const struct common_budget *b, const struct llama_trainer_need *need,
                           uint64_t array_bytes, struct ofl_config *out);

/* Where a kept store is, or, as long as it is not there, is to be made; place has room for its name. */
const char *common_keep_place(const struct common_budget *b, char place[4096]);
/* That b->store has room for what is kept, and for so much scratch beside it. Returns a status. */
int common_budget_keep(const struct common_budget *b, const struct llama_trainer_need *need,
                       uint64_t scratch_bytes);

/* What each --nvme directory may hold, as the library counts it: what is free, less 5 %, where no SIZE is given.
 * Refuses more than is free. Returns a status. */
int common_budget_store(const struct common_budget *b, uint64_t bytes[OFL_NVME_MAX]);

/* What could be changed where memory is short. */
struct common_ways {
    uint64_t device_least, host_least; /* the smallest budgets that would do, with the rest as it is */
    uint64_t nvme_least;               /* of all --nvme together; 0: there is none */
    uint64_t drive_bytes;              /* of --nvme, that would hold what memory can't; 0: there is one */
    uint64_t drive_device_least;       /* the smallest --device-mem beside it */
    uint64_t kept_bytes;               /* of tensors that are kept, once: they count beside the others */
};

/* Of budgets that common_budget_training has settled as c. */
struct common_ways common_budget_ways(const struct common_budget *b, const struct llama_trainer_need *need,
                                      const struct ofl_config *c);

/* That the machine, the cgroups and the GPU have as much as c's budgets and the program take. tensor_bytes:
 * of all tensors; what of them goes to --nvme directories that lie in memory counts. Returns a status. */
int common_budget_fits(const struct common_budget *b, const struct ofl_config *c, uint64_t tensor_bytes,
                       uint64_t array_bytes, const struct common_ways *ways);

#endif
