/*
 * home: where tensors live when nothing wants them. Owns the shares of the tiers, the room that
 * homes may take in each, and the ranges of homes in the host arena. Knows nothing of what moves
 * when: lease, copy, tile and work do.
 *
 * The tiers hold all tensors together. NVME is used first; HOST, which then has less room for
 * what is on the move, takes what the store can't hold; DEVICE, whose homes leave less room for
 * leases, what both can't hold. A tensor lives on the device whole, or is cut between HOST (its
 * first tiles) and NVME (the others), so what is announced fits to within a tile, and each
 * tensor needs the drive for the same fraction of its bytes.
 */
#include <errno.h>
#include <stdio.h>

#include "liboffload/core/home.h"
#include "liboffload/core/place.h"
#include "liboffload/core/slot.h"
#include "liboffload/core/tile.h"

#define TILE_MIN_BYTES (64ull << 10)
/* Large tiles cost less of the CPU per byte; but a window of a few of them, and what a tile waits for before it can be
 * passed on, grow with them: so they are a small part of the host budget, STAGE_TILES_WIDE of which it holds. */
#define TILE_MAX_BYTES (8ull << 20)
/* Tiles that move through what homes leave of the host arena: with these, the few that are held
 * always leave a hole for one more; */
#define STAGE_TILES 32u
/* with these, updates of many tiles run side by side. */
#define STAGE_TILES_WIDE 128u
/* Without a store nothing is claimed but tiles of sources. */
#define STAGE_TILES_NO_STORE 4u

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* ---- opening ----------------------------------------------------------- */

/* The smallest part of the host arena that homes leave for moves. */
static uint64_t stage_min(uint64_t tile_bytes, bool store, uint64_t tiles)
{
    return store ? tiles * tile_bytes : STAGE_TILES_NO_STORE * (tile_bytes + 2 * CORE_HOST_ALIGN);
}

/* Homes in HOST: the larger the tiles, the less room they leave. A tile is what the cut costs. Where the device
 * is needed, what the stage has above its smallest is for what whole tensors waste there. */
static bool tile_fits(const struct ofl_config *c, uint64_t store_bytes, uint64_t tile)
{
    uint64_t leased = c->leased_bytes ? c->leased_bytes : c->device_bytes / 2;
    uint64_t cut = store_bytes ? tile : 0, below = less(c->expected_bytes + cut, store_bytes);

    return stage_min(tile, store_bytes > 0, STAGE_TILES_WIDE) + below <= c->host_bytes ||
           (store_bytes ? STAGE_TILES_WIDE : STAGE_TILES) * tile +
                   less(below, less(c->device_bytes, leased)) <=
               c->host_bytes;
}

/* Seals of a kept store are of its own tiles: larger ones can't be made of them. */
uint64_t home_tile_bytes_kept(const struct ofl_config *c, uint64_t store_bytes, const struct kept *kept)
{
    uint64_t tile = home_tile_bytes(c, store_bytes), was = kept ? kept_state(kept)->tile_bytes : 0;

    return was && was < tile ? was : tile;
}

uint64_t home_tile_bytes(const struct ofl_config *c, uint64_t store_bytes)
{
    uint64_t tile = TILE_MIN_BYTES;

    if (c->tile_bytes)
        return c->tile_bytes;
    while (tile * 2 <= TILE_MAX_BYTES && tile * 2 * STAGE_TILES_WIDE <= c->host_bytes)
        tile *= 2;
    if (c->expected_bytes == 0 || store_bytes >= c->expected_bytes)
        return tile;
    while (tile > TILE_MIN_BYTES && !tile_fits(c, store_bytes, tile))
        tile /= 2;
    return tile;
}

/* Device memory that homes may take, as long as every tensor can be leased beside them. */
static uint64_t device_room(const struct pager *p)
{
    const struct base_node *largest = base_tree_last(&p->sizes);
    uint64_t kept = p->homes.leased_bytes;

    if (largest && place_footprint(BASE_TREE_OWNER(largest, struct ofl_tensor, by_size)->bytes) > kept)
        kept = place_footprint(BASE_TREE_OWNER(largest, struct ofl_tensor, by_size)->bytes);
    return less(p->device_bytes, kept + p->homes.bytes[OFL_DEVICE]);
}

