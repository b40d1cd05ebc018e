/* hint: uses that the caller announces. See trace.h. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "scheduler/sched.h"

bool sched_hinted(const struct sched *s, uint32_t id)
{
    return id < s->ids && s->seen[id].hinted;
}

int sched_hint_reserve(struct sched *s, uint32_t id)
{
    int err = trace_know(s, id);

    if (err < 0)
        return err;
    if (s->hints_room < s->ids) { /* as many as there can be */
        uint32_t *more = realloc(s->hints, s->ids * sizeof *more);

        if (!more)
            return base_fail(-ENOMEM, "hint: out of memory");
        s->hints = more;
        s->hints_room = s->ids;
    }
    return 0;
}

void sched_hint(struct sched *s, uint32_t id, uint64_t distance)
{
    struct sched_seen *seen = &s->seen[id];

    assert(id < s->ids && distance);
    if (!seen->hinted) {
        assert(s->hints_count < s->hints_room);
        seen->hint = s->hints_count;
        s->hints[s->hints_count++] = id;
    }
    seen->hinted = s->now + distance;
    seen->hint_step = s->counts.steps;
    order_moved(s, id);
}

void sched_hint_over(struct sched *s, uint32_t id)
{
    struct sched_seen *seen;

    if (!sched_hinted(s, id))
        return;
    seen = &s->seen[id];
    s->hints[seen->hint] = s->hints[--s->hints_count];
    s->seen[s->hints[seen->hint]].hint = seen->hint;
    seen->hinted = 0;
    order_moved(s, id);
}

void hint_step_over(struct sched *s)
{
    for (uint32_t i = s->hints_count; i-- > 0;)
        if (s->seen[s->hints[i]].hint_step + 1 < s->counts.steps)
            sched_hint_over(s, s->hints[i]);
}
