/*
 * What `ofl-bench nvme --verify` writes, and how it knows that it is what comes back. Each sector of 512 bytes says where it
 * belongs and which run wrote it, and all its words go by that and by a seed: a bit that is another one shows, and so do a
 * block in another's place and one that a later write did not reach. Moves nothing itself.
 */
#ifndef BENCH_NVME_VERIFY_H
#define BENCH_NVME_VERIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define NVME_SECTOR       512u
#define NVME_SECTOR_WORDS (NVME_SECTOR / 8)
/* Mismatches that are kept, and of those, how many are printed. */
#define NVME_MISMATCHES_MAX   10000u
#define NVME_MISMATCHES_SHOWN 10u
/* Of a unit with more wrong words only the first one is kept. */
#define NVME_MISMATCH_WORDS 16u

struct nvme_mismatch {
    uint64_t offset, wanted, got; /* of a word, little endian */
    uint64_t words;               /* that differ: 1, or all of the unit's */
    uint64_t belongs; /* the offset that the sector says it belongs to; UINT64_MAX: it says none */
    bool stale;       /* it is of an earlier run */
};

struct nvme_verify {
    uint64_t seed, bytes, unit_bytes;
    uint16_t *units;   /* by which run each was written last; NULL: not known, what the sectors say counts */
    uint16_t run;      /* that writes now */
    uint16_t guess;    /* units NULL: of the sector before */
    uint64_t compared; /* bytes */
    uint64_t wrong_words, wrong_units;
    struct nvme_mismatch *mismatches; /* the first ones, in the order of their finding */
    unsigned count;
    double pass_s; /* of the last look at the whole file */
};

/* For a file of so many bytes, written in blocks of multiples of unit_bytes, a multiple of 512. known: by whom is kept.
 * 0 or -ENOMEM. */
int nvme_verify_open(struct nvme_verify *v, uint64_t seed, uint64_t bytes, uint64_t unit_bytes, bool known);
void nvme_verify_close(struct nvme_verify *v);
/* The next run writes other bytes than those before. */
void nvme_verify_next(struct nvme_verify *v);
/* What [offset, offset + bytes) is to hold from now on; whole units, but for the end of the file. */
void nvme_verify_fill(struct nvme_verify *v, void *buf, uint64_t offset, uint64_t bytes);
/* Compares; a unit that was found wrong is not counted again. Whole units. */
void nvme_verify_check(struct nvme_verify *v, const void *buf, uint64_t offset, uint64_t bytes);
void nvme_mismatch_print(FILE *f, const struct nvme_mismatch *m);

#endif
