/* check_move: moves, seals and host works of tiles. See check.h. */
#include <stdlib.h>

#include "liboffload/plan/check_impl.h"

/* ---- rules ------------------------------------------------------------- */

static const char *const memories[CHECK_SPACES] = {"device memory", "host memory", "the store"};

void check_range(struct plan_check *c, enum check_memory memory, uint64_t off, uint64_t len)
{
    uint64_t limit = c->space[memory].limit;

    if (len == 0 || off > limit || len > limit - off)
        check_fault(c, PLAN_FAULT_BUDGET, "%llu bytes from %llu on in %s, which has %llu", (ull)len, (ull)off,
                    memories[memory], (ull)limit);
}

void check_busy(struct plan_check *c, enum check_memory memory, uint64_t off, uint64_t len, bool write)
{
    const struct check_use *u = check_space_busy(&c->space[memory], off, len, write);

    if (!u)
        return;
    check_fault(c, u->move && !write ? PLAN_FAULT_FENCE : PLAN_FAULT_SHARED,
                "%llu bytes from %llu on in %s: %s at %llu to %llu", (ull)len, (ull)off, memories[memory],
                u->move ? "bytes are coming in" : "somebody is at work", (ull)u->off, (ull)u->end);
}

bool check_label(struct plan_check *c, const struct check_label *found, uint32_t tensor, uint32_t tile,
                 uint64_t version)
{
    if (found && found->tensor == tensor && found->tile == tile && found->version == version)
        return true;
    if (found && found->tensor == tensor && found->tile == tile)
        check_fault(c, PLAN_FAULT_STALE, "version %llu of tensor %u, tile %u, is there, %llu is wanted",
                    (ull)found->version, tensor, tile, (ull)version);
    else if (found)
        check_fault(c, PLAN_FAULT_BYTES, "tensor %u, tile %u, is there, tensor %u, tile %u, is wanted",
                    found->tensor, found->tile, tensor, tile);
    else
        check_fault(c, PLAN_FAULT_BYTES, "no tile is there, tensor %u, tile %u, is wanted", tensor, tile);
    return false;
}

void check_put(struct plan_check *c, enum check_memory memory, uint64_t off, uint64_t len,
               struct check_label label)
{
    struct check_tensor *t = &c->tensors[label.tensor];
    struct check_tile *x = &t->tiles[label.tile];

    if (label.version > x->newest) {
        x->newest = label.version;
        x->holders = 0;
    }
    x->holders += label.version == x->newest;
    check_space_put(&c->space[memory], off, len, &label);
}

/* Nobody will read that version of the tile: it is older than a write of everything, and no reader is left who came
 * before that. */
static bool unwanted(const struct check_tensor *t, const struct check_label *label)
{
    if (label->version >= t->whole && !(t->garbage && label->version == t->version))
        return false;
    for (uint64_t i = 0; i < t->readers_count; i++)
        if (t->readers[i].base == label->version && !(t->readers[i].done && t->readers[i].done[label->tile]))
            return false;
    return true;
}

/* A range's bytes are overwritten by others. */
void check_gone(void *arg, int memory, const struct check_label *label)
{
    struct plan_check *c = arg;
    struct check_tensor *t = &c->tensors[label->tensor];
    struct check_tile *x = &t->tiles[label->tile];

    if (c->closing || !t->alive)
        return;
    if (((memory == CHECK_DEVICE && t->rests) || (memory == CHECK_HOST && label->tile < t->rest_tiles)) &&
        label->version == x->newest) {
        c->out.given_up++;
        if (c->rests)
            check_fault(c, PLAN_FAULT_REST, "tensor %u, tile %u, was to stay in %s until its next use",
                        label->tensor, label->tile, memories[memory]);
    }
    if (label->version != x->newest || --x->holders > 0 || t->source)
        return;
    if (label->version == 0 || unwanted(t, label))
        return; /* zeros can be made again */
    check_fault(c, PLAN_FAULT_LOST, "version %llu of tensor %u, tile %u, was in %s alone",
                (ull)label->version, label->tensor, label->tile, memories[memory]);
}

/* ---- moves in flight --------------------------------------------------- */

static struct check_moving **place_of(struct plan_check *c, const struct plan_record *r, uint32_t type)
{
    uint32_t n = (r->tensor * 2654435761u + r->tile * 40503u) % (sizeof c->moving / sizeof c->moving[0]);
    struct check_moving **at = &c->moving[n];

    while (*at && ((*at)->r.type != type || (*at)->r.tensor != r->tensor || (*at)->r.tile != r->tile ||
                   (*at)->r.from != r->from || (*at)->r.to != r->to))
        at = &(*at)->next;
    return at;
}

