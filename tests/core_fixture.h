/* What the tests of core and optim share: a scratch directory, a seeded generator, contexts. */
#ifndef OFL_TESTS_CORE_FIXTURE_H
#define OFL_TESTS_CORE_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload.h"

struct random {
    uint64_t state;
};

uint64_t random_next(struct random *r);
uint64_t random_below(struct random *r, uint64_t n);

/* A directory below the current one, where direct I/O is likely to work; removed by scratch_remove. */
const char *scratch_make(void);
void scratch_remove(void);
/* The same as a group's fixtures: *state is the directory. */
int scratch_setup(void **state);
int scratch_teardown(void **state);

/* For a config: one directory with so many bytes. Valid until the next call. */
const struct ofl_nvme *fixture_nvme(const char *dir, uint64_t bytes);

/* Prints warnings of the library to stderr. */
void fixture_log(void *arg, enum ofl_log_level level, const char *text);

/* A call of the library that must not fail; and one that must, with this code and a sentence that contains text. */
void fixture_ok(int code);
void fixture_refused(int code, int wanted, const char *text);

/* A context on the host device with 4 MiB of host memory and 16 MiB of the drive. */
struct ofl_ctx *fixture_ctx_open(const char *dir, uint64_t device_bytes);

/* Balances the books of ctx, between inputs of its engine; fails the test with what does not balance. */
void fixture_verify(struct ofl_ctx *ctx);
/* The same, and ofl_close. */
int fixture_ctx_close(struct ofl_ctx *ctx);

/* Rounds of a random test: fewer under a sanitizer (OFL_TEST_LIGHT), more with OFL_TEST_FULL. */
unsigned fixture_rounds(unsigned rounds);

#endif
