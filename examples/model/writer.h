/*
 * Writing a model as a Hugging Face directory: all of it, or nothing (output.h). All but the values of the weights is
 * written when it is opened, and their room is taken: a name that is in use and a full file system are found before
 * the work, not after it.
 */
#ifndef LLAMA_WRITER_H
#define LLAMA_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"
#include "examples/model/config.h"

#define LLAMA_WRITE_CHUNK_BYTES (4u << 20)

/* Callbacks return 0, or a negative code that ends the writing and is its result; they may
 * write a sentence into error, and a general one is made if they do not. */
struct llama_writer {
    const char *dir; /* must not exist, or be an empty directory; */
    bool replace;    /* or, with that, what was written before */
    const struct llama_config *config;
    enum ofl_dtype dtype;      /* OFL_F32, OFL_BF16 or OFL_F16: of the file, and of what read delivers */
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

struct llama_writing;

/* What w points to must live until llama_writer_close. */
int llama_writer_open(const struct llama_writer *w, struct llama_writing **out, char *error,
                      size_t error_bytes);
/* Writes the values of the weights, and gives the directory its name. Once. */
int llama_writer_finish(struct llama_writing *x, char *error, size_t error_bytes);
/* Removes what is not whole; the sentence in error is kept, and says what could not be removed. NULL accepted. */
void llama_writer_close(struct llama_writing *x, char *error, size_t error_bytes);

/* All three. */
int llama_checkpoint_write(const struct llama_writer *w, char *error, size_t error_bytes);

#endif
