/* stream: queues of the device, the gates that they wait at, and the kernels on them. See sim.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

void sim_stream_open(struct sim *s, uint32_t index)
{
    s->streams[index] = (struct sim_stream){.id = ++s->stream_ids};
    s->streams[index].tail = &s->streams[index].head;
}

bool sim_stream_idle(const struct sim_stream *q)
{
    return !q->head;
}

struct sim_item *sim_item_get(struct sim *s, enum sim_item_type type)
{
    struct sim_item *item = s->free_items;

    if (item)
        s->free_items = item->next;
    else
        item = sim_take(sizeof *item);
    memset(item, 0, sizeof *item);
    item->type = type;
    return item;
}

static void kick_later(struct sim *s, uint32_t index)
{
    struct sim_stream *q = &s->streams[index];

    if (q->kicked || q->busy || !q->head)
        return;
    q->kicked = true;
    sim_post(s, sim_delay(s, s->prog->config.post), EVENT_KICK, NULL, index);
}

void sim_stream_add(struct sim *s, uint32_t index, struct sim_item *item)
{
    struct sim_stream *q = &s->streams[index];

    item->next = NULL;
    *q->tail = item;
    q->tail = &item->next;
    kick_later(s, index);
}

/* ---- gates ------------------------------------------------------------- */

/* Its maker and the stream each have a part in it. */
static void gate_put(struct dev_gate *gate)
{
    if (--gate->parts == 0)
        free(gate);
}

void sim_gate_wait(struct sim *s, struct dev_gate *gate, uint32_t stream)
{
    struct sim_item *item = sim_item_get(s, ITEM_WAIT);

    gate->stream = stream;
    gate->waited = true;
    gate->parts++;
    item->gate = gate;
    sim_stream_add(s, stream, item);
}

int sim_gate_create(void *arg, struct dev_gate **gate)
{
    (void)arg;
    *gate = calloc(1, sizeof **gate); /* may fail */
    if (!*gate)
        return base_fail(-ENOMEM, "create gate: simulated");
    (*gate)->parts = 1;
    return 0;
}

void sim_gate_open(void *arg, struct dev_gate *gate, const struct base_error *error)
{
    struct sim *s = arg;
    bool rightly = s->pager.broken.code != 0;

    if (gate->open) {
        sim_fail(s, "a gate is opened twice");
        return;
    }
    gate->open = true;
    if (error && !gate->waited) {
        sim_fail(s, "an acquire fails while it is made, and its stream does not hear of it: %s", error->text);
    } else if (error) {
        gate->code = error->code;
        for (uint32_t i = 0; i < gate->count; i++)
            rightly |= gate->tensors[i]->hurt;
        if (!rightly)
            sim_fail(s, "a gate opens with an error that none of its tensors met: %s", error->text);
    }
    if (gate->waited)
        kick_later(s, gate->stream);
    gate_put(gate);
}

/* ---- kernels ----------------------------------------------------------- */

static uint32_t all_tiles(const struct sim_tensor *x)
{
    return (1u << x->tiles) - 1;
}

static void access_begin(struct sim *s, const struct sim_access *a)
{
    struct sim_tensor *x = a->tensor;

    if (a->reads)
        sim_check(s, x, a->ptr, a->first, a->end, a->upto, "a kernel");
    if (a->write >= 0) {
        const struct sim_write *w = &x->writes[a->write];

        sim_fill(x, a->ptr, a->write, w->first, (w->first + w->end) / 2);
    }
}

/* What was there when the kernel began must be there when it ends. */
static void access_end(struct sim *s, const struct sim_access *a)
{
    struct sim_tensor *x = a->tensor;
    struct sim_write *w = a->write >= 0 ? &x->writes[a->write] : NULL;

    if (!w) {
        sim_check(s, x, a->ptr, a->first, a->end, a->upto, "the end of a kernel");
        return;
    }
    if (w->must_skip)
        sim_fail(s, "a kernel runs after somebody who should have seen its write: tensor %u", x->index);
    w->done = UINT32_MAX;
    sim_check(s, x, a->ptr, w->first, (w->first + w->end) / 2, (uint32_t)a->write + 1, "the end of a kernel");
    if (a->reads) {
        sim_check(s, x, a->ptr, a->first, w->first, a->upto, "the end of a kernel");
        sim_check(s, x, a->ptr, w->end, a->end, a->upto, "the end of a kernel");
    }
    sim_fill(x, a->ptr, a->write, (w->first + w->end) / 2, w->end);
    w->done = all_tiles(x);
}

static void job_skip(struct sim_job *job)
{
    for (uint32_t i = 0; i < job->count; i++)
        if (job->access[i].write >= 0)
            job->access[i].tensor->writes[job->access[i].write].skipped = true;
}

static void pop_item(struct sim *s, struct sim_stream *q)
{
    struct sim_item *item = q->head;

    q->head = item->next;
    if (!q->head)
        q->tail = &q->head;
    item->next = s->free_items;
    s->free_items = item;
}

/* The stream has passed a release. */
static void uses_over(struct sim *s, struct sim_stream *q, struct sim_item *item)
{
    for (uint32_t i = 0; i < item->uses_count; i++) {
        struct sim_use *u = &item->uses[i];
        struct sim_write *w;

        if (u->undefined >= 0) {
            w = &u->tensor->writes[u->undefined];
            w->done = UINT32_MAX;
            w->skipped = q->failed != 0;
        }
        if (!q->failed || !u->wrote)
            continue;
        sim_hurt(u->tensor);
        s->may_break |= u->tensor->updates > 0; /* they count on what was to be written */
        for (uint32_t k = u->first; k < u->end; k++) {
            w = &u->tensor->writes[k];
            w->maybe |= w->first >= u->slot && w->end <= u->slot_end; /* others write to other parts */
        }
    }
}

static void pass_mark(struct sim *s, struct sim_stream *q)
{
    struct sim_item *item = q->head;

    uses_over(s, q, item);
    if (item->op) {
        uint64_t at = s->now + sim_delay(s, s->prog->config.post);

        if (at < q->reported)
            at = q->reported; /* a stream reports in order */
        q->reported = at;
        item->op->code = q->failed;
        sim_post(s, at - s->now, EVENT_DONE, item->op, 0);
    }
    pop_item(s, q);
}

void sim_stream_kick(struct sim *s, uint32_t index)
{
    struct sim_stream *q = &s->streams[index];

    q->kicked = false;
    while (q->head && !q->busy && !sim_failed(s)) {
        struct sim_item *item = q->head;

        switch (item->type) {
        case ITEM_WAIT:
            if (!item->gate->open)
                return;
            if (!q->failed)
                q->failed = item->gate->code;
            gate_put(item->gate);
            pop_item(s, q);
            break;
        case ITEM_JOB:
            if (q->failed) {
                job_skip(&item->job);
                pop_item(s, q);
                break;
            }
            q->busy = true;
            for (uint32_t i = 0; i < item->job.count; i++)
                access_begin(s, &item->job.access[i]);
            sim_post(s, sim_delay(s, s->prog->config.job), EVENT_JOB, NULL, index);
            break;
        case ITEM_MARK:
            pass_mark(s, q);
            break;
        }
    }
}

void sim_job_end(struct sim *s, uint32_t index)
{
    struct sim_stream *q = &s->streams[index];

    for (uint32_t i = 0; i < q->head->job.count; i++)
        access_end(s, &q->head->job.access[i]);
    q->busy = false;
    pop_item(s, q);
    kick_later(s, index);
}
