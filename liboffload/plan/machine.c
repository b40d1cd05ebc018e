/* machine: see machine.h, and offload_estimate.h for what the members mean. */
#include "liboffload/plan/machine.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/entry.h"
#include "base/error.h"
#include "base/sized.h"
#include "liboffload/plan/shape.h"

/*
 * Accelerators: NVIDIA's data sheets and architecture papers, dense BF16 with sums in F32, and plain F32:
 *   RTX 4090  Ada architecture paper, appendix A: 165.2 and 82.6 TFLOP/s, 24 GB, 1008 GB/s, PCIe 4.0 x16
 *   RTX 5090  RTX Blackwell architecture paper, appendix A: 209.5 and 104.8, 32 GB, 1792 GB/s, PCIe 5.0 x16
 *   A100 80GB SXM data sheet: 312 and 19.5, 80 GB, 2039 GB/s, PCIe 4.0 x16
 *   H100 SXM data sheet: 989 (half of the figure with sparsity) and 67, 80 GB, 3350 GB/s, PCIe 5.0 x16
 *   H200 SXM data sheet: 989 and 67, 141 GB, 4800 GB/s, PCIe 5.0 x16
 * Link: 16 lanes of 16 or 32 GT/s, 128 of 130 bits (PCI Express base specification): 31.5 and 63 GB/s each way;
 * LINK_SHARE of it is left beside packet headers and flow control.
 * RAM: channels x 8 bytes x transfers of the platform's data sheet:
 *   workstations  AMD Ryzen Threadripper 7000: 4 channels of DDR5-5200, 166.4 GB/s
 *   A100          AMD EPYC 7003: 8 channels of DDR4-3200, 204.8 GB/s
 *   H100, H200    Intel Xeon Scalable, 4th generation: 8 channels of DDR5-4800, 307.2 GB/s
 * Drives: Solidigm D7-P5510 3.84 TB data sheet: 6500 MB/s read, 3400 MB/s written, one drive write per day for
 * five years. It says nothing of both at once, so a drive gives to one what the other leaves.
 * MEMORY_SHARE, LINK_SHARE and the shares of products are not of data sheets: what large copies and large products
 * commonly reach. A machine that is measured has 1.
 */
#define PCIE4        31.5e9
#define PCIE5        63.0e9
#define LINK_SHARE   0.85
#define MEMORY_SHARE 0.85

#define GB(n)  ((uint64_t)((n)*1e9))
#define GIB(n) ((uint64_t)(n) << 30)

#define P5510                                                                                                \
    .drive_bytes = GB(3840), .drive_read_bps = 6.5e9, .drive_write_bps = 3.4e9,                              \
    .drive_endurance_bytes = 3.84e12 * 365 * 5

static const struct ofl_machine machines[] = {
    {.name = "rtx-4090",
     .bf16_flops = 165.2e12,
     .f32_flops = 82.6e12,
     .products_share = 0.85,
     .device_bytes = GIB(24),
     .device_bps = MEMORY_SHARE * 1008e9,
     .link_in_bps = LINK_SHARE * PCIE4,
     .link_out_bps = LINK_SHARE * PCIE4,
     .host_bytes = GIB(256),
     .host_bps = MEMORY_SHARE * 166.4e9,
     .drives = 4,
     P5510},
    {.name = "rtx-5090",
     .bf16_flops = 209.5e12,
     .f32_flops = 104.8e12,
     .products_share = 0.85,
     .device_bytes = GIB(32),
     .device_bps = MEMORY_SHARE * 1792e9,
     .link_in_bps = LINK_SHARE * PCIE5,
     .link_out_bps = LINK_SHARE * PCIE5,
     .host_bytes = GIB(256),
     .host_bps = MEMORY_SHARE * 166.4e9,
     .drives = 4,
     P5510},
    {.name = "a100-80",
     .bf16_flops = 312e12,
     .f32_flops = 19.5e12,
     .products_share = 0.75,
     .device_bytes = GIB(80),
     .device_bps = MEMORY_SHARE * 2039e9,
     .link_in_bps = LINK_SHARE * PCIE4,
     .link_out_bps = LINK_SHARE * PCIE4,
     .host_bytes = GIB(512),
     .host_bps = MEMORY_SHARE * 204.8e9,
     .drives = 8,
     P5510},
    {.name = "h100",
     .bf16_flops = 989e12,
     .f32_flops = 67e12,
     .products_share = 0.65,
     .device_bytes = GIB(80),
     .device_bps = MEMORY_SHARE * 3350e9,
     .link_in_bps = LINK_SHARE * PCIE5,
     .link_out_bps = LINK_SHARE * PCIE5,
     .host_bytes = GIB(1024),
     .host_bps = MEMORY_SHARE * 307.2e9,
     .drives = 8,
     P5510},
    {.name = "h200",
     .bf16_flops = 989e12,
     .f32_flops = 67e12,
     .products_share = 0.65,
     .device_bytes = GB(141),
     .device_bps = MEMORY_SHARE * 4800e9,
     .link_in_bps = LINK_SHARE * PCIE5,
     .link_out_bps = LINK_SHARE * PCIE5,
     .host_bytes = GIB(1536),
     .host_bps = MEMORY_SHARE * 307.2e9,
     .drives = 8,
     P5510},
};

