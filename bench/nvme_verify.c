/* The pattern of `ofl-bench nvme --verify`: see nvme_verify.h. */
#include "bench/nvme_verify.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

#define STEP      0x9e3779b97f4a7c15u /* odd: all words of a sector differ */
#define FOUND     0x8000u             /* of a unit: it was found wrong */
#define RUN_BITS  15u
#define RUN_SHIFT (64u - RUN_BITS)
#define RUN_MASK  ((1u << RUN_BITS) - 1)

int nvme_verify_open(struct nvme_verify *v, uint64_t seed, uint64_t bytes, uint64_t unit_bytes, bool known)
{
    *v = (struct nvme_verify){.seed = seed, .bytes = bytes, .unit_bytes = unit_bytes};
    v->mismatches = calloc(NVME_MISMATCHES_MAX, sizeof *v->mismatches);
    if (known)
        v->units = calloc(bytes / unit_bytes + 1, sizeof *v->units);
    if (v->mismatches && (v->units || !known))
        return 0;
    nvme_verify_close(v);
    return -ENOMEM;
}

void nvme_verify_close(struct nvme_verify *v)
{
    free(v->mismatches);
    free(v->units);
    v->mismatches = NULL;
    v->units = NULL;
}

void nvme_verify_next(struct nvme_verify *v)
{
    v->run = (uint16_t)((v->run + 1) & RUN_MASK);
}

/* ---- a sector ----------------------------------------------------------------------- */

static uint64_t mix(uint64_t seed)
{
    uint64_t state = seed;

    return bench_random(&state);
}

/* What the first word says, before the seed hides it. */
static uint64_t tag(uint64_t offset, uint16_t run)
{
    return (uint64_t)run << RUN_SHIFT | offset / NVME_SECTOR;
}

/* The words are those of a little-endian machine, so that a file can be carried to another one. */
static inline uint64_t word(uint64_t base, unsigned i)
{
    uint64_t x = base + i * STEP;

    return htole64(x ^ x >> 31);
}

static void sector_words(uint64_t seed, uint64_t offset, uint16_t run, uint64_t *words)
{
    uint64_t first = tag(offset, run), base = mix(seed ^ mix(first));

    for (unsigned i = 0; i < NVME_SECTOR_WORDS; i++)
        words[i] = word(base, i);
    words[0] = htole64(first ^ mix(seed));
}

/* Whether it holds what it should, without a branch for each word. */
static bool sector_is(uint64_t seed, uint64_t offset, uint16_t run, const uint64_t *words)
{
    uint64_t first = tag(offset, run), base = mix(seed ^ mix(first)), other = 0;

    for (unsigned i = 1; i < NVME_SECTOR_WORDS; i++)
        other |= words[i] ^ word(base, i);
    return (other | (words[0] ^ htole64(first ^ mix(seed)))) == 0;
}

void nvme_verify_fill(struct nvme_verify *v, void *buf, uint64_t offset, uint64_t bytes)
{
    uint64_t *words = buf;

    for (uint64_t at = 0; at < bytes; at += NVME_SECTOR)
        sector_words(v->seed, offset + at, v->run, words + at / 8);
    for (uint64_t u = offset / v->unit_bytes; v->units && u * v->unit_bytes < offset + bytes; u++)
        v->units[u] = v->run;
}

/* ---- what is wrong ---------------------------------------------------------------------- */

static unsigned differing(const uint64_t *a, const uint64_t *b)
{
    unsigned n = 0;

    for (unsigned i = 0; i < NVME_SECTOR_WORDS; i++)
        n += a[i] != b[i];
    return n;
}

/* Where it is not known who wrote: what the sector says, the same but for a bit, or what the one before had; whichever is
 * nearest to what is there. */
static uint16_t guess_run(struct nvme_verify *v, uint64_t offset, const uint64_t *words)
{
    uint16_t said = (uint16_t)((le64toh(words[0]) ^ mix(v->seed)) >> RUN_SHIFT), best = said;
    unsigned least = NVME_SECTOR_WORDS + 1;
    uint64_t wanted[NVME_SECTOR_WORDS];

    for (unsigned i = 0; i < RUN_BITS + 2 && least > 0; i++) {
        uint16_t run = i == 0 ? said : (uint16_t)(i == 1 ? v->guess : said ^ 1u << (i - 2));
        unsigned n;

        sector_words(v->seed, offset, run, wanted);
        n = differing(wanted, words);
        if (n < least) {
            least = n;
            best = run;
        }
    }
    return best;
}

