/* pipe: see pipe.h. */
#include "liboffload/plan/pipe.h"

#include <stddef.h>

#define NS 1e9

void pipe_open(struct pipe *p, double bytes_s)
{
    *p = (struct pipe){.rate = bytes_s, .both = 1};
    p->tail = &p->head;
}

/*
 * As many bytes in both directions, n each, begun together: both move at the share s of their rates until the
 * faster one is through, after n / (s fast); what is left of the other then moves alone, n / slow - n / fast. Both
 * are to take 2 n / mixed. One after the other is s = 1/2.
 */
void pipe_couple(struct pipe *a, struct pipe *b, double mixed_bytes_s)
{
    double fast = a->rate > b->rate ? a->rate : b->rate, slow = a->rate > b->rate ? b->rate : a->rate;
    double turns = mixed_bytes_s > 0 ? 1 + fast * (2 / mixed_bytes_s - 1 / slow) : 2;

    a->other = b;
    b->other = a;
    a->both = b->both = turns < 1 ? 1 : turns > 20 ? 0.05 : 1 / turns;
}

static void settle(struct pipe *p, uint64_t now_ns)
{
    if (!p->active)
        return;
    p->head->left -= (double)(now_ns - p->since_ns) * p->speed;
    p->busy_ns += now_ns - p->since_ns;
    p->since_ns = now_ns;
}

static void set_speed(struct pipe *p)
{
    p->speed = p->rate / NS * (p->other && p->other->active ? p->both : 1);
    p->turn++;
}

static void set_active(struct pipe *p, bool active, uint64_t now_ns)
{
    if (p->active == active)
        return;
    if (p->other)
        settle(p->other, now_ns);
    p->active = active;
    p->since_ns = now_ns;
    if (p->other)
        set_speed(p->other);
    set_speed(p);
}

void pipe_put(struct pipe *p, struct pipe_item *item, uint64_t bytes, double times, uint64_t ready_ns)
{
    item->next = NULL;
    item->bytes = bytes;
    item->left = item->work = (double)bytes * times;
    item->ready_ns = ready_ns;
    *p->tail = item;
    p->tail = &item->next;
    if (p->head == item)
        p->turn++;
}

uint64_t pipe_next_ns(const struct pipe *p, uint64_t now_ns)
{
    double ns;

    if (!p->head)
        return UINT64_MAX;
    if (!p->active)
        return p->head->ready_ns > now_ns ? p->head->ready_ns : now_ns;
    ns = p->head->left / p->speed;
    return p->since_ns + (ns > 1 ? (uint64_t)ns + 1 : 1);
}

struct pipe_item *pipe_advance(struct pipe *p, uint64_t now_ns)
{
    struct pipe_item *out = NULL;

    settle(p, now_ns);
    if (p->active && p->head->left < p->speed) { /* less than a nanosecond of it is left */
        out = p->head;
        p->head = out->next;
        if (!p->head)
            p->tail = &p->head;
        p->bytes += out->bytes;
        p->work_ns += NS * out->work / p->rate;
    }
    set_active(p, p->head && p->head->ready_ns <= now_ns, now_ns);
    p->turn++;
    return out;
}

double pipe_least_ns(const struct pipe *p, double one_ns, double other_ns)
{
    double less = one_ns < other_ns ? one_ns : other_ns, more = one_ns < other_ns ? other_ns : one_ns;

    return less / p->both + more - less;
}