static uint64_t host_room(const struct pager *p)
{
    return less(p->stage_bytes, p->homes.stage_min_bytes) + base_extents_free_bytes(p->homes.host);
}

static uint64_t nvme_room(const struct pager *p)
{
    return less(p->homes.nvme_bytes, p->homes.bytes[OFL_NVME]);
}

static void set_stage(struct pager *p, uint64_t bytes)
{
    uint64_t tile = p->tile_bytes, hole = tile + CORE_HOST_ALIGN; /* of a source: not cut at blocks */

    p->stage_bytes = bytes;
    /* m held tiles leave m + 1 holes: the largest holds one more. Without a store updates hold
     * none there. */
    p->claims_max =
        p->homes.nvme_bytes ? (uint32_t)least(less(bytes, hole) / (tile + hole), UINT32_MAX) : UINT32_MAX;
}

/* Everything lives on the device: where it fits, and is the larger memory or the only one that can. */
static bool on_device_only(const struct pager *p, const struct ofl_config *c)
{
    uint64_t expected = c->expected_bytes;

    if (p->homes.nvme_bytes)
        return false;
    if (p->host_bytes == 0 || expected == 0)
        return c->host_bytes < c->device_bytes;
    return expected <= less(p->device_bytes, c->leased_bytes) &&
           (c->host_bytes < c->device_bytes || host_room(p) < expected);
}

static void share_out(struct pager *p)
{
    struct core_homes *h = &p->homes;
    uint64_t nvme = nvme_room(p), host = host_room(p), device = device_room(p), e = h->expected_bytes;
    uint64_t cut = nvme ? p->tile_bytes - CORE_HOST_ALIGN : 0;

    if (e == 0 || h->device_only)
        return;
    if (nvme + host >= e + (nvme < e ? cut : 0)) {
        h->share[OFL_NVME] = least(nvme, e);
        h->share[OFL_HOST] = e - h->share[OFL_NVME];
        return;
    }
    for (int i = 0; i < OFL_TIERS; i++) {
        uint64_t room = i == OFL_NVME ? nvme : i == OFL_HOST ? host : device;

        h->share[i] = (uint64_t)((unsigned __int128)e * room / (nvme + host + device + 1));
    }
}

static int open_rooms(struct pager *p, const struct ofl_config *c, uint64_t store_bytes)
{
    struct core_homes *h = &p->homes;
    int err = base_extents_create(0, &h->host);

    if (err < 0)
        return err;
    h->nvme_bytes = store_bytes;
    h->expected_bytes = c->expected_bytes;
    h->leased_bytes = c->leased_bytes ? c->leased_bytes : p->device_bytes / 2;
    h->stage_min_bytes = p->host_bytes ? stage_min(p->tile_bytes, store_bytes > 0, STAGE_TILES) : 0;
    set_stage(p, p->host_bytes);
    h->device_only = on_device_only(p, c);
    share_out(p);
    return 0;
}

int home_open(struct pager *p, const struct ofl_config *c)
{
    return open_rooms(p, c, p->store ? store_budget(p->store) : 0);
}

void home_close(struct pager *p)
{
    base_extents_destroy(p->homes.host);
    p->homes.host = NULL;
}

/* ---- choosing ---------------------------------------------------------- */

/* What would be in the tier if the bytes that live somewhere, these included, were spread evenly. */
static uint64_t target(const struct core_homes *h, enum ofl_tier tier, uint64_t bytes)
{
    unsigned __int128 all = bytes;

    for (int i = 0; i < OFL_TIERS; i++)
        all += h->bytes[i];
    return h->expected_bytes ? (uint64_t)(all * h->share[tier] / h->expected_bytes) : 0;
}

/* What updates work on has to be reachable from the host. */
static bool may_live_on_device(const struct ofl_tensor *t)
{
    return t->kind != OFL_KIND_GRADIENT && t->kind != OFL_KIND_OPTIMIZER;
}

