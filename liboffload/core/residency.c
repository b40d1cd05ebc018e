/* residency: the public calls on what is where, and what is to come nearer. */
#include <errno.h>
#include <stdlib.h>

#include "base/sized.h"
#include "liboffload/core/context.h"
#include "liboffload/core/hold.h"

struct hints {
    struct ofl_lease *leases;
    size_t count;
    enum ofl_hint_kind hint;
};

static int hint_run(struct ofl_ctx *ctx, void *arg)
{
    const struct hints *h = arg;
    int err = core_leases_ours(ctx, h->leases, h->count, "hint");

    return err < 0 ? err : pager_hint(&ctx->engine.pager, h->leases, h->count, h->hint);
}

int ofl_hint(struct ofl_ctx *ctx, const struct ofl_lease *leases, size_t n, enum ofl_hint_kind hint)
{
    struct hints h = {NULL, n, hint};
    int err;

    if (core_refused(ctx, ctx) || (n && base_need(leases) < 0))
        return -EINVAL;
    err = core_leases_in((struct ofl_lease *)(uintptr_t)leases, n, "hint: lease", &h.leases);
    if (err == 0)
        err = core_call(ctx, hint_run, &h);
    if (h.leases != leases)
        free(h.leases);
    return err;
}

struct question {
    struct ofl_lease of;
    struct ofl_residency answer;
};

static int resident_run(struct ofl_ctx *ctx, void *arg)
{
    struct question *q = arg;
    uint64_t from, to;
    int err = hold_bytes(&q->of, &from, &to);

    (void)ctx;
    if (err == 0)
        pager_resident(q->of.tensor, from, to, &q->answer);
    return err;
}

int ofl_resident(struct ofl_tensor *t, uint64_t offset_elems, uint64_t count_elems, struct ofl_residency *out)
{
    struct question q = {.of = {.tensor = t, .offset_elems = offset_elems, .count_elems = count_elems}};
    int err;

    if (core_refused(t->ctx, t, out))
        return -EINVAL;
    err = core_call(t->ctx, resident_run, &q);
    return err < 0 ? err : base_sized_write(out, &q.answer, sizeof q.answer, "ask where a tensor is: answer");
}
