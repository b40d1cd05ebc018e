/* See nvme_sustained_plan.h. */
#include "bench/nvme_sustained_plan.h"

#define AUTO_S         600.0
#define RECOVERY_BYTES GIB

uint64_t nvme_sustained_recovery(const struct nvme_sustained *s)
{
    uint64_t part = s->limit_bytes / 8;

    return s->idle_s <= 0 ? 0 : part < RECOVERY_BYTES ? part : RECOVERY_BYTES;
}

int nvme_sustained_limits(const struct nvme_options *o, uint64_t allowed_bytes, struct nvme_sustained *s,
                          uint64_t *file_bytes)
{
    uint64_t budget = o->max_written;

    s->idle_s = o->idle_s;
    s->limit_s = o->sustained_s > 0 ? o->sustained_s : o->sustained_bytes ? 86400 : AUTO_S;
    s->limit_bytes = o->sustained_bytes ? o->sustained_bytes : budget ? budget / 10 * 8 : UINT64_MAX / 2;
    if (o->sustained_bytes && !o->size_bytes && o->sustained_bytes > allowed_bytes)
        return common_fail(EXIT_INPUT,
                           "--sustained %llu (%s): the test file takes half of what is free at most, %llu "
                           "bytes (%s); give less, "
                           "or --size, which is then written over again and again",
                           (ull)o->sustained_bytes, common_bytes(o->sustained_bytes).text, (ull)allowed_bytes,
                           common_bytes(allowed_bytes).text);
    if (!o->size_bytes)
        *file_bytes = s->limit_bytes < allowed_bytes ? s->limit_bytes / MIB * MIB : allowed_bytes;
    if (budget &&
        s->limit_bytes + nvme_sustained_recovery(s) + o->dir_count * (uint64_t)IO_FILE_TRIAL_BYTES > budget)
        return common_fail(
            EXIT_INPUT,
            "--max-written %llu (%s): --sustained %llu and %llu behind its rest are more; give less",
            (ull)budget, common_bytes(budget).text, (ull)s->limit_bytes, (ull)nvme_sustained_recovery(s));
    return 0;
}
