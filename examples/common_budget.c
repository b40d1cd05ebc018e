/* common: budgets. See common_budget.h. */
#include "examples/common_budget.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "examples/model/trainer.h"

typedef unsigned long long ull;

#define STAGING_BYTES (4ull << 20)  /* host memory where nothing has to live in it */
#define HOST_BYTES    (64ull << 20) /* by default, in front of a drive */

static uint64_t at_least(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- memory ------------------------------------------------------------------- */

/* Of a store that holds so much, the part that takes RAM, and one of its directories there. Without --nvme a kept store
 * holds all. */
static uint64_t store_in_memory(const struct common_budget *b, uint64_t bytes, const char **dir)
{
    uint64_t total = 0;
    char place[4096];

    if (!b->nvme_count && b->store.dir && common_dir_in_memory(common_keep_place(b, place))) {
        *dir = b->store.dir;
        return bytes;
    }

    for (uint32_t i = 0; i < b->nvme_count; i++) {
        if (!common_dir_in_memory(b->nvme[i].dir))
            continue;
        *dir = b->nvme[i].dir;
        total += b->nvme[i].bytes && b->nvme[i].bytes < bytes ? b->nvme[i].bytes : bytes;
    }
    return total < bytes ? total : bytes;
}

/* Of what is kept, with room for it twice. */
static uint64_t kept_in_memory(const struct common_budget *b, uint64_t kept_bytes, const char **dir)
{
    char place[4096];

    if (!b->store.dir || !kept_bytes || !common_dir_in_memory(common_keep_place(b, place)))
        return 0;
    *dir = b->store.dir;
    return 2 * kept_bytes;
}

/* What to do instead: the end of a refusal. most: what budgets may come to. */
static void say_ways(const struct common_need *n, const struct common_ways *w, uint64_t most, char *text,
                     size_t size)
{
    uint64_t beside_device = n->host_bytes + n->store_bytes, beside_host = n->device_bytes + n->store_bytes;
    uint64_t device = n->gpu ? 0 : w->device_least, value;
    size_t used;

    if (!n->gpu && n->device_bytes > w->device_least && most >= beside_device + w->device_least) {
        value = most - beside_device;
        snprintf(
            text, size,
            "the largest workable --device-mem beside the rest is %llu bytes (%s), the smallest workable "
            "--device-mem is %llu bytes (%s)",
            (ull)value, common_bytes(value).text, (ull)w->device_least, common_bytes(w->device_least).text);
    } else if (n->host_bytes > w->host_least && most >= beside_host + w->host_least) {
        value = most - beside_host;
        snprintf(text, size,
                 "the largest workable --host-mem beside the rest is %llu bytes (%s), the smallest workable "
                 "--host-mem is %llu bytes (%s)",
                 (ull)value, common_bytes(value).text, (ull)w->host_least, common_bytes(w->host_least).text);
    } else if (!n->gpu && n->device_bytes > device && most >= device + n->store_bytes + w->host_least) {
        value = most - device - n->store_bytes;
        snprintf(text, size,
                 "the smallest workable --device-mem is %llu bytes (%s), and beside it the largest workable "
                 "--host-mem is %llu bytes (%s)",
                 (ull)device, common_bytes(device).text, (ull)value, common_bytes(value).text);
    } else {
        value = device + w->host_least + n->store_bytes;
        if (value < n->device_bytes + n->host_bytes + n->store_bytes)
            snprintf(text, size, "the smallest budgets that work otherwise take %llu bytes (%s)", (ull)value,
                     common_bytes(value).text);
        else
            snprintf(text, size, "no smaller budgets work so");
    }
    used = strlen(text);
    if (w->drive_bytes)
        snprintf(
            text + used, size - used,
            "; or give --nvme DIR with %llu bytes (%s) free on a drive: then --device-mem may be as small "
            "as %llu bytes (%s)",
            (ull)w->drive_bytes, common_bytes(w->drive_bytes).text, (ull)w->drive_device_least,
            common_bytes(w->drive_device_least).text);
    else if (n->store_bytes)
        snprintf(text + used, size - used, "; a --nvme directory on a drive takes no memory");
}

static int check_gpu(const struct common_budget *b, uint64_t device_bytes, uint64_t least)
{
    uint64_t room = common_device_memory(b);

    if (!b->chosen.gpu || device_bytes <= room)
        return 0;
    return common_fail(EXIT_INPUT,
                       "device memory of %llu bytes: %s has %s to give; the largest workable --device-mem is "
                       "%llu bytes, the smallest workable --device-mem is %llu bytes (%s)",
                       (ull)device_bytes, b->chosen.device, common_bytes(room).text, (ull)room, (ull)least,
                       common_bytes(least).text);
}

int common_budget_fits(const struct common_budget *b, const struct ofl_config *c, uint64_t tensor_bytes,
                       uint64_t array_bytes, const struct common_ways *ways)
{
    struct common_need n = {.device_bytes = b->chosen.gpu ? 0 : c->device_bytes,
                            .host_bytes = c->host_bytes,
                            .tensor_bytes = tensor_bytes,
                            .array_bytes = array_bytes,
                            .gpu = b->chosen.gpu};
    char store[256] = "", way[600];
    const char *dir = "";
    struct common_room room;
    uint64_t total, budgets;
    int status = check_gpu(b, c->device_bytes, ways->device_least);

    if (status)
        return status;
    common_room(&room);
    n.store_bytes = store_in_memory(b, tensor_bytes, &dir) + kept_in_memory(b, ways->kept_bytes, &dir);
    n.tensor_bytes += ways->kept_bytes;
    total = common_need_bytes(&n);
    if (total <= room.bytes)
        return 0;
    budgets = n.device_bytes + n.host_bytes + n.store_bytes;
    if (n.store_bytes)
        snprintf(store, sizeof store, ", a store of %llu bytes in %.128s, which lies in memory",
                 (ull)n.store_bytes, dir);
    say_ways(&n, ways, common_need_most(&n, &room), way, sizeof way);
    return common_fail(EXIT_INPUT,
                       "device memory of %llu bytes%s, host memory of %llu bytes%s, and %s for the program "
                       "itself take %llu bytes (%s), but %s; %s",
                       (ull)c->device_bytes, n.gpu ? " on the GPU" : "", (ull)n.host_bytes, store,
                       common_bytes(total - budgets).text, (ull)total, common_bytes(total).text, room.text,
                       way);
}

/* ---- training ------------------------------------------------------------------- */

/* What the library keeps free of tensors in host memory, to move bytes: 32 of its smallest tiles in
 * front of a store, and four, each with two blocks, without one. See "Homes" in offload.h; it has
 * the last word when the tensors are made. */
#define TILE_BYTES     (64ull << 10)
#define BLOCK_BYTES    4096ull
#define MOVES_BYTES    (32 * TILE_BYTES)
#define MOVES_NO_STORE (4 * (TILE_BYTES + 2 * BLOCK_BYTES))

/* Tensors that memory can't hold have somewhere to go. */
static bool has_drive(const struct common_budget *b)
{
    return b->nvme_count || b->store.dir;
}

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

/* Where nothing else can hold the tensors, the device has to: what is named must not be refused again. */
static int refuse_device(const struct common_budget *b, const struct llama_trainer_need *need)
{
    const struct llama_need *d = &need->device;
    uint64_t all = device_all_bytes(need);

    bool chosen = need->frozen_bytes && !b->host_bytes; /* choose_host takes what is needed */

    if (!has_drive(b) && !chosen && b->host_bytes < host_all_bytes(need))
        return common_fail(EXIT_INPUT,
                           "--device-mem of %llu bytes: %s needs %llu bytes at once, and without --nvme one "
                           "memory has to hold all "
                           "tensors; the smallest workable --device-mem for that is %llu bytes (%s), or with "
                           "--nvme DIR and %llu "
                           "bytes (%s) free there it may be as small as %llu bytes (%s)",
                           (ull)b->device_bytes, d->part, (ull)d->device_bytes, (ull)all,
                           common_bytes(all).text, (ull)need->store_bytes,
                           common_bytes(need->store_bytes).text, (ull)d->device_bytes,
                           common_bytes(d->device_bytes).text);
    return common_fail(
        EXIT_INPUT,
        "--device-mem of %llu bytes: %s needs %llu bytes at once, the largest tensor of it is %s with "
        "%llu bytes; the smallest workable --device-mem is %llu bytes (%s)",
        (ull)b->device_bytes, d->part, (ull)d->device_bytes, d->largest, (ull)d->largest_bytes,
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

int common_budget_store(const struct common_budget *b, uint64_t bytes[OFL_NVME_MAX])
{
    uint64_t unit = b->nvme_count > 1 ? 1 << 20 : 4096, available[OFL_NVME_MAX];
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
        bytes[i] = b->nvme[i].bytes;
        if (bytes[i] == 0)
            bytes[i] = (available[i] - available[i] / 20) / sharers(b, device, i);
        bytes[i] = bytes[i] / unit * unit;
    }
    return 0;
}

/* Store and host memory together have to hold all tensors. */
static int check_nvme(const struct common_budget *b, const struct llama_trainer_need *need,
                      uint64_t host_bytes)
{
    uint64_t least = store_least_bytes(need, host_bytes), total = 0, bytes[OFL_NVME_MAX];
    int status = b->store.dir ? common_budget_keep(b, need, b->nvme_count ? 0 : least) : 0;

    if (status == 0)
        status = common_budget_store(b, bytes);
    if (status || !b->nvme_count)
        return status;
    for (uint32_t i = 0; i < b->nvme_count; i++)
        total += bytes[i];
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
static int settle_memory(const struct llama_trainer_need *need, struct ofl_config *c)
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
        (ull)c->device_bytes, (ull)c->host_bytes, (ull)device, common_bytes(device).text, (ull)host,
        common_bytes(host).text, (ull)store_least_bytes(need, c->host_bytes),
        common_bytes(store_least_bytes(need, c->host_bytes)).text);
}

/* Without a budget RAM is taken for at most a third: it has other uses, too. */
static int check_all(const struct common_budget *b, const struct llama_trainer_need *need,
                     uint64_t array_bytes, struct ofl_config *out)
{
    bool gpu = b->chosen.gpu;
    struct common_need n = {.device_bytes = gpu ? 0 : device_all_bytes(need),
                            .host_bytes = STAGING_BYTES,
                            .tensor_bytes = need->store_bytes,
                            .array_bytes = array_bytes,
                            .gpu = gpu};
    uint64_t wanted = common_need_bytes(&n) + (gpu ? device_all_bytes(need) : 0);
    uint64_t memory = common_device_memory(b);
    struct common_room room;
    bool fits, modest;

    out->device_bytes = device_all_bytes(need);
    out->host_bytes = STAGING_BYTES;
    common_room(&room);
    fits = common_need_bytes(&n) <= room.bytes && (!gpu || out->device_bytes <= memory);
    modest = b->in_memory || gpu || out->device_bytes + out->host_bytes <= room.bytes / 3;
    if (fits && modest)
        return 0;
    if (gpu && out->device_bytes > memory)
        snprintf(room.text, sizeof room.text, "%s has %s to give", b->chosen.device,
                 common_bytes(memory).text);
    return common_fail(
        EXIT_INPUT,
        "%severything in memory takes %llu bytes (%s)%s, but %s: give --device-mem (the smallest workable "
        "--device-mem is %llu bytes, %s), --host-mem (at least %u bytes) and --nvme DIR with %llu bytes (%s) "
        "free on a drive",
        b->in_memory ? "--in-memory: " : "no budgets given: ", (ull)wanted, common_bytes(wanted).text,
        modest ? "" : ", and without budgets a third of what can be had is taken at most", room.text,
        (ull)need->device.device_bytes, common_bytes(need->device.device_bytes).text, OFL_HOST_MIN_BYTES,
        (ull)need->store_bytes, common_bytes(need->store_bytes).text);
}

/* What would do with the tensors where they are: on the device, in host memory, or beside a store. */
struct common_ways common_budget_ways(const struct common_budget *b, const struct llama_trainer_need *need,
                                      const struct ofl_config *c)
{
    struct common_ways w = {.device_least = need->device.device_bytes,
                            .host_least = OFL_HOST_MIN_BYTES,
                            .kept_bytes = need->kept_bytes};

    if (b->store.dir && !b->nvme_count)
        return w;
    if (b->nvme_count) {
        uint64_t store = 0;

        w.nvme_least = store_least_bytes(need, c->host_bytes);
        for (uint32_t i = 0; i < b->nvme_count && store < need->store_bytes; i++)
            store += b->nvme[i].bytes ? b->nvme[i].bytes : need->store_bytes;
        if (store < need->store_bytes)
            w.host_least = at_least(shared_bytes(need) - store, OFL_HOST_MIN_BYTES);
        return w;
    }
    if (c->expected_bytes)
        w.host_least = host_all_bytes(need);
    else
        w.device_least = at_least(need->device_all_bytes, c->host_bytes + 1);
    w.drive_bytes = need->store_bytes;
    w.drive_device_least = need->device.device_bytes;
    return w;
}

/* Of host memory, where it is not given: less where the rest leaves less. */
static uint64_t choose_host(const struct common_budget *b, const struct llama_trainer_need *need,
                            uint64_t array_bytes)
{
    uint64_t wanted = has_drive(b)         ? HOST_BYTES
                      : need->frozen_bytes ? host_all_bytes(need) /* adapters: the weights need none of it */
                                           : STAGING_BYTES,
             most, beside;
    struct common_need n = {.tensor_bytes = need->store_bytes + need->kept_bytes,
                            .array_bytes = array_bytes,
                            .gpu = b->chosen.gpu};
    struct common_room room;
    const char *dir;

    common_room(&room);
    most = common_need_most(&n, &room);
    beside = (b->chosen.gpu ? 0 : b->device_bytes) + store_in_memory(b, need->store_bytes, &dir) +
             kept_in_memory(b, need->kept_bytes, &dir);
    if (most >= beside + wanted)
        return wanted;
    return at_least(most > beside ? (most - beside) / BLOCK_BYTES * BLOCK_BYTES : 0, OFL_HOST_MIN_BYTES);
}

/* --store alone: memory for all that is trained, if a third of what can be had is enough; else what is left of that third
 * beside the smallest host memory, but not less than has to be. */
static void choose_kept(const struct llama_trainer_need *need, uint64_t array_bytes, struct common_budget *b)
{
    struct common_need n = {.tensor_bytes = need->store_bytes + need->kept_bytes,
                            .array_bytes = array_bytes,
                            .gpu = b->chosen.gpu};
    uint64_t device = device_all_bytes(need), host = need->store_bytes + need->kept_bytes + MOVES_BYTES, most;
    struct common_room room;

    common_room(&room);
    most = common_need_most(&n, &room) / 3;
    if (b->chosen.gpu)
        b->device_bytes = device < common_device_memory(b) ? device : common_device_memory(b);
    else
        b->device_bytes = device < most / 2 ? device : at_least(most / 2, need->device.device_bytes);
    most = b->chosen.gpu || most > b->device_bytes ? most - (b->chosen.gpu ? 0 : b->device_bytes) : 0;
    b->host_bytes = at_least(host < most ? host : most / BLOCK_BYTES * BLOCK_BYTES, OFL_HOST_MIN_BYTES);
}

int common_budget_training(const struct common_budget *b, const struct llama_trainer_need *need,
                           uint64_t array_bytes, struct ofl_config *out)
{
    struct common_budget with;
    struct common_ways ways;
    int status;

    *out = (struct ofl_config){.size = sizeof *out,
                               .device = b->chosen.device,
                               .log = common_log,
                               .max_written_bytes = b->max_written};
    if (b->in_memory || (!b->device_bytes && !b->host_bytes && !has_drive(b)))
        return check_all(b, need, array_bytes, out);
    if (b->store.dir && !b->device_bytes && !b->host_bytes && !b->nvme_count) {
        with = *b;
        choose_kept(need, array_bytes, &with);
        status = common_budget_training(&with, need, array_bytes, out);
        out->device = b->chosen.device;
        return status;
    }
    if (!b->device_bytes)
        return common_fail(EXIT_INPUT,
                           "--device-mem is needed beside --host-mem and --nvme; the smallest workable is "
                           "%llu bytes (%s)",
                           (ull)need->device.device_bytes, common_bytes(need->device.device_bytes).text);
    if (b->device_bytes / 256 * 256 < need->device.device_bytes)
        return refuse_device(b, need);
    out->device_bytes = b->device_bytes;
    out->host_bytes = b->host_bytes ? b->host_bytes : choose_host(b, need, array_bytes);
    /* The library goes by all that is to come, of which memory may hold most. */
    if (need->store_bytes + need->kept_bytes < 4ull << 30)
        out->flags |= OFL_NO_MEASURE;
    out->nvme = b->nvme_count ? b->nvme : NULL;
    out->nvme_count = b->nvme_count;
    out->keep_dir = b->store.dir;
    out->keep_bytes = b->store.bytes;
    if (has_drive(b)) {
        out->expected_bytes = need->store_bytes;
        out->leased_bytes = out->device_bytes; /* updates can't reach what lives on the device */
        status = check_nvme(b, need, out->host_bytes);
    } else {
        status = settle_memory(need, out);
    }
    if (status)
        return status;
    ways = common_budget_ways(b, need, out);
    return common_budget_fits(b, out, need->store_bytes, array_bytes, &ways);
}
