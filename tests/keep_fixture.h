/* What the tests of kept stores share: a store, contexts over it, tensors with known words. */
#ifndef OFL_TESTS_KEEP_FIXTURE_H
#define OFL_TESTS_KEEP_FIXTURE_H

#include <stdint.h>

#include "include/offload.h"

#define MIB (1ull << 20)
#define KIB (1ull << 10)

struct keep_budgets {
    uint64_t device_bytes, host_bytes, tile_bytes;
    uint32_t flags;
    uint64_t test_seed; /* as in struct ofl_config */
    uint32_t test_errors;
};

extern const struct keep_budgets keep_usual;
extern char keep_dir[300]; /* of the store that a test is about */

/* state: the group's, of scratch_setup. The store of the test before goes. */
void keep_set_dir(void **state, const char *name);
/* The same, and scratch_teardown: a group's. */
int keep_teardown(void **state);

int keep_try_open(const struct keep_budgets *b, struct ofl_ctx **ctx);
/* These fail the test with the library's sentence. */
struct ofl_ctx *keep_open(const struct keep_budgets *b);
struct ofl_tensor *keep_make(struct ofl_ctx *ctx, const char *name, enum ofl_dtype dtype, uint64_t elems);
void keep_resume(struct ofl_ctx *ctx, uint64_t generation, uint64_t tensors);
void keep_commit(struct ofl_ctx *ctx, uint64_t generation); /* and waits for it */
/* All of t: words that go by seed; 0: zeros. */
void keep_write(struct ofl_tensor *t, uint32_t seed, uint64_t bytes);
void keep_check(struct ofl_tensor *t, uint32_t seed, uint64_t bytes);

#endif
