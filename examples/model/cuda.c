/* A GPU as the model's kernels use it: modules, launches, copies. See cuda.h; products are in cuda_blas.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/cuda_impl.h"
#include "include/offload_cuda.h"

enum {
    CUDA_NOT_FOUND = 500,
    FUNCTION_SHARED_BYTES = 8, /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
    SHARED_BYTES_FREE = 48 << 10,
};

/* What nvcc made of the .cu files; a sentence where there was no nvcc. */
extern const unsigned char model_kernels_fatbin[], model_attention_fatbin[];

static const struct {
    const char *name;
    const unsigned char *image;
} images[] = {{"kernels", model_kernels_fatbin}, {"attention", model_attention_fatbin}};

/* ---- failures ------------------------------------------------------------- */

void llama_cuda_fail(struct llama_cuda *c, int code, const char *fmt, ...)
{
    va_list ap;

    if (c->code)
        return;
    c->code = code;
    va_start(ap, fmt);
    vsnprintf(c->error, sizeof c->error, fmt, ap);
    va_end(ap);
}

/* What a call of the driver answered, in words. */
static const char *answer(const struct llama_cuda *c, unsigned result)
{
    const char *name = NULL;

    return c->driver.error_name(result, &name) == 0 && name ? name : "unknown CUDA error";
}

static bool went_well(struct llama_cuda *c, unsigned result, const char *what, const char *of)
{
    const char *text = NULL;

    c->calls++;
    if (result == 0)
        return true;
    if (c->driver.error_text(result, &text) != 0 || !text)
        text = "no text";
    llama_cuda_fail(c, -EIO, "%s %s: %s (%u): %s", what, of, answer(c, result), result, text);
    return false;
}

int llama_cuda_check(const struct llama_cuda *c, char *error, size_t error_bytes)
{
    if (c->code)
        snprintf(error, error_bytes, "%s", c->error);
    return c->code;
}

uint64_t llama_cuda_calls(const struct llama_cuda *c)
{
    return c->calls;
}

/* ---- life ----------------------------------------------------------------- */

