/*
 * Writing a model as a Hugging Face directory: all of it, or nothing.
 *
 * The files are written into a directory beside the wanted one, "<dir>.partial-XXXXXX",
 * brought to disk, and the directory is renamed. A failure or a cancel removes it again;
 * only a killed process leaves it behind.
 */
#ifndef LLAMA_WRITER_H
#define LLAMA_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"
#include "examples/model/config.h"

#define LLAMA_WRITE_CHUNK_BYTES (4u << 20)

/* Callbacks return 0, or a negative code that ends the writing and is its result; they may
 * write a sentence into error, and a general one is made if they do not. */
struct llama_writer {
    const char *dir; /* must not exist, or be an empty directory */
    const struct llama_config *config;
    enum ofl_dtype dtype;      /* OFL_F32, OFL_BF16 or OFL_F16: of the file, and of what read delivers */
    bool bare;                 /* no model: add_files writes all, of the above dir alone counts */
    const char *copy_from_dir; /* a model whose tokenizer and generation settings are copied; NULL: none */

    /* Elements [first, first + elems) of the tensor of that index (llama_tensor_at), into buf. */
    int (*read)(void *arg, uint32_t tensor, uint64_t first, uint64_t elems, void *buf, char *error,
                size_t error_bytes);
    /* After each chunk; may be NULL. -ECANCELED to stop. */
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    /* Adds files of its own (a tokenizer) to the temporary directory; may be NULL. */
    int (*add_files)(void *arg, const char *dir, char *error, size_t error_bytes);
    void *arg;
};

/* Whether dir could be written: for asking before hours of work. Creates nothing. */
int llama_writer_check(const char *dir, char *error, size_t error_bytes);

int llama_checkpoint_write(const struct llama_writer *w, char *error, size_t error_bytes);

#endif
