/* scheduler: see trace.h. Plans by name, the current position, next uses by binary search. */
#include "scheduler/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "scheduler/sched.h"

/* How far ahead a departing step is looked for in its plan before it counts as off-plan. */
#define RESYNC_EVENTS 64
/* sched_use.until of a lease that is held. */
#define HELD UINT32_MAX

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
    free(p->rest);
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
    free(s->hints);
    free(s->record.at);
    free(s->seen);
    free(s);
}

static int events_push(struct sched_events *e, struct sched_use use)
{
    if (e->count == e->room) {
        uint64_t room = e->room ? 2 * e->room : 256;
        struct sched_use *more = realloc(e->at, room * sizeof *more);

        if (!more)
            return base_fail(-ENOMEM, "record step: %llu events: out of memory", (unsigned long long)room);
        e->at = more;
        e->room = room;
    }
    e->at[e->count++] = use;
    return 0;
}

/* The plan, or the position in it, is another one: distances start anew. */
static void turn_to(struct sched *s, struct sched_plan *p, uint64_t position)
{
    s->plan = p;
    s->position = position;
    s->now++; /* no place of before is one of this plan */
    s->plan_changes++;
    plan_turned(s);
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
        if (events->at[i].event.id >= ids)
            ids = events->at[i].event.id + 1;
    first = calloc((size_t)ids + 2, sizeof *first);
    uses = malloc((events->count + 1) * sizeof *uses);
    if (!first || !uses) {
        free(first);
        free(uses);
        return base_fail(-ENOMEM, "plan step %s: out of memory", p->name);
    }
    for (uint64_t i = 0; i < events->count; i++)
        first[events->at[i].event.id + 2]++;
    for (uint32_t i = 0; i < ids; i++)
        first[i + 2] += first[i + 1];
    /* first[id + 1] is now the cursor of id; when all are placed it is the start of id + 1. */
    for (uint64_t i = 0; i < events->count; i++)
        uses[first[events->at[i].event.id + 1]++] = i;
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

        for (uint64_t i = 0; i < s->record.count; i++)
            if (s->record.at[i].until == HELD) /* into the next step */
                s->record.at[i].until = (uint32_t)(i + s->record.count);
        p->events = s->record;
        s->record = old;
        p->fickle |= p->solved && !p->served;
        p->solved = p->served = false;
        turn_to(s, p, 0);
    } else {
        p->fickle = false;
        p->served = p->solved;
    }
    s->position = 0; /* what follows is predicted to be the same step again */
    hint_step_over(s);
    return 0;
}

bool sched_in_step(const struct sched *s)
{
    return s->in_step;
}

int trace_know(struct sched *s, uint32_t id)
{
    if (id >= s->ids) {
        uint32_t ids = id < 2 * (uint64_t)s->ids ? 2 * s->ids : id + 64;
        struct sched_seen *more = realloc(s->seen, ids * sizeof *more);

        if (!more)
            return base_fail(-ENOMEM, "record step: out of memory");
        memset(more + s->ids, 0, (ids - s->ids) * sizeof *more);
        s->seen = more;
        s->ids = ids;
    }
    return 0;
}

/* Up to position: what was expected before it has been used, or will not be. */
static void advance(struct sched *s, uint64_t position)
{
    const struct sched_plan *p = s->plan;
    uint64_t from = s->position;

    s->now += position - from;
    s->position = position;
    for (uint64_t i = from; i < position; i++) {
        plan_passed(s, i);
        order_moved(s, p->events.at[i].event.id);
    }
}

/* An earlier lease of the same id ends where this one begins, as far as its bytes are concerned. */
static int record(struct sched *s, struct sched_event event)
{
    struct sched_seen *seen = &s->seen[event.id];
    uint64_t index = s->record.count;
    int err;

    if (index >= UINT32_MAX / 2)
        return base_fail(-ENOMEM, "record step: more than %u events", UINT32_MAX / 2);
    err = events_push(&s->record, (struct sched_use){.event = event, .until = HELD});
    if (err < 0)
        return err;
    if (event.where == SCHED_ON_HOST)
        s->record.at[index].until = (uint32_t)index + 1;
    if (seen->step == s->counts.steps + 1 && s->record.at[seen->event].until == HELD)
        s->record.at[seen->event].until = (uint32_t)index;
    seen->step = s->counts.steps + 1;
    seen->event = index;
    return 0;
}

void sched_use_over(struct sched *s, uint32_t id, bool drops)
{
    struct sched_use *use;

    if (!s->in_step || id >= s->ids || s->seen[id].step != s->counts.steps + 1)
        return;
    use = &s->record.at[s->seen[id].event];
    use->until = (uint32_t)s->record.count;
    use->drops = drops;
}

int sched_use_aside(struct sched *s, uint32_t id)
{
    int err = trace_know(s, id);

    if (err < 0)
        return err;
    s->seen[id].last_use = ++s->clock;
    sched_hint_over(s, id);
    order_moved(s, id);
    return 0;
}

