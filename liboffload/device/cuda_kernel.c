/*
 * cuda_kernel: the library's own kernels on an NVIDIA GPU. Owns the images that have been loaded
 * and what was found in them, and the host memory that kernels reach. See cuda.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/device/cuda.h"

struct dev_kernel {
    struct dev_kernel *next; /* of its image */
    cuda_function function;
    char name[];
};

struct cuda_image {
    struct cuda_image *next;
    const void *bytes; /* the caller's */
    cuda_module module;
    struct dev_kernel *kernels;
};

struct cuda_host {
    struct cuda_host *next;
    void *host;
    cuda_pointer device; /* 0: it was not to be had, and nobody gets this range */
    uint64_t bytes;
    bool used;
};

/* ---- finding kernels ------------------------------------------------------- */

static int load(struct cuda *c, const void *bytes, const char *name, struct cuda_image **out)
{
    struct cuda_image *i = calloc(1, sizeof *i);
    cuda_result result;

    if (!i)
        return base_fail_errno(-ENOMEM, "%s: load kernel %s: %zu bytes", c->base.name, name, sizeof *i);
    result = CUDA_CALL(&c->driver, module_load, &i->module, bytes);
    if (result != CUDA_OK) {
        free(i);
        return cuda_driver_fail(&c->driver, result, "%s: load kernel %s: cuModuleLoadData", c->base.name,
                                name);
    }
    i->bytes = bytes;
    i->next = c->images;
    c->images = i;
    *out = i;
    return 0;
}

static int find(struct cuda *c, struct cuda_image *i, const char *name, struct dev_kernel **out)
{
    size_t length = strlen(name) + 1;
    struct dev_kernel *k = calloc(1, sizeof *k + length);
    cuda_result (*load_now)(cuda_function);
    cuda_result result;

    if (!k)
        return base_fail_errno(-ENOMEM, "%s: load kernel %s: %zu bytes", c->base.name, name,
                               sizeof *k + length);
    memcpy(k->name, name, length);
    result = CUDA_CALL(&c->driver, module_function, &k->function, i->module, name);
    if (result != CUDA_OK) {
        free(k);
        return cuda_driver_fail(&c->driver, result, "%s: load kernel %s: cuModuleGetFunction", c->base.name,
                                name);
    }
    /* now rather than at its first launch, when its stream may be at a gate; since CUDA 12.4 */
    *(void **)&load_now = cuda_driver_symbol(&c->driver, "cuFuncLoad");
    if (load_now)
        (void)load_now(k->function); /* what it can't do the launch will tell */
    k->next = i->kernels;
    i->kernels = k;
    *out = k;
    return 0;
}

int cuda_kernel_find(struct dev *d, const void *bytes, const char *name, struct dev_kernel **out)
{
    struct cuda *c = (struct cuda *)d;
    cuda_context before = cuda_enter(c);
    struct cuda_image *i;
    struct dev_kernel *k;
    int rc = 0;

    pthread_mutex_lock(&c->loading);
    for (i = c->images; i && i->bytes != bytes; i = i->next)
        ;
    if (!i)
        rc = load(c, bytes, name, &i);
    for (k = i ? i->kernels : NULL; k && strcmp(k->name, name) != 0; k = k->next)
        ;
    if (rc == 0 && !k)
        rc = find(c, i, name, &k);
    pthread_mutex_unlock(&c->loading);
    cuda_leave(c, before);
    if (rc == 0)
        *out = k;
    return rc;
}

void cuda_images_unload(struct cuda *c)
{
    while (c->images) {
        struct cuda_image *i = c->images;

        c->images = i->next;
        while (i->kernels) {
            struct dev_kernel *k = i->kernels;

            i->kernels = k->next;
            free(k);
        }
        (void)CUDA_CALL(&c->driver, module_unload, i->module);
        free(i);
    }
}

/* ---- launches ---------------------------------------------------------------- */

/* At once, by the thread that calls, as a program launches its own: a kernel is not on the
 * lane's list, and what is put there afterwards comes after it. */