static void resolve(struct llama_cuda *c, struct ofl_ctx *ctx)
{
#define X(call, symbol, params)                                                                              \
    *(void **)&c->driver.call = ofl_cuda_symbol(ctx, #symbol);                                               \
    if (!c->driver.call)                                                                                     \
        llama_cuda_fail(c, -ENODEV, "the CUDA driver has no %s: version 12 or later is needed", #symbol);
    DRIVER_CALLS(X)
#undef X
}

static void load_modules(struct llama_cuda *c)
{
    for (size_t i = 0; i < sizeof images / sizeof images[0] && !c->code; i++) {
        void *module = NULL;
        unsigned result = c->driver.module_load(&module, images[i].image);

        c->calls++;
        if (result != 0 && memcmp(images[i].image, "no CUDA", 7) == 0)
            llama_cuda_fail(c, -ENOEXEC,
                            "this program was built without nvcc, so it has no kernels for a GPU: build it "
                            "where the CUDA toolkit is (make config), or use --device host");
        else if (result != 0)
            llama_cuda_fail(c, -ENOEXEC,
                            "load the CUDA kernels \"%s\": %s (%u): build with NVCC_ARCHS of this GPU",
                            images[i].name, answer(c, result), result);
        else
            c->modules[c->modules_count++] = module;
    }
}

int llama_cuda_open(struct ofl_ctx *ctx, struct ofl_stream *s, struct llama_cuda **out, char *error,
                    size_t error_bytes)
{
    struct llama_cuda *c = calloc(1, sizeof *c);
    int code;

    *out = NULL;
    if (!c) {
        snprintf(error, error_bytes, "open a GPU: out of memory");
        return -ENOMEM;
    }
    c->ofl_stream = s;
    c->stream = ofl_stream_cuda(s);
    resolve(c, ctx);
    *(void **)&c->function_load = ofl_cuda_symbol(ctx, "cuFuncLoad");
    if (!c->code) {
        c->driver.context_get(&c->before);
        went_well(c, c->driver.context_set(ofl_cuda_context(ctx)), "use", "the GPU's context");
        load_modules(c);
        llama_blas_open(c);
    }
    code = llama_cuda_check(c, error, error_bytes);
    if (code < 0)
        llama_cuda_close(c);
    else
        *out = c;
    return code;
}

void llama_cuda_close(struct llama_cuda *c)
{
    if (!c)
        return;
    if (c->pinned_count > 0)
        (void)ofl_stream_sync(c->ofl_stream); /* its failure has been told already */
    llama_blas_close(c);
    for (size_t i = 0; i < c->pinned_count; i++)
        c->driver.host_free(c->pinned[i]);
    for (size_t i = 0; i < c->modules_count; i++)
        c->driver.module_unload(c->modules[i]);
    if (c->driver.context_set)
        c->driver.context_set(c->before);
    free(c);
}

void llama_cuda_rest(struct llama_cuda *c)
{
    int err = c->code ? 0 : ofl_stream_sync(c->ofl_stream);

    if (err < 0)
        llama_cuda_fail(c, err, "%s", ofl_error());
}

/* ---- launches ------------------------------------------------------------- */

static void find_function(struct llama_cuda *c, struct cuda_function *f)
{
    unsigned result = CUDA_NOT_FOUND;
    char name[64];

    snprintf(name, sizeof name, "%s_%s", f->name, ofl_dtype_name(f->dtype));
    for (size_t i = 0; i < c->modules_count && result == CUDA_NOT_FOUND; i++)
        result = c->driver.function_get(&f->handle, c->modules[i], name);
    f->shared_bytes = SHARED_BYTES_FREE;
    if (went_well(c, result, "find kernel", name) && c->function_load)
        (void)c->function_load(f->handle); /* what it can't do the launch will tell */
}

/* NULL if it failed. */
static struct cuda_function *function_of(struct llama_cuda *c, const struct llama_launch *l)
{
    struct cuda_function *f = c->functions;

    for (; f < c->functions + c->functions_count; f++)
        if (f->dtype == l->dtype && (f->name == l->name || strcmp(f->name, l->name) == 0))
            return f;
    if (c->functions_count == FUNCTIONS_MAX) {
        llama_cuda_fail(c, -ENOMEM, "find kernel %s: %d are known already", l->name, FUNCTIONS_MAX);
        return NULL;
    }
    *f = (struct cuda_function){.name = l->name, .dtype = l->dtype};
    llama_cuda_rest(c);
    if (!c->code)
        find_function(c, f);
    if (c->code)
        return NULL;
    c->functions_count++;
    return f;
}

void llama_cuda_launch(struct llama_cuda *c, const struct llama_launch *l, void **args)
{
    struct cuda_function *f = c->code ? NULL : function_of(c, l);
    unsigned y = l->grid[1] ? l->grid[1] : 1, z = l->grid[2] ? l->grid[2] : 1;

    if (!f || l->grid[0] == 0)
        return;
    if (l->shared_bytes > f->shared_bytes) {
        if (!went_well(c, c->driver.function_set(f->handle, FUNCTION_SHARED_BYTES, (int)l->shared_bytes),
                       "ask for shared memory of", l->name))
            return;
        f->shared_bytes = l->shared_bytes;
    }
    went_well(c,
              c->driver.launch(f->handle, l->grid[0], y, z, l->threads, 1, 1, (unsigned)l->shared_bytes,
                               c->stream, args, NULL),
              "launch", l->name);
}

/* ---- memory --------------------------------------------------------------- */

static cuda_address address(const void *p)
{
    return (cuda_address)(uintptr_t)p;
}

void llama_cuda_zero(struct llama_cuda *c, void *p, size_t bytes)
{
    if (!c->code && bytes)
        went_well(c, c->driver.fill(address(p), 0, bytes, c->stream), "zero", "device memory");
}

void llama_cuda_copy(struct llama_cuda *c, void *dst, const void *src, size_t bytes)
{
    if (!c->code && bytes)
        went_well(c, c->driver.copy(address(dst), address(src), bytes, c->stream), "copy", "on the device");
}

void llama_cuda_in(struct llama_cuda *c, void *dst, const void *host, size_t bytes)
{
    if (!c->code && bytes)
        went_well(c, c->driver.copy_in(address(dst), host, bytes, c->stream), "copy", "to the device");
}

void llama_cuda_out(struct llama_cuda *c, void *host, const void *src, size_t bytes)
{
    if (!c->code && bytes)
        went_well(c, c->driver.copy_out(host, address(src), bytes, c->stream), "copy", "from the device");
}

void *llama_cuda_pinned(struct llama_cuda *c, size_t bytes)
{
    void *p = NULL;

    if (c->pinned_count == PINNED_MAX)
        llama_cuda_fail(c, -ENOMEM, "pin %zu bytes: %d ranges are pinned already", bytes, PINNED_MAX);
    if (c->code || !went_well(c, c->driver.host_alloc(&p, bytes, 0), "pin", "host memory"))
        return NULL;
    c->pinned[c->pinned_count++] = p;
    return p;
}