#define MACHINES (sizeof machines / sizeof machines[0])

/* ---- members by name ------------------------------------------------------------ */

enum type { BYTES, COUNT, RATE, SHARE };

static const struct member {
    const char *name;
    size_t at;
    enum type type;
    bool needed;
} members[] = {
#define MEMBER(name, type, needed)                                                                           \
    {                                                                                                        \
#name, offsetof(struct ofl_machine, name), type, needed                                              \
    }
    MEMBER(bf16_flops, RATE, true),
    MEMBER(f32_flops, RATE, true),
    MEMBER(products_share, SHARE, false),
    MEMBER(device_bytes, BYTES, true),
    MEMBER(device_bps, RATE, true),
    MEMBER(link_in_bps, RATE, true),
    MEMBER(link_out_bps, RATE, true),
    MEMBER(link_both_bps, RATE, false),
    MEMBER(host_bytes, BYTES, true),
    MEMBER(host_bps, RATE, true),
    MEMBER(drives, COUNT, false),
    MEMBER(shared, SHARE, false),
    MEMBER(drive_bytes, BYTES, false),
    MEMBER(drive_read_bps, RATE, false),
    MEMBER(drive_write_bps, RATE, false),
    MEMBER(drive_mixed_bps, RATE, false),
    MEMBER(drive_endurance_bytes, RATE, false),
    MEMBER(part_s, RATE, false),
#undef MEMBER
};

#define MEMBERS      (sizeof members / sizeof members[0])
#define MEMBER_BYTES 1e18 /* the most that a member may say, of anything */
#define COUNT_MAX    1024.0

static double value_of(const struct ofl_machine *m, const struct member *x)
{
    const char *at = (const char *)m + x->at;

    return x->type == BYTES   ? (double)*(const uint64_t *)(const void *)at
           : x->type == COUNT ? *(const uint32_t *)(const void *)at
                              : *(const double *)(const void *)at;
}

static void set_value(struct ofl_machine *m, const struct member *x, double value)
{
    char *at = (char *)m + x->at;

    if (x->type == BYTES)
        *(uint64_t *)(void *)at = (uint64_t)value;
    else if (x->type == COUNT)
        *(uint32_t *)(void *)at = (uint32_t)value;
    else
        *(double *)(void *)at = value;
}

static const char *wrong_with(const struct member *x, double value)
{
    if (!isfinite(value) || value < 0 || value > MEMBER_BYTES)
        return "not a number from 0 to 1e18";
    if (x->type == SHARE && value > 1)
        return "a share is 1 at most";
    if (x->type == COUNT && (value > COUNT_MAX || value != floor(value)))
        return "not a whole number from 0 to 1024";
    return x->needed && value == 0 ? "is needed" : NULL;
}

int plan_machine_read(const struct ofl_machine *from, struct ofl_machine *m)
{
    int err = base_sized_read(m, sizeof *m, sizeof *m, from, "estimate: machine");

    for (size_t i = 0; i < MEMBERS && err == 0; i++) {
        double value = value_of(m, &members[i]);
        const char *wrong = wrong_with(&members[i], value);

        if (wrong)
            err = base_fail(-EINVAL, "machine %.*s: %s of %g: %s", OFL_MACHINE_NAME, m->name, members[i].name,
                            value, wrong);
    }
    if (err == 0 && m->drives && (m->drive_bytes == 0 || m->drive_read_bps <= 0 || m->drive_write_bps <= 0))
        err = base_fail(-EINVAL,
                        "machine %.*s: %u drives, without drive_bytes, drive_read_bps and drive_write_bps",
                        OFL_MACHINE_NAME, m->name, m->drives);
    if (err < 0)
        return err;
    m->name[OFL_MACHINE_NAME - 1] = 0;
    m->products_share = m->products_share > 0 ? m->products_share : 1;
    return 0;
}

/* ---- measured ------------------------------------------------------------------------ */

/* Of these parts, run one after the other, the rates at which they take so long. */
static void fit(struct ofl_machine *m, double *peak, const struct plan_cost *parts, int count, double layer_s)
{
    double flops = 0, bytes = 0, rate;

    for (int i = 0; i < count; i++) {
        flops += parts[i].flops;
        bytes += parts[i].bytes;
    }
    rate = flops / layer_s;
    m->device_bps = m->device_bps > bytes / layer_s ? m->device_bps : bytes / layer_s;
    for (int i = 0; i < count; i++) /* products bind: no part's bytes take longer */
        if (parts[i].bytes * rate > parts[i].flops * m->device_bps)
            m->device_bps = parts[i].bytes * rate / parts[i].flops;
    *peak = *peak > rate ? *peak : rate;
    m->products_share = rate / *peak;
}

