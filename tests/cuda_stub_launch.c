/* cuda_stub_launch: the stub's entry points of modules, kernels and the memory they are fed from. */
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_stub_state.h"

#define SHARED_PLAIN (48u << 10)  /* what a launch may have without asking */
#define SHARED_MOST  (227u << 10) /* of compute capability 9.0 */

struct CUmod_st {
    unsigned alive;
    struct CUmod_st *next;
    struct CUctx_st *context;
};

struct CUfunc_st {
    struct CUfunc_st *next;
    const struct CUmod_st *module;
    const struct emulate_kernel *kernel;
    unsigned shared_bytes; /* dynamic shared memory allowed */
};

typedef struct CUmod_st *cuda_module;
typedef struct CUfunc_st *cuda_function;

/* A build without a C++ compiler lacks it. */
#pragma weak emulate_find

void stub_forget(void)
{
    while (stub.functions) {
        struct CUfunc_st *f = stub.functions;

        stub.functions = f->next;
        free(f);
    }
    while (stub.modules) {
        struct CUmod_st *m = stub.modules;

        stub.modules = m->next;
        free(m);
    }
}

/* ---- the device ----------------------------------------------------------- */

API cuda_result cuDeviceGetAttribute(int *value, int attribute, cuda_device device)
{
    static const struct {
        int attribute, value;
    } known[] = {
        {1, 1024},                     /* threads of a block */
        {2, 1024},                     /* of it along x */
        {3, 1024},                     /* y */
        {4, 64},                       /* z */
        {5, 2147483647},               /* blocks along x */
        {6, 65535},                    /* y */
        {7, 65535},                    /* z */
        {8, SHARED_PLAIN},             /* shared memory of a block */
        {10, 32},                      /* threads of a warp */
        {12, 65536},                   /* registers of a block */
        {16, 4},                       /* multiprocessors */
        {39, 2048},                    /* threads of one */
        {75, 9},                       /* compute capability, major */
        {76, 0},                       /* minor */
        {81, SHARED_MOST + (1 << 10)}, /* shared memory of a multiprocessor */
        {97, SHARED_MOST},             /* of a block that has asked for it */
    };

    ENTER(INIT);
    if (device < 0 || device >= DEVICES)
        return leave(CUDA_INVALID_DEVICE);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].attribute == attribute) {
            *value = known[i].value;
            return leave(CUDA_OK);
        }
    return leave(stub_violate(CUDA_INVALID_VALUE, "%s: %d is not known to the stub", __func__, attribute));
}

/* ---- modules -------------------------------------------------------------- */

static unsigned check_module(const char *name, const struct CUmod_st *m)
{
    if (!m || m->alive != ALIVE)
        return stub_violate(HANDLE, "%s: module is not alive", name);
    return m->context == current ? CUDA_OK : stub_violate(CONTEXT, "%s: module of another context", name);
}

API cuda_result cuModuleLoadData(cuda_module *out, const void *image)
{
    struct CUmod_st *m;

    ENTER(CONTEXT_TOO);
    if (!image)
        return leave(CUDA_INVALID_VALUE);
    m = calloc(1, sizeof *m);
    if (!m)
        abort();
    *m = (struct CUmod_st){.alive = ALIVE, .context = current, .next = stub.modules};
    stub.modules = m;
    stub.live++;
    *out = m;
    return leave(CUDA_OK);
}

API cuda_result cuModuleUnload(cuda_module m)
{
    ENTER(INIT);
    if (!m || m->alive != ALIVE)
        return leave(stub_violate(HANDLE, "cuModuleUnload: module is not alive"));
    if (!stub_idle())
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuModuleUnload: work is pending"));
    m->alive = 0;
    stub.live--;
    return leave(atomic_load(&stub.lost));
}

API cuda_result cuModuleGetFunction(cuda_function *out, cuda_module m, const char *name)
{
    const struct emulate_kernel *kernel;
    struct CUfunc_st *f;

    ENTER(CONTEXT_TOO);
    rc = check_module(__func__, m);
    if (rc != CUDA_OK)
        return leave(rc);
    kernel = emulate_find ? emulate_find(name) : NULL;
    if (!kernel)
        return leave(NOT_FOUND);
    f = calloc(1, sizeof *f);
    if (!f)
        abort();
    *f = (struct CUfunc_st){
        .next = stub.functions, .module = m, .kernel = kernel, .shared_bytes = SHARED_PLAIN};
    stub.functions = f;
    *out = f;
    return leave(CUDA_OK);
}

/* ---- launches ------------------------------------------------------------- */

