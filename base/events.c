/* events: see events.h. */
#include "base/events.h"

#include <assert.h>

static bool sooner(const struct base_event *a, const struct base_event *b)
{
    return a->time != b->time ? a->time < b->time : a->order < b->order;
}

bool base_events_full(const struct base_events *e)
{
    return e->count == e->room;
}

void base_events_post(struct base_events *e, struct base_event event)
{
    uint32_t i = e->count++;

    assert(i < e->room);
    event.order = e->order++;
    while (i && sooner(&event, &e->heap[(i - 1) / 2])) {
        e->heap[i] = e->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    e->heap[i] = event;
}

struct base_event base_events_take(struct base_events *e)
{
    struct base_event top = e->heap[0], last;
    uint32_t i = 0, child;

    assert(e->count > 0);
    last = e->heap[--e->count];
    while ((child = 2 * i + 1) < e->count) {
        if (child + 1 < e->count && sooner(&e->heap[child + 1], &e->heap[child]))
            child++;
        if (!sooner(&e->heap[child], &last))
            break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    e->heap[i] = last;
    return top;
}
