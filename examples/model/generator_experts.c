/*
 * Experts of a mixture in generation: leased one by one, and only those that the router chose for some new row. See
 * generator.h. They are no part of a step's plan, since a step does not know them in advance; they are hinted at as
 * soon as they are known, and what is leased stays on the device until others need the room.
 */
#include <stdlib.h>
#include <string.h>

#include <errno.h>

#include "examples/model/generator_impl.h"

static uint32_t units_of(const struct generator_walk *begin, uint32_t layer, uint32_t expert)
{
    struct generator_walk w = generator_walk_expert(begin, layer, expert);
    struct generator_unit u;
    uint32_t n = 0;

    while (generator_walk_next(&w, &u))
        n++;
    return n;
}

int generator_experts_open(struct llama_generator *g, const struct generator_walk *begin)
{
    const struct llama_shape *shape = &g->config.shape;
    uint32_t most = 0, room;

    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        uint32_t n = 0;

        for (uint32_t e = 0; e < shape->experts && llama_layer_mixed(shape, layer); e++)
            n += units_of(begin, layer, e);
        most = n > most ? n : most;
    }
    g->batch = begin->batch;
    g->expert_units_most = most;
    room = g->units_count > most ? g->units_count : most;
    g->leases = calloc((LLAMA_PARTS + UNIT_VECTORS) * (size_t)room, sizeof *g->leases);
    g->expert_units = calloc(most + 1u, sizeof *g->expert_units);
    g->used = calloc(shape->experts + 1u, sizeof *g->used);
    return g->leases && g->expert_units && g->used ? 0 : -ENOMEM;
}

void generator_experts_close(struct llama_generator *g)
{
    free(g->leases);
    free(g->expert_units);
    free(g->used);
}

/* Those that some row uses, in ascending order; returns how many units. */
static uint32_t list(struct llama_generator *g, uint32_t layer, size_t n)
{
    const struct llama_shape *shape = &g->config.shape;
    const struct llama_route *routes = llama_compute_routes(g->compute);
    struct generator_walk any = {
        .shape = shape, .dtypes = g->model.dtypes, .limit = g->model.limit, .batch = g->batch};
    uint32_t count = 0;

    memset(g->used, 0, shape->experts * sizeof *g->used);
    for (size_t i = 0; i < n * shape->experts_used; i++)
        g->used[routes[i].expert] = true;
    for (uint32_t e = 0; e < shape->experts; e++) {
        struct generator_walk w = generator_walk_expert(&any, layer, e);

        while (g->used[e] && generator_walk_next(&w, &g->expert_units[count]))
            count++;
    }
    return count;
}

static size_t fill_leases(const struct llama_generator *g, uint32_t from, uint32_t end)
{
    struct ofl_lease *next = g->leases;

    for (uint32_t i = from; i < end; i++)
        next = generator_leases(g, &g->expert_units[i], next);
    for (const struct ofl_lease *l = g->leases; l < next; l++)
        g->leases[l - g->leases].flags = OFL_LEASE_UNPLANNED;
    return (size_t)(next - g->leases);
}

static int feed_batch(struct llama_generator *g, uint32_t from, uint32_t end, size_t n)
{
    size_t count = fill_leases(g, from, end);
    const struct ofl_lease *held = g->leases;
    int err = ofl_acquire(g->ctx, g->leases, count, g->stream);

    for (uint32_t i = from; i < end && err == 0; i++)
        err = generator_run(g, &g->expert_units[i], &held, n);
    return err < 0 ? err : ofl_release(g->ctx, g->leases, count, g->stream);
}

int generator_experts_feed(struct llama_generator *g, uint32_t layer, size_t n)
{
    int err = ofl_stream_sync(g->stream);
    uint32_t count;

    if (err < 0)
        return err;
    llama_compute_again(g->compute);
    count = list(g, layer, n);
    if (g->config.experts)
        g->config.experts(g->config.experts_arg, layer, g->used);
    err = ofl_hint(g->ctx, g->leases, fill_leases(g, 0, count), OFL_HINT_NEXT);
    for (uint32_t from = 0, end; from < count && err == 0; from = end) {
        for (end = from + 1; end < count && !g->expert_units[end].opens;)
            end++;
        err = feed_batch(g, from, end, n);
    }
    return err;
}
