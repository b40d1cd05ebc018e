/* Budgets of `ofl-bench decode`. See decode_budget.h. */
#include "bench/decode_budget.h"

#include <stdlib.h>

#define PAGE 4096ull

/* ---- the model ------------------------------------------------------------------ */

/* Goes through the slices of all tensors; cuts NULL: only counts them. */
static uint32_t list_cuts(const struct llama_shape *shape, const enum ofl_dtype *dtypes,
                          struct llama_cut *cuts)
{
    uint64_t limit = llama_slice_limit(shape, dtypes);
    uint32_t count = 0;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct llama_cut cut = {0};

        do {
            llama_cut_at(shape, dtypes, limit, i, cut.from + cut.rows, &cut);
            if (cuts)
                cuts[count] = cut;
            count++;
        } while (cut.from + cut.rows < cut.desc.shape[0]);
    }
    return count;
}

int bench_decode_model_make(struct bench_decode_model *m, const struct llama_generator_config *config)
{
    uint32_t tensors = llama_tensor_count(&config->shape);
    enum ofl_dtype *dtypes = calloc(tensors, sizeof *dtypes);

    *m = (struct bench_decode_model){0};
    for (uint32_t i = 0; dtypes && i < tensors; i++)
        dtypes[i] = config->fresh;
    if (dtypes) {
        m->count = list_cuts(&config->shape, dtypes, NULL);
        m->weights = calloc(m->count, sizeof *m->weights);
        m->cuts = calloc(m->count, sizeof *m->cuts);
    }
    if (!dtypes || !m->weights || !m->cuts) {
        free(dtypes);
        return common_fail(EXIT_FULL, "decode: out of memory");
    }
    list_cuts(&config->shape, dtypes, m->cuts);
    for (uint32_t i = 0; i < m->count; i++)
        m->weights[i] = (struct ofl_tensor_desc){.size = sizeof *m->weights,
                                                 .name = m->cuts[i].name,
                                                 .kind = OFL_KIND_WEIGHT,
                                                 .dtype = config->fresh,
                                                 .elems = m->cuts[i].elems};
    llama_generator_need(config, dtypes, &m->need);
    free(dtypes);
    return 0;
}

void bench_decode_model_free(struct bench_decode_model *m)
{
    free(m->weights);
    free(m->cuts);
}

/* ---- one set of budgets ----------------------------------------------------------- */

struct budgets {
    const struct bench_decode_model *model;
    const char *device;
    struct ofl_nvme nvme[OFL_NVME_MAX]; /* each with its bytes */
    uint32_t nvme_count;
    uint64_t device_bytes, host_bytes;
};

/* Device memory that no weight lives in: for a part of the model, and if there is room for the next two,
 * which then come while it is in use. */
static uint64_t leased_bytes(const struct budgets *b, uint64_t expected_bytes)
{
    const struct llama_generator_need *need = &b->model->need;
    uint64_t least = need->device.device_bytes, part = least - need->cache_bytes - need->workspace_bytes;
    uint64_t kept = b->host_bytes > 8 * GIB ? GIB : b->host_bytes / 4; /* for moves */
    uint64_t elsewhere = b->host_bytes - kept, on_device = need->device.largest_bytes, leased;

    for (uint32_t i = 0; i < b->nvme_count; i++)
        elsewhere += b->nvme[i].bytes;
    if (expected_bytes > elsewhere)
        on_device += expected_bytes - elsewhere;
    leased = b->device_bytes > on_device ? b->device_bytes - on_device : 0;
    if (leased > least + 2 * part)
        leased = least + 2 * part;
    if (leased < least)
        leased = least;
    return leased < b->device_bytes ? leased : b->device_bytes;
}

static bool holds(const struct bench_decode_model *m, const struct ofl_config *c)
{
    return ofl_homes_check(c, m->weights, m->count) == 0;
}

/* False: they can't work. */
static bool config_of(const struct budgets *b, struct ofl_config *out)
{
    const struct llama_generator_need *need = &b->model->need;
    struct ofl_config c = {.size = sizeof c,
                           .device = b->device,
                           .log = common_log,
                           .device_bytes = b->device_bytes,
                           .host_bytes = b->host_bytes,
                           .nvme = b->nvme,
                           .nvme_count = b->nvme_count,
                           .expected_bytes = need->weight_bytes + PAGE * need->weights};
    bool held;

    if (c.device_bytes / 256 * 256 < need->device.device_bytes)
        return false;
    if (c.device_bytes < need->device_all_bytes || b->nvme_count) /* else the device may hold all */
        c.leased_bytes = leased_bytes(b, c.expected_bytes);
    held = holds(b->model, &c);
    if (!held && c.leased_bytes > need->device.device_bytes) { /* better tight than not at all */
        c.leased_bytes = need->device.device_bytes;
        held = holds(b->model, &c);
    }
    *out = c;
    return held;
}

static bool works(const struct budgets *b)
{
    struct ofl_config c;

    return config_of(b, &c);
}

