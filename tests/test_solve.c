/*
 * The plan's solver: what it says is within the tiers at every event, for random steps; what it says will move is
 * what a plain count of the same plan gives; on circles that are read once it comes to the closed form, and spreads
 * what rests; the same input gives the same plan.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/solve.h"

#define TILE  64u
#define IDS   40u
#define USES  300u
#define TRIES 300

static uint64_t state;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

struct step {
    struct sched_use uses[USES];
    struct sched_item items[IDS];
    uint32_t count, ids;
    struct sched_room room;
    struct sched_rest rest[USES];
    struct sched_moved moved;
};

static void solve(struct step *s)
{
    assert_int_equal(sched_solve(s->uses, s->count, s->items, s->ids, &s->room, s->rest, &s->moved), 0);
}

/* ---- circles --------------------------------------------------------------- */

/* Ids are read one after the other, one at a time. */
static void make_circle(struct step *s, uint32_t ids, uint64_t bytes)
{
    memset(s, 0, sizeof *s);
    s->ids = s->count = ids;
    for (uint32_t i = 0; i < ids; i++) {
        s->items[i] = (struct sched_item){.device_bytes = bytes, .bytes = bytes, .tile_bytes = TILE};
        s->uses[i] = (struct sched_use){.event = {.id = i, .where = SCHED_ON_DEVICE}, .until = i + 1};
    }
}

/* What rests is what fits beside the one in use, and the tiers add up. */
static void a_circle_moves_the_rest(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 40, 1024);
    s.room = (struct sched_room){.device_bytes = 11 * 1024, .host_bytes = 10 * 1024 + 512};
    solve(&s);
    assert_int_equal(s.moved.device_in, 30 * 1024);
    assert_int_equal(s.moved.drive_read, 30 * 1024 - 10 * 1024 - 512);
    assert_int_equal(s.moved.device_out + s.moved.drive_write, 0);

    s.room.device_window = 1024; /* one fewer rests there */
    s.room.host_window = 512;
    solve(&s);
    assert_int_equal(s.moved.device_in, 31 * 1024);
    assert_int_equal(s.moved.drive_read, 31 * 1024 - 10 * 1024);
}

/* No window is kept where nothing would pass through it. */
static void what_fits_rests(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 40, 1024);
    s.room = (struct sched_room){.device_bytes = 11 * 1024, .host_bytes = 30 * 1024, .host_window = 4096};
    solve(&s);
    assert_int_equal(s.moved.drive_read, 0);
    s.room.host_bytes -= TILE; /* but if something does */
    solve(&s);
    assert_in_range(s.moved.drive_read, 4096, 4096 + 2 * TILE);
}

/* Between two that rest on the device lie as many others everywhere, to within one; of the others as much rests in
 * host memory, to within a tile. */
static void what_rests_is_spread(void **unused)
{
    struct step s;
    uint32_t last = 0, least = UINT32_MAX, most = 0, found = 0, tiles_least = UINT32_MAX, tiles_most = 0;

    (void)unused;
    make_circle(&s, 40, 1024);
    s.room = (struct sched_room){.device_bytes = 11 * 1024, .host_bytes = 15 * 1024};
    solve(&s);
    for (uint32_t i = 0; i < 40; i++) {
        if (!s.rest[i].device) {
            tiles_least = s.rest[i].tiles < tiles_least ? s.rest[i].tiles : tiles_least;
            tiles_most = s.rest[i].tiles > tiles_most ? s.rest[i].tiles : tiles_most;
            continue;
        }
        if (found++) {
            least = i - last < least ? i - last : least;
            most = i - last > most ? i - last : most;
        }
        last = i;
    }
    assert_int_equal(found, 10);
    assert_in_range(most - least, 0, 1);
    assert_in_range(tiles_most - tiles_least, 0, 2);
}

/* ---- choices --------------------------------------------------------------- */

