/* store: what liboffload/store/store.h declares, in memory, and full now and then. See sim.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/sim/sim.h"

static struct sim *owner; /* of the store that is open */

int sim_store_open(struct sim *s)
{
    struct store *store = &s->store;

    store->budget = s->prog->config.store_bytes;
    store->used = 0;
    store->file.size = store->budget;
    store->file.bytes = malloc(store->budget);
    owner = s;
    if (!store->file.bytes || base_extents_create(store->budget, &store->ranges) < 0)
        return -ENOMEM;
    memset(store->file.bytes, 0x5A, store->budget);
    return 0;
}

void sim_store_close(struct sim *s)
{
    free(s->store.file.bytes);
    base_extents_destroy(s->store.ranges);
    memset(&s->store, 0, sizeof s->store);
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
}

const char *io_file_path(const struct io_file *f)
{
    (void)f;
    return "(simulated)";
}

struct io_file *store_file(struct store *store)
{
    return &store->file;
}

int store_take(struct store *store, uint64_t bytes, const char *what, uint64_t *offset)
{
    bytes = round_up(bytes);
    if (sim_chance(owner, owner->prog->config.store_full))
        return base_fail(-ENOSPC, "reserve NVMe space for %s: simulated", what);
    if (!base_extents_ready(store->ranges))
        return base_fail(-ENOMEM, "reserve NVMe space for %s: out of memory", what);
    *offset = base_extents_take(store->ranges, bytes);
    if (*offset == BASE_EXTENT_NONE)
        return base_fail(-OFL_EBUDGET, "reserve NVMe space for %s: simulated", what);
    store->used += bytes;
    return 0;
}

void store_give(struct store *store, uint64_t offset, uint64_t bytes)
{
    bytes = round_up(bytes);
    base_extents_give(store->ranges, offset, bytes);
    store->used -= bytes;
}

uint64_t store_seal(const void *bytes, uint64_t count)
{
    return XXH3_64bits(bytes, count);
}

uint64_t store_budget(const struct store *store)
{
    return store->budget;
}

uint64_t store_used(const struct store *store)
{
    return store->used;
}
