/* ofl-bench: what the drives, the links and the machine can do. This file finds the command. */

#include <stdio.h>
#include <string.h>

#include "bench/adam.h"
#include "bench/bench.h"
#include "bench/compare.h"
#include "bench/decode.h"
#include "bench/link.h"
#include "bench/nvme.h"
#include "bench/plan.h"
#include "bench/plot.h"
#include "bench/probe.h"
#include "bench/simulate.h"
#include "bench/step.h"
#include "bench/store.h"
#include "bench/unpack.h"

static const struct command {
    const char *name, *title;
    int (*run)(int argc, char **argv);
    const char *text;
} commands[] = {
    {"nvme", "ofl-bench nvme", bench_nvme_main,
     "how fast the engine moves bytes to and from directories; against fio, if wanted"},
    {"link", "ofl-bench link", bench_link_main,
     "how fast bytes get to a GPU and back: the library's copies against plain ones"},
    {"probe", "ofl-bench probe", bench_probe_main,
     "what this machine is: nodes, drives, accelerators, limits, io_uring"},
    {"step", "ofl-bench step", bench_step_main,
     "training steps of a model's shape under budgets, beside their bound"},
    {"decode", "ofl-bench decode", bench_decode_main,
     "generation with a model's shape under budgets, beside its bound"},
    {"simulate", "ofl-bench simulate", bench_simulate_main,
     "a step of a model on a machine that need not be there"},
    {"plan", "ofl-bench plan", bench_plan_main,
     "what a model's step will take of a machine: this one, a known one, or one to be bought"},
    {"adam", "ofl-bench adam", bench_adam_main,
     "optimizer updates, in memory and out of core, beside their bound"},
    {"unpack", "ofl-bench unpack", bench_unpack_main,
     "how fast packed weights become numbers, beside the memory bound of their bytes"},
    {"store", "ofl-bench store", bench_store_main,
     "looks whether a kept store is whole, and falls back where it is not"},
    {"compare", "ofl-bench compare", bench_compare_main,
     "reports of `ofl-bench nvme --json` beside each other"},
    {"plot", "ofl-bench plot", bench_plot_main, "draws a report that `ofl-bench nvme --json` has written"},
};

static void usage(FILE *f)
{
    fputs("Usage: ofl-bench COMMAND [OPTION...]\n\n", f);
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++)
        fprintf(f, "  %-8s %s\n", commands[i].name, commands[i].text);
    fputs("\n"
          "`ofl-bench COMMAND --help` lists the options of a command; `ofl-bench --version`.\n"
          "\n"
          "Examples:\n"
          "  ofl-bench probe\n"
          "  ofl-bench nvme --dir /mnt/nvme\n"
          "  ofl-bench link --memory pinned\n"
          "  ofl-bench plan --model 8b --machine rtx-4090 --batch 32\n"
          "  ofl-bench nvme --dir /mnt/nvme --sweep --json sweep.json --plot sweep.svg\n",
          f);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "-?") == 0 ||
        strcmp(name, "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("ofl-bench %s\n", ofl_version());
        return 0;
    }
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        if (strcmp(name, commands[i].name) == 0) {
            char title[32];

            /* Complaints begin with it. */
            snprintf(title, sizeof title, "%s", commands[i].title);
            argv[1] = title;
            return common_end(commands[i].run(argc - 1, argv + 1));
        }
    }
    if (argc < 2) {
        usage(stderr);
        return EXIT_INPUT;
    }
    return common_fail(EXIT_INPUT, "%s: no such command; --help lists them", name);
}
