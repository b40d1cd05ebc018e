/* scheduler: see trace.h. Plans by name, the current position, next uses by binary search. */
#include "scheduler/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "scheduler/sched.h"

/* How far ahead a departing step is looked for in its plan before it counts as off-plan. */
#define RESYNC_EVENTS 64

int sched_create(struct sched **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : base_fail(-ENOMEM, "create scheduler: out of memory");
}

static void plan_destroy(struct sched_plan *p)
{
    free(p->name);
    free(p->events.at);
    free(p->first);
    free(p->uses);
    free(p);
}

void sched_destroy(struct sched *s)
{
    if (!s)
        return;
    while (s->plans) {
        struct sched_plan *next = s->plans->next;

        plan_destroy(s->plans);
        s->plans = next;
    }
    order_close(s);
    free(s->record.at);
    free(s->last_use);
    free(s);
}

static int events_push(struct sched_events *e, struct sched_event event)
{
    if (e->count == e->room) {
        uint64_t room = e->room ? 2 * e->room : 256;
        struct sched_event *more = realloc(e->at, room * sizeof *more);

        if (!more)
            return base_fail(-ENOMEM, "record step: %llu events: out of memory", (unsigned long long)room);
        e->at = more;
        e->room = room;
    }
    e->at[e->count++] = event;
    return 0;
}

/* The plan, or the position in it, is another one: distances start anew. */
static void turn_to(struct sched *s, struct sched_plan *p, uint64_t position)
{
    s->plan = p;
    s->position = position;
    s->now++; /* no place of before is one of this plan */
    s->plan_changes++;
    order_rebuild(s);
}

static bool same(struct sched_event a, struct sched_event b)
{
    return a.id == b.id && a.where == b.where && a.from == b.from && a.len == b.len;
}

int sched_step_begin(struct sched *s, const char *name)
{
    struct sched_plan *p;

    if (s->in_step)
        return base_fail(-EBUSY, "begin step %s: another step is open", name);
    for (p = s->plans; p && strcmp(p->name, name) != 0; p = p->next)
        ;
    if (!p) {
        p = calloc(1, sizeof *p);
        if (!p || !(p->name = strdup(name))) {
            free(p);
            return base_fail(-ENOMEM, "begin step %s: out of memory", name);
        }
        p->next = s->plans;
        s->plans = p;
    }
    s->in_step = true;
    s->departed = p->events.count == 0;
    s->record.count = 0;
    if (s->plan != p || s->position != 0)
        turn_to(s, p, 0);
    return 0;
}

/* Builds the per-id index of positions by counting sort, for events that are to be p's. On failure p is as it was. */
static int plan_index(struct sched_plan *p, const struct sched_events *events)
{
    uint32_t ids = 0;
    uint64_t *first, *uses;

    for (uint64_t i = 0; i < events->count; i++)
        if (events->at[i].id >= ids)
            ids = events->at[i].id + 1;
    first = calloc((size_t)ids + 2, sizeof *first);
    uses = malloc((events->count + 1) * sizeof *uses);
    if (!first || !uses) {
        free(first);
        free(uses);
        return base_fail(-ENOMEM, "plan step %s: out of memory", p->name);
    }
    for (uint64_t i = 0; i < events->count; i++)
        first[events->at[i].id + 2]++;
    for (uint32_t i = 0; i < ids; i++)
        first[i + 2] += first[i + 1];
    /* first[id + 1] is now the cursor of id; when all are placed it is the start of id + 1. */
    for (uint64_t i = 0; i < events->count; i++)
        uses[first[events->at[i].id + 1]++] = i;
    free(p->first);
    free(p->uses);
    p->first = first;
    p->uses = uses;
    p->ids = ids;
    return 0;
}

int sched_step_end(struct sched *s)
{
    struct sched_plan *p = s->plan;
    bool changed = s->in_step && (s->departed || s->position != p->events.count);

    if (!s->in_step)
        return base_fail(-EINVAL, "end step: no step is open");
    if (changed && plan_index(p, &s->record) < 0)
        return -ENOMEM; /* the step is still open */
    s->in_step = false;
    s->counts.steps++;
    if (changed) {
        struct sched_events old = p->events;

        p->events = s->record;
        s->record = old;
        turn_to(s, p, 0);
    }
    s->position = 0; /* what follows is predicted to be the same step again */
    return 0;
}

bool sched_in_step(const struct sched *s)
{
    return s->in_step;
}

static int touch(struct sched *s, uint32_t id)
{
    if (id >= s->ids) {
        uint32_t ids = id < 2 * (uint64_t)s->ids ? 2 * s->ids : id + 64;
        uint64_t *more = realloc(s->last_use, ids * sizeof *more);

        if (!more)
            return base_fail(-ENOMEM, "record step: out of memory");
        memset(more + s->ids, 0, (ids - s->ids) * sizeof *more);
        s->last_use = more;
        s->ids = ids;
    }
    s->last_use[id] = ++s->clock;
    order_moved(s, id);
    return 0;
}

