/* dump: the pager's state in words, where a violation shows. See sim.h. */
#include <stdio.h>

#include "tests/sim/sim.h"

static void dump_copy(const struct core_copy *c, const char *what)
{
    printf("  %s of %s, bytes %llu to %llu, number %llu, at %llu to %llu:%s%s%s%s%s%s%s%s filled %u of %u, "
           "drained %u of %u (tiles %u to %u), "
           "after host work %llu, leases %u, marks %u, waiting %u, moving %u%s\n",
           what, c->tensor->name, (ull)c->from, (ull)c->to, (ull)c->seq, (ull)c->off, (ull)(c->off + c->len),
           c->home ? " home" : "", c->writers ? " writer" : "", c->dirty ? " dirty" : "",
           c->ghost && c->drop ? " drop" : "", !c->blockers ? " clear" : "", c->fill ? " fill" : "",
           c->hollow ? " hollow" : "", c->fetched ? " fetched" : "", c->fill_done, c->fill_next,
           c->drain_done, c->drain_next, c->first, c->end, (ull)c->after_host, c->leases, c->marks,
           c->waiting, c->moving,
           c->error   ? ", failed"
           : c->stuck ? ", stuck"
                      : "");
}

static void dump_tensor(const struct ofl_tensor *t)
{
    static const char *const states[] = {"-", "arriving", "valid"};

    printf("  %s:%s%s host works %llu done of %llu, moving %u;", t->name, t->lost ? " lost," : "",
           t->gone ? " gone," : "", (ull)t->host_done, (ull)t->host_issued, t->moving);
    for (uint32_t i = 0; i < t->tiles_count; i++) {
        const struct core_tile *x = &t->tiles[i];

        printf(" %u %s%s%s%s%s", i, i < t->home_tiles ? "home " : "", states[x->state],
               x->dirty ? " dirty" : "", x->stored ? " stored" : "", x->writing ? " writing" : "");
        if (x->pins || x->wanted)
            printf(" pins %u wanted %u", x->pins, x->wanted);
        printf(";");
    }
    printf("\n");
}

static void dump_request(const struct core_request *r)
{
    printf("  %s, number %llu:", r->update ? "tiles of an update" : "a caller's tile", (ull)r->seq);
    for (uint32_t i = 0; i < r->count; i++)
        printf(" %s tile %u as host work %llu%s;", r->refs[i].tensor->name, r->refs[i].tile,
               (ull)r->ordinal[i], r->refs[i].held ? ", held" : "");
    printf("\n");
}

static void dump_stream(const struct sim_stream *q, uint32_t index)
{
    static const char *const items[] = {"gate", "kernel", "mark"};

    if (!q->head)
        return;
    printf("  stream %u%s:", index, q->failed ? ", failed" : "");
    for (const struct sim_item *i = q->head; i; i = i->next) {
        printf(" %s", items[i->type]);
        for (uint32_t k = 0; i->type == ITEM_WAIT && k < i->gate->count; k++)
            printf(" %u", i->gate->tensors[k]->index);
        if (i->type == ITEM_WAIT)
            printf(i->gate->open ? " open" : " closed");
        printf(";");
    }
    printf("\n");
}

void sim_dump(const struct sim *s)
{
    const struct pager *p = &s->pager;

    printf("the state then%s%s:\n", p->broken.code ? ", broken: " : "", p->broken.code ? p->broken.text : "");
    for (const struct core_copy *c = p->live.next; c != &p->live; c = c->next)
        dump_copy(c, "copy");
    for (const struct ofl_tensor *t = p->tensors; t; t = t->next) {
        dump_tensor(t);
        for (const struct core_copy *c = t->ghosts; c; c = c->next)
            dump_copy(c, "ghost");
    }
    for (const struct core_update *u = p->updates; u; u = u->next)
        printf("  update of %s, number %llu:%s %u done of %u begun of %u\n", u->tensors[0]->name, (ull)u->seq,
               u->held ? " held," : "", u->tiles_done, u->tiles_next, u->tiles);
    for (const struct core_request *r = p->requests.next; r != &p->requests; r = r->next)
        dump_request(r);
    for (uint32_t i = 0; i < SIM_QUEUES; i++)
        dump_stream(&s->streams[i], i);
    printf("  host: cached %llu, dirty %llu, writing %llu, arriving %llu of %llu bytes; %u of %u requests, "
           "%u of "
           "%u claims, %u operations in flight\n",
           (ull)p->cached_bytes, (ull)p->dirty_bytes, (ull)p->writing_bytes, (ull)p->arriving_bytes,
           (ull)p->stage_bytes, p->active, p->active_max, p->claims, p->claims_max, p->inflight);
}