static unsigned check_function(const char *name, const struct CUfunc_st *f)
{
    const struct CUfunc_st *known = stub.functions;

    while (known && known != f)
        known = known->next;
    return known ? check_module(name, f->module) : stub_violate(HANDLE, "%s: not a function", name);
}

API cuda_result cuFuncSetAttribute(cuda_function f, int attribute, int value)
{
    ENTER(CONTEXT_TOO);
    rc = check_function(__func__, f);
    if (rc != CUDA_OK)
        return leave(rc);
    if (attribute != 8) /* MAX_DYNAMIC_SHARED_SIZE_BYTES */
        return leave(
            stub_violate(CUDA_INVALID_VALUE, "%s: %d is not known to the stub", __func__, attribute));
    if (value < 0 || (unsigned)value > SHARED_MOST)
        return leave(CUDA_INVALID_VALUE);
    f->shared_bytes = (unsigned)value > SHARED_PLAIN ? (unsigned)value : SHARED_PLAIN;
    return leave(CUDA_OK);
}

static bool shape_is_good(const unsigned grid[3], const unsigned block[3])
{
    return grid[0] && grid[1] && grid[2] && grid[0] <= 2147483647u && grid[1] <= 65535 && grid[2] <= 65535 &&
           block[0] && block[1] && block[2] && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 &&
           (uint64_t)block[0] * block[1] * block[2] <= 1024;
}

API cuda_result cuLaunchKernel(cuda_function f, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                               cuda_stream s, void **params, void **extra)
{
    const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    struct emulate_launch *l;
    unsigned char *packed;

    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = check_function(__func__, f);
    if (rc == CUDA_OK && (extra || !shape_is_good(grid, block)))
        rc = CUDA_INVALID_VALUE;
    if (rc == CUDA_OK && shared_bytes > f->shared_bytes)
        rc = stub_violate(CUDA_INVALID_VALUE, "%s: %s: %u bytes of shared memory, %u allowed", __func__,
                          f->kernel->name, shared_bytes, f->shared_bytes);
    if (rc != CUDA_OK)
        return leave(rc);
    l = malloc((sizeof *l + 63) / 64 * 64 + f->kernel->bytes);
    if (!l)
        abort();
    packed = (unsigned char *)l + (sizeof *l + 63) / 64 * 64;
    f->kernel->pack(packed, params);
    *l = (struct emulate_launch){.kernel = f->kernel,
                                 .packed = packed,
                                 .shared_bytes = shared_bytes,
                                 .seed = stub.config.seed * 1000003 + stub.launches++,
                                 .stop = (const unsigned *)&stub.lost};
    memcpy(l->grid, grid, sizeof grid);
    memcpy(l->block, block, sizeof block);
    stub_enqueue(s, &(struct op){.kind = LAUNCH, .launch = l, .owned = l});
    return leave(CUDA_OK);
}

/* ---- memory --------------------------------------------------------------- */

API cuda_result cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
    struct range *r;

    ENTER(CONTEXT_TOO);
    r = stub_range_free(stub.host);
    if (bytes == 0 || flags > 7)
        return leave(CUDA_INVALID_VALUE);
    if (!r || posix_memalign(out, 4096, bytes) != 0)
        return leave(CUDA_OUT_OF_MEMORY);
    memset(*out, 0xCD, bytes);
    *r = (struct range){.base = (uintptr_t)*out, .bytes = bytes, .owned = true};
    stub.live++;
    return leave(CUDA_OK);
}

API cuda_result cuMemFreeHost(void *p)
{
    struct range *r;

    ENTER(INIT); /* also of a lost device, so that nothing is left of a test */
    r = stub_range(stub.host, p, 1);
    if (!r || !r->owned || r->base != (uintptr_t)p)
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuMemFreeHost: not an allocation"));
    if (!stub_idle())
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuMemFreeHost: work is pending"));
    free(p);
    *r = (struct range){0};
    stub.live--;
    return leave(atomic_load(&stub.lost));
}

API cuda_result cuMemcpyDtoDAsync_v2(cuda_pointer dst, cuda_pointer src, size_t bytes, cuda_stream s)
{
    struct op op = {.kind = COPY,
                    .dst = (unsigned char *)(uintptr_t)dst,
                    .src = (unsigned char *)(uintptr_t)src,
                    .bytes = bytes};

    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = stub_check_device(__func__, dst, bytes);
    if (rc == CUDA_OK)
        rc = stub_check_device(__func__, src, bytes);
    if (rc == CUDA_OK && dst < src + bytes && src < dst + bytes)
        rc = stub_violate(CUDA_INVALID_VALUE, "%s: ranges overlap", __func__);
    if (rc == CUDA_OK)
        stub_enqueue(s, &op);
    return leave(rc);
}