/* Up to position: what was expected before it has been used, or will not be. */
static void advance(struct sched *s, uint64_t position)
{
    const struct sched_plan *p = s->plan;
    uint64_t from = s->position;

    s->now += position - from;
    s->position = position;
    for (uint64_t i = from; i < position; i++)
        order_moved(s, p->events.at[i].id);
}

int sched_use(struct sched *s, struct sched_event event)
{
    const struct sched_plan *p = s->plan;
    int err = touch(s, event.id);

    if (err < 0)
        return err;
    if (!s->in_step)
        return 0;
    err = events_push(&s->record, event);
    if (err < 0)
        return err;
    if (p->events.count == 0)
        return 0;
    for (uint64_t i = s->position; i < p->events.count && i < s->position + RESYNC_EVENTS; i++) {
        if (!same(p->events.at[i], event))
            continue;
        s->departed |= i != s->position || p->events.at[i].no_fetch != event.no_fetch;
        advance(s, i + 1);
        s->counts.planned++;
        return 1;
    }
    s->departed = true;
    s->counts.off_plan++;
    return -EAGAIN;
}

uint64_t sched_far(const struct sched *s, uint32_t id)
{
    const struct sched_plan *p = s->plan;
    uint64_t age = id < s->ids ? s->last_use[id] : 0;

    if (!p || p->events.count == 0 || id >= p->ids || p->first[id] == p->first[id + 1])
        return SCHED_NEVER / 2 + (SCHED_NEVER / 4 - age); /* what was used longest ago leaves first */
    return s->now + sched_next_use(s, id);
}

/* The first of id's uses from the position on, among those of its plan. */
static uint64_t use_at_position(const struct sched *s, uint32_t id)
{
    const struct sched_plan *p = s->plan;
    uint64_t low = p->first[id], high = p->first[id + 1];

    while (low < high) {
        uint64_t mid = low + (high - low) / 2;

        if (p->uses[mid] < s->position)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* How many uses of id the plan has; none without a plan. */
static uint64_t uses_of(const struct sched *s, uint32_t id)
{
    const struct sched_plan *p = s->plan;

    return p && p->events.count && id < p->ids ? p->first[id + 1] - p->first[id] : 0;
}

static uint64_t distance_to(const struct sched *s, uint64_t use)
{
    return s->plan->uses[use] + (s->plan->uses[use] < s->position ? s->plan->events.count : 0) - s->position;
}

uint64_t sched_next_use(const struct sched *s, uint32_t id)
{
    uint64_t low;

    if (!s->plan || s->plan->events.count == 0) {
        uint64_t age = id < s->ids ? s->clock - s->last_use[id] : s->clock;

        return SCHED_NEVER / 2 + age;
    }
    if (uses_of(s, id) == 0)
        return SCHED_NEVER;
    low = use_at_position(s, id);
    return distance_to(s, low < s->plan->first[id + 1] ? low : s->plan->first[id]);
}

uint64_t sched_next_use_part(const struct sched *s, uint32_t id, uint64_t from, uint64_t len)
{
    uint64_t n = uses_of(s, id), most = n < SCHED_PART_USES ? n : SCHED_PART_USES, first, at, use = 0;

    if (n == 0)
        return sched_next_use(s, id);
    first = s->plan->first[id];
    at = use_at_position(s, id) - first;
    for (uint64_t i = 0; i < most; i++) {
        const struct sched_event *e;

        use = first + (at + i) % n;
        e = &s->plan->events.at[s->plan->uses[use]];
        if (e->len == 0 || (e->from < from + len && from < e->from + e->len))
            return distance_to(s, use);
    }
    return most < n ? distance_to(s, use) : SCHED_NEVER;
}

uint64_t sched_now(const struct sched *s)
{
    return s->now;
}

uint64_t sched_plan_changes(const struct sched *s)
{
    return s->plan_changes;
}

bool sched_ahead(const struct sched *s, uint64_t k, struct sched_event *out)
{
    const struct sched_plan *p = s->plan;

    if (!p || k >= p->events.count)
        return false;
    *out = p->events.at[(s->position + k) % p->events.count];
    return true;
}

/* The open step's record is the plan to come. */
static void forget_recorded(struct sched_events *record, uint32_t id)
{
    uint64_t kept = 0;

    for (uint64_t i = 0; i < record->count; i++)
        if (record->at[i].id != id)
            record->at[kept++] = record->at[i];
    record->count = kept;
}

void sched_forget(struct sched *s, uint32_t id)
{
    order_forget(s, id);
    if (id < s->ids)
        s->last_use[id] = 0; /* it may be another's next */
    if (s->in_step)
        forget_recorded(&s->record, id);
    for (struct sched_plan *p = s->plans; p; p = p->next) {
        if (id >= p->ids || p->first[id] == p->first[id + 1])
            continue;
        /* Positions would shift: a plan that named it is no plan any more. */
        p->events.count = 0;
        p->ids = 0;
        if (p == s->plan) {
            s->departed = true;
            turn_to(s, p, 0);
        }
    }
}

void sched_counts_get(const struct sched *s, struct sched_counts *out)
{
    *out = s->counts;
}