int cuda_stream_kernel(struct dev_stream *s, struct dev_kernel *k, uint32_t blocks, uint32_t threads,
                       void **args)
{
    struct cuda_lane *l = &((struct cuda_user_stream *)s)->lane;
    struct cuda *c = l->cuda;
    cuda_context before;
    cuda_result result;
    int rc = 0;

    cuda_lane_flush(l);
    if (atomic_load(&c->broken))
        return base_error_restore(&c->error); /* set once, before broken */
    before = cuda_enter(c);
    result =
        CUDA_CALL(&c->driver, launch, k->function, blocks, 1, 1, threads, 1, 1, 0, l->stream, args, NULL);
    if (result != CUDA_OK) {
        rc = cuda_driver_fail(&c->driver, result, "%s: launch %s, %u blocks of %u threads: cuLaunchKernel",
                              c->base.name, k->name, blocks, threads);
        cuda_broke(c, rc);
    }
    cuda_leave(c, before);
    return rc;
}

int cuda_stream_copy_in(struct dev_stream *s, void *dst, const void *src, uint64_t bytes)
{
    struct cuda_lane *l = &((struct cuda_user_stream *)s)->lane;
    struct cuda *c = l->cuda;
    cuda_context before;
    cuda_result result;
    int rc = 0;

    cuda_lane_flush(l);
    if (atomic_load(&c->broken))
        return base_error_restore(&c->error); /* set once, before broken */
    before = cuda_enter(c);
    result = CUDA_CALL(&c->driver, copy_in, (cuda_pointer)(uintptr_t)dst, src, bytes, l->stream);
    if (result != CUDA_OK) {
        rc = cuda_driver_fail(&c->driver, result, "%s: copy %llu bytes on a stream: cuMemcpyHtoDAsync",
                              c->base.name, (unsigned long long)bytes);
        cuda_broke(c, rc);
    }
    cuda_leave(c, before);
    return rc;
}

/* ---- memory --------------------------------------------------------------- */

/* A range that nobody uses stays for the next who asks: to free it may wait for all work. */
static struct cuda_host *reuse(struct cuda *c, uint64_t bytes)
{
    struct cuda_host *h = c->hosts;

    while (h && (h->used || !h->device || h->bytes < bytes))
        h = h->next;
    return h;
}

static int host_new(struct cuda *c, uint64_t bytes, struct cuda_host **out)
{
    struct cuda_host *h = calloc(1, sizeof *h);
    cuda_result result;

    if (!h)
        return base_fail_errno(-ENOMEM, "%s: host memory for kernels: %zu bytes", c->base.name, sizeof *h);
    h->bytes = bytes;
    result = CUDA_CALL(&c->driver, host_alloc, &h->host, bytes, CUDA_ALLOC_PORTABLE | CUDA_ALLOC_DEVICEMAP);
    if (result != CUDA_OK) {
        free(h);
        return cuda_driver_fail(&c->driver, result,
                                "%s: host memory for kernels: cuMemHostAlloc of %llu bytes", c->base.name,
                                (unsigned long long)bytes);
    }
    h->next = c->hosts;
    c->hosts = h;
    result = CUDA_CALL(&c->driver, host_pointer, &h->device, h->host, 0);
    if (result != CUDA_OK)
        return cuda_driver_fail(&c->driver, result, "%s: host memory for kernels: cuMemHostGetDevicePointer",
                                c->base.name);
    *out = h;
    return 0;
}

int cuda_host_alloc(struct dev *d, uint64_t bytes, void **host, void **device)
{
    struct cuda *c = (struct cuda *)d;
    cuda_context before = cuda_enter(c);
    struct cuda_host *h;
    int rc = 0;

    pthread_mutex_lock(&c->loading);
    h = reuse(c, bytes);
    if (!h)
        rc = host_new(c, bytes, &h);
    if (rc == 0) {
        h->used = true;
        *host = h->host;
        *device = (void *)(uintptr_t)h->device;
    }
    pthread_mutex_unlock(&c->loading);
    cuda_leave(c, before);
    return rc;
}

void cuda_host_free(struct dev *d, void *host)
{
    struct cuda *c = (struct cuda *)d;

    pthread_mutex_lock(&c->loading);
    for (struct cuda_host *h = c->hosts; h; h = h->next)
        if (h->host == host)
            h->used = false;
    pthread_mutex_unlock(&c->loading);
}

void cuda_hosts_free(struct cuda *c)
{
    while (c->hosts) {
        struct cuda_host *h = c->hosts;

        c->hosts = h->next;
        (void)CUDA_CALL(&c->driver, host_free, h->host);
        free(h);
    }
}
