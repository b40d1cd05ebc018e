/* See llama_cuda_fixture.h. */
#include "tests/llama_cuda_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cuda_fixture.h"

#define MEMORY_BYTES  (64u << 20)
#define STAGING_BYTES (1u << 20)
#define ALIGNMENT     256
#define GUARD_BYTES   256 /* at least, before and behind every buffer */
#define GUARD         0xa5

static void ok(int err)
{
    if (err != 0)
        fail_msg("%d: %s", err, ofl_error());
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static const char *gpu_device(uint64_t seed)
{
    const char *device = getenv("OFL_TEST_GPU");

    if (device && device[0])
        return device;
    cuda_fixture_needs_kernels();
    if (cuda_fixture()->live() == 0) /* what an earlier test left undone is lost, not checked */
        cuda_fixture()->reset(&(struct cuda_stub_config){.seed = seed, .pause_us = 20});
    return "cuda:0";
}

void gpu_open(struct gpu *g, uint64_t seed)
{
    struct ofl_config config = {
        .size = sizeof config, .device = gpu_device(seed), .device_bytes = MEMORY_BYTES + (1u << 20)};
    struct ofl_tensor_desc desc = {.size = sizeof desc,
                                   .name = "buffers",
                                   .dtype = OFL_U8,
                                   .elems = MEMORY_BYTES,
                                   .flags = OFL_TENSOR_TRANSIENT};
    char error[512];

    memset(g, 0, sizeof *g);
    ok(ofl_open(&config, &g->ctx));
    ok(ofl_stream_create(g->ctx, &g->stream));
    ok(ofl_tensor_create(g->ctx, &desc, &g->tensor));
    g->lease = (struct ofl_lease){.tensor = g->tensor, .mode = OFL_OVERWRITE};
    ok(ofl_acquire(g->ctx, &g->lease, 1, g->stream));
    if (llama_cuda_open(g->ctx, g->stream, &g->cuda, error, sizeof error) < 0)
        fail_msg("%s", error);
    g->staging = llama_cuda_pinned(g->cuda, STAGING_BYTES);
    assert_non_null(g->staging);
}

void gpu_close(struct gpu *g)
{
    gpu_forget(g);
    llama_cuda_close(g->cuda);
    ok(ofl_release(g->ctx, &g->lease, 1, g->stream));
    ok(ofl_close(g->ctx));
    if (!getenv("OFL_TEST_GPU"))
        cuda_fixture_clean();
}

void gpu_sync(struct gpu *g)
{
    char error[512];

    ok(ofl_stream_sync(g->stream));
    if (llama_cuda_check(g->cuda, error, sizeof error) < 0)
        fail_msg("%s", error);
}

static unsigned char *at(const struct gpu *g, size_t offset)
{
    return (unsigned char *)g->lease.ptr + offset;
}

/* From src, or of one byte's value where that is NULL. */
static void put(struct gpu *g, size_t offset, const unsigned char *src, int byte, size_t bytes)
{
    for (size_t done = 0, n; done < bytes; done += n) {
        n = min_size(bytes - done, STAGING_BYTES);
        if (src)
            memcpy(g->staging, src + done, n);
        else
            memset(g->staging, byte, n);
        llama_cuda_in(g->cuda, at(g, offset + done), g->staging, n);
        gpu_sync(g);
    }
}

/* Room for a new buffer, guards in place. */
static size_t take(struct gpu *g, size_t bytes)
{
    size_t start = g->used + GUARD_BYTES, end = start + bytes;

    assert_true(g->count < sizeof g->starts / sizeof *g->starts);
    assert_true(bytes <= MEMORY_BYTES && aligned(end + GUARD_BYTES) <= MEMORY_BYTES);
    put(g, g->used, NULL, GUARD, start - g->used);
    put(g, end, NULL, GUARD, aligned(end + GUARD_BYTES) - end);
    g->used = aligned(end + GUARD_BYTES);
    g->starts[g->count] = start;
    g->ends[g->count++] = end;
    return start;
}

void *gpu_blank(struct gpu *g, size_t bytes)
{
    size_t start = take(g, bytes);

    put(g, start, NULL, 0xff, bytes);
    return at(g, start);
}

void *gpu_upload(struct gpu *g, const void *src, size_t bytes)
{
    size_t start = take(g, bytes);

    put(g, start, src, 0, bytes);
    return at(g, start);
}

void gpu_download(struct gpu *g, void *dst, const void *device, size_t bytes)
{
    for (size_t done = 0, n; done < bytes; done += n) {
        n = min_size(bytes - done, STAGING_BYTES);
        llama_cuda_out(g->cuda, g->staging, (const unsigned char *)device + done, n);
        gpu_sync(g);
        memcpy((unsigned char *)dst + done, g->staging, n);
    }
}

bool gpu_guards_hold(struct gpu *g, char *text, size_t size)
{
    for (size_t i = 0, start = 0; i <= g->count; start = i < g->count ? g->ends[i] : start, i++) {
        size_t end = i < g->count ? g->starts[i] : g->used;
        unsigned char bytes[4 * GUARD_BYTES];

        assert_true(end - start <= sizeof bytes);
        gpu_download(g, bytes, at(g, start), end - start);
        for (size_t k = 0; k < end - start; k++)
            if (bytes[k] != GUARD) {
                snprintf(text, size, "byte %zu before buffer %zu of %zu was written to", end - start - k, i,
                         g->count);
                return false;
            }
    }
    return true;
}

void gpu_forget(struct gpu *g)
{
    char text[128];

    if (!gpu_guards_hold(g, text, sizeof text))
        fail_msg("%s", text);
    g->count = 0;
    g->used = 0;
}