static struct sched_use use(uint32_t id, enum sched_where where, bool fetch, bool writes, uint32_t until)
{
    return (struct sched_use){
        .event = {.id = id, .where = (uint8_t)where, .no_fetch = !fetch, .writes = writes}, .until = until};
}

/* Of two that could rest the one whose bytes would have to be written, too. */
static void dirty_bytes_rest_first(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 2, 1024);
    s.uses[0] = use(0, SCHED_ON_HOST, true, false, 1);
    s.uses[1] = use(1, SCHED_ON_HOST, true, true, 2);
    s.room = (struct sched_room){.host_bytes = 1024};
    solve(&s);
    assert_int_equal(s.rest[0].tiles, 0);
    assert_int_equal(s.rest[1].tiles, 16);
    assert_int_equal(s.moved.drive_read, 1024);
    assert_int_equal(s.moved.drive_write, 0);
}

/* A short gap before a long one: it costs less room. */
static void short_gaps_are_bridged_first(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 10, 1024);
    s.uses[1] = use(0, SCHED_ON_DEVICE, true, false, 2);
    for (uint32_t i = 2; i < 10; i++)
        s.uses[i] = use(i, SCHED_ON_DEVICE, true, false, i + 1);
    s.room = (struct sched_room){.device_bytes = 1024};
    solve(&s);
    assert_true(s.rest[0].device);
    assert_int_equal(s.moved.device_in, 9 * 1024);
}

/* What the next use overwrites, or the last one dropped, is not worth a byte. */
static void dead_bytes_take_no_room(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 3, 1024);
    s.uses[0] = use(0, SCHED_ON_DEVICE, false, true, 1);
    s.uses[0].drops = true;
    s.uses[1] = use(1, SCHED_ON_DEVICE, false, false, 2);
    s.room = (struct sched_room){.device_bytes = 2048, .host_bytes = 1024};
    solve(&s);
    assert_false(s.rest[0].device);
    assert_int_equal(s.rest[0].tiles + s.rest[1].tiles, 0);
    assert_true(s.rest[2].device);
    assert_int_equal(s.moved.device_in + s.moved.device_out + s.moved.drive_read + s.moved.drive_write, 0);
}

/* ---- between the device and the host's work ---------------------------------- */

#define GRADS 12u

/* Gradients of 1024 are made on the device one after the other, then consumed by the host in that order. Returns how
 * many wait on the device. */
static uint32_t waiting(struct step *s, uint64_t device_bytes, uint64_t host_bytes)
{
    uint32_t n = 0;

    make_circle(s, GRADS, 1024);
    s->count = 2 * GRADS;
    for (uint32_t i = 0; i < GRADS; i++) {
        s->uses[i] = use(i, SCHED_ON_DEVICE, false, true, i + 1);
        s->uses[GRADS + i] = use(i, SCHED_ON_HOST, true, false, GRADS + i + 1);
        s->uses[GRADS + i].drops = true;
    }
    s->room = (struct sched_room){.device_bytes = device_bytes, .host_bytes = host_bytes};
    solve(s);
    for (uint32_t i = 0; i < GRADS; i++)
        n += s->rest[i].device;
    return n;
}

/* They wait only if something would pass the drive, and leave a quarter of the device clear. */
static void gradients_wait_where_there_is_room(void **unused)
{
    struct step s;

    (void)unused;
    assert_int_equal(waiting(&s, 16 * 1024, 1024), GRADS);
    assert_int_equal(s.moved.drive_read + s.moved.drive_write, 0);
    assert_int_equal(s.moved.device_out, GRADS * 1024);
    assert_int_equal(waiting(&s, 8 * 1024, 1024), 6);
    assert_int_equal(s.moved.drive_read, (GRADS - 6 - 1) * 1024);
    assert_int_equal(s.moved.device_out, GRADS * 1024);
    assert_int_equal(waiting(&s, 8 * 1024, GRADS * 1024), 0);
}