int sched_use(struct sched *s, struct sched_event event)
{
    const struct sched_plan *p = s->plan;
    int err = sched_use_aside(s, event.id);

    if (err < 0 || !s->in_step)
        return err;
    err = record(s, event);
    if (err < 0)
        return err;
    if (p->events.count == 0)
        return 0;
    for (uint64_t i = s->position; i < p->events.count && i < s->position + RESYNC_EVENTS; i++) {
        const struct sched_event *e = &p->events.at[i].event;

        if (!same(*e, event))
            continue;
        s->departed |= i != s->position || e->no_fetch != event.no_fetch || e->writes != event.writes;
        advance(s, i + 1);
        s->counts.planned++;
        return 1;
    }
    s->departed = true;
    s->counts.off_plan++;
    return -EAGAIN;
}

/* The nearer of next, so many events from now, and what was hinted at, which may be overdue. */
static uint64_t hinted_or(const struct sched *s, uint32_t id, uint64_t next)
{
    uint64_t place = sched_hinted(s, id) ? s->seen[id].hinted : 0, away = place > s->now ? place - s->now : 0;

    return place && away < next ? away : next;
}

uint64_t sched_far(const struct sched *s, uint32_t id)
{
    uint64_t age = id < s->ids ? s->seen[id].last_use : 0, index, far;

    if (plan_next(s, id, &index))
        far = s->now + (index - s->position);
    else
        far = SCHED_NEVER / 2 + (SCHED_NEVER / 4 - age); /* what was used longest ago leaves first */
    return sched_hinted(s, id) && s->seen[id].hinted < far ? s->seen[id].hinted : far;
}

bool plan_next(const struct sched *s, uint32_t id, uint64_t *index)
{
    const struct sched_plan *p = s->plan;
    uint64_t low, high, start;

    if (!p || p->events.count == 0 || id >= p->ids || p->first[id] == p->first[id + 1])
        return false;
    start = low = p->first[id];
    high = p->first[id + 1];
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;

        if (p->uses[mid] < s->position)
            low = mid + 1;
        else
            high = mid;
    }
    *index = low < p->first[id + 1] ? p->uses[low] : p->uses[start] + p->events.count;
    return true;
}

uint64_t sched_next_use(const struct sched *s, uint32_t id)
{
    uint64_t index;

    if (!s->plan || s->plan->events.count == 0) {
        uint64_t age = id < s->ids ? s->clock - s->seen[id].last_use : s->clock;

        return hinted_or(s, id, SCHED_NEVER / 2 + age);
    }
    return hinted_or(s, id, plan_next(s, id, &index) ? index - s->position : SCHED_NEVER);
}

static bool shares(const struct sched_event *e, uint64_t from, uint64_t len)
{
    return e->len == 0 || (e->from < from + len && from < e->from + e->len);
}

uint64_t sched_next_use_part(const struct sched *s, uint32_t id, uint64_t from, uint64_t len)
{
    const struct sched_plan *p = s->plan;
    uint64_t index, uses, use;

    if (!plan_next(s, id, &index))
        return sched_next_use(s, id);
    uses = p->first[id + 1] - p->first[id];
    use = p->first[id];
    while (p->uses[use] != index % p->events.count)
        use++;
    for (uint64_t i = 0; i < uses && i < SCHED_PART_USES; i++) {
        if (shares(&p->events.at[index % p->events.count].event, from, len))
            return hinted_or(s, id, index - s->position);
        use = use + 1 < p->first[id + 1] ? use + 1 : p->first[id];
        index += (p->uses[use] + p->events.count - index % p->events.count) % p->events.count;
    }
    return hinted_or(s, id, uses > SCHED_PART_USES ? index - s->position : SCHED_NEVER);
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
    *out = p->events.at[(s->position + k) % p->events.count].event;
    return true;
}

/* The open step's record is the plan to come. */
static void forget_recorded(struct sched *s, uint32_t id)
{
    uint64_t kept = 0;

    for (uint64_t i = 0; i < s->record.count; i++) {
        struct sched_use use = s->record.at[i];

        if (use.event.id == id)
            continue;
        if (s->seen[use.event.id].event == i)
            s->seen[use.event.id].event = kept;
        s->record.at[kept++] = use;
    }
    s->record.count = kept;
    s->seen[id].step = 0;
}

void sched_forget(struct sched *s, uint32_t id)
{
    sched_hint_over(s, id);
    order_forget(s, id);
    if (id < s->ids)
        s->seen[id].last_use = 0; /* it may be another's next */
    if (s->in_step && id < s->ids)
        forget_recorded(s, id);
    for (struct sched_plan *p = s->plans; p; p = p->next) {
        if (id >= p->ids || p->first[id] == p->first[id + 1])
            continue;
        /* Positions would shift: a plan that named it is no plan any more. */
        p->events.count = 0;
        p->ids = 0;
        p->solved = false;
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
