/*
 * What the machine can do, for bounds: matrix products, the link, memories, drives. See rates.h. Each rate is
 * the best of a few short tries: a bound must not be low because somebody else was busy.
 */
#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/model.h"
#include "bench/rates.h"
#include "examples/common_memory.h"
#include "examples/common_predict.h"
#include "examples/model/cuda.h"
#include "examples/model/kernels_cuda.h"
#include "io/profile.h"

#define HOST_SIDE 1024u /* of the matrices */
#define TRIES     5

typedef int work_fn(void *arg, unsigned times);

/* Runs per second of work, the best of TRIES tries of `times` runs each. work waits until all is done. */
static int best(work_fn *work, void *arg, unsigned times, double *per_s)
{
    *per_s = 0;
    for (int i = 0; i <= TRIES; i++) {
        double start = common_seconds(), rate;

        if (work(arg, times) < 0)
            return -1;
        rate = times / (common_seconds() - start);
        if (i > 0 && rate > *per_s) /* the first one warms up */
            *per_s = rate;
    }
    return 0;
}

/* ---- a GPU ------------------------------------------------------------------ */

struct gpu {
    struct ofl_stream *stream;
    struct llama_cuda *cuda;
    enum ofl_dtype dtype;
    size_t side, matrix_bytes, copy_bytes; /* of a product's matrices; of copies */
    char *memory;                          /* 3 matrices, or 2 ends of a copy; then cuBLAS' scratch */
    size_t scratch_at;
    void *pinned;
};

static int wait_for(struct gpu *g)
{
    char error[COMMON_ERROR_BYTES];

    if (llama_cuda_check(g->cuda, error, sizeof error) < 0) {
        common_fail(EXIT_RUNTIME, "%s", error);
        return -1;
    }
    if (ofl_stream_sync(g->stream) < 0) {
        common_fail_ofl(EXIT_RUNTIME, "measure the GPU");
        return -1;
    }
    return 0;
}

static int gpu_products(void *arg, unsigned times)
{
    struct gpu *g = arg;

    while (times--)
        llama_cuda_matmul(g->cuda, g->memory, g->dtype, g->memory + g->matrix_bytes,
                          g->memory + 2 * g->matrix_bytes, g->dtype, g->side, g->side, g->side, g->side,
                          false);
    return wait_for(g);
}

static int gpu_in(void *arg, unsigned times)
{
    struct gpu *g = arg;

    while (times--)
        llama_cuda_in(g->cuda, g->memory, g->pinned, g->copy_bytes);
    return wait_for(g);
}

static int gpu_out(void *arg, unsigned times)
{
    struct gpu *g = arg;

    while (times--)
        llama_cuda_out(g->cuda, g->pinned, g->memory, g->copy_bytes);
    return wait_for(g);
}

static int gpu_copies(void *arg, unsigned times)
{
    struct gpu *g = arg;

    while (times--)
        llama_cuda_copy(g->cuda, g->memory, g->memory + g->copy_bytes, g->copy_bytes);
    return wait_for(g);
}

static int gpu_measure(struct gpu *g, size_t scratch_bytes, struct bench_rates *out)
{
    double side = (double)g->side, copied = (double)g->copy_bytes;

    g->pinned = llama_cuda_pinned(g->cuda, g->copy_bytes);
    llama_cuda_set_scratch(g->cuda, g->memory + g->scratch_at, scratch_bytes);
    llama_cuda_init_normal(g->cuda, g->memory, g->dtype, 0, 3 * g->side * g->side, 1, 1.0f);
    if (wait_for(g) < 0 || best(gpu_products, g, g->dtype == OFL_F32 ? 2 : 10, &out->matrix_flops) < 0 ||
        best(gpu_in, g, 4, &out->link_in_bps) < 0 || best(gpu_out, g, 4, &out->link_out_bps) < 0 ||
        best(gpu_copies, g, 20, &out->device_bps) < 0)
        return EXIT_RUNTIME;
    out->matrix_flops *= 2 * side * side * side;
    out->link_in_bps *= copied;
    out->link_out_bps *= copied;
    out->device_bps *= 2 * copied;
    return 0;
}

