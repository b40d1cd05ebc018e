/* See nvme_setting.h. */
#include "bench/nvme_setting.h"

static double inflight(const struct nvme_setting *s)
{
    return (double)s->block_bytes * s->depth;
}

static bool is_better(const struct nvme_setting *a, const struct nvme_setting *b)
{
    return inflight(a) != inflight(b) ? inflight(a) < inflight(b) : a->p99_ns < b->p99_ns;
}

bool nvme_setting_choose(const struct nvme_setting *s, unsigned count, struct nvme_choice *out)
{
    *out = (struct nvme_choice){0};
    for (unsigned i = 1; i < count; i++)
        if (s[i].rate > s[out->best].rate)
            out->best = i;
    if (count < 2 || !(s[out->best].rate > 0))
        return false;
    out->chosen = out->best;
    for (unsigned i = 0; i < count; i++)
        if (s[i].rate >= NVME_SETTING_SHARE * s[out->best].rate && is_better(&s[i], &s[out->chosen]))
            out->chosen = i;
    out->share = s[out->chosen].rate / s[out->best].rate;
    return true;
}
