/* landing_cuda: landing transforms on a GPU: finds the kernel of blocks.cu and launches it. */
#include <errno.h>

#include "base/dtype.h"
#include "base/error.h"
#include "liboffload/core/core.h"
#include "liboffload/landing/landing.h"

#define THREADS 256u
#define BLOCKS  4096u /* at most: a thread takes several values, then */

/* blocks.cu, for the GPUs that the build was made for. */
extern const unsigned char landing_blocks_fatbin[];

static int find(struct dev *d, enum ofl_dtype dtype, struct dev_kernel **out)
{
    struct base_error why;
    int err = dev_kernel_find(d, landing_blocks_fatbin, "landing_blocks_kernel", out);

    if (err != -ENOEXEC)
        return err;
    base_error_save(&why, err);
    return base_fail(
        -ENOEXEC,
        "unpack %s: %s: the library has no CUDA kernels for this GPU (none at all where it is built "
        "without nvcc): rebuild it with the CUDA toolkit, or use device host",
        ofl_dtype_name(dtype), why.text);
}

bool landing_on_gpu(struct ofl_stream *s)
{
    return dev_native(core_device(core_stream_ctx(s)));
}

int landing_cuda_launch(struct ofl_stream *s, const struct ofl_landing *l)
{
    const struct base_dtype *d = base_dtype(l->dtype);
    const void *packed = l->packed;
    void *out = l->out;
    uint64_t elems = l->elems, blocks = (elems + THREADS - 1) / THREADS;
    uint32_t dtype = l->dtype, block_elems = d->block_elems, block_bytes = d->block_bytes, to = l->to;
    void *args[] = {&packed, &elems, &dtype, &block_elems, &block_bytes, &to, &out};
    struct dev_kernel *kernel;
    int err = find(core_device(core_stream_ctx(s)), l->dtype, &kernel);

    if (err < 0 || elems == 0)
        return err;
    return dev_stream_kernel(core_stream_device(s), kernel, blocks < BLOCKS ? (uint32_t)blocks : BLOCKS,
                             THREADS, args);
}