/* Bytes that live in HOST if the first so many tiles do. */
static uint64_t front_bytes(const struct ofl_tensor *t, uint32_t tiles)
{
    return tiles == t->tiles_count ? round_up(t->bytes, CORE_HOST_ALIGN) : tiles * t->tile_bytes;
}

/* The tiles in HOST have to be so many for the store, and may be so many. */
struct cut {
    uint32_t least, most;
};

static struct cut cut_of(const struct pager *p, const struct ofl_tensor *t)
{
    uint64_t bytes = round_up(t->bytes, CORE_HOST_ALIGN), host = host_room(p);
    uint64_t missing = less(bytes, nvme_room(p));

    return (struct cut){
        .least = (uint32_t)least((missing + t->tile_bytes - 1) / t->tile_bytes, t->tiles_count),
        .most = host >= bytes ? t->tiles_count : (uint32_t)least(host / t->tile_bytes, t->tiles_count - 1),
    };
}

/* How many of its tiles live in HOST. */
static uint32_t cut_wanted(const struct pager *p, const struct ofl_tensor *t, struct cut cut)
{
    const struct core_homes *h = &p->homes;
    uint64_t bytes = less(target(h, OFL_HOST, t->bytes), h->bytes[OFL_HOST]);
    uint64_t tiles = (bytes + t->tile_bytes / 2) / t->tile_bytes;

    return tiles < cut.least ? cut.least : tiles > cut.most ? cut.most : (uint32_t)tiles;
}

/* Whole tensors: as long as the device is behind its share by half of this one. */
static bool device_is_behind(const struct pager *p, const struct ofl_tensor *t)
{
    const struct core_homes *h = &p->homes;

    return h->share[OFL_DEVICE] && target(h, OFL_DEVICE, t->bytes) >= h->bytes[OFL_DEVICE] + t->bytes / 2;
}

/* ---- taking ------------------------------------------------------------ */

static int refuse_device(const struct pager *p, const struct ofl_tensor *t)
{
    return base_fail(
        -OFL_EBUDGET,
        "create %s, %llu bytes: the device budget of %llu bytes has %llu left, and all tensors live there: "
        "raise the device budget, or give a directory for NVMe",
        t->name, (ull)t->bytes, (ull)p->device_bytes, (ull)(p->device_bytes - p->device_used));
}

static int refuse(const struct pager *p, const struct ofl_tensor *t)
{
    uint64_t bytes = round_up(t->bytes, CORE_HOST_ALIGN), nvme = nvme_room(p), host = host_room(p);
    struct cut cut = cut_of(p, t);
    char way_out[200], device[160] = "";

    if (p->homes.nvme_bytes)
        snprintf(way_out, sizeof way_out, "raise the NVMe budget by at least %llu bytes%s",
                 (ull)less(bytes - front_bytes(t, cut.most), nvme),
                 p->homes.expected_bytes ? ", or the host budget" : ", or announce expected_bytes");
    else
        snprintf(way_out, sizeof way_out, "raise the host budget, or give a directory for NVMe");
    if (may_live_on_device(t))
        snprintf(device, sizeof device, ", %llu of %llu on the device (%llu are kept for leases)",
                 (ull)device_room(p), (ull)p->device_bytes, (ull)p->homes.leased_bytes);
    return base_fail(-OFL_EBUDGET,
                     "create %s, %llu bytes: the tiers have no room for it: left are %llu of %llu bytes in "
                     "the store, %llu of %llu in host memory (%llu are kept for moves)%s: %s",
                     t->name, (ull)t->bytes, (ull)nvme, (ull)p->homes.nvme_bytes, (ull)host,
                     (ull)p->host_bytes, (ull)p->homes.stage_min_bytes, device, way_out);
}

static int take_device(struct pager *p, struct ofl_tensor *t)
{
    struct core_copy *c = place_home(p, t);

    if (!c)
        return -OFL_EBUDGET; /* the caller has the sentence */
    place_keep(p, c);
    c->fill = true;
    t->device_home = true;
    p->homes.bytes[OFL_DEVICE] += c->len;
    return 0;
}