/* ---- the smallest -------------------------------------------------------------------- */

enum which { DEVICE, HOST, STORE };

/* Over several directories in equal parts of whole MiB. */
static uint64_t part_of(const struct budgets *b, uint64_t bytes)
{
    return b->nvme_count > 1 ? (bytes / b->nvme_count + MIB - 1) / MIB * MIB : bytes;
}

static void set(struct budgets *b, enum which which, uint64_t bytes)
{
    if (which == DEVICE)
        b->device_bytes = bytes;
    else if (which == HOST)
        b->host_bytes = bytes;
    for (uint32_t i = 0; i < b->nvme_count && which == STORE; i++)
        b->nvme[i].bytes = part_of(b, bytes);
}

/* The smallest that works with the others as they are, or 0; a page less does not. */
static uint64_t smallest(struct budgets b, enum which which)
{
    const struct llama_generator_need *need = &b.model->need;
    uint64_t all = 2 * (need->weight_bytes + PAGE * need->weights) + GIB + need->device_all_bytes;
    uint64_t fails = which == DEVICE ? need->device.device_bytes : which == HOST ? OFL_HOST_MIN_BYTES : PAGE;
    uint64_t does = fails + (all + b.host_bytes) / PAGE * PAGE;

    if (which == STORE && b.nvme_count == 0)
        b.nvme[b.nvme_count++] = (struct ofl_nvme){.dir = "."};
    set(&b, which, fails);
    if (works(&b))
        return fails;
    set(&b, which, does);
    if (!works(&b))
        return 0;
    while (does - fails > PAGE) {
        uint64_t middle = fails + (does - fails) / PAGE / 2 * PAGE;

        set(&b, which, middle);
        if (works(&b))
            does = middle;
        else
            fails = middle;
    }
    return which == STORE ? b.nvme_count * part_of(&b, does) : does;
}

/* ---- choosing -------------------------------------------------------------------------- */

static void say(char *text, size_t size, const char *what, uint64_t bytes)
{
    if (bytes)
        snprintf(text, size, "the smallest workable %s is %llu bytes (%s)", what, (ull)bytes,
                 common_bytes(bytes).text);
    else
        snprintf(text, size, "no %s works", what);
}

static int refuse(const struct budgets *b, uint64_t store_bytes)
{
    const struct llama_generator_need *need = &b->model->need;
    const struct llama_need *d = &need->device;
    char device[128], host[128], store[128], there[64] = "no --nvme";

    say(device, sizeof device, "--device-mem", smallest(*b, DEVICE));
    say(host, sizeof host, "--host-mem", smallest(*b, HOST));
    say(store, sizeof store, b->nvme_count > 1 ? "--nvme over all" : "--nvme", smallest(*b, STORE));
    if (b->nvme_count)
        snprintf(there, sizeof there, "--nvme of %llu bytes", (ull)store_bytes);
    return common_fail(
        EXIT_INPUT,
        "--device-mem of %llu bytes, --host-mem of %llu bytes, %s: they have to hold %llu bytes of weights "
        "together, and the device the %llu bytes that %s needs at once; beside the others %s, %s, %s",
        (ull)b->device_bytes, (ull)b->host_bytes, there, (ull)need->weight_bytes, (ull)d->device_bytes,
        d->part, device, host, store);
}

int bench_decode_budgets(const struct common_budget *b, const struct bench_decode_model *m,
                         struct ofl_config *out)
{
    const struct llama_generator_need *need = &m->need;
    struct budgets tried = {.model = m, .device = b->chosen.device, .nvme_count = b->nvme_count};
    struct common_ways ways = {0};
    uint64_t bytes[OFL_NVME_MAX], store = 0;
    int status = common_budget_store(b, bytes);

    if (status)
        return status;
    for (uint32_t i = 0; i < b->nvme_count; i++) {
        tried.nvme[i] = (struct ofl_nvme){.dir = b->nvme[i].dir, .bytes = bytes[i]};
        store += bytes[i];
    }
    tried.host_bytes = b->host_bytes ? b->host_bytes : b->nvme_count ? 64 * MIB : 4 * MIB;
    tried.device_bytes = b->device_bytes;
    if (b->in_memory || !b->device_bytes) /* the larger memory is the home where there is no drive */
        tried.device_bytes =
            need->device_all_bytes > tried.host_bytes ? need->device_all_bytes : tried.host_bytes + PAGE;
    if (!config_of(&tried, out))
        return refuse(&tried, store);
    ways.device_least = smallest(tried, DEVICE);
    ways.host_least = smallest(tried, HOST);
    if (!b->nvme_count) {
        ways.drive_bytes = need->weight_bytes + PAGE * need->weights;
        ways.drive_device_least = need->device.device_bytes;
    }
    out->nvme = b->nvme;
    out->max_written_bytes = b->max_written;
    return common_budget_fits(b, out, out->expected_bytes, 0, &ways);
}
