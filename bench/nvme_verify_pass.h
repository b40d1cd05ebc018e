/*
 * The look at the whole test file of `ofl-bench nvme --verify`, and at one that was kept.
 */
#ifndef BENCH_NVME_VERIFY_PASS_H
#define BENCH_NVME_VERIFY_PASS_H

#include "bench/nvme_target.h"

/* Reads all of t's file and compares. Mismatches are t->verify's; returns a status of reading alone. */
int nvme_verify_pass(struct nvme_target *t);
/* Says what was found. EXIT_DAMAGED, or 0. */
int nvme_verify_tell(const struct nvme_target *t);
/* null without --verify. */
json_t *nvme_verify_json(const struct nvme_target *t);
/* --verify-file: the whole command. */
int nvme_verify_file(const struct nvme_options *o);

#endif
