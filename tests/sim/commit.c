/*
 * commit: kept tensors and their commits, as liboffload/core/keep.c makes them. What was committed last has to lie in
 * the file at every moment, as it was: the simulation reads it again and again, as who resumes after a crash would. See
 * sim.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/commit.h"
#include "tests/sim/sim.h"

static struct sim *owner; /* of the store that is open */

/* ---- the store, in memory ---------------------------------------------- */

void sim_kept_open(struct sim *s)
{
    uint64_t bytes = 0;

    for (int i = 0; i < SIM_TENSORS; i++)
        bytes += 3 * (8ull * s->prog->specs[i].words + 2 * KEPT_BLOCK); /* one more than is there at once */
    s->kept.size = bytes / KEPT_BLOCK * KEPT_BLOCK;
    s->kept.bytes = malloc(s->kept.size);
    owner = s;
    if (!s->kept.bytes || base_extents_create(s->kept.size, &s->kept_ranges) < 0)
        abort();
    memset(s->kept.bytes, 0x5A, s->kept.size);
}

void sim_kept_close(struct sim *s)
{
    free(s->kept.bytes);
    if (s->kept_ranges)
        base_extents_destroy(s->kept_ranges);
}

struct io_file *kept_file(struct kept *k)
{
    (void)k;
    return &owner->kept;
}

const struct kept_state *kept_state(const struct kept *k)
{
    static const struct kept_state nothing;

    (void)k;
    return &nothing;
}

int kept_take(struct kept *k, uint64_t slot_bytes, const char *what, uint64_t *offset)
{
    (void)k;
    if (sim_chance(owner, owner->prog->config.store_full))
        return base_fail(-ENOSPC, "reserve space for %s: simulated", what);
    if (!base_extents_ready(owner->kept_ranges))
        return base_fail(-ENOMEM, "reserve space for %s: out of memory", what);
    *offset = base_extents_take(owner->kept_ranges, 2 * slot_bytes);
    return *offset == BASE_EXTENT_NONE ? base_fail(-OFL_EBUDGET, "reserve space for %s: simulated", what) : 0;
}

static bool is_whole(const struct sim *s, uint64_t offset)
{
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->whole[i].uid && s->whole[i].offset == offset)
            return true;
    return false;
}

void kept_give(struct kept *k, uint64_t offset, uint64_t slot_bytes)
{
    (void)k;
    if (is_whole(owner, offset))
        owner->gone[owner->gone_count++] = (struct sim_range){offset, 2 * slot_bytes};
    else
        base_extents_give(owner->kept_ranges, offset, 2 * slot_bytes);
}

/* ---- what was committed ------------------------------------------------ */

static struct sim_tensor *with_uid(struct sim *s, uint32_t uid)
{
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].t && s->tensors[i].uid == uid)
            return &s->tensors[i];
    return NULL;
}

static uint64_t word_at(const struct sim *s, const struct sim_snap *snap, uint32_t slot)
{
    uint32_t tile = sim_slot_tile(slot);
    uint64_t word = 0;

    if (snap->there >> tile & 1)
        memcpy(&word, s->kept.bytes + snap->at[tile] + snap->word[slot], 8);
    return word;
}

/* The last durable commit is as it was. */
void sim_check_whole(struct sim *s)
{
    for (int i = 0; i < SIM_TENSORS && !sim_failed(s); i++) {
        const struct sim_snap *snap = &s->whole[i];

        for (uint32_t slot = 0; snap->uid && !snap->spoilt && slot < snap->slots; slot++) {
            uint64_t word = word_at(s, snap, slot);

            if (word != snap->words[slot])
                sim_fail(s, "the last commit is damaged: tensor %d, slot %u: 0x%llx instead of 0x%llx", i,
                         slot, (unsigned long long)word, (unsigned long long)snap->words[slot]);
        }
    }
}

