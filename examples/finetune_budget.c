/* Budgets of ofl-finetune: what a run takes, before anything is opened. */
#include "examples/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

typedef unsigned long long ull;

#define STAGING_BYTES (4ull << 20)  /* host memory where nothing has to live in it */
#define HOST_BYTES    (64ull << 20) /* by default, in front of a drive */

static uint64_t at_least(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What the library keeps free of tensors in host memory, to move bytes: 32 of its smallest tiles in
 * front of a store, and four, each with two blocks, without one. See "Homes" in offload.h; it has
 * the last word when the tensors are made. */
#define TILE_BYTES     (64ull << 10)
#define BLOCK_BYTES    4096ull
#define MOVES_BYTES    (32 * TILE_BYTES)
#define MOVES_NO_STORE (4 * (TILE_BYTES + 2 * BLOCK_BYTES))

/* The host memory that holds all tensors. */
static uint64_t host_all_bytes(const struct llama_trainer_need *need)
{
    return at_least(need->store_bytes + MOVES_NO_STORE, OFL_HOST_MIN_BYTES);
}

/* What store and host memory take together where they share the tensors: where one is cut, up to a
 * block less than a tile is lost. */
static uint64_t shared_bytes(const struct llama_trainer_need *need)
{
    return need->store_bytes + MOVES_BYTES + TILE_BYTES - BLOCK_BYTES;
}

/* The smallest store beside so much host memory. */
static uint64_t store_least_bytes(const struct llama_trainer_need *need, uint64_t host_bytes)
{
    uint64_t shared = shared_bytes(need), host = host_bytes / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t beside = shared > host ? shared - host : 0;

    return at_least(beside < need->store_bytes ? beside : need->store_bytes, BLOCK_BYTES);
}

/* Device memory of --in-memory: larger than host memory, since the larger holds the tensors. */
static uint64_t device_all_bytes(const struct llama_trainer_need *need)
{
    return at_least(need->device_all_bytes, STAGING_BYTES + 4096);
}

static int refuse_device(const struct options *o, const struct llama_trainer_need *need)
{
    const struct llama_need *d = &need->device;

    return common_fail(
        EXIT_INPUT,
        "--device-mem of %llu bytes: %s needs %llu bytes at once, the largest tensor of it is %s with "
        "%llu bytes; the smallest workable --device-mem is %llu bytes (%s)",
        (ull)o->budget.device_bytes, d->part, (ull)d->device_bytes, d->largest, (ull)d->largest_bytes,
        (ull)d->device_bytes, common_bytes(d->device_bytes).text);
}

/* Directories on one file system without a SIZE share what is free there, as the library does it. */
static uint64_t sharers(const struct common_budget *b, const dev_t *device, uint32_t i)
{
    uint64_t n = 0;

    for (uint32_t k = 0; k < b->nvme_count; k++)
        n += device[k] == device[i] && b->nvme[k].bytes == 0;
    return n;
}

/* Store and host memory together have to hold all tensors. */
static int check_nvme(const struct options *o, const struct llama_trainer_need *need, uint64_t host_bytes)
{
    const struct common_budget *b = &o->budget;
    uint64_t least = store_least_bytes(need, host_bytes);
    uint64_t unit = b->nvme_count > 1 ? 1 << 20 : 4096, total = 0, available[OFL_NVME_MAX];
    dev_t device[OFL_NVME_MAX];

    for (uint32_t i = 0; i < b->nvme_count; i++) {
        struct statvfs fs;
        struct stat st;

        if (statvfs(b->nvme[i].dir, &fs) < 0 || stat(b->nvme[i].dir, &st) < 0)
            return common_fail(EXIT_INPUT, "--nvme %s: %s", b->nvme[i].dir, strerror(errno));
        available[i] = (uint64_t)fs.f_bavail * fs.f_frsize;
        device[i] = st.st_dev;
        if (b->nvme[i].bytes > available[i])
            return common_fail(EXIT_INPUT, "--nvme %s: %llu bytes wanted, %llu bytes (%s) free there",
                               b->nvme[i].dir, (ull)b->nvme[i].bytes, (ull)available[i],
                               common_bytes(available[i]).text);
    }
    for (uint32_t i = 0; i < b->nvme_count; i++) {
        uint64_t bytes = b->nvme[i].bytes;

        if (bytes == 0)
            bytes = (available[i] - available[i] / 20) / sharers(b, device, i);
        total += bytes / unit * unit;
    }
    if (total < least)
        return common_fail(
            EXIT_INPUT,
            "--nvme %s%s: %llu bytes to use%s, beside %llu bytes of host memory: all tensors together take "
            "%llu bytes; the smallest workable SIZE is %llu (%s)%s, or with this one the smallest workable "
            "--host-mem is %llu bytes (%s)",
            b->nvme[0].dir, b->nvme_count > 1 ? " and others" : "", (ull)total,
            b->nvme[0].bytes ? "" : " (what is free, less 5 %)", (ull)host_bytes, (ull)need->store_bytes,
            (ull)least, common_bytes(least).text, b->nvme_count > 1 ? " over all, each in whole MiB" : "",
            (ull)(shared_bytes(need) - total), common_bytes(shared_bytes(need) - total).text);
    return 0;
}

/* No store: one memory holds all tensors. The optimizer works on them in one place, so they can't
 * be spread over both. */
static int settle_memory(const struct options *o, const struct llama_trainer_need *need, struct ofl_config *c)
{
    uint64_t host = host_all_bytes(need), device = need->device_all_bytes;
    bool on_device = c->device_bytes >= device;

    if (on_device && c->device_bytes > c->host_bytes)
        return 0; /* the larger one, as the library has it where nothing is announced */
    if (c->host_bytes >= host) {
        c->expected_bytes = need->store_bytes;
        c->leased_bytes = c->device_bytes;
        return 0;
    }
    if (on_device && c->device_bytes > STAGING_BYTES) {
        c->host_bytes = STAGING_BYTES; /* what is not needed is not taken */
        return 0;
    }
    device = at_least(device, (c->host_bytes < STAGING_BYTES ? c->host_bytes : STAGING_BYTES) + 1);
    return common_fail(
        EXIT_INPUT,
        "--device-mem of %llu bytes, host memory of %llu bytes, no --nvme: one of them has to hold all "
        "tensors; the smallest workable --device-mem for that is %llu bytes (%s), the smallest "
        "workable --host-mem is %llu bytes (%s), or give --nvme DIR with %llu bytes (%s)",
        (ull)o->budget.device_bytes, (ull)c->host_bytes, (ull)device, common_bytes(device).text, (ull)host,
        common_bytes(host).text, (ull)store_least_bytes(need, c->host_bytes),
        common_bytes(store_least_bytes(need, c->host_bytes)).text);
}

static int all_in_memory(const struct options *o, const struct llama_trainer_need *need,
                         struct ofl_config *out)
{
    bool gpu = o->budget.chosen.gpu;
    uint64_t wanted = device_all_bytes(need) + (gpu ? 0 : STAGING_BYTES);
    uint64_t memory = common_device_memory(&o->budget);
    uint64_t most = o->budget.in_memory || gpu ? memory : memory / 3; /* RAM has other uses, too */

    out->device_bytes = device_all_bytes(need);
    out->host_bytes = STAGING_BYTES;
    if (wanted <= most)
        return 0;
    return common_fail(
        EXIT_INPUT,
        "%severything in memory takes %llu bytes (%s), of %s of memory: give --device-mem (at least "
        "%llu bytes, %s), --host-mem (at least %u bytes) and --nvme DIR with %llu bytes (%s) free",
        o->budget.in_memory ? "--in-memory: " : "no budgets given: ", (ull)wanted, common_bytes(wanted).text,
        common_bytes(memory).text, (ull)need->device.device_bytes,
        common_bytes(need->device.device_bytes).text, OFL_HOST_MIN_BYTES, (ull)need->store_bytes,
        common_bytes(need->store_bytes).text);
}

int budget_check(const struct options *o, const struct llama_trainer_config *trainer, struct ofl_config *out)
{
    const struct common_budget *b = &o->budget;
    struct llama_trainer_need need;
    int status;

    llama_trainer_need(trainer, &need);
    *out = (struct ofl_config){.size = sizeof *out, .device = b->chosen.device, .log = common_log};
    if (b->in_memory || (!b->device_bytes && !b->host_bytes && !b->nvme_count))
        return all_in_memory(o, &need, out);
    if (!b->device_bytes)
        return common_fail(EXIT_INPUT,
                           "--device-mem is needed beside --host-mem and --nvme; the smallest workable is "
                           "%llu bytes (%s)",
                           (ull)need.device.device_bytes, common_bytes(need.device.device_bytes).text);
    if (b->device_bytes / 256 * 256 < need.device.device_bytes)
        return refuse_device(o, &need);
    out->device_bytes = b->device_bytes;
    out->host_bytes = b->host_bytes ? b->host_bytes : b->nvme_count ? HOST_BYTES : STAGING_BYTES;
    /* The library measures for stores of 4 GiB; without a SIZE it can't know that so little is needed. */
    if (need.store_bytes < 4ull << 30)
        out->flags |= OFL_NO_MEASURE;
    out->nvme = b->nvme;
    out->nvme_count = b->nvme_count;
    if (b->nvme_count) {
        out->expected_bytes = need.store_bytes;
        out->leased_bytes = out->device_bytes; /* updates can't reach what lives on the device */
        status = check_nvme(o, &need, out->host_bytes);
    } else {
        status = settle_memory(o, &need, out);
    }
    return status ? status
                  : common_memory_check(b, out->device_bytes, out->host_bytes, need.device.device_bytes);
}
