/* plan: see plan.h. */
#include "scheduler/plan.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "scheduler/sched.h"

static const struct sched_rest nothing;

void plan_passed(struct sched *s, uint64_t index)
{
    const struct sched_plan *p = s->plan;

    if (p->solved)
        s->seen[p->events.at[index].event.id].rest = p->rest[index];
}

void plan_turned(struct sched *s)
{
    for (uint32_t id = 0; id < s->ids; id++)
        s->seen[id].rest = nothing;
    /* Before its first event it is behind its last ones. */
    for (uint64_t i = 0; s->plan && i < s->plan->events.count; i++)
        plan_passed(s, i);
}

bool sched_plan_unsolved(const struct sched *s)
{
    const struct sched_plan *p = s->plan;

    return p && !s->in_step && p->events.count && !p->solved && !p->fickle;
}

/* All uses of parts of an id as one, the first of them, which lasts as long as they do: in a step they use each
 * byte about once. The others are no uses; their until is the first one's place. */
static struct sched_use *uses_of_wholes(const struct sched_plan *p, const struct sched_item *items,
                                        uint32_t ids)
{
    uint32_t count = (uint32_t)p->events.count, *first;
    struct sched_use *uses;
    bool any = false;

    for (uint32_t id = 0; id < ids; id++)
        any |= items[id].parts;
    if (!any)
        return p->events.at;
    uses = malloc(count * sizeof *uses);
    first = malloc(ids * sizeof *first);
    for (uint32_t id = 0; id < ids && first; id++)
        first[id] = UINT32_MAX;
    for (uint32_t i = 0; i < count && uses && first; i++) {
        uint32_t id = p->events.at[i].event.id;
        struct sched_use *one;

        uses[i] = p->events.at[i];
        if (id >= ids || !items[id].parts)
            continue;
        if (first[id] == UINT32_MAX)
            first[id] = i;
        one = &uses[first[id]];
        one->drops = false;
        one->event.no_fetch = false;
        one->event.writes |= uses[i].event.writes;
        if (first[id] == i)
            continue;
        if (uses[i].until > one->until)
            one->until = uses[i].until;
        uses[i].event.id = UINT32_MAX;
        uses[i].until = first[id];
    }
    if (!uses || !first) {
        free(uses);
        uses = NULL;
    }
    free(first);
    return uses;
}

static uint64_t resting_always(const struct sched_plan *p, const struct sched_item *items)
{
    uint64_t bytes = 0;

    for (uint32_t id = 0; id < p->ids; id++) {
        uint64_t resting = 0, uses = p->first[id + 1] - p->first[id];

        for (uint64_t i = 0; i < uses; i++)
            resting += p->rest[p->uses[p->first[id] + i]].device;
        if (resting && resting < uses)
            return 0;
        bytes += resting ? items[id].device_bytes : 0;
    }
    return bytes;
}

int sched_plan_solve(struct sched *s, const struct sched_item *items, uint32_t ids,
                     const struct sched_room *room)
{
    struct sched_plan *p = s->plan;
    struct sched_rest *rest = realloc(p->rest, p->events.count * sizeof *rest);
    struct sched_use *uses = rest ? uses_of_wholes(p, items, ids) : NULL;
    int err;

    if (rest)
        p->rest = rest;
    if (!uses)
        return base_fail(-ENOMEM, "plan step %s: out of memory", p->name);
    err = sched_solve(uses, (uint32_t)p->events.count, items, ids, room, rest, &p->moved);
    for (uint64_t i = 0; i < p->events.count && err == 0; i++)
        if (uses[i].event.id != p->events.at[i].event.id)
            rest[i] = rest[uses[i].until];
        else if (items[uses[i].event.id].parts)
            rest[i].device = false;
    if (uses != p->events.at)
        free(uses);
    p->solved = err == 0;
    p->resting = p->solved ? resting_always(p, items) : 0;
    s->plan_changes++;
    plan_turned(s);
    order_rebuild(s);
    return err;
}

void sched_plan_unsolve(struct sched *s)
{
    for (struct sched_plan *p = s->plans; p; p = p->next)
        p->solved = false;
    s->plan_changes++;
    plan_turned(s);
    order_rebuild(s);
}

bool sched_plan_on_host(const struct sched *s)
{
    for (uint64_t i = 0; i < s->plan->events.count; i++)
        if (s->plan->events.at[i].event.where == SCHED_ON_HOST)
            return true;
    return false;
}

bool sched_solved(const struct sched *s)
{
    return s->plan && s->plan->solved;
}

struct sched_rest sched_rest_now(const struct sched *s, uint32_t id)
{
    return id < s->ids ? s->seen[id].rest : nothing;
}

struct sched_rest sched_rest_next(const struct sched *s, uint32_t id)
{
    uint64_t index;

    return plan_next(s, id, &index) ? s->plan->rest[index % s->plan->events.count] : nothing;
}

bool sched_passing(const struct sched *s, uint32_t id)
{
    return sched_solved(s) && !sched_rest_now(s, id).device;
}

uint64_t sched_resting_always(const struct sched *s)
{
    return s->plan->resting;
}

const struct sched_moved *sched_moved(const struct sched *s)
{
    return &s->plan->moved;
}
