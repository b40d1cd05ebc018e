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
    return s->plan && !s->in_step && s->plan->events.count && !s->plan->solved;
}

int sched_plan_solve(struct sched *s, const struct sched_item *items, uint32_t ids,
                     const struct sched_room *room)
{
    struct sched_plan *p = s->plan;
    struct sched_rest *rest = realloc(p->rest, p->events.count * sizeof *rest);
    int err;

    if (!rest)
        return base_fail(-ENOMEM, "plan step %s: out of memory", p->name);
    p->rest = rest;
    err = sched_solve(p->events.at, (uint32_t)p->events.count, items, ids, room, rest, &p->moved);
    p->solved = err == 0;
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

const struct sched_moved *sched_moved(const struct sched *s)
{
    return &s->plan->moved;
}