static void keep(struct nvme_verify *v, const struct nvme_mismatch *m)
{
    if (v->count < NVME_MISMATCHES_MAX)
        v->mismatches[v->count++] = *m;
}

/* What the sector says of itself, if it is one of ours, whole, from elsewhere or before. */
static void identify(const struct nvme_verify *v, uint64_t offset, const uint64_t *words,
                     struct nvme_mismatch *m)
{
    uint64_t said = le64toh(words[0]) ^ mix(v->seed);
    uint64_t place = (said & ((UINT64_C(1) << RUN_SHIFT) - 1)) * NVME_SECTOR;

    m->belongs = UINT64_MAX;
    if (place >= v->bytes || !sector_is(v->seed, place, (uint16_t)(said >> RUN_SHIFT), words))
        return;
    m->belongs = place;
    m->stale = place == offset;
}

/* The wrong words of one sector; *kept of the unit so far. */
static void examine(struct nvme_verify *v, uint64_t offset, uint16_t run, const uint64_t *words,
                    struct nvme_mismatch *found, unsigned *kept)
{
    uint64_t wanted[NVME_SECTOR_WORDS];

    sector_words(v->seed, offset, run, wanted);
    for (unsigned i = 0; i < NVME_SECTOR_WORDS; i++) {
        struct nvme_mismatch m = {.offset = offset + i * 8, .words = 1};

        if (words[i] == wanted[i])
            continue;
        m.wanted = le64toh(wanted[i]);
        m.got = le64toh(words[i]);
        identify(v, offset, words, &m);
        if (*kept < NVME_MISMATCH_WORDS)
            found[*kept] = m;
        ++*kept;
    }
}

static uint16_t run_of(struct nvme_verify *v, uint64_t offset, const uint64_t *words)
{
    return v->units ? v->units[offset / v->unit_bytes] & RUN_MASK : guess_run(v, offset, words);
}

static void check_unit(struct nvme_verify *v, const uint64_t *words, uint64_t offset, uint64_t bytes)
{
    struct nvme_mismatch found[NVME_MISMATCH_WORDS];
    uint16_t *mark = v->units ? &v->units[offset / v->unit_bytes] : NULL;
    unsigned kept = 0;

    if (mark && (*mark & FOUND))
        return;
    for (uint64_t at = 0; at < bytes; at += NVME_SECTOR) {
        const uint64_t *sector = words + at / 8;
        uint16_t run = mark ? *mark : v->guess;

        if (sector_is(v->seed, offset + at, run, sector))
            continue;
        run = run_of(v, offset + at, sector);
        v->guess = run; /* a guess for the next one */
        if (!sector_is(v->seed, offset + at, run, sector))
            examine(v, offset + at, run, sector, found, &kept);
    }
    if (kept == 0)
        return;
    v->wrong_units++;
    v->wrong_words += kept;
    if (mark)
        *mark |= FOUND;
    if (kept > NVME_MISMATCH_WORDS) {
        found[0].words = kept;
        kept = 1;
    }
    for (unsigned i = 0; i < kept; i++)
        keep(v, &found[i]);
}

void nvme_verify_check(struct nvme_verify *v, const void *buf, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += v->unit_bytes)
        check_unit(v, (const uint64_t *)((const uint8_t *)buf + at), offset + at,
                   bytes - at < v->unit_bytes ? bytes - at : v->unit_bytes);
    v->compared += bytes;
}

void nvme_mismatch_print(FILE *f, const struct nvme_mismatch *m)
{
    fprintf(f, "offset %" PRIu64 ": wanted 0x%016" PRIx64 ", got 0x%016" PRIx64, m->offset, m->wanted,
            m->got);
    if (m->words > 1)
        fprintf(f, ", and %" PRIu64 " more words near it", m->words - 1);
    if (m->stale)
        fputs("; the sector holds what an earlier run wrote there", f);
    else if (m->belongs != UINT64_MAX)
        fprintf(f, "; the sector holds what belongs to offset %" PRIu64, m->belongs);
    fputc('\n', f);
}
