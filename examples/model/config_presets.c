/* Models without a directory. See config.h. */
#include <errno.h>
#include <string.h>

#include "examples/model/config.h"

/* All go with the byte tokenizer, 256 bytes, a start and an end token; the larger ones have the
 * vocabulary of the models whose shape they take. */
static const struct llama_preset presets[] = {
    {"tiny", "1 M parameters, bytes", 5, 128, 4, 2, 384, 258, 512, 1, 256, 257},
    {"20m", "20 M parameters, bytes", 7, 512, 8, 4, 1344, 258, 1024, 1, 256, 257},
    {"300m", "307 M parameters, bytes", 26, 1024, 16, 8, 2816, 258, 2048, 1, 256, 257},
    {"1b", "1.1 B parameters, the shape of TinyLlama", 22, 2048, 32, 4, 5632, 32000, 2048, 0, 256, 257},
    {"7b", "6.7 B parameters, the shape of Llama 2 7B", 32, 4096, 32, 32, 11008, 32000, 4096, 0, 256, 257},
    {"8b", "8.0 B parameters, the shape of Llama 3.1 8B", 32, 4096, 32, 8, 14336, 128256, 8192, 0, 256, 257},
    {"13b", "13 B parameters, the shape of Llama 2 13B", 40, 5120, 40, 40, 13824, 32000, 4096, 0, 256, 257},
    {"70b", "69 B parameters, the shape of Llama 2 70B", 80, 8192, 64, 8, 28672, 32000, 4096, 0, 256, 257},
    {"100b", "101 B parameters, wider and deeper than Llama 2 70B", 90, 10240, 80, 8, 28672, 32000, 4096, 0,
     256, 257},
    {"175b", "175 B parameters, as deep and wide as GPT-3", 96, 12288, 96, 96, 32768, 50257, 2048, 0, 256,
     257},
};

const struct llama_preset *llama_preset_at(size_t index)
{
    return index < sizeof presets / sizeof presets[0] ? &presets[index] : NULL;
}

int llama_preset(const char *name, struct llama_config *out)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        const struct llama_preset *p = &presets[i];

        if (strcmp(p->name, name) != 0)
            continue;
        *out = (struct llama_config){.bos_id = p->bos_id, .eos_count = 1, .eos_ids = {p->eos_id}};
        out->initializer_range = 0.02f;
        out->shape = (struct llama_shape){.layers = p->layers,
                                          .hidden = p->hidden,
                                          .heads = p->heads,
                                          .kv_heads = p->kv_heads,
                                          .head_dim = p->hidden / p->heads,
                                          .ffn = p->ffn,
                                          .vocab = p->vocab,
                                          .max_positions = p->positions,
                                          .rms_eps = 1e-5f,
                                          .rope_theta = 10000.0f,
                                          .rope = {.kind = LLAMA_ROPE_PLAIN, .factor = 1.0f},
                                          .tied = p->tied};
        return 0;
    }
    return -ENOENT;
}
