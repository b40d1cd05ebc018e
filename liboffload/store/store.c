/* store: see store.h. The file grows in strides, so that space is reserved ahead of use. */
#include "liboffload/store/store.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <xxhash.h>

#include "include/offload.h"
#include "io/profile.h"
#include "base/extent.h"

/* The file grows by this much at once (less near the budget's end). */
#define STRIDE (64ull << 20)

struct store {
    struct io_file *file;
    struct base_extents *ranges;
    uint64_t budget, memory, reserved, used, peak;
    bool space; /* nothing but: the file is not ours, and has no bytes */
};

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
}

static int free_space(const char *dir, uint64_t *bytes, dev_t *device)
{
    struct statvfs fs;
    struct stat st;

    if (statvfs(dir, &fs) < 0 || stat(dir, &st) < 0)
        return base_fail_errno(-errno, "open store in %s", dir);
    *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    *device = st.st_dev;
    return 0;
}

/* What each path may hold. Paths on one file system without a budget share what is free there. held: what the first
 * one's file has of it already. */
static int settle_budgets(const struct store_config *config, uint64_t held, uint64_t *budgets)
{
    uint64_t available[IO_STRIPE_MAX] = {0};
    dev_t device[IO_STRIPE_MAX] = {0};
    int err = 0;

    for (unsigned i = 0; i < config->count && err == 0; i++)
        err = free_space(config->paths[i].dir, &available[i], &device[i]);
    available[0] += held;
    for (unsigned i = 0; i < config->count && err == 0; i++) {
        const struct store_path *path = &config->paths[i];
        unsigned sharers = 0;

        for (unsigned k = 0; k < config->count; k++)
            sharers += device[k] == device[i] && config->paths[k].bytes == 0;
        if (path->bytes > available[i])
            return base_fail(-ENOSPC, "open store in %s: %llu bytes wanted, %llu bytes free: %s", path->dir,
                             (unsigned long long)path->bytes, (unsigned long long)available[i],
                             base_strerror(-ENOSPC));
        budgets[i] = path->bytes ? path->bytes : (available[i] - available[i] / 20) / sharers;
        budgets[i] -= budgets[i] % (config->count > 1 ? IO_STRIPE_BYTES : STORE_BLOCK);
    }
    return err;
}

/*
 * Bytes on tmpfs and the like are memory: who takes more of it than there is gets no error but is killed. So
 * budgets that were asked for have to fit, and those that were not are cut to what is left. file: of the one path, if it
 * is open already.
 */
static int settle_memory(const struct store_config *config, const struct io_file *file, uint64_t *budgets,
                         uint64_t *memory)
{
    const uint64_t unit = config->count > 1 ? IO_STRIPE_BYTES : STORE_BLOCK;
    uint64_t left = config->memory_text ? config->memory_bytes : UINT64_MAX;
    bool lies_there[IO_STRIPE_MAX];
    unsigned open = 0;

    *memory = 0;
    for (unsigned i = 0; i < config->count; i++) {
        const struct store_path *path = &config->paths[i];
        struct io_place place = {.in_memory = file && io_file_in_memory(file)};
        int err = file ? 0 : io_place_get(path->dir, &place);

        if (err < 0)
            return err;
        lies_there[i] = place.in_memory;
        open += place.in_memory && path->bytes == 0;
        if (!place.in_memory || path->bytes == 0)
            continue;
        if (budgets[i] > left)
            return base_fail(-OFL_EBUDGET,
                             "open store in %s: its bytes are memory, and count as such: %llu bytes wanted, "
                             "%llu bytes left %s",
                             path->dir, (unsigned long long)path->bytes, (unsigned long long)left,
                             config->memory_text);
        left -= budgets[i];
        *memory += budgets[i];
    }
    for (unsigned i = 0; i < config->count; i++) {
        if (!lies_there[i] || config->paths[i].bytes)
            continue;
        if (budgets[i] > left / open)
            budgets[i] = left / open / unit * unit;
        if (budgets[i] == 0)
            return base_fail(-OFL_EBUDGET,
                             "open store in %s: its bytes are memory, and count as such: %llu bytes left %s",
                             config->paths[i].dir, (unsigned long long)left, config->memory_text);
        left -= budgets[i];
        *memory += budgets[i];
        open--;
    }
    return 0;
}