static struct check_moving *begin(struct plan_check *c, const struct plan_record *r)
{
    struct check_moving **at = place_of(c, r, r->type), *m = c->free_moving;

    if (*at) {
        check_fault(c, PLAN_FAULT_PAIR, "the same is under way already");
        return NULL;
    }
    if (m)
        c->free_moving = m->next;
    else
        m = malloc(sizeof *m);
    if (!m) {
        c->out_of_memory = true;
        return NULL;
    }
    *m = (struct check_moving){.r = *r};
    *at = m;
    c->moves++;
    c->out.moves++;
    return m;
}

/* The one that r ends, NULL, and a fault: there is none. It is the caller's, to be given back. */
static struct check_moving *end(struct plan_check *c, const struct plan_record *r)
{
    struct check_moving **at = place_of(c, r, r->type - 1), *m = *at;

    if (!m || m->r.bytes != r->bytes) {
        check_fault(c, PLAN_FAULT_PAIR, "it has not begun");
        return NULL;
    }
    *at = m->next;
    c->moves--;
    m->next = c->free_moving;
    c->free_moving = m;
    return m;
}

void check_moves_free(struct plan_check *c)
{
    for (size_t i = 0; i <= sizeof c->moving / sizeof c->moving[0]; i++) {
        struct check_moving *m = i ? c->moving[i - 1] : c->free_moving;

        while (m) {
            struct check_moving *next = m->next;

            free(m);
            m = next;
        }
    }
}

/* ---- which ------------------------------------------------------------- */

/* Where bytes come from and go to; CHECK_SPACES: nowhere. */
static const struct {
    enum check_memory from, to;
} ways[PLAN_RECORD_TYPES] = {
    [PLAN_RECORD_READ] = {CHECK_STORE, CHECK_HOST},    [PLAN_RECORD_WRITE] = {CHECK_HOST, CHECK_STORE},
    [PLAN_RECORD_IN] = {CHECK_HOST, CHECK_DEVICE},     [PLAN_RECORD_OUT] = {CHECK_DEVICE, CHECK_HOST},
    [PLAN_RECORD_FILL] = {CHECK_SPACES, CHECK_DEVICE}, [PLAN_RECORD_SEAL] = {CHECK_HOST, CHECK_SPACES},
};

/* What is read: of a source, whatever its file has there. */
static bool take(struct plan_check *c, const struct plan_record *r, struct check_tensor *t,
                 struct check_moving *m)
{
    enum check_memory from = ways[r->type].from;
    const struct check_label *found;

    m->label = (struct check_label){.tensor = r->tensor, .tile = r->tile};
    if (from == CHECK_SPACES)
        return true;
    if (r->type == PLAN_RECORD_READ && t->source) {
        if (r->from != t->file_off + check_tile_start(t, r->tile))
            check_fault(c, PLAN_FAULT_BYTES, "its source has that tile at %llu, not at %llu",
                        (ull)(t->file_off + check_tile_start(t, r->tile)), (ull)r->from);
        m->label.drive = true;
        return true;
    }
    check_range(c, from, r->from, r->bytes);
    check_busy(c, from, r->from, r->bytes, false);
    found = check_space_at(&c->space[from], r->from, r->bytes);
    if (!found || found->tensor != r->tensor || found->tile != r->tile) {
        check_label(c, found, r->tensor, r->tile, 0);
        return false;
    }
    if (found->drive && !found->sealed && r->type != PLAN_RECORD_SEAL)
        check_fault(c, PLAN_FAULT_SEAL, "its bytes came from a drive, and nobody has looked at their seal");
    if (r->type == PLAN_RECORD_WRITE && !found->sealed)
        check_fault(c, PLAN_FAULT_SEAL, "its bytes have no seal");
    m->label = *found;
    return true;
}

static void move_begin(struct plan_check *c, const struct plan_record *r, struct check_tensor *t)
{
    enum check_memory from = ways[r->type].from, to = ways[r->type].to;
    struct check_moving *m;

    if (t->transient && to != CHECK_DEVICE)
        check_fault(c, PLAN_FAULT_LIFETIME, "it has no bytes between uses, and is kept");
    m = begin(c, r);
    if (!m || !take(c, r, t, m))
        return;
    if (to != CHECK_SPACES) {
        check_range(c, to, r->to, r->bytes);
        check_busy(c, to, r->to, r->bytes, true);
        check_space_clear(&c->space[to], r->to, r->bytes);
        m->to = check_space_begin(&c->space[to], r->to, r->bytes, true, true);
    }
    if (from != CHECK_SPACES && !(r->type == PLAN_RECORD_READ && t->source))
        m->from = check_space_begin(&c->space[from], r->from, r->bytes, false, false);
}

