/* store: see store.h. The file grows in strides, so that space is reserved ahead of use. */
#include "liboffload/store/store.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <xxhash.h>

#include "include/offload.h"
#include "liboffload/base/extent.h"

/* The file grows by this much at once (less near the budget's end). */
#define STRIDE (64ull << 20)

struct store {
    struct io_file *file;
    struct base_extents *ranges;
    uint64_t budget, reserved, used, peak;
};

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
}

static int free_space(const char *dir, uint64_t *bytes)
{
    struct statvfs fs;

    if (statvfs(dir, &fs) < 0)
        return base_fail_errno(-errno, "open store in %s", dir);
    *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}

int store_open(const struct store_config *config, struct store **out)
{
    struct store *s = calloc(1, sizeof *s);
    uint64_t available = 0;
    int err;

    *out = NULL;
    if (!s)
        return base_fail(-ENOMEM, "open store in %s: out of memory", config->dir);
    err = io_file_open_scratch(config->dir, config->file_flags, &s->file);
    if (err < 0)
        goto fail;
    err = free_space(config->dir, &available);
    if (err < 0)
        goto fail;
    if (config->bytes > available) {
        err = base_fail(-ENOSPC, "open store in %s: %llu bytes wanted, %llu bytes free: %s", config->dir,
                        (unsigned long long)config->bytes, (unsigned long long)available,
                        base_strerror(-ENOSPC));
        goto fail;
    }
    s->budget = config->bytes ? config->bytes : available - available / 20;
    s->budget -= s->budget % STORE_BLOCK;
    err = base_extents_create(0, &s->ranges);
    if (err < 0)
        goto fail;
    *out = s;
    return 0;
fail:
    store_close(s);
    return err;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    io_file_close(s->file);
    base_extents_destroy(s->ranges);
    free(s);
}

struct io_file *store_file(struct store *s)
{
    return s->file;
}

static int grow(struct store *s, uint64_t bytes, const char *what)
{
    uint64_t wanted = s->reserved + (bytes > STRIDE ? bytes : STRIDE);
    int err;

    if (wanted > s->budget)
        wanted = s->budget;
    if (wanted < s->reserved + bytes)
        return base_fail(
            -OFL_EBUDGET,
            "reserve NVMe space for %s: %llu bytes needed, %llu of %llu bytes in use: raise the NVMe "
            "budget by at least %llu bytes",
            what, (unsigned long long)bytes, (unsigned long long)s->used, (unsigned long long)s->budget,
            (unsigned long long)(s->reserved + bytes - s->budget));
    err = io_file_reserve(s->file, wanted);
    if (err == -ENOSPC && wanted > s->reserved + bytes) {
        wanted = s->reserved + bytes;
        err = io_file_reserve(s->file, wanted);
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

int store_take(struct store *s, uint64_t bytes, const char *what, uint64_t *offset)
{
    int err;

    bytes = round_up(bytes);
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
    /* A range lost for want of memory only wastes space. */
    if (base_extents_give(s->ranges, offset, bytes) == 0)
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

uint64_t store_used(const struct store *s)
{
    return s->used;
}

uint64_t store_peak(const struct store *s)
{
    return s->peak;
}