/* Every byte of the store is written about as often as it is read, so a path's share goes by the
 * time that it takes for both. Equal shares if one of them can't be measured. */
static void weigh(struct io_stripe *stripes, unsigned count)
{
    double weight[IO_STRIPE_MAX];

    for (unsigned i = 0; i < count; i++) {
        double read_bps, write_bps;

        if (io_profile_measure_rates(stripes[i].dir, &read_bps, &write_bps) < 0 || read_bps <= 0 ||
            write_bps <= 0)
            return;
        weight[i] = 1 / (1 / read_bps + 1 / write_bps);
    }
    for (unsigned i = 0; i < count; i++)
        stripes[i].weight = weight[i];
}

static int open_file(struct store *s, const struct store_config *config)
{
    struct io_stripe stripes[IO_STRIPE_MAX] = {0};
    uint64_t budgets[IO_STRIPE_MAX] = {0};
    int err = settle_budgets(config, 0, budgets);

    if (err == 0)
        err = settle_memory(config, NULL, budgets, &s->memory);
    if (err < 0)
        return err;
    for (unsigned i = 0; i < config->count; i++) {
        stripes[i] = (struct io_stripe){.dir = config->paths[i].dir, .limit_bytes = budgets[i]};
        s->budget += budgets[i];
    }
    if (config->count > 1 && !config->unmeasured)
        weigh(stripes, config->count);
    return io_file_open_striped(stripes, config->count, config->file_flags, &s->file);
}

int store_open(const struct store_config *config, struct store **out)
{
    struct store *s = calloc(1, sizeof *s);
    int err;

    *out = NULL;
    if (!s)
        return base_fail(-ENOMEM, "open store in %s: out of memory", config->paths[0].dir);
    err = open_file(s, config);
    if (err == 0)
        err = base_extents_create(0, &s->ranges);
    if (err < 0)
        store_close(s);
    else
        *out = s;
    return err;
}

int store_open_over(const struct store_config *config, struct io_file *file, struct store **out)
{
    struct store *s = calloc(1, sizeof *s);
    uint64_t held = io_file_bytes(file) / STORE_BLOCK * STORE_BLOCK;
    int err;

    *out = NULL;
    if (!s)
        return base_fail(-ENOMEM, "open store in %s: out of memory", config->paths[0].dir);
    err = settle_budgets(config, held, &s->budget);
    if (err == 0)
        err = settle_memory(config, file, &s->budget, &s->memory);
    if (err == 0)
        err = base_extents_create(held, &s->ranges);
    if (err < 0) {
        store_close(s);
        return err;
    }
    s->file = file;
    s->reserved = held;
    *out = s;
    return 0;
}

int store_open_space(uint64_t bytes, struct io_file *file, struct store **out)
{
    struct store *s = calloc(1, sizeof *s);

    *out = NULL;
    if (!s)
        return base_fail(-ENOMEM, "open store: out of memory");
    s->space = true;
    s->file = file;
    s->budget = bytes - bytes % STORE_BLOCK;
    if (base_extents_create(0, &s->ranges) < 0) {
        store_close(s);
        return -ENOMEM;
    }
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    if (!s->space)
        io_file_close(s->file);
    base_extents_destroy(s->ranges);
    free(s);
}

struct io_file *store_file(struct store *s)
{
    return s->file;
}

static int reserve(struct store *s, uint64_t bytes)
{
    return s->space ? 0 : io_file_reserve(s->file, bytes);
}

static int over_budget(const struct store *s, uint64_t bytes, uint64_t more, const char *what)
{
    return base_fail(
        -OFL_EBUDGET,
        "reserve NVMe space for %s: %llu bytes needed, %llu of %llu bytes in use: raise the NVMe "
        "budget by at least %llu bytes",
        what, (unsigned long long)bytes, (unsigned long long)s->used, (unsigned long long)s->budget,
        (unsigned long long)more);
}

