/* The weights of a trainer, trained ones or frozen ones: their leases, and what the kernels take. See trainer.h. */
#include "examples/model/trainer_impl.h"

enum ofl_dtype trainer_dtype_of(const struct llama_trainer_config *c, uint32_t index)
{
    return c->frozen ? c->frozen[index] : c->dtype;
}

enum ofl_dtype trainer_widest(const struct llama_trainer_config *c)
{
    enum ofl_dtype widest = OFL_F32;

    for (uint32_t i = 0; i < llama_tensor_count(&c->shape); i++)
        if (widest == OFL_F32 || llama_is_packed(trainer_dtype_of(c, i)))
            widest = trainer_dtype_of(c, i);
    return widest;
}

/* ---- one tensor ----------------------------------------------------------- */

size_t trainer_weight_leases(const struct llama_trainer *t, uint32_t index, uint32_t flags,
                             struct ofl_lease *leases)
{
    if (t->config.lora.rank)
        return llama_frozen_leases(&t->base, index, leases);
    leases[0] = trainer_lease(t->weights.tensors[index], OFL_READ, flags);
    return 1;
}

struct llama_weight trainer_weight(const struct llama_trainer *t, uint32_t index,
                                   const struct ofl_lease **next, struct llama_packed *packed)
{
    const struct ofl_lease *leases = *next;
    struct ofl_lease own[LLAMA_PARTS];
    struct llama_tensor_desc d;

    *next += trainer_weight_leases(t, index, 0, own);
    if (t->config.lora.rank)
        return llama_frozen_weight(&t->base, index, leases, packed);
    llama_tensor_at(&t->config.shape, index, &d);
    return llama_weight_of(&t->config.shape, d.role, leases->ptr, t->weights.dtypes[index]);
}

/* ---- a layer -------------------------------------------------------------- */

size_t trainer_layer_leases(const struct llama_trainer *t, uint32_t layer, uint32_t flags,
                            struct ofl_lease *leases)
{
    uint32_t first = llama_layer_first(&t->config.shape, layer);
    size_t n = 0;

    for (uint32_t i = 0; i < llama_layer_tensors(&t->config.shape, layer); i++)
        n += trainer_weight_leases(t, first + i, flags, leases + n);
    return n;
}

const struct ofl_lease *trainer_layer_weights(const struct llama_trainer *t, uint32_t layer,
                                              const struct ofl_lease *leases, struct llama_job *job)
{
    uint32_t first = llama_layer_first(&t->config.shape, layer), packed = 0;
    struct llama_tensor_desc d;

    job->weights = (struct llama_block_weights){.layer = layer};
    for (uint32_t i = 0; i < llama_layer_tensors(&t->config.shape, layer); i++) {
        struct llama_weight *w;

        llama_tensor_at(&t->config.shape, first + i, &d);
        w = llama_weight_field(&job->weights, d.role);
        *w = trainer_weight(t, first + i, &leases, &job->packed[packed]);
        packed += w->packed != NULL;
    }
    return leases;
}
