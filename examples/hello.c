/*
 * hello: the smallest program on liboffload. Sixteen tensors of 1 MiB live on a drive; a
 * device arena that holds four of them is enough to add 1 to every element, twice.
 *
 *     cc hello.c $(pkg-config --cflags --libs offload) -o hello && ./hello
 */
#include <stdio.h>
#include <stdlib.h>

#include "include/offload.h" /* <offload.h> once installed */

#define TENSORS 16
#define ELEMS   (256u << 10)

static void check(int err)
{
    if (err == 0)
        return;
    fprintf(stderr, "hello: %s\n", ofl_error());
    exit(1);
}

/* A kernel: runs on the stream, when the bytes are there. */
static void add_one(void *data)
{
    float *x = data;

    for (unsigned i = 0; i < ELEMS; i++)
        x[i] += 1.0f;
}

int main(void)
{
    struct ofl_nvme here = {.dir = "."};
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = 4 << 20,
                                .host_bytes = 8 << 20,
                                .nvme = &here,
                                .nvme_count = 1};
    struct ofl_stats stats = {.size = sizeof stats};
    struct ofl_tensor *tensors[TENSORS];
    struct ofl_stream *stream;
    struct ofl_ctx *ctx;
    float last;

    check(ofl_open(&config, &ctx));
    check(ofl_stream_create(ctx, &stream));
    for (int i = 0; i < TENSORS; i++) {
        char name[24];
        struct ofl_tensor_desc desc = {.size = sizeof desc, .name = name, .dtype = OFL_F32, .elems = ELEMS};

        snprintf(name, sizeof name, "tensor %d", i);
        check(ofl_tensor_create(ctx, &desc, &tensors[i]));
    }
    for (int step = 0; step < 2; step++) {
        check(ofl_step_begin(ctx, "add"));
        for (int i = 0; i < TENSORS; i++) {
            struct ofl_lease lease = {.size = sizeof lease, .tensor = tensors[i], .mode = OFL_UPDATE};

            check(ofl_acquire(ctx, &lease, 1, stream)); /* returns at once: the stream waits, not we */
            check(ofl_stream_launch(stream, add_one, lease.ptr));
            check(ofl_release(ctx, &lease, 1, stream)); /* takes effect behind the kernel */
        }
        check(ofl_step_end(ctx));
    }
    check(ofl_tensor_read(tensors[TENSORS - 1], (ELEMS - 1) * sizeof last, &last, sizeof last));
    check(ofl_stats_get(ctx, &stats));
    printf("the last element is %g; %llu MiB went to the drive and %llu MiB came back\n", last,
           (unsigned long long)(stats.nvme_write_bytes >> 20),
           (unsigned long long)(stats.nvme_read_bytes >> 20));
    check(ofl_close(ctx));
    return 0;
}
