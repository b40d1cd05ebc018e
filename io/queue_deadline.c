/*
 * Deadlines of a queue's requests: see io.h. Owns the moment at which a request is late, and the
 * notice of it.
 *
 * The notice is one thing and the return of the buffer another: a request that is late stays the
 * queue's until the engine has returned every transfer of it, since until then the kernel may still
 * read or write its buffer. One that the engine has nothing of comes back at once.
 *
 * Deadlines are counted in time in which the process could have got on. One that is stopped (SIGSTOP,
 * the cgroup freezer, a debugger) or gets no processor finds all deadlines passed when it goes on,
 * though the engine's threads have been stopped as long as the owner; suspension the clock leaves out
 * itself. Nothing tells us of a stop: so the owner looks at the clock often, and if much more than that
 * has passed since its last look, what is too much does not count. A drive that hangs is late all the
 * same, since its owner goes on looking.
 */
#include "io/queue.h"

#include <stdio.h>
#include <string.h>

#include "include/offload.h"

static bool is_in_flight(const struct io_queue *q, const struct io_request *r)
{
    for (uint32_t i = 0; i < q->transfer_count; i++)
        if (q->transfers[i].request == r && q->transfers[i].handed_over)
            return true;
    return false;
}

void io_queue_look(struct io_queue *q, uint64_t stride_ns)
{
    uint64_t before_ns = q->now_ns;

    q->now_ns = q->clock();
    if (q->now_ns - before_ns > stride_ns)
        q->away_ns += q->now_ns - before_ns - stride_ns;
}

/* The time that counts. */
static uint64_t counted_ns(const struct io_queue *q)
{
    return q->now_ns - q->away_ns;
}

static uint64_t allowed_ns(const struct io_queue *q, const struct io_request *r)
{
    return r->deadline_ns ? r->deadline_ns : q->deadline_ns;
}

void io_queue_allow(struct io_queue *q, struct io_request *r)
{
    uint64_t now_ns = counted_ns(q), allowed = allowed_ns(q, r);

    r->expire_ns = allowed < UINT64_MAX - now_ns ? now_ns + allowed : UINT64_MAX;
    if (r->expire_ns < q->expire_ns)
        q->expire_ns = r->expire_ns;
}

uint64_t io_queue_left_ns(const struct io_queue *q)
{
    return q->expire_ns > counted_ns(q) ? q->expire_ns - counted_ns(q) : 0;
}

/* Why r is late. */
static void word_cause(const struct io_queue *q, const struct io_request *r, char *text, size_t size)
{
    uint64_t taken_ns = q->now_ns - r->submit_ns, allowed = allowed_ns(q, r);
    uint64_t ran_ns = counted_ns(q) + allowed - r->expire_ns; /* of those */
    size_t used;

    snprintf(text, size, "%s (%s for %.3f s, ", base_strerror(OFL_EDEADLINE),
             is_in_flight(q, r) ? "in flight" : "queued", (double)taken_ns / 1e9);
    used = strlen(text);
    if (taken_ns - ran_ns >= 1000000)
        snprintf(text + used, size - used, "%.3f s of it kept from running, ",
                 (double)(taken_ns - ran_ns) / 1e9);
    used = strlen(text);
    snprintf(text + used, size - used, "allowed %.3f s)", (double)allowed / 1e9);
    used = strlen(text);
    if (q->flush_code < 0)
        snprintf(text + used, size - used, "; hand-over to the kernel: %s", base_strerror(q->flush_code));
}

static void miss(struct io_queue *q, struct io_request *r)
{
    char cause[320];

    word_cause(q, r, cause, sizeof cause);
    io_request_word(r, -OFL_EDEADLINE, cause);
    r->elapsed_ns = q->now_ns - r->submit_ns;
    r->late = r->unnoticed = q->late_news = true;
    q->unnoticed++;
    r->open++; /* so that r is not over before this is */
    io_request_call_off(q, r);
    io_request_close(q, r);
}

bool io_queue_expire(struct io_queue *q)
{
    struct io_request *r = q->live, *next;
    bool missed = false;

    if (counted_ns(q) <= q->expire_ns)
        return false;
    q->expire_ns = UINT64_MAX;
    for (; r; r = next) {
        next = r->next;
        if (r->late)
            continue;
        if (counted_ns(q) > r->expire_ns)
            miss(q, r), missed = true;
        else if (r->expire_ns < q->expire_ns)
            q->expire_ns = r->expire_ns;
    }
    return missed;
}

unsigned io_late(struct io_queue *q, struct io_request **late, unsigned max)
{
    unsigned n = 0;

    for (struct io_request *r = q->live; r && n < max && q->unnoticed; r = r->next) {
        if (!r->unnoticed)
            continue;
        r->unnoticed = false;
        q->unnoticed--;
        late[n++] = r;
    }
    q->late_news = q->unnoticed > 0;
    io_queue_announce(q);
    return n;
}
