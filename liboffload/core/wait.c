/* wait: see wait.h. */
#include "liboffload/core/wait.h"

#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/blame.h"
#include "liboffload/core/copy.h"
#include "liboffload/core/place.h"

/* Streams that failed whose reasons are kept. */
#define STREAM_ERRORS 64u

static void wait_note(struct core_wait *w, const struct base_error *error)
{
    if (!w->error)
        w->error = pager_error_copy(error);
}

static void stream_failed(struct pager *p, uint64_t stream, const struct base_error *error)
{
    struct core_stream_error *e, **at = &p->stream_errors;
    unsigned n = 0;

    for (; *at; at = &(*at)->next, n++)
        if ((*at)->stream == stream)
            return; /* the first counts */
    e = malloc(sizeof *e);
    if (!e)
        return;
    *e = (struct core_stream_error){.stream = stream, .error = *error};
    *at = e;
    if (n == STREAM_ERRORS) {
        e = p->stream_errors;
        p->stream_errors = e->next;
        free(e);
    }
}

static void wait_less(struct pager *p, struct core_wait *w)
{
    if (--w->remaining)
        return;
    w->prev->next = w->next;
    w->next->prev = w->prev;
    if (w->error)
        stream_failed(p, w->stream, w->error);
    if (p->env.blame && w->last)
        p->env.blame(p->env.arg, w->gate, w->last, w->why);
    p->env.gate_open(p->env.arg, w->gate, w->error);
    p->changes++;
    pager_error_free(w->error);
    free(w);
}

int wait_reserve(struct pager *p, size_t count)
{
    while (p->spare_conds_count < count) {
        struct core_cond *cond = malloc(sizeof *cond);

        if (!cond)
            return base_fail(-ENOMEM, "acquire: %zu conditions: out of memory", count);
        cond->next = p->spare_conds;
        p->spare_conds = cond;
        p->spare_conds_count++;
    }
    return 0;
}

void wait_add(struct pager *p, struct core_wait *w, struct core_copy *c, bool bytes, bool readable)
{
    struct core_cond *cond = p->spare_conds;

    p->spare_conds = cond->next;
    p->spare_conds_count--;
    *cond = (struct core_cond){.wait = w,
                               .next = c->conds,
                               .bytes = bytes,
                               .readable = readable,
                               .why = bytes ? blame_bytes(c) : OFL_STALL_OTHER_STREAM,
                               .upto = c->mark_seq,
                               .count = c->marks};
    c->conds = cond;
    w->remaining++;
    if (bytes)
        copy_await(p, c, 1);
}

static void cond_over(struct pager *p, struct core_copy *c, struct core_cond *cond)
{
    struct core_wait *w = cond->wait;

    w->last = c->tensor;
    w->why = blame_settled(c, cond->why);
    if (cond->bytes)
        copy_await(p, c, -1);
    cond->next = p->spare_conds;
    p->spare_conds = cond;
    p->spare_conds_count++;
    wait_less(p, w);
}

/* Ends the copy's conditions that match: those for bytes, or all. */
static void conds_over(struct pager *p, struct core_copy *c, bool bytes_only, const struct base_error *error)
{
    struct core_cond **at = &c->conds;

    while (*at) {
        struct core_cond *cond = *at;

        if (bytes_only && !cond->bytes) {
            at = &cond->next;
            continue;
        }
        *at = cond->next;
        wait_note(cond->wait, error);
        cond_over(p, c, cond);
    }
}

void wait_copy_ready(struct pager *p, struct core_copy *c)
{
    conds_over(p, c, true, c->error);
}

void wait_fail_all(struct pager *p)
{
    for (struct core_copy *c = p->live.next; c != &p->live; c = c->next)
        if (c->conds && place_at_rest(p, c))
            conds_over(p, c, false, &p->broken);
    for (struct ofl_tensor *t = p->tensors; t; t = t->next)
        for (struct core_copy *c = t->ghosts; c; c = c->next)
            if (c->conds && place_at_rest(p, c))
                conds_over(p, c, false, &p->broken);
}

void wait_mark_over(struct pager *p, struct core_copy *c, uint64_t seq, const struct base_error *why)
{
    struct core_cond **at = &c->conds;

    while (*at) {
        struct core_cond *cond = *at;

        if (cond->bytes || seq > cond->upto) {
            at = &cond->next;
            continue;
        }
        if (why && cond->readable)
            wait_note(cond->wait, why);
        if (--cond->count) {
            at = &cond->next;
            continue;
        }
        *at = cond->next;
        cond_over(p, c, cond);
    }
}

struct core_wait *wait_make(struct pager *p, uint64_t stream)
{
    struct core_wait *w = calloc(1, sizeof *w);

    if (!w || p->env.gate_create(p->env.arg, &w->gate) < 0) {
        if (!w)
            base_fail(-ENOMEM, "acquire: out of memory");
        free(w);
        return NULL;
    }
    w->stream = stream;
    w->remaining = 1; /* the acquire itself */
    w->next = &p->waits;
    w->prev = p->waits.prev;
    w->prev->next = w;
    p->waits.prev = w;
    return w;
}

struct dev_gate *wait_settle(struct pager *p, struct core_wait *w)
{
    struct dev_gate *gate = w && (w->remaining > 1 || w->error) ? w->gate : NULL;

    if (w && w->remaining == 1 && w->error) {
        w->failed_next = p->failed_waits;
        p->failed_waits = w;
    } else if (w) {
        wait_less(p, w);
    }
    return gate;
}

void wait_settle_failed(struct pager *p)
{
    while (p->failed_waits) {
        struct core_wait *w = p->failed_waits;

        p->failed_waits = w->failed_next;
        wait_less(p, w);
    }
}

/* Why the work on op's stream has not run. */
void wait_stream_why(struct pager *p, const struct core_op *op, struct base_error *why)
{
    for (const struct core_stream_error *e = p->stream_errors; e; e = e->next)
        if (e->stream == op->stream) {
            *why = e->error;
            return;
        }
    base_error_set(why, op->code, "work on a stream that failed: %s", p->env.why(p->env.arg, op->code));
}

void wait_close(struct pager *p)
{
    while (p->stream_errors) {
        struct core_stream_error *e = p->stream_errors;

        p->stream_errors = e->next;
        free(e);
    }
    while (p->spare_conds) {
        struct core_cond *cond = p->spare_conds;

        p->spare_conds = cond->next;
        free(cond);
    }
}