/* What the commit in flight says of x: each tile has the bytes of that point of the program. */
static void check_taken(struct sim *s, struct sim_tensor *x, struct sim_snap *snap)
{
    const struct ofl_tensor *t = x->t;

    snap->slots = x->slots;
    snap->offset = t->file_off;
    snap->there = 0;
    for (uint32_t i = 0; i < t->tiles_count; i++) {
        const struct kept_tile *n = &t->keep->next[i];

        snap->at[i] = t->file_off + (n->slot ? t->keep->slot_bytes : 0) + tile_start(t, i);
        snap->there |= (uint32_t)n->there << i;
        if (n->generation == 0)
            sim_fail(s, "a commit without tile %u of tensor %u", i, x->index);
        else if (n->there && !snap->spoilt &&
                 store_seal(s->kept.bytes + snap->at[i], tile_count_bytes(t, i)) != n->seal)
            sim_fail(s, "a commit has another seal than tile %u of tensor %u", i, x->index);
    }
    for (uint32_t slot = 0; slot < x->slots && !sim_failed(s); slot++) {
        snap->word[slot] = sim_slot_offset(x, slot) - sim_slot_tile(slot) * x->tile_bytes;
        snap->words[slot] = word_at(s, snap, slot);
        if (!snap->spoilt)
            sim_check_word(s, x, slot, snap->upto, snap->words[slot], "a commit");
    }
}

/* ---- commits ----------------------------------------------------------- */

struct commit {
    int err;
};

static void snap_all(struct sim *s)
{
    for (int i = 0; i < SIM_TENSORS; i++) {
        struct sim_tensor *x = &s->tensors[i];
        bool has = x->t && x->t->keep;

        s->taken[i] = (struct sim_snap){.uid = has ? x->uid : 0, .upto = x->count, .spoilt = x->spoilt};
    }
}

static bool begun(struct sim *s, void *arg)
{
    struct commit *c = arg;

    sim_enter(s);
    c->err = pager_commit(&s->pager);
    sim_leave(s);
    s->due = true;
    if (c->err == 0)
        snap_all(s);
    return c->err != -EAGAIN;
}

static bool may_commit(const struct sim *s)
{
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].t && s->tensors[i].t->keep && (s->tensors[i].readers || s->tensors[i].writers))
            return false;
    for (int i = 0; i < SIM_GROUPS; i++)
        if (s->groups[i].applied)
            return false; /* an optimizer step is open */
    return true;
}

static void fails_rightly(struct sim *s, int err)
{
    struct sim_tensor *kept[SIM_TENSORS];
    uint32_t count = 0;

    if (s->commit_failed) {
        s->commit_failed = false;
        return;
    }
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].t && s->tensors[i].t->keep)
            kept[count++] = &s->tensors[i];
    sim_fails_rightly(s, err, kept, count, "a commit");
}

void sim_commit(struct sim *s)
{
    struct sim_random r = {.state = s->prog->stmts[s->stmt].id ^ 0x434F4D4D};
    struct commit c;

    if (!s->kept.bytes || sim_below(&r, s->options->commits) || !may_commit(s))
        return;
    if (sim_await(s, begun, &c, "a commit") && c.err < 0)
        fails_rightly(s, c.err);
}

void sim_env_commit(void *arg, struct core_op *op)
{
    struct sim *s = arg;

    sim_post(s, sim_delay(s, 4 * s->prog->config.drive), EVENT_COMMIT, op, 0);
}

static void settle(struct sim *s)
{
    memcpy(s->whole, s->taken, sizeof s->whole);
    while (s->gone_count) {
        struct sim_range *g = &s->gone[--s->gone_count];

        base_extents_give(s->kept_ranges, g->offset, g->bytes);
    }
    s->result->commits++;
}

void sim_commit_event(struct sim *s, struct core_op *op)
{
    sim_check_whole(s);
    if (sim_chance(s, 8 * s->prog->config.write_error)) {
        base_error_set(&s->pager.commit.error, -EIO, "simulated: %s", base_strerror(-EIO));
        op->code = -EIO;
        s->commit_failed = true;
    }
    for (int i = 0; i < SIM_TENSORS && op->code == 0; i++)
        if (s->taken[i].uid)
            check_taken(s, with_uid(s, s->taken[i].uid), &s->taken[i]);
    if (op->code == 0)
        settle(s);
    sim_enter(s);
    pager_done(&s->pager, op);
    sim_leave(s);
    s->due = true;
}