static struct gpu sizes_for(uint64_t memory_bytes, enum ofl_dtype dtype)
{
    bool large = memory_bytes >= 4ull << 30; /* a small one is no GPU of today */
    struct gpu g = {.dtype = dtype, .side = large ? 8192 : 256, .copy_bytes = large ? 256 << 20 : 4 << 20};

    g.matrix_bytes = g.side * g.side * ofl_dtype_bytes(dtype);
    g.scratch_at = 3 * g.matrix_bytes > 2 * g.copy_bytes ? 3 * g.matrix_bytes : 2 * g.copy_bytes;
    return g;
}

static int gpu_rates(const struct common_budget *b, enum ofl_dtype dtype, struct bench_rates *out)
{
    struct gpu g = sizes_for(b->chosen.memory_bytes, dtype);
    struct llama_shape like = {.hidden = (uint32_t)g.side};
    size_t scratch = llama_cuda_scratch_bytes(&like);
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = "matrices",
                                .kind = OFL_KIND_WORKSPACE,
                                .dtype = OFL_U8,
                                .elems = g.scratch_at + scratch,
                                .flags = OFL_TENSOR_TRANSIENT};
    struct ofl_config config = {.size = sizeof config,
                                .device = b->chosen.device,
                                .device_bytes = ofl_device_footprint(d.elems),
                                .host_bytes = OFL_HOST_MIN_BYTES,
                                .workers = 1};
    struct ofl_lease lease = {.size = sizeof lease, .mode = OFL_OVERWRITE};
    char error[COMMON_ERROR_BYTES];
    struct ofl_ctx *ctx;
    int status = 0;

    if (ofl_open(&config, &ctx) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "measure the GPU");
    if (ofl_stream_create(ctx, &g.stream) < 0 || ofl_tensor_create(ctx, &d, &lease.tensor) < 0 ||
        ofl_acquire(ctx, &lease, 1, g.stream) < 0)
        status = common_fail_ofl(EXIT_RUNTIME, "measure the GPU");
    g.memory = lease.ptr;
    if (status == 0 && llama_cuda_open(ctx, g.stream, &g.cuda, error, sizeof error) < 0)
        status = common_fail(EXIT_RUNTIME, "%s", error);
    if (status == 0)
        status = gpu_measure(&g, scratch, out);
    llama_cuda_close(g.cuda);
    if (lease.ptr)
        ofl_release(ctx, &lease, 1, g.stream);
    ofl_close(ctx);
    return status;
}

/* ---- the host ----------------------------------------------------------------- */

static int host_products(void *arg, unsigned times)
{
    float *m = arg;

    while (times--)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, HOST_SIDE, HOST_SIDE, HOST_SIDE, 1, m, HOST_SIDE,
                    m + HOST_SIDE * HOST_SIDE, HOST_SIDE, 0, m + 2 * HOST_SIDE * HOST_SIDE, HOST_SIDE);
    return 0;
}

static int product_rate(struct bench_rates *out)
{
    uint64_t elems = 3ull * HOST_SIDE * HOST_SIDE, state = 1;
    float *matrices = malloc(elems * sizeof *matrices);

    if (!matrices)
        return common_fail(EXIT_FULL, "measure products: out of memory");
    for (uint64_t i = 0; i < elems; i++)
        matrices[i] = (float)(bench_random(&state) >> 40) * 0x1p-24f - 0.5f;
    best(host_products, matrices, 4, &out->matrix_flops);
    out->matrix_flops *= 2.0 * HOST_SIDE * HOST_SIDE * HOST_SIDE;
    free(matrices);
    return 0;
}