/* A weight that the host has made, is read twice, the last time for good: if it stays on the device in between, what
 * lies below goes; if that was not for good, it is kept. */
static void what_was_made_stands_alone(void **unused)
{
    struct step s;

    (void)unused;
    for (int drops = 0; drops < 2; drops++) {
        make_circle(&s, 2, 1024);
        s.count = 4;
        s.uses[0] = use(0, SCHED_ON_HOST, false, true, 1);
        s.uses[1] = use(1, SCHED_ON_HOST, true, true, 2); /* it passes */
        s.uses[2] = use(0, SCHED_ON_DEVICE, true, false, 3);
        s.uses[3] = use(0, SCHED_ON_DEVICE, true, false, 4);
        s.uses[3].drops = drops;
        s.room = (struct sched_room){.device_bytes = 2 * 1024, .host_bytes = 0};
        solve(&s);
        assert_int_equal(s.rest[0].device, drops);
        assert_int_equal(s.rest[0].alone, drops);
        assert_true(s.rest[2].device);
        assert_int_equal(s.rest[2].alone, drops);
        assert_int_equal(s.moved.drive_write, drops ? 1024 : 2048);
        assert_int_equal(s.moved.device_in, 1024);
    }
}

/* ---- tiles and windows --------------------------------------------------------- */

/* Last tiles of a few bytes take the room of others: they rest only where that is left. */
static void short_ends_rest_last(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 10, 0);
    for (uint32_t i = 0; i < 10; i++)
        s.items[i].bytes = (i % 2 ? 4 : 16) * TILE + TILE / 8;
    for (uint32_t spare = 0; spare < 3; spare++) {
        s.room = (struct sched_room){.host_bytes = (5 * 16 + 5 * 4 + spare) * TILE};
        solve(&s);
        assert_int_equal(s.moved.drive_read, (10 - spare) * TILE / 8);
    }
}

/* The first tile of what begins within a block is shorter. */
static void a_lead_shortens_the_first_tile(void **unused)
{
    struct step s;

    (void)unused;
    make_circle(&s, 2, 2 * TILE);
    s.items[0].lead = s.items[1].lead = TILE - 4;
    for (uint64_t tiles = 0; tiles < 4; tiles++) {
        static const uint64_t read[] = {2 * TILE, 2 * TILE - 4, TILE - 4, 0};

        s.room = (struct sched_room){.host_bytes = 2 * tiles * TILE};
        solve(&s);
        assert_int_equal(s.moved.drive_read, 2 * read[tiles]);
    }
}

static uint64_t host_window(uint64_t host_mib, uint64_t tile_kib, bool updates)
{
    struct sched_item item = {.device_bytes = 4096};
    struct sched_room room = {.host_bytes = host_mib << 20};

    sched_room_windows(&room, &item, 1, tile_kib << 10, updates);
    assert_int_equal(room.device_window, 4096);
    return room.host_window;
}

static void windows_are_some_tiles(void **unused)
{
    (void)unused;
    assert_int_equal(host_window(512, 4096, false), 6 * ((4u << 20) + 4096));
    assert_int_equal(host_window(512, 4096, true), 24 * ((4u << 20) + 4096));
    assert_int_equal(host_window(64, 64, false), 1u << 20);  /* at least */
    assert_int_equal(host_window(2, 64, false), 512u << 10); /* a quarter at most */
}

/* ---- random steps ---------------------------------------------------------- */

static uint32_t next_of(const struct step *s, uint32_t use)
{
    uint32_t i = use;

    do
        i = (i + 1) % s->count;
    while (s->uses[i].event.id != s->uses[use].event.id);
    return i;
}

