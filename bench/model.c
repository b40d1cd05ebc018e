/* The model that step and decode run. See model.h. */
#include "bench/model.h"

#include <stdlib.h>

int bench_model_options(struct common_command *command, const char *after, int argc, char **argv,
                        void *options)
{
    char *text = common_with_presets(after);
    int status;

    command->after = text ? text : after;
    status = common_options_parse(command, argc, argv, options);
    command->after = after;
    free(text);
    return status;
}

int bench_model_load(const char *preset, const char *dir, struct llama_config *out)
{
    char error[COMMON_ERROR_BYTES];
    int err;

    if (!preset == !dir)
        return common_fail(EXIT_INPUT,
                           "either --preset NAME or --model DIR is needed; --help lists the presets");
    if (preset && llama_preset(preset, out) < 0)
        return common_fail(EXIT_INPUT, "--preset %s: there is none of that name; --help lists them", preset);
    err = dir ? llama_checkpoint_config(dir, out, error, sizeof error) : 0;
    return err < 0 ? common_fail(common_status(err), "%s", error) : 0;
}

double bench_model_products(const struct llama_shape *shape)
{
    uint64_t looked_up = shape->tied ? 0 : (uint64_t)shape->vocab * shape->hidden;

    return (double)(llama_param_count(shape) - looked_up);
}

json_t *bench_model_json(const struct llama_shape *s)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f}", "parameters", (json_int_t)llama_param_count(s),
        "layers", (json_int_t)s->layers, "hidden", (json_int_t)s->hidden, "heads", (json_int_t)s->heads,
        "kv_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim, "ffn", (json_int_t)s->ffn,
        "vocab", (json_int_t)s->vocab, "tied", (int)s->tied, "products_per_token", bench_model_products(s));
}

double bench_bound(const struct bench_need *needs, size_t n, size_t *binding)
{
    *binding = 0;
    for (size_t i = 1; i < n; i++)
        if (needs[i].seconds > needs[*binding].seconds)
            *binding = i;
    return n ? needs[*binding].seconds : 0;
}