/* Right now. Where that can't be, or is not to write, what was kept does, with its age. */
static int directory_rates(const char *dir, bool measure, struct bench_rates *out)
{
    struct io_profile p;
    double read, write, age;

    if (!measure || io_profile_measure_rates(dir, &read, &write) < 0) {
        if (io_profile_get(dir, 0, NULL, NULL, &p) < 0)
            return common_fail_ofl(EXIT_RUNTIME, "measure the drive");
        read = p.read_bps;
        write = p.write_bps;
        age = p.origin == IO_PROFILE_CACHED ? difftime(time(NULL), (time_t)p.measured_at) : 0;
        out->drive_age_s = age > out->drive_age_s ? age : out->drive_age_s;
    }
    out->drive_read_bps += read;
    out->drive_write_bps += write;
    return 0;
}

static int drive_rates(const struct common_budget *b, struct bench_rates *out)
{
    int status = 0;

    for (uint32_t i = 0; i < b->nvme_count && status == 0; i++) {
        if (common_dir_in_memory(b->nvme[i].dir)) { /* a file to measure with would take of the run's */
            out->drive_read_bps += out->host_bps;
            out->drive_write_bps += out->host_bps;
            continue;
        }
        common_progress("measuring the drives: %u of %u", i + 1, b->nvme_count);
        status = directory_rates(b->nvme[i].dir, !b->max_written, out);
        if (status == 0 && common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    common_progress_clear();
    return status;
}

int bench_rates_measure(const struct common_budget *b, enum ofl_dtype dtype, struct bench_rates *out)
{
    int status;

    *out = (struct bench_rates){0};
    common_progress("measuring the machine");
    status = common_copy_rate(UINT64_MAX, &out->host_bps);
    if (status == 0)
        status = b->chosen.gpu ? gpu_rates(b, dtype, out) : product_rate(out);
    if (!b->chosen.gpu) /* what stands for the link and for device memory are copies in RAM */
        out->link_in_bps = out->link_out_bps = out->device_bps = out->host_bps;
    common_progress_clear();
    return status ? status : drive_rates(b, out);
}

static void raise_to(double *rate, double seen)
{
    if (seen > *rate)
        *rate = seen;
}

void bench_rates_raise(struct bench_rates *r, const struct common_bound *run)
{
    raise_to(&r->link_in_bps, run->bps[COMMON_LINK_IN]);
    raise_to(&r->link_out_bps, run->bps[COMMON_LINK_OUT]);
    raise_to(&r->drive_run_bps, run->bps[COMMON_DRIVES]);
}

double bench_drive_time(const struct bench_rates *r, double read_bytes, double write_bytes)
{
    double alone = bench_time(read_bytes, r->drive_read_bps) + bench_time(write_bytes, r->drive_write_bps);
    double seen = bench_time(read_bytes + write_bytes, r->drive_run_bps);

    return alone > 0 && (seen <= 0 || alone < seen) ? alone : seen;
}

json_t *bench_rates_json(const struct bench_rates *r)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "matrix_flops", r->matrix_flops,
                     "link_in_bps", r->link_in_bps, "link_out_bps", r->link_out_bps, "device_bps",
                     r->device_bps, "host_bps", r->host_bps, "drive_read_bps", r->drive_read_bps,
                     "drive_write_bps", r->drive_write_bps, "drive_run_bps", r->drive_run_bps, "drive_age_s",
                     r->drive_age_s);
}

void bench_rates_print(const struct bench_rates *r)
{
    printf("measured  products %.2f TFLOP/s; link in %.1f, out %.1f GB/s; device memory %.0f GB/s, RAM %.0f "
           "GB/s",
           r->matrix_flops * 1e-12, r->link_in_bps * 1e-9, r->link_out_bps * 1e-9, r->device_bps * 1e-9,
           r->host_bps * 1e-9);
    if (r->drive_read_bps > 0)
        printf("; drives read %.2f, write %.2f GB/s", r->drive_read_bps * 1e-9, r->drive_write_bps * 1e-9);
    if (r->drive_age_s > 0)
        printf(", kept from %.1f days ago", r->drive_age_s / 86400);
    putchar('\n');
}
