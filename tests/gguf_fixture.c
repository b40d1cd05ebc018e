/* GGUF files, made for tests: see gguf_fixture.h. */
#include "tests/gguf_fixture.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

void gguf_add(struct gguf_file *f, const void *bytes, size_t count)
{
    assert_true(f->count + count <= sizeof f->bytes);
    memcpy(f->bytes + f->count, bytes, count);
    f->count += count;
}

void gguf_add32(struct gguf_file *f, uint32_t v)
{
    gguf_add(f, &v, sizeof v);
}

void gguf_add64(struct gguf_file *f, uint64_t v)
{
    gguf_add(f, &v, sizeof v);
}

void gguf_add_text(struct gguf_file *f, const char *text)
{
    gguf_add64(f, strlen(text));
    gguf_add(f, text, strlen(text));
}

void gguf_begin(struct gguf_file *f, uint64_t tensors, uint64_t keys)
{
    *f = (struct gguf_file){.count = 0};
    gguf_add(f, "GGUF", 4);
    gguf_add32(f, 3);
    gguf_add64(f, tensors);
    gguf_add64(f, keys);
}

void gguf_add_key(struct gguf_file *f, const char *key, uint32_t type)
{
    gguf_add_text(f, key);
    gguf_add32(f, type);
}

void gguf_add_tensor(struct gguf_file *f, const char *name, uint32_t dims, const uint64_t *shape,
                     uint32_t type, uint64_t offset)
{
    gguf_add_text(f, name);
    gguf_add32(f, dims);
    gguf_add(f, shape, dims * sizeof *shape);
    gguf_add32(f, type);
    gguf_add64(f, offset);
}

void gguf_end(struct gguf_file *f, size_t alignment, size_t bytes)
{
    f->data = (f->count + alignment - 1) / alignment * alignment;
    assert_true(f->data + bytes <= sizeof f->bytes);
    f->count = f->data + bytes;
}

void gguf_put(const char *path, const void *bytes, size_t count)
{
    const struct timespec times[2] = {{0, 1}, {0, 1}};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}