static int grow(struct store *s, uint64_t bytes, const char *what)
{
    uint64_t missing = bytes - base_extents_tail(s->ranges);
    uint64_t wanted = s->reserved + (missing > STRIDE ? missing : STRIDE);
    int err;

    if (wanted > s->budget)
        wanted = s->budget;
    if (wanted < s->reserved + missing)
        return over_budget(s, bytes, s->reserved + missing - s->budget, what);
    err = reserve(s, wanted);
    if ((err == -ENOSPC || err == -EFBIG || err == -EDQUOT) && wanted > s->reserved + missing) {
        wanted = s->reserved + missing;
        err = reserve(s, wanted);
    }
    if (err < 0) {
        struct base_error why;

        base_error_save(&why, err);
        return base_fail(err, "reserve NVMe space for %s: %llu bytes needed: %.800s", what,
                         (unsigned long long)bytes, why.text);
    }
    err = base_extents_grow(s->ranges, wanted);
    if (err == 0)
        s->reserved = wanted;
    return err;
}

/* The span grows to each range in turn, and what lies before it is taken meanwhile: so a range is all that is free. */
static int hold_each(struct store *s, const struct store_range *ranges, uint64_t count)
{
    uint64_t end = 0;

    for (uint64_t i = 0; i < count; i++) {
        const uint64_t tops[2] = {ranges[i].offset, ranges[i].offset + ranges[i].bytes};

        for (int k = 0; k < 2; k++) {
            if (tops[k] == end)
                continue;
            if (base_extents_grow(s->ranges, tops[k]) < 0 || !base_extents_ready(s->ranges))
                return -ENOMEM;
            (void)base_extents_take(s->ranges, tops[k] - end);
            end = tops[k];
        }
        s->used += ranges[i].bytes;
    }
    s->peak = s->used;
    return base_extents_grow(s->ranges, s->reserved);
}

int store_hold(struct store *s, const struct store_range *ranges, uint64_t count)
{
    uint64_t end = 0;
    int err;

    base_extents_destroy(s->ranges);
    err = base_extents_create(0, &s->ranges);
    if (err == 0)
        err = hold_each(s, ranges, count);
    if (err < 0)
        return base_fail(-ENOMEM, "open store in %s: %llu ranges: out of memory", io_file_path(s->file),
                         (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++) {
        if (ranges[i].offset > end)
            base_extents_give(s->ranges, end, ranges[i].offset - end);
        end = ranges[i].offset + ranges[i].bytes;
    }
    return 0;
}

int store_take(struct store *s, uint64_t bytes, const char *what, uint64_t *offset)
{
    int err;

    if (!base_extents_ready(s->ranges))
        return base_fail(-ENOMEM, "reserve NVMe space for %s: out of memory", what);
    bytes = round_up(bytes);
    if (s->reserved > s->budget && (s->used > s->budget || bytes > s->budget - s->used))
        return over_budget(s, bytes, s->used + bytes - s->budget, what);
    *offset = base_extents_take(s->ranges, bytes);
    if (*offset == BASE_EXTENT_NONE) {
        err = grow(s, bytes, what);
        if (err < 0)
            return err;
        *offset = base_extents_take(s->ranges, bytes);
    }
    s->used += bytes;
    if (s->used > s->peak)
        s->peak = s->used;
    return 0;
}

void store_give(struct store *s, uint64_t offset, uint64_t bytes)
{
    bytes = round_up(bytes);
    base_extents_give(s->ranges, offset, bytes);
    s->used -= bytes;
}

uint64_t store_seal(const void *bytes, uint64_t count)
{
    return XXH3_64bits(bytes, count);
}

uint64_t store_budget(const struct store *s)
{
    return s->budget;
}

uint64_t store_memory(const struct store *s)
{
    return s->memory;
}

uint64_t store_used(const struct store *s)
{
    return s->used;
}

uint64_t store_peak(const struct store *s)
{
    return s->peak;
}

uint64_t store_reserved(const struct store *s)
{
    return s->reserved;
}
