/* GGUF files of architectures other than llama: their metadata as the config.json of their family. Only gguf.c includes
 * this. */
#ifndef LLAMA_GGUF_FAMILIES_H
#define LLAMA_GGUF_FAMILIES_H

#include "examples/model/config.h"
#include "examples/model/gguf_impl.h"

/* Whether there is a family for it. */
bool gguf_family_is(const char *architecture);
/* For a sentence. */
void gguf_family_list(char *text, size_t bytes);
/* All but tokens. tied: there is no output.weight. */
int gguf_family_config(const struct gguf_reader *r, const char *architecture, bool tied,
                       struct llama_config *out);

#endif