int ofl_machine_fit(struct ofl_machine *machine, const struct ofl_workload *workload, double layer_s)
{
    struct ofl_machine m;
    struct ofl_workload w;
    struct plan_shape shape;
    struct plan_cost parts[2];
    double *peak;
    int err = base_need(machine, workload);

    if (err == 0)
        err = plan_machine_read(machine, &m);
    if (err == 0)
        err = plan_workload_read(workload, &w, &shape);
    if (err == 0 && !(layer_s > 0 && isfinite(layer_s)))
        err = base_fail(-EINVAL, "machine %s: a layer of %g s", m.name, layer_s);
    if (err < 0)
        return err;
    peak = w.dtype == OFL_F32 ? &m.f32_flops : &m.bf16_flops;
    if (w.work == OFL_TRAIN) {
        parts[0] = plan_cost_forward(&shape, &w);
        parts[1] = plan_cost_backward(&shape, &w, true);
        fit(&m, peak, parts, 2, layer_s);
    } else {
        parts[0] = plan_cost_extend(&shape, &w);
        m.device_bps = parts[0].bytes / layer_s;
        fit(&m, peak, parts, 1, layer_s);
        m.products_share = 1; /* bytes bind, and do no more than that */
    }
    return base_sized_write(machine, &m, sizeof m, "machine");
}

/* ---- the table -------------------------------------------------------------------- */

int ofl_machine_at(size_t index, struct ofl_machine *out)
{
    if (index >= MACHINES)
        return base_fail(-ENOENT, "machine %zu: the table has %zu", index, MACHINES);
    return base_sized_write(out, &machines[index], sizeof machines[index], "machine");
}

int ofl_machine_find(const char *name, struct ofl_machine *out)
{
    char names[256] = "";
    size_t used = 0;

    if (base_need(name, out) < 0)
        return -EINVAL;
    for (size_t i = 0; i < MACHINES; i++) {
        if (strcmp(machines[i].name, name) == 0)
            return ofl_machine_at(i, out);
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", machines[i].name);
    }
    return base_fail(-ENOENT, "machine %.64s: not one of %s", name, names);
}

/* ---- files ------------------------------------------------------------------------ */

static const struct member *member_of(const char *name)
{
    for (size_t i = 0; i < MEMBERS; i++)
        if (strcmp(members[i].name, name) == 0)
            return &members[i];
    return NULL;
}

static int take_member(const char *path, const char *name, const json_t *value, struct ofl_machine *m)
{
    const struct member *x = member_of(name);
    const char *wrong;

    if (strcmp(name, "name") == 0 || strcmp(name, "like") == 0)
        return json_is_string(value) ? 0
                                     : base_fail(-OFL_EFORMAT, "machine %s: %s is not a text", path, name);
    if (!x)
        return base_fail(-OFL_EFORMAT, "machine %s: %.64s: there is no such member", path, name);
    if (!json_is_number(value))
        return base_fail(-OFL_EFORMAT, "machine %s: %s is not a number", path, name);
    wrong = wrong_with(x, json_number_value(value));
    if (wrong)
        return base_fail(-OFL_EFORMAT, "machine %s: %s of %g: %s", path, name, json_number_value(value),
                         wrong);
    set_value(m, x, json_number_value(value));
    return 0;
}

static int take_object(const char *path, const json_t *root, struct ofl_machine *m)
{
    const char *like = json_string_value(json_object_get(root, "like")), *key;
    const char *name = json_string_value(json_object_get(root, "name"));
    json_t *value;
    int err = 0;

    if (!json_is_object(root))
        return base_fail(-OFL_EFORMAT, "machine %s: not a JSON object", path);
    if (like && ofl_machine_find(like, m) < 0) {
        struct base_error why;

        base_error_save(&why, -OFL_EFORMAT);
        return base_fail(-OFL_EFORMAT, "machine %s: like: %.200s", path, why.text);
    }
    json_object_foreach((json_t *)root, key, value)
    {
        err = err < 0 ? err : take_member(path, key, value, m);
    }
    if (err == 0)
        snprintf(m->name, sizeof m->name, "%s", name ? name : path);
    return err;
}

int ofl_machine_load(const char *path, struct ofl_machine *out)
{
    struct ofl_machine m = {.size = sizeof m}, whole;
    json_error_t error;
    json_t *root;
    int err;

    if (base_need(path, out) < 0)
        return -EINVAL;
    root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root && json_error_code(&error) == json_error_cannot_open_file)
        return base_fail_errno(-errno, "open machine %s", path);
    if (!root)
        return base_fail(-OFL_EFORMAT, "machine %s: line %d: %s", path, error.line, error.text);
    err = take_object(path, root, &m);
    json_decref(root);
    if (err == 0 && plan_machine_read(&m, &whole) < 0) {
        struct base_error why;

        base_error_save(&why, -OFL_EFORMAT);
        err = base_fail(-OFL_EFORMAT, "%s: %.900s", path, why.text);
    }
    return err < 0 ? err : base_sized_write(out, &whole, sizeof whole, "machine");
}
