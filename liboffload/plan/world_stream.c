/* world_stream: streams, the gates that they stand at, and what runs on them. See world.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/plan/world_impl.h"

enum item_type { ITEM_WAIT, ITEM_KERNEL, ITEM_MARK, ITEM_CALL };

struct world_gate {
    bool open, waited;
    uint32_t stream;
};

struct world_item {
    enum item_type type;
    struct world_item *next;
    struct world_gate *gate;
    struct core_op *op;
    struct world_batch *batch;
    uint64_t kernel, ns;
    void *arg;
};

static void stream_go(struct world *w, uint32_t index);

static bool counts(enum item_type type)
{
    return type == ITEM_WAIT || type == ITEM_MARK;
}

static void item_add(struct world *w, uint32_t stream, struct world_item item)
{
    struct world_stream *s = &w->streams[stream];
    struct world_item *own = w->free_items;

    if (own)
        w->free_items = own->next;
    else if (!(own = world_take(w, sizeof *own))) {
        free(item.batch);
        return;
    }
    *own = item;
    own->next = NULL;
    *s->tail = own;
    s->tail = &own->next;
    s->ahead += counts(item.type);
    if (s->head == own)
        stream_go(w, stream);
}

static void item_pop(struct world *w, struct world_stream *s)
{
    struct world_item *item = s->head;

    s->head = item->next;
    if (!s->head)
        s->tail = &s->head;
    s->ahead -= counts(item->type);
    free(item->batch);
    item->batch = NULL;
    item->next = w->free_items;
    w->free_items = item;
}

/* ---- gates ------------------------------------------------------------- */

/* To the pager a gate is a name. */
static struct world_gate *of(struct dev_gate *gate)
{
    return (struct world_gate *)gate;
}

int world_gate_create(void *arg, struct dev_gate **gate)
{
    *gate = world_take(arg, sizeof(struct world_gate));
    return *gate ? 0 : base_fail(-ENOMEM, "create gate: out of memory");
}

void world_gate_open(void *arg, struct dev_gate *gate, const struct base_error *error)
{
    struct world *w = arg;
    struct world_gate *g = of(gate);

    (void)error; /* nothing fails here; if it did, the pager would be broken */
    g->open = true;
    if (g->waited)
        stream_go(w, g->stream);
    else
        free(g); /* nobody will */
}

void world_wait(struct world *w, uint32_t stream, struct dev_gate *gate, struct world_batch *batch)
{
    if (gate) {
        of(gate)->waited = true;
        of(gate)->stream = stream;
    }
    item_add(w, stream, (struct world_item){.type = ITEM_WAIT, .gate = of(gate), .batch = batch});
}

/* The kernel that stands behind gates waits for all batches before it. */
static bool waits_for(const struct world_stream *s, uint64_t off)
{
    for (const struct world_item *item = s->head; item && item->type != ITEM_KERNEL; item = item->next)
        for (uint32_t k = 0; item->type == ITEM_WAIT && k < item->batch->count; k++)
            if (item->batch->at[k].off <= off && off < item->batch->at[k].end)
                return true;
    return false;
}

void world_stream_late(struct world *w, uint64_t off, uint64_t bytes)
{
    for (uint32_t i = 0; i < WORLD_STREAMS; i++)
        if (w->streams[i].standing && waits_for(&w->streams[i], off))
            w->streams[i].late_bytes += bytes;
}

/* ---- kernels and marks ------------------------------------------------- */

void world_launch(struct world *w, uint32_t stream, uint64_t kernel, uint64_t ns)
{
    item_add(w, stream, (struct world_item){.type = ITEM_KERNEL, .kernel = kernel, .ns = ns});
}

void world_mark(struct world *w, uint32_t stream, struct core_op *op, struct world_batch *batch)
{
    item_add(w, stream, (struct world_item){.type = ITEM_MARK, .op = op, .batch = batch});
}

void world_call(struct world *w, uint32_t stream, void *arg)
{
    item_add(w, stream, (struct world_item){.type = ITEM_CALL, .arg = arg});
}

void world_kernel_over(struct world *w, uint32_t stream)
{
    struct world_stream *s = &w->streams[stream];

    s->running = false;
    world_record(
        w, (struct plan_record){.type = PLAN_RECORD_RUN_END, .stream = stream, .from = s->head->kernel});
    item_pop(w, s);
    stream_go(w, stream);
}

/* True: the stream has gone through. */
static bool pass_wait(struct world *w, struct world_stream *s)
{
    struct world_gate *gate = s->head->gate;

    if (gate && !gate->open) {
        if (!s->standing)
            s->since_ns = w->now;
        s->standing = true;
        return false;
    }
    if (s->standing) {
        s->stall_ns += w->now - s->since_ns;
        w->stall_ns += w->now - s->since_ns;
        w->late_bytes += s->late_bytes;
        s->late_bytes = 0;
        s->standing = false;
    }
    free(gate);
    item_pop(w, s);
    return true;
}

static void pass_mark(struct world *w, struct world_stream *s, uint32_t index)
{
    const struct world_item *item = s->head;

    for (uint32_t i = 0; i < item->batch->count; i++)
        world_record(w, (struct plan_record){.type = PLAN_RECORD_PASSED,
                                             .stream = index,
                                             .tensor = item->batch->at[i].tensor,
                                             .from = item->batch->at[i].lease});
    if (item->op) {
        item->op->code = 0;
        world_post(w, w->now, WORLD_MARK, item->op, 0); /* the pager may be at work just now */
    }
    item_pop(w, s);
}

static void stream_go(struct world *w, uint32_t index)
{
    struct world_stream *s = &w->streams[index];

    while (s->head && !s->running && !w->out_of_memory) {
        struct world_item *item = s->head;

        switch (item->type) {
        case ITEM_WAIT:
            if (!pass_wait(w, s))
                return;
            break;
        case ITEM_KERNEL:
            s->running = true;
            s->busy_ns += item->ns;
            world_record(
                w, (struct plan_record){.type = PLAN_RECORD_RUN, .stream = index, .from = item->kernel});
            world_post(w, w->now + item->ns, WORLD_KERNEL, NULL, index);
            break;
        case ITEM_MARK:
            pass_mark(w, s, index);
            break;
        case ITEM_CALL:
            world_post(w, w->now, WORLD_CALL, item->arg, 0);
            item_pop(w, s);
            break;
        }
    }
}

void world_streams_close(struct world *w)
{
    for (uint32_t i = 0; i < WORLD_STREAMS; i++)
        while (w->streams[i].head)
            item_pop(w, &w->streams[i]);
    while (w->free_items) {
        struct world_item *item = w->free_items;

        w->free_items = item->next;
        free(item);
    }
}
