/* Fresh weights, made in place. See random.h. */
#include "examples/model/random.h"

/* Each tensor draws from a sequence of its own. */
static uint64_t seed_of(uint64_t seed, uint32_t index)
{
    return (seed + 1) * 0x9E3779B97F4A7C15u ^ (index + 1) * 0xD1B54A32D192ED03u;
}

int llama_random_fill(struct ofl_ctx *ctx, struct ofl_stream *s, struct llama_compute *c,
                      struct ofl_tensor *t, const struct llama_tensor_desc *d, uint32_t index, uint64_t first,
                      uint64_t seed, float std)
{
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_OVERWRITE};
    struct ofl_tensor_info info = {.size = sizeof info};
    struct llama_job *job;
    int err = ofl_tensor_info_get(t, &info), released;

    if (err == 0)
        err = ofl_acquire(ctx, &lease, 1, s);
    if (err < 0)
        return err;
    job = llama_compute_alone(c, LLAMA_RUN_FILL);
    job->fill = (struct llama_fill){.dst = lease.ptr,
                                    .dtype = info.dtype,
                                    .first = first,
                                    .elems = info.elems,
                                    .seed = seed_of(seed, index),
                                    .std = d->dims == 1 ? 0 : std,
                                    .mean = llama_role_is_norm(d->role) ? 1 : 0};
    err = llama_compute_run(c, job);
    released = ofl_release(ctx, &lease, 1, s);
    if (err == 0)
        err = released;
    return err == 0 ? ofl_stream_sync(s) : err;
}
