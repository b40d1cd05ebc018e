/* common: what --dry-run prints: where things would rest, what would move, and how small budgets may be. See
 * common_predict.h. Nothing is measured, so no time is said. */
#include <stdio.h>
#include <string.h>

#include "examples/common_budget.h"
#include "examples/common_predict.h"

typedef unsigned long long ull;

static void print_budgets(const struct common_budget *b, const struct ofl_config *c)
{
    uint64_t drives = 0, bytes[OFL_NVME_MAX];

    printf("budgets    device %s, host %s", common_bytes(c->device_bytes).text,
           common_bytes(c->host_bytes).text);
    if (b->nvme_count && common_budget_store(b, bytes) == 0) {
        for (uint32_t i = 0; i < b->nvme_count; i++)
            drives += bytes[i];
        printf(", NVMe %s", common_bytes(drives).text);
    }
    if (b->store.dir)
        printf(", a kept store");
    putchar('\n');
}

static uint64_t sum(const uint64_t bytes[OFL_KINDS])
{
    uint64_t n = 0;

    for (int i = 0; i < OFL_KINDS; i++)
        n += bytes[i];
    return n;
}

/* Bytes do not depend on rates. */
static void print_moves(const struct common_plan *plan)
{
    struct ofl_machine m = {.size = sizeof m,
                            .name = "any",
                            .bf16_flops = 1e12,
                            .f32_flops = 1e12,
                            .device_bps = 1e11,
                            .host_bps = 1e10,
                            .link_in_bps = 1e10,
                            .link_out_bps = 1e10,
                            .device_bytes = plan->open->device_bytes,
                            .host_bytes = plan->open->host_bytes + 1,
                            .drives = 1,
                            .drive_bytes = UINT64_C(1) << 50,
                            .drive_read_bps = 1e9,
                            .drive_write_bps = 1e9};
    struct ofl_workload w = common_plan_workload(plan);
    struct ofl_budgets budgets = common_budgets_of(plan->open);
    struct ofl_estimate e = {.size = sizeof e};

    if (plan->scratch_bytes)
        w.workspace_bytes = plan->scratch_bytes;
    if (plan->compute->shape.experts || ofl_estimate_get(&m, &w, &budgets, &e) < 0 || !e.fits)
        return;
    printf("plan       device %s, host %s, %s %s at rest between two %ss\n",
           common_bytes(sum(e.placed_bytes[OFL_DEVICE])).text,
           common_bytes(sum(e.placed_bytes[OFL_HOST])).text, plan->source ? "files" : "NVMe",
           common_bytes(sum(e.placed_bytes[OFL_NVME])).text, plan->what);
    printf("a %-8s moves %s to the device, %s from it; reads %s of drives, writes %s\n", plan->what,
           common_bytes(e.device_in_bytes).text, common_bytes(e.device_out_bytes).text,
           common_bytes(e.drive_read_bytes).text, common_bytes(e.drive_write_bytes).text);
    if (plan->open->max_written_bytes && e.drive_write_bytes)
        printf("written    --max-written has room for about %llu %ss\n",
               (ull)(plan->open->max_written_bytes / e.drive_write_bytes), plan->what);
}

void common_dry_run(const struct common_plan *plan, const struct common_ways *ways)
{
    print_budgets(plan->budget, plan->open);
    if (plan->compute)
        print_moves(plan);
    printf("smallest   --device-mem %llu (%s); --host-mem %llu (%s)", (ull)ways->device_least,
           common_bytes(ways->device_least).text, (ull)ways->host_least, common_bytes(ways->host_least).text);
    if (ways->nvme_least)
        printf("; --nvme %llu (%s)", (ull)ways->nvme_least, common_bytes(ways->nvme_least).text);
    printf(": each beside the others as they are\n");
    if (ways->drive_bytes)
        printf("           or --nvme %llu (%s) and --device-mem %llu (%s)\n", (ull)ways->drive_bytes,
               common_bytes(ways->drive_bytes).text, (ull)ways->drive_device_least,
               common_bytes(ways->drive_device_least).text);
    printf("dry run    nothing is made, measured or written\n");
}
