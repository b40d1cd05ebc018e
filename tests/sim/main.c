/*
 * sim: runs programs against the simulated pager. See sim.h.
 *     sim --seeds N --from S    N programs, from seed S on
 *     sim --print S             the program of a seed
 */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"

enum {
    OPT_SEEDS = 256,
    OPT_FROM,
    OPT_PRINT,
    OPT_FAULTS,
    OPT_ALLOC,
    OPT_STREAMS,
    OPT_OPTIM,
    OPT_STEPS,
    OPT_PARTS,
    OPT_HINTS,
    OPT_UNPLANNED,
    OPT_COMMITS,
    OPT_VERIFY,
    OPT_TRACE,
    OPT_KEEP,
    OPT_RAW,
    OPT_HELP
};

static const struct option long_options[] = {
    {"seeds", required_argument, NULL, OPT_SEEDS},
    {"from", required_argument, NULL, OPT_FROM},
    {"print", required_argument, NULL, OPT_PRINT},
    {"no-faults", no_argument, NULL, OPT_FAULTS},
    {"no-alloc-failures", no_argument, NULL, OPT_ALLOC},
    {"one-stream", no_argument, NULL, OPT_STREAMS},
    {"no-optimizers", no_argument, NULL, OPT_OPTIM},
    {"no-steps", no_argument, NULL, OPT_STEPS},
    {"no-parts", no_argument, NULL, OPT_PARTS},
    {"hints", required_argument, NULL, OPT_HINTS},
    {"unplanned", required_argument, NULL, OPT_UNPLANNED},
    {"commits", required_argument, NULL, OPT_COMMITS},
    {"verify-every", required_argument, NULL, OPT_VERIFY},
    {"trace", no_argument, NULL, OPT_TRACE},
    {"keep-going", no_argument, NULL, OPT_KEEP},
    {"no-shrinking", no_argument, NULL, OPT_RAW},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static const char usage[] =
    "usage: sim [--seeds N] [--from S] [OPTION...]\n"
    "  --seeds N             programs to run (1000)\n"
    "  --from S              the first seed (1)\n"
    "  --print S             show the program of a seed, and run it\n"
    "  --no-faults           no failing transfers\n"
    "  --no-alloc-failures   no failing allocations\n"
    "  --one-stream          one stream, one optimizer\n"
    "  --no-optimizers\n"
    "  --no-steps            no recorded steps: no prefetch\n"
    "  --no-parts            no leases of parts\n"
    "  --hints N             hints before one of N statements (0: none)\n"
    "  --unplanned N         one of N leases is no part of its step's record (0: none)\n"
    "  --commits N           tensors are kept, and a commit begins before one of N statements (0: none)\n"
    "  --verify-every N      balance the books after every N events (16; 0: only at rest)\n"
    "  --keep-going          go on after a violation; count them\n"
    "  --no-shrinking        print the program as it was\n"
    "  --trace               what the pager logs, on stderr\n"
    "A violation prints its seed and the smallest program found that shows it; exit status 1.\n";

static uint64_t number(const char *text)
{
    return strtoull(text, NULL, 0);
}

static void report(struct sim_program *prog, const struct sim_options *options, struct sim_result *result,
                   bool shrink)
{
    printf("seed %llu: %s\n", (unsigned long long)prog->seed, result->what);
    fflush(stdout);
    if (!shrink)
        return;
    sim_shrink(prog, options, result);
    {
        struct sim_options dump = *options;

        dump.dump = true;
        sim_run(prog, &dump, result);
    }
    printf("the smallest program found: %s\n", result->what);
    sim_program_print(prog);
    fflush(stdout);
}

struct totals {
    uint64_t violations, events, checks, statements, evictions, misses, prefetches, read, written, updates,
        commits;
};

static bool one(uint64_t seed, const struct sim_options *options, bool shrink, struct totals *totals)
{
    static struct sim_program prog;
    struct sim_result result;

    sim_program_make(&prog, seed, options);
    sim_run(&prog, options, &result);
    totals->events += result.events;
    totals->checks += result.checks;
    totals->statements += prog.count;
    totals->evictions += result.evictions;
    totals->misses += result.misses;
    totals->prefetches += result.prefetches;
    totals->read += result.read;
    totals->written += result.written;
    totals->updates += result.updates;
    totals->commits += result.commits;
    if (!result.failed)
        return true;
    totals->violations++;
    report(&prog, options, &result, shrink);
    return false;
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* What is asked for beside the options. */
struct job {
    uint64_t seeds, from, print;
    bool keep, shrink;
};

/* The exit status, if the program is to end here; -1: go on. */
static int parse(int argc, char **argv, struct sim_options *options, struct job *job)
{
    int c;

    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (c) {
        case OPT_SEEDS:
            job->seeds = number(optarg);
            break;
        case OPT_FROM:
            job->from = number(optarg);
            break;
        case OPT_PRINT:
            job->print = number(optarg);
            break;
        case OPT_FAULTS:
            options->no_faults = true;
            break;
        case OPT_ALLOC:
            options->no_alloc_failures = true;
            break;
        case OPT_STREAMS:
            options->no_streams = true;
            break;
        case OPT_OPTIM:
            options->no_optimizers = true;
            break;
        case OPT_STEPS:
            options->no_steps = true;
            break;
        case OPT_PARTS:
            options->no_parts = true;
            break;
        case OPT_HINTS:
            options->hints = (uint32_t)number(optarg);
            break;
        case OPT_UNPLANNED:
            options->unplanned = (uint32_t)number(optarg);
            break;
        case OPT_COMMITS:
            options->commits = (uint32_t)number(optarg);
            break;
        case OPT_VERIFY:
            options->verify_every = (uint32_t)number(optarg);
            break;
        case OPT_TRACE:
            options->trace = true;
            break;
        case OPT_KEEP:
            job->keep = true;
            break;
        case OPT_RAW:
            job->shrink = false;
            break;
        case OPT_HELP:
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    return -1;
}

static void print_totals(const struct job *job, const struct totals *totals, double seconds)
{
    printf("seeds %llu to %llu: %llu violations, %llu statements, %llu events, %llu words compared, %.1f s\n",
           (unsigned long long)job->from, (unsigned long long)(job->from + job->seeds - 1),
           (unsigned long long)totals->violations, (unsigned long long)totals->statements,
           (unsigned long long)totals->events, (unsigned long long)totals->checks, seconds);
    printf("evictions %llu, misses %llu, prefetches %llu, pages read %llu, written %llu, updates %llu, "
           "commits %llu\n",
           (unsigned long long)totals->evictions, (unsigned long long)totals->misses,
           (unsigned long long)totals->prefetches, (unsigned long long)totals->read,
           (unsigned long long)totals->written, (unsigned long long)totals->updates,
           (unsigned long long)totals->commits);
}

int main(int argc, char **argv)
{
    struct sim_options options = {.verify_every = 16};
    struct job job = {.seeds = 1000, .from = 1, .shrink = true};
    struct totals totals = {0};
    double start = now_s(), shown = start;
    int status = parse(argc, argv, &options, &job);

    if (status >= 0)
        return status;
    mallopt(M_MMAP_THRESHOLD, 64 << 20); /* memory is taken and given back all the time */
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    if (job.print) {
        static struct sim_program prog;

        sim_program_make(&prog, job.print, &options);
        sim_program_print(&prog);
        job.from = job.print;
        job.seeds = 1;
    }
    for (uint64_t seed = job.from; seed < job.from + job.seeds; seed++) {
        if (!one(seed, &options, job.shrink, &totals) && !job.keep)
            break;
        if (isatty(2) && now_s() - shown > 0.2) {
            shown = now_s();
            fprintf(stderr, "\r%llu of %llu", (unsigned long long)(seed - job.from + 1),
                    (unsigned long long)job.seeds);
        }
    }
    if (isatty(2))
        fprintf(stderr, "\r");
    print_totals(&job, &totals, now_s() - start);
    return totals.violations > 0;
}