static void move_end(struct plan_check *c, const struct plan_record *r)
{
    struct check_moving *m = end(c, r);
    enum check_memory from, to;
    struct check_label *sealed;

    if (!m)
        return;
    from = ways[m->r.type].from;
    to = ways[m->r.type].to;
    if (from != CHECK_SPACES)
        check_space_end(&c->space[from], m->from, false);
    if (m->r.type == PLAN_RECORD_SEAL) {
        sealed = check_space_at(&c->space[CHECK_HOST], r->from, r->bytes);
        if (sealed)
            sealed->sealed = true;
        return;
    }
    if (!m->to)
        return; /* its beginning was a fault */
    check_space_end(&c->space[to], m->to, true);
    m->label.in_ns = m->r.type == PLAN_RECORD_IN ? r->time_ns : 0;
    c->out.in_bytes += m->r.type == PLAN_RECORD_IN ? r->bytes : 0;
    m->label.drive = m->r.type == PLAN_RECORD_READ;
    m->label.sealed = false;
    check_put(c, to, r->to, r->bytes, m->label);
}

/* ---- host works -------------------------------------------------------- */

static const struct check_update_part *part_of(struct plan_check *c, const struct plan_record *r)
{
    const struct check_update *u = r->from < c->updates_room ? &c->updates[r->from] : NULL;

    for (uint32_t i = 0; u && i < CHECK_UPDATE_PARTS; i++)
        if (u->part[i].known && u->part[i].tensor == r->tensor)
            return &u->part[i];
    check_fault(c, PLAN_FAULT_ORDER, "update %llu has not been issued, or not with it", (ull)r->from);
    return NULL;
}

static void work(struct plan_check *c, const struct plan_record *r)
{
    const struct check_update_part *part = part_of(c, r);
    struct check_space *s = &c->space[CHECK_HOST];
    bool writes = r->value & PLAN_RECORD_WRITES;
    const struct check_label *found;
    struct check_moving *m = begin(c, r);

    if (!part || !m)
        return;
    if (r->value & PLAN_RECORD_FRESH && r->value & PLAN_RECORD_READS && part->base && !part->garbage)
        check_fault(c, PLAN_FAULT_LOST, "version %llu is taken for zeros", (ull)part->base);
    if (r->bytes == 0)
        return;
    check_range(c, CHECK_HOST, r->to, r->bytes);
    check_busy(c, CHECK_HOST, r->to, r->bytes, writes);
    found = check_space_at(s, r->to, r->bytes);
    if (r->value & PLAN_RECORD_FRESH || !(r->value & PLAN_RECORD_READS)) {
        check_space_clear(s, r->to, r->bytes);
    } else if (!part->garbage && check_label(c, found, r->tensor, r->tile, part->base)) {
        if (found->drive && !found->sealed)
            check_fault(c, PLAN_FAULT_SEAL,
                        "its bytes came from a drive, and nobody has looked at their seal");
    }
    m->to = check_space_begin(s, r->to, r->bytes, writes, false);
}

static void work_end(struct plan_check *c, const struct plan_record *r)
{
    const struct check_update_part *part = part_of(c, r);
    struct check_moving *m = end(c, r);
    bool writes = r->value & PLAN_RECORD_WRITES;

    if (!part || !m)
        return;
    if (r->value & PLAN_RECORD_READS)
        check_expected(&c->tensors[r->tensor], 0, r->from, r->tile);
    if (!m->to)
        return;
    check_space_end(&c->space[CHECK_HOST], m->to, writes);
    if (writes)
        check_put(c, CHECK_HOST, r->to, r->bytes,
                  (struct check_label){.tensor = r->tensor, .tile = r->tile, .version = part->version});
}

void check_move(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t = check_tensor(c, r->tensor);

    if (!t)
        return;
    if (r->tile >= t->count ||
        (r->bytes != check_tile_bytes(t, r->tile) && !(r->type >= PLAN_RECORD_WORK && r->bytes == 0))) {
        check_fault(c, PLAN_FAULT_BYTES, "it has no such tile of %llu bytes", (ull)r->bytes);
        return;
    }
    if (r->type == PLAN_RECORD_WORK)
        work(c, r);
    else if (r->type == PLAN_RECORD_WORK_END)
        work_end(c, r);
    else if ((r->type - PLAN_RECORD_READ) % 2 == 0)
        move_begin(c, r, t);
    else
        move_end(c, r);
}
