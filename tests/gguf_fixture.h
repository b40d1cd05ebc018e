/* GGUF files, made for tests: what is added comes one behind the other. Everything fails the running test by itself. */
#ifndef TESTS_GGUF_FIXTURE_H
#define TESTS_GGUF_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

struct gguf_file {
    unsigned char bytes[1 << 19];
    size_t count, data; /* data: where the data begin, once ended */
};

void gguf_add(struct gguf_file *f, const void *bytes, size_t count);
void gguf_add32(struct gguf_file *f, uint32_t v);
void gguf_add64(struct gguf_file *f, uint64_t v);
/* With its length. */
void gguf_add_text(struct gguf_file *f, const char *text);

/* The header, of version 3; then so many keys and so many tensors. */
void gguf_begin(struct gguf_file *f, uint64_t tensors, uint64_t keys);
/* The value, of that type of the format, is to be added. */
void gguf_add_key(struct gguf_file *f, const char *key, uint32_t type);
/* shape: the fastest dimension first. */
void gguf_add_tensor(struct gguf_file *f, const char *name, uint32_t dims, const uint64_t *shape,
                     uint32_t type, uint64_t offset);
/* Data of so many bytes, zeros, from a multiple of that on. */
void gguf_end(struct gguf_file *f, size_t alignment, size_t bytes);

/* path becomes these bytes, as of 1970: opening what was written a moment ago waits for a tick of the clock. */
void gguf_put(const char *path, const void *bytes, size_t count);

#endif