static void give_host(struct pager *p, struct ofl_tensor *t, uint32_t tiles)
{
    uint64_t tail;

    for (uint32_t i = 0; i < tiles; i++) {
        base_extents_give(p->homes.host, p->host_bytes - t->tiles[i].off - t->tiles[i].len, t->tiles[i].len);
        p->homes.bytes[OFL_HOST] -= t->tiles[i].len;
    }
    tail = base_extents_tail(p->homes.host);
    if (tail == 0 || !tile_vacate(p))
        return; /* what is still there would be given out again: the next home may have it */
    if (base_extents_grow(p->host_ranges, p->stage_bytes + tail) < 0)
        return; /* out of memory: likewise */
    base_extents_shrink(p->homes.host, p->host_bytes - p->stage_bytes - tail);
    set_stage(p, p->stage_bytes + tail);
}

/* A range at the end of the arena, which homes grow into from behind. */
static int take_range(struct pager *p, struct ofl_tensor *t, uint64_t bytes, uint64_t *off)
{
    uint64_t at, missing;

    if (!base_extents_ready(p->homes.host))
        return base_fail(-ENOMEM, "create %s: out of memory", t->name);
    at = base_extents_take(p->homes.host, bytes);
    if (at == BASE_EXTENT_NONE) {
        missing = bytes - base_extents_tail(p->homes.host);
        if (less(p->stage_bytes, p->homes.stage_min_bytes) < missing)
            return refuse(p, t);
        if (base_extents_grow(p->homes.host, p->host_bytes - p->stage_bytes + missing) < 0)
            return base_fail(-ENOMEM, "create %s: out of memory", t->name);
        set_stage(p, p->stage_bytes - missing);
        base_extents_shrink(p->host_ranges, p->stage_bytes);
        at = base_extents_take(p->homes.host, bytes);
    }
    *off = p->host_bytes - at - bytes;
    return 0;
}

static int take_host(struct pager *p, struct ofl_tensor *t, uint32_t tiles)
{
    int err;

    for (uint32_t i = 0; i < tiles; i++) {
        struct core_tile *x = &t->tiles[i];

        x->len = (uint32_t)round_up(tile_count_bytes(t, i), CORE_HOST_ALIGN);
        err = take_range(p, t, x->len, &x->off);
        if (err < 0) {
            give_host(p, t, i);
            return err;
        }
        p->homes.bytes[OFL_HOST] += x->len;
    }
    t->home_tiles = t->host_tiles = tiles;
    tile_note_peak(p);
    return 0;
}

static uint64_t store_bytes_of(const struct ofl_tensor *t)
{
    return round_up(t->bytes, CORE_HOST_ALIGN) - front_bytes(t, t->home_tiles);
}

static int take_below(struct pager *p, struct ofl_tensor *t, uint32_t tiles)
{
    int err = take_host(p, t, tiles);

    if (err < 0 || tiles == t->tiles_count)
        return err;
    err = store_take(p->store, store_bytes_of(t), t->name, &t->file_off);
    if (err < 0) {
        t->home_tiles = t->host_tiles = 0;
        give_host(p, t, tiles);
        return err;
    }
    t->file = store_file(p->store);
    p->homes.bytes[OFL_NVME] += store_bytes_of(t);
    return 0;
}

/* Updates in flight may hold more tiles than the stage would be safe with: they end first. */
static bool updates_in_the_way(const struct pager *p)
{
    uint64_t hole = p->tile_bytes + CORE_HOST_ALIGN;

    return p->homes.nvme_bytes && p->claims > less(p->homes.stage_min_bytes, hole) / (p->tile_bytes + hole);
}

struct choice {
    bool device; /* preferred, if it has a range for it */
    bool below;  /* HOST and NVME have room */
    uint32_t tiles;
};

static struct choice choose(const struct pager *p, const struct ofl_tensor *t)
{
    struct cut cut = cut_of(p, t);
    struct choice c = {.below = cut.least <= cut.most};