static void make_random(struct step *s)
{
    memset(s, 0, sizeof *s);
    s->ids = 1 + below(IDS);
    s->count = 1 + below(USES);
    for (uint32_t i = 0; i < s->ids; i++) {
        uint64_t bytes = 1 + below(2000);

        s->items[i] = (struct sched_item){.device_bytes = (bytes + 255) / 256 * 256,
                                          .bytes = bytes,
                                          .tile_bytes = TILE,
                                          .transient = below(10) == 0};
        if (below(5) == 0)
            s->items[i].home_tiles = below((uint32_t)(bytes / TILE) + 1);
    }
    for (uint32_t i = 0; i < s->count; i++) {
        bool host = below(4) == 0;

        s->uses[i] = use(below(s->ids), host ? SCHED_ON_HOST : SCHED_ON_DEVICE, below(5) > 0, below(2),
                         host ? i + 1 : i + 1 + below(4));
        s->uses[i].drops = below(10) == 0;
    }
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t next = next_of(s, i), end = next > i ? next : next + s->count;

        s->uses[next].event.no_fetch |= s->uses[i].drops; /* who would read what is not there? */
        if (s->uses[i].until < end)
            continue;
        s->uses[i].until = end; /* leased on: the next one goes on from here */
        s->uses[i].drops = false;
    }
    for (uint32_t i = 0; i < s->count; i++)
        s->uses[i].event.writes |= s->uses[i].event.no_fetch;
    s->room = (struct sched_room){.device_bytes = below(40000), .host_bytes = below(40000)};
    s->room.device_window = below((uint32_t)s->room.device_bytes / 4 + 1);
    s->room.host_window = below((uint32_t)s->room.host_bytes / 4 + 1);
}

/* Tiles of the stage that rest behind the use. */
static uint64_t rest_bytes(const struct step *s, uint32_t use)
{
    const struct sched_item *x = &s->items[s->uses[use].event.id];

    return s->rest[use].tiles > x->home_tiles ? (uint64_t)(s->rest[use].tiles - x->home_tiles) * TILE : 0;
}

/* Bytes that rest, or are leased, at an event. */
static void check_event(const struct step *s, uint32_t event)
{
    uint64_t device = 0, leased = 0, host = 0;

    for (uint32_t i = 0; i < s->count; i++) {
        const struct sched_item *x = &s->items[s->uses[i].event.id];
        uint32_t next = next_of(s, i), end = next > i ? next : next + s->count;
        uint32_t until = s->uses[i].until < end ? s->uses[i].until : end;
        bool in_use = false, in_gap = false;

        for (uint32_t at = event; at < 2 * s->count; at += s->count) {
            in_use |= at >= i && at < until;
            in_gap |= at >= until && at < end;
        }
        if (s->uses[i].event.where == SCHED_ON_DEVICE && in_use)
            leased += x->device_bytes;
        if (s->rest[i].device && in_gap)
            device += x->device_bytes;
        if (in_gap)
            host += rest_bytes(s, i);
    }
    assert_true(device == 0 || device + leased <= s->room.device_bytes - s->room.device_window);
    assert_in_range(
        host, 0, s->room.host_bytes - (s->moved.drive_read + s->moved.drive_write ? s->room.host_window : 0));
}

/* Moves, tile by tile, as a store that knows nothing of gaps would count them. */
struct place {
    bool device, device_newer, host[40], newer[40];
};

static uint64_t tile_length(const struct sched_item *x, uint32_t tile)
{
    uint64_t at = (uint64_t)tile * TILE;

    return x->bytes - at < TILE ? x->bytes - at : TILE;
}

