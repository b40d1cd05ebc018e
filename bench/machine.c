/* The machine that a plan is made for. See machine.h. */
#include "bench/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "examples/common_memory.h"
#include "examples/model/timing.h"

#define COPY_BYTES (64ull << 20)
#define TRIES      5

int bench_machine_known(const char *name, struct ofl_machine *out)
{
    int err;

    *out = (struct ofl_machine){.size = sizeof *out};
    err = ofl_machine_find(name, out);

    if (err == 0)
        return 0;
    if (strchr(name, '/') || strchr(name, '.')) {
        err = ofl_machine_load(name, out);
        return err < 0 ? common_fail(EXIT_INPUT, "--machine: %s", ofl_error()) : 0;
    }
    return common_fail(EXIT_INPUT, "--machine: %s, nor \"this\"; a file's name has a dot or a slash",
                       ofl_error());
}

/* ---- what is to be done ------------------------------------------------------- */

struct ofl_workload bench_workload(const struct llama_compute_config *c, bool clip, bool source)
{
    bool train = c->batch > 0;

    return (struct ofl_workload){.size = sizeof(struct ofl_workload),
                                 .work = train ? OFL_TRAIN : OFL_DECODE,
                                 .layers = c->shape.layers,
                                 .hidden = c->shape.hidden,
                                 .heads = c->shape.heads,
                                 .kv_heads = c->shape.kv_heads,
                                 .head_dim = c->shape.head_dim,
                                 .intermediate = c->shape.ffn,
                                 .vocab = c->shape.vocab,
                                 .tied = c->shape.tied,
                                 .dtype = c->dtype,
                                 .batch = train ? c->batch : 1,
                                 .seq = train ? c->seq : c->piece,
                                 .accum = train ? c->accum : 1,
                                 .positions = train ? 0 : c->positions,
                                 .clip = clip,
                                 .source = source,
                                 .cache_elem_bytes = (uint32_t)llama_compute_cache_elem(c),
                                 .inner_elem_bytes = c->cuda ? 0 : sizeof(float),
                                 .workspace_bytes = llama_compute_workspace(c)};
}

/* ---- this machine --------------------------------------------------------------- */

/* So that a layer of the estimate takes as long as it did just now. */
static int fit_layer(const struct common_budget *b, const struct llama_compute_config *compute,
                     struct ofl_machine *m)
{
    struct ofl_workload w = bench_workload(compute, false, false);
    struct llama_compute_config one = *compute;
    struct llama_timing t;
    char error[COMMON_ERROR_BYTES];

    one.accum = 1;
    common_progress("timing a layer");
    if (llama_timing_measure(b->chosen.device, &one, &t, error, sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "%s", error);
    common_progress_clear();
    m->shared = b->chosen.gpu ? 0 : t.cores;
    if (ofl_machine_fit(m, &w, t.forward_s + t.backward_s + t.extend_s) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "fit the machine");
    return 0;
}

/* What one thread copies: the link of the host device has one for each direction. */
static int copy_rate(double *bps)
{
    char *from = malloc(COPY_BYTES), *to = malloc(COPY_BYTES);
    int status = from && to ? 0 : common_fail(EXIT_RUNTIME, "measure copies: out of memory");

    for (int i = 0; i <= TRIES && status == 0; i++) {
        double start, rate;

        if (i == 0) {
            memset(from, 1, COPY_BYTES);
            memset(to, 2, COPY_BYTES);
        }
        start = common_seconds();
        memcpy(to, from, COPY_BYTES);
        rate = (double)COPY_BYTES / (common_seconds() - start);
        *bps = i > 0 && rate > *bps ? rate : *bps;
    }
    free(from);
    free(to);
    return status;
}

/* Sizes and rates of the --nvme directories' drives; without, of none. */
static int add_drives(const struct common_budget *b, const struct bench_rates *rates, struct ofl_machine *m)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < b->nvme_count; i++) {
        struct statvfs fs;

        if (statvfs(b->nvme[i].dir, &fs) < 0)
            return common_fail(EXIT_INPUT, "--nvme %s: %s", b->nvme[i].dir, strerror(errno));
        bytes += b->nvme[i].bytes ? b->nvme[i].bytes : (uint64_t)fs.f_bavail * fs.f_frsize / 20 * 19;
    }
    m->drives = b->nvme_count;
    if (m->drives == 0)
        return 0;
    m->drive_bytes = bytes / m->drives;
    m->drive_read_bps = rates->drive_read_bps / m->drives;
    m->drive_write_bps = rates->drive_write_bps / m->drives;
    return 0;
}

int bench_machine_measured(const struct common_budget *b, const struct llama_compute_config *compute,
                           const struct bench_rates *rates, struct ofl_machine *out)
{
    int status;

    *out = (struct ofl_machine){.size = sizeof *out,
                                .name = "this",
                                .bf16_flops = rates->matrix_flops,
                                .f32_flops = rates->matrix_flops,
                                .device_bytes = b->chosen.memory_bytes,
                                .device_bps = rates->device_bps,
                                .link_in_bps = rates->link_in_bps,
                                .link_out_bps = rates->link_out_bps,
                                .host_bytes = common_memory(),
                                .host_bps = rates->host_bps};
    status = add_drives(b, rates, out);
    if (status == 0 && !b->chosen.gpu) {
        status = copy_rate(&out->link_in_bps);
        out->link_out_bps = out->link_in_bps;
    }
    return status ? status : fit_layer(b, compute, out);
}

int bench_machine_this(const struct common_budget *b, const struct llama_compute_config *compute,
                       struct ofl_machine *out)
{
    struct bench_rates rates;
    int status = bench_rates_measure(b, compute->dtype, &rates);

    return status ? status : bench_machine_measured(b, compute, &rates, out);
}
