/*
 * optimizer_cuda: what runs on the stream of a cuda device: the kernels of update.cu. What they
 * write for the host (sums, the norm) lies in pinned host memory: a few KiB for each binding,
 * beside the budgets, and none of the device's.
 *
 * A step's sums and norm are overwritten by the next one's: begin has waited for the stream.
 */
#include <errno.h>
#include <stdlib.h>

#include "liboffload/optim/optimizer.h"

#define SLAB_MIN       4096u /* each is twice as large as the one before */
#define SLAB_ALIGN     64u
#define LIST_MIN       64u
#define NORM_THREADS   512u
#define UPDATE_THREADS 256u
#define UPDATE_BLOCKS  1024u /* at most: a thread takes several elements, then */

/* update.cu, for the GPUs that the build was made for. */
extern const unsigned char optim_update_fatbin[];

/* Both addresses of the same memory. */
struct range {
    uint8_t *host, *device;
};

struct slab {
    struct slab *next;
    struct range at;
    size_t bytes, used;
};

struct optim_cuda {
    struct dev_kernel *sum, *norm, *update;
    struct slab *slabs; /* all, freed with the optimizer; the first is filled */
    struct range result;
    struct range list; /* of the applied bindings' parts, for the norm */
    size_t list_room;
};

static int add_slab(struct ofl_optimizer *o, size_t bytes)
{
    struct slab *s = calloc(1, sizeof *s);
    void *host, *device;
    int err;

    if (!s)
        return base_fail(-ENOMEM, "optimizer: out of memory");
    s->bytes = o->cuda->slabs ? 2 * o->cuda->slabs->bytes : SLAB_MIN;
    if (s->bytes < bytes)
        s->bytes = bytes;
    err = dev_host_alloc(core_device(o->ctx), s->bytes, &host, &device);
    if (err < 0) {
        free(s);
        return err;
    }
    s->at = (struct range){host, device};
    s->next = o->cuda->slabs;
    o->cuda->slabs = s;
    return 0;
}

/* Memory until the optimizer is destroyed. */
static int take(struct ofl_optimizer *o, size_t bytes, struct range *out)
{
    struct slab *s = o->cuda->slabs;
    int err = 0;

    bytes = (bytes + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
    if (!s || s->bytes - s->used < bytes)
        err = add_slab(o, bytes);
    if (err < 0)
        return err;
    s = o->cuda->slabs;
    *out = (struct range){s->at.host + s->used, s->at.device + s->used};
    s->used += bytes;
    return 0;
}

static const char *const update_names[OFL_METHODS] = {
    [OFL_ADAMW] = "optim_adamw_kernel",
    [OFL_ADAM] = "optim_adam_kernel",
    [OFL_SGD] = "optim_sgd_kernel",
    [OFL_LION] = "optim_lion_kernel",
};

static int find_kernels(struct ofl_optimizer *o)
{
    struct dev *d = core_device(o->ctx);
    struct base_error why;
    int err = dev_kernel_find(d, optim_update_fatbin, "optim_sum_kernel", &o->cuda->sum);

    if (err == 0)
        err = dev_kernel_find(d, optim_update_fatbin, "optim_norm_kernel", &o->cuda->norm);
    if (err == 0)
        err = dev_kernel_find(d, optim_update_fatbin, update_names[o->method], &o->cuda->update);
    if (err != -ENOEXEC)
        return err;
    base_error_save(&why, err);
    return base_fail(-ENOEXEC,
                     "create optimizer: %s: the library has no CUDA kernels for this GPU (none at all where "
                     "it is built without nvcc): rebuild it with the CUDA toolkit, or use device host",
                     why.text);
}

static int cuda_open(struct ofl_optimizer *o)
{
    int err;

    o->cuda = calloc(1, sizeof *o->cuda);
    if (!o->cuda)
        return base_fail(-ENOMEM, "create optimizer: out of memory");
    err = find_kernels(o);
    if (err == 0)
        err = take(o, sizeof(struct optim_norm), &o->cuda->result);
    if (err < 0)
        return err;
    o->result = (struct optim_norm *)o->cuda->result.host;
    return 0;
}

static void cuda_close(struct ofl_optimizer *o)
{
    while (o->cuda && o->cuda->slabs) {
        struct slab *s = o->cuda->slabs;

        o->cuda->slabs = s->next;
        dev_host_free(core_device(o->ctx), s->at.host);
        free(s);
    }
    free(o->cuda);
}

static int cuda_method(struct ofl_optimizer *o)
{
    return dev_kernel_find(core_device(o->ctx), optim_update_fatbin, update_names[o->method],
                           &o->cuda->update);
}

static int cuda_bind(struct optim_binding *b, uint64_t elems)
{
    struct ofl_optimizer *o = b->optimizer;
    struct optim_cuda *c = o->cuda;
    struct range sums;
    int err = 0;

    if (o->count == c->list_room) {
        size_t room = c->list_room ? 2 * c->list_room : LIST_MIN;

        err =
            take(o, room * sizeof(struct optim_parts), &c->list); /* the norm that read the old one is over */
        if (err == 0)
            c->list_room = room;
    }
    b->parts.count = optim_parts_count(elems);
    if (err == 0)
        err = take(o, b->parts.count * sizeof(double), &sums);
    if (err == 0)
        b->parts.sums = (const double *)sums.device;
    return err;
}

static int cuda_sum(struct optim_binding *b, float *grad)
{
    uint64_t n = b->elems, each = optim_part_elems(n);
    const double *sums = b->parts.sums;
    void *args[] = {&grad, &n, &each, &sums};

    return dev_stream_kernel(core_stream_device(b->optimizer->stream), b->optimizer->cuda->sum,
                             (uint32_t)b->parts.count, OPTIM_LANES, args);
}

static int cuda_norm(struct ofl_optimizer *o)
{
    struct optim_cuda *c = o->cuda;
    struct optim_parts *list = (struct optim_parts *)c->list.host;
    uint64_t count = 0;
    double clip = o->settings.clip;
    uint32_t skip = o->settings.skip_overflow;
    void *args[] = {&c->list.device, &count, &clip, &skip, &c->result.device};

    for (size_t i = 0; i < o->count; i++)
        if (o->bindings[i]->applied)
            list[count++] = o->bindings[i]->parts;
    return dev_stream_kernel(core_stream_device(o->stream), c->norm, 1, NORM_THREADS, args);
}

static int cuda_update(struct optim_binding *b, void *const ptr[CORE_UPDATE_TENSORS], bool clipped)
{
    struct ofl_optimizer *o = b->optimizer;
    struct optim_coef coef = b->coef;
    struct optim_arrays a = optim_arrays_of(b, ptr);
    void *norm = clipped ? o->cuda->result.device : NULL;
    uint64_t n = b->elems, blocks = (n + UPDATE_THREADS - 1) / UPDATE_THREADS;
    void *args[] = {&coef, &norm, &a.p, &a.m, &a.v, &a.g, &a.w16, &n};

    return dev_stream_kernel(core_stream_device(o->stream), o->cuda->update,
                             blocks < UPDATE_BLOCKS ? (uint32_t)blocks : UPDATE_BLOCKS, UPDATE_THREADS, args);
}

const struct optim_ops optim_ops_cuda = {
    .open = cuda_open,
    .close = cuda_close,
    .method = cuda_method,
    .bind = cuda_bind,
    .sum = cuda_sum,
    .norm = cuda_norm,
    .update = cuda_update,
};