    c.device = may_live_on_device(t) && place_footprint(t->bytes) <= device_room(p) &&
               (!c.below || device_is_behind(p, t));
    c.tiles = c.below ? cut_wanted(p, t, cut) : 0;
    return c;
}

static bool needs_none(const struct ofl_tensor *t)
{
    return t->source || (t->flags & OFL_TENSOR_TRANSIENT);
}

static uint64_t kept_room(const struct ofl_tensor *t)
{
    return round_up(t->bytes, KEPT_BLOCK);
}

/* Where it was, or a new place in the kept store. Other tiers keep no room for it. */
static int take_kept(struct pager *p, struct ofl_tensor *t)
{
    int err = t->keep->resumed ? 0 : kept_take(p->kept, kept_room(t), t->name, &t->file_off);

    if (err < 0)
        return err;
    t->file = kept_file(p->kept);
    p->stats.kept_bytes += t->bytes;
    return 0;
}

int home_take(struct pager *p, struct ofl_tensor *t)
{
    struct choice c;
    int err;

    if (needs_none(t))
        return 0;
    if (t->keep)
        return take_kept(p, t);
    err = place_reserve(
        p, 1); /* so that there is no other reason than room for which the device can't take it */
    if (err < 0)
        return err;
    if (p->homes.device_only)
        return take_device(p, t) < 0 ? refuse_device(p, t) : 0;
    c = choose(p, t);
    if (c.device && take_device(p, t) == 0)
        return 0;
    if (!c.below)
        return refuse(p, t);
    if (c.tiles && updates_in_the_way(p))
        return -EAGAIN;
    return take_below(p, t, c.tiles);
}

void home_give(struct pager *p, struct ofl_tensor *t)
{
    if (t->device_home)
        p->homes.bytes[OFL_DEVICE] -= place_footprint(t->bytes);
    if (t->keep) {
        kept_give(p->kept, t->file_off, kept_room(t));
        p->stats.kept_bytes -= t->bytes;
        return;
    }
    if (t->file && !t->source) {
        p->homes.bytes[OFL_NVME] -= store_bytes_of(t);
        store_give(p->store, t->file_off, store_bytes_of(t));
    }
    give_host(p, t, t->home_tiles);
}

/* ---- trying -------------------------------------------------------------- */

int home_try_open(struct pager *p, const struct ofl_config *c, uint64_t store_bytes)
{
    p->device_bytes = c->device_bytes / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
    p->host_bytes = c->host_bytes / CORE_HOST_ALIGN * CORE_HOST_ALIGN;
    p->tile_bytes = home_tile_bytes(c, store_bytes);
    return open_rooms(p, c, store_bytes);
}

int home_try(struct pager *p, const struct ofl_tensor *t)
{
    uint64_t footprint = place_footprint(t->bytes), host;
    struct core_homes *h = &p->homes;
    struct choice c;

    if (footprint > p->device_bytes)
        return base_fail(-OFL_EBUDGET, "create %s: a lease of it takes %llu bytes of device memory, of %llu",
                         t->name, (ull)footprint, (ull)p->device_bytes);
    if (!needs_none(t) && !(t->flags & OFL_TENSOR_KEPT)) {
        c = choose(p, t);
        if (h->device_only ? h->bytes[OFL_DEVICE] + footprint <= p->device_bytes : c.device) {
            h->bytes[OFL_DEVICE] += footprint; /* side by side from the start of the arena */
            p->device_used += footprint;
            return 0;
        }
        if (h->device_only)
            return refuse_device(p, t);
        if (!c.below)
            return refuse(p, t);
        host = front_bytes(t, c.tiles);
        set_stage(p, p->stage_bytes - host);
        h->bytes[OFL_HOST] += host;
        h->bytes[OFL_NVME] += round_up(t->bytes, CORE_HOST_ALIGN) - host;
    }
    if (footprint > h->leased_bytes) /* the largest that must be leased from below keeps its room */
        h->leased_bytes = footprint;
    return 0;
}
