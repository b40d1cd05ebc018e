/* ofl-bench adam: the command line. See adam.h. */
#include "bench/adam.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/adam_memory.h"
#include "bench/adam_store.h"
#include "examples/common_budget.h"
#include "examples/common_options.h"

#define FIELD(name) .field = offsetof(struct adam_options, name)

static const struct common_word dtypes[] = {{"f32", OFL_F32}, {"bf16", OFL_BF16}, {NULL, 0}};
static const struct common_word forms[] = {{"best", OFL_UPDATE_BEST},
                                           {"plain", OFL_UPDATE_PLAIN},
                                           {"avx2", OFL_UPDATE_AVX2},
                                           {"avx512", OFL_UPDATE_AVX512},
                                           {NULL, 0}};

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_GROUP, .text = "What:", .least = 1},
    {COMMON_COUNT, "elems", "N", "Parameters", FIELD(elems), "200000000", 1024, UINT64_C(1) << 40},
    {COMMON_WORD, "optimizer", COMMON_METHODS, "What computes updates", FIELD(method), "adamw", .words = common_methods},
    {COMMON_WORD, "dtype", "f32|bf16", "Of weights; BF16 ones have an F32 master beside them", FIELD(dtype), "f32",
     .words = dtypes},
    {COMMON_COUNT, "threads", "N", "That update at a time (default: one for each core)", FIELD(threads), "0", 0,
     ADAM_THREADS_MOST},
    {COMMON_COUNT, "repeats", "N", "Updates of all parameters that are measured", FIELD(repeats), "7", 1,
     ADAM_REPEATS_MOST},
    {COMMON_GROUP, .text = "In memory:", .least = 2},
    {COMMON_WORD, "form", "best|plain|avx2|avx512", "Instructions that are used", FIELD(form), "best", .words = forms},
    {COMMON_TEXT, "compare", "LIST", "torch, deepspeed or both with a comma: torch.optim.AdamW(fused=True) and "
     "DeepSpeedCPUAdam on the same arrays, in turns, by python3 or $OFL_PYTHON", FIELD(compare)},
    {COMMON_FLAG, "check", NULL, "Exit 1 below 95 % of the bound", FIELD(check)},
    {COMMON_GROUP, .text = "Out of core (SIZE: bytes, or 512M, 1.5G, ...):", .least = 3},
    {COMMON_CALL, "nvme", "DIR[:SIZE]", "Keep weights, gradients and states here, on a drive", FIELD(nvme),
     .set = common_set_directory},
    {COMMON_BYTES, "host-mem", "SIZE", "Budget of host memory", FIELD(host_bytes), "1G"},
    {COMMON_COUNT, "tensors", "N", "That the parameters are of", FIELD(tensors), "64", 1, 4096},
    {COMMON_NUMBER, "clip", "X", "Exact global norm to clip gradients to; 0: off", FIELD(clip), "0", .low = 0,
     .high = 1e30},
    {COMMON_GROUP, .text = "Results:", .least = 4},
    {COMMON_TEXT, "json", "FILE", "Write the figures", FIELD(json)},
    {.kind = COMMON_END}};
/* clang-format on */

static const struct common_command command = {
    .title = "ofl-bench adam",
    .before = "Times optimizer updates, in memory or out of core, beside the bound of their bytes.",
    .after = "In memory the bound is a loop that reads and writes the same arrays on as many threads, and "
             "computes "
             "next to nothing. Out of core it is the larger of what the drive needs for the bytes that "
             "moved, at its "
             "rate with reads and writes at once, measured in the same run, and of the update in memory.\n\n"
             "Examples:\n"
             "  ofl-bench adam\n"
             "  ofl-bench adam --dtype bf16 --compare torch --json adam.json\n"
             "  ofl-bench adam --elems 1000000000 --nvme /mnt/scratch --host-mem 1G \\\n"
             "      --repeats 3\n\n" COMMON_EXITS ".",
    .tables = {{option_list, 0}}};

static int check(struct adam_options *o)
{
    if (o->nvme.dir && (o->compare || o->check))
        return common_fail(EXIT_OPTION, "--%s goes with updates in memory: leave --nvme out",
                           o->compare ? "compare" : "check");
    if (o->compare && o->method != OFL_ADAMW)
        return common_fail(EXIT_OPTION, "--compare knows --optimizer adamw only");
    if (ofl_update_find((enum ofl_update_form)o->form) < 0)
        return common_fail_ofl(EXIT_OPTION, "--form");
    if (!o->threads) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);

        o->threads = cores > 0 && cores < (long)ADAM_THREADS_MOST ? (uint64_t)cores : 1;
    }
    return 0;
}

int bench_adam_main(int argc, char **argv)
{
    struct adam_options o = {.elems = 0};
    json_t *report = NULL;
    int status = common_options_parse(&command, argc, argv, &o);

    if (status == 0)
        status = check(&o);
    if (status == 0) {
        report = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:I}", "program", "ofl-bench adam", "version",
                           ofl_version(), "date", bench_date().text, "elems", (json_int_t)o.elems,
                           "optimizer", common_method_name((int)o.method), "dtype", ofl_dtype_name(o.dtype),
                           "threads", (json_int_t)o.threads);
        status = !report      ? common_fail(EXIT_FULL, "make the report: out of memory")
                 : o.nvme.dir ? adam_store(&o, report)
                              : adam_memory(&o, report);
    }
    if (status == 0 && o.json)
        status = common_report_write(o.json, report);
    json_decref(report);
    common_options_free(&command, &o);
    free((char *)(uintptr_t)o.nvme.dir);
    return status;
}
