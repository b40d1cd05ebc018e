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
    OPT_VERIFY,
    OPT_TRACE,
    OPT_KEEP,
    OPT_RAW,
    OPT_FORGIVE,
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
    {"verify-every", required_argument, NULL, OPT_VERIFY},
    {"trace", no_argument, NULL, OPT_TRACE},
    {"keep-going", no_argument, NULL, OPT_KEEP},
    {"no-shrinking", no_argument, NULL, OPT_RAW},
    {"forgive", no_argument, NULL, OPT_FORGIVE},
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
    uint64_t violations, events, checks, statements, evictions, misses, prefetches, read, written, updates;
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

struct settings {
    struct sim_options options;
    uint64_t seeds, from, print;
    bool keep, shrink;
};

static void parse(int argc, char **argv, struct settings *s)
{
    int c;

    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (c) {
        case OPT_SEEDS:
            s->seeds = number(optarg);
            break;
        case OPT_FROM:
            s->from = number(optarg);
            break;
        case OPT_PRINT:
            s->print = number(optarg);
            break;
        case OPT_FAULTS:
            s->options.no_faults = true;
            break;
        case OPT_ALLOC:
            s->options.no_alloc_failures = true;
            break;
        case OPT_STREAMS:
            s->options.no_streams = true;
            break;
        case OPT_OPTIM:
            s->options.no_optimizers = true;
            break;
        case OPT_STEPS:
            s->options.no_steps = true;
            break;
        case OPT_VERIFY:
            s->options.verify_every = (uint32_t)number(optarg);
            break;
        case OPT_TRACE:
            s->options.trace = true;
            break;
        case OPT_KEEP:
            s->keep = true;
            break;
        case OPT_RAW:
            s->shrink = false;
            break;
        case OPT_FORGIVE:
            s->options.forgive = true;
            break;
        case OPT_HELP:
            fputs(usage, stdout);
            exit(0);
        default:
            fputs(usage, stderr);
            exit(2);
        }
    }
}

static void print_totals(const struct settings *s, const struct totals *t, double seconds)
{
    printf("seeds %llu to %llu: %llu violations, %llu statements, %llu events, %llu words compared, %.1f s\n",
           (unsigned long long)s->from, (unsigned long long)(s->from + s->seeds - 1),
           (unsigned long long)t->violations, (unsigned long long)t->statements,
           (unsigned long long)t->events, (unsigned long long)t->checks, seconds);
    printf("evictions %llu, misses %llu, prefetches %llu, pages read %llu, written %llu, updates %llu\n",
           (unsigned long long)t->evictions, (unsigned long long)t->misses, (unsigned long long)t->prefetches,
           (unsigned long long)t->read, (unsigned long long)t->written, (unsigned long long)t->updates);
}

int main(int argc, char **argv)
{
    struct settings s = {.options = {.verify_every = 16}, .seeds = 1000, .from = 1, .shrink = true};
    struct totals totals = {0};
    double start = now_s(), shown = start;

    parse(argc, argv, &s);
    mallopt(M_MMAP_THRESHOLD, 64 << 20); /* memory is taken and given back all the time */
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    if (s.print) {
        static struct sim_program prog;

        sim_program_make(&prog, s.print, &s.options);
        sim_program_print(&prog);
        s.from = s.print;
        s.seeds = 1;
    }
    for (uint64_t seed = s.from; seed < s.from + s.seeds; seed++) {
        if (!one(seed, &s.options, s.shrink, &totals) && !s.keep)
            break;
        if (isatty(2) && now_s() - shown > 0.2) {
            shown = now_s();
            fprintf(stderr, "\r%llu of %llu", (unsigned long long)(seed - s.from + 1),
                    (unsigned long long)s.seeds);
        }
    }
    if (isatty(2))
        fprintf(stderr, "\r");
    print_totals(&s, &totals, now_s() - start);
    return totals.violations > 0;
}
