/* The machine that a plan is made for. See machine.h. */
#include "bench/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "examples/common_memory.h"
#include "examples/common_predict.h"

#define COPY_BYTES (64ull << 20)
#define LAYER_S    1.2

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

/* ---- this machine --------------------------------------------------------------- */

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
    char error[COMMON_ERROR_BYTES];
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
    if (status)
        return status;
    common_progress("timing a layer");
    if (!b->chosen.gpu && common_link_rates(b->chosen.device, COPY_BYTES, &out->link_in_bps,
                                            &out->link_out_bps, error, sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "measure the link: %s", error);
    if (common_machine_fit(b, compute, b->chosen.memory_bytes / 8, LAYER_S, out, error, sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "%s", error);
    common_progress_clear();
    return 0;
}

int bench_machine_this(const struct common_budget *b, const struct llama_compute_config *compute,
                       struct ofl_machine *out)
{
    struct bench_rates rates;
    int status = bench_rates_measure(b, compute->dtype, &rates);

    return status ? status : bench_machine_measured(b, compute, &rates, out);
}