static void count_use(const struct step *s, uint32_t i, struct place *places, struct sched_moved *m)
{
    const struct sched_use *u = &s->uses[i];
    const struct sched_item *x = &s->items[u->event.id];
    struct place *p = &places[u->event.id];
    uint32_t tiles = (uint32_t)((x->bytes + TILE - 1) / TILE);
    bool host = u->event.where == SCHED_ON_HOST, in = !host && !p->device;

    if (x->transient)
        return;
    if (host && p->device_newer) { /* it has waited there */
        m->device_out += u->event.no_fetch ? 0 : x->bytes;
        for (uint32_t k = 0; k < tiles; k++)
            p->host[k] = p->newer[k] = true;
        p->device_newer = false;
    }
    for (uint32_t k = 0; k < tiles; k++)
        if (!u->event.no_fetch && !p->host[k] && (host || in)) {
            m->drive_read += k < x->home_tiles ? 0 : tile_length(x, k);
            p->host[k] = true;
        }
    if (in && !u->event.no_fetch)
        m->device_in += x->bytes;
    p->device |= !host;
    for (uint32_t k = 0; k < tiles && host && u->event.writes; k++)
        p->host[k] = p->newer[k] = true;
    p->device_newer |= !host && u->event.writes;
    for (uint32_t k = 0; k < tiles && p->device_newer; k++)
        p->host[k] = p->newer[k] = false; /* obsolete */
    if (u->drops) {
        memset(p, 0, sizeof *p);
        return;
    }
    if (!s->rest[i].device && p->device_newer) {
        m->device_out += x->bytes;
        for (uint32_t k = 0; k < tiles; k++)
            p->host[k] = p->newer[k] = true;
        p->device_newer = false;
    }
    if (host && s->rest[i].device) { /* it goes up at once */
        m->device_in += x->bytes;
        p->device = true;
    }
    p->device &= s->rest[i].device;
    if (s->rest[i].alone) {
        assert_true(p->device);
        memset(p->host, 0, sizeof p->host);
        memset(p->newer, 0, sizeof p->newer);
        p->device_newer = true;
    }
    for (uint32_t k = s->rest[i].tiles; k < tiles; k++) {
        m->drive_write += p->newer[k] ? tile_length(x, k) : 0;
        p->host[k] = p->newer[k] = false;
    }
}

/* A plan on the device is one for a gap between two uses there. */
static void check_moved(const struct step *s)
{
    static struct place places[IDS];
    struct sched_moved m = {0};

    memset(places, 0, sizeof places);
    for (int pass = 0; pass < 3; pass++) {
        m = (struct sched_moved){0};
        for (uint32_t i = 0; i < s->count; i++)
            count_use(s, i, places, &m);
    }
    assert_int_equal(m.device_in, s->moved.device_in);
    assert_int_equal(m.device_out, s->moved.device_out);
    assert_int_equal(m.drive_read, s->moved.drive_read);
    assert_int_equal(m.drive_write, s->moved.drive_write);
}

static void random_plans_hold(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= TRIES; seed++) {
        struct step s, again;

        state = seed;
        make_random(&s);
        solve(&s);
        for (uint32_t i = 0; i < s.count; i++)
            check_event(&s, i);
        check_moved(&s);
        again = s;
        solve(&again);
        assert_memory_equal(s.rest, again.rest, s.count * sizeof *s.rest);
    }
}

/* With room for all nothing moves but what host works make move. */
static void all_rests_where_all_fits(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= TRIES; seed++) {
        struct step s;

        state = seed;
        make_random(&s);
        s.room = (struct sched_room){.device_bytes = 10000000, .host_bytes = 10000000};
        solve(&s);
        assert_int_equal(s.moved.drive_read + s.moved.drive_write, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_circle_moves_the_rest),
        cmocka_unit_test(what_fits_rests),
        cmocka_unit_test(what_rests_is_spread),
        cmocka_unit_test(dirty_bytes_rest_first),
        cmocka_unit_test(short_gaps_are_bridged_first),
        cmocka_unit_test(dead_bytes_take_no_room),
        cmocka_unit_test(gradients_wait_where_there_is_room),
        cmocka_unit_test(what_was_made_stands_alone),
        cmocka_unit_test(short_ends_rest_last),
        cmocka_unit_test(a_lead_shortens_the_first_tile),
        cmocka_unit_test(windows_are_some_tiles),
        cmocka_unit_test(random_plans_hold),
        cmocka_unit_test(all_rests_where_all_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
