/*
 * What the commands of ofl-bench share: figures of repeated runs, other programs run as
 * children, plots. Each command lives in files of its own: nvme*.c, link*.c, probe*.c,
 * plot*.c.
 *
 * Functions that return an int called status return 0, or the exit status with which the
 * program is to end, after they have said why on stderr.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "examples/common.h"

typedef unsigned long long ull; /* for printf */

#define ARRAY_COUNT(a) (sizeof(a) / sizeof(a)[0])
#define MIB            (1ull << 20)
#define GIB            (1ull << 30)

/* Arguments as main gets them; argv[0] is "ofl-bench COMMAND". They return the exit status. */
int bench_nvme_main(int argc, char **argv);
int bench_probe_main(int argc, char **argv);
int bench_step_main(int argc, char **argv);
int bench_decode_main(int argc, char **argv);
int bench_link_main(int argc, char **argv);
int bench_plot_main(int argc, char **argv);

/* ---- figures (stats.c) --------------------------------------------------- */

struct bench_spread {
    unsigned count;
    double median, q1, q3, min, max; /* all 0 if count is 0 */
};

/* Quartiles by linear interpolation between the sorted values. Sorts them. */
struct bench_spread bench_spread(double *values, unsigned count);
json_t *bench_spread_json(const struct bench_spread *s);
/* Text that need not be UTF-8 (names of files), as JSON; null if it is not. */
json_t *bench_text_json(const char *text);
/* A number; null if it is not finite. */
json_t *bench_real_json(double value);
/* "2026-01-31T23:59:59Z" */
struct common_text bench_date(void);

/* ---- random bytes (stats.c) ---------------------------------------------- */

/* The next number of a sequence (SplitMix64) whose state is *state. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Fills with bytes that can't be compressed. bytes is a multiple of 8. */
void bench_fill(void *buf, uint64_t bytes, uint64_t *state);

/* ---- children (child.c) --------------------------------------------------- */

/* What a program printed; both end with a NUL. */
struct bench_output {
    char *out, *err;
    size_t out_bytes;
};

/*
 * Runs a program of PATH, gives it input (NULL: nothing), and collects what it prints. While it
 * runs it is ended (SIGTERM, then SIGKILL) when a signal has asked us to end; it dies with us too.
 * keep_fd stays open in it (-1: none). 0; -ENOENT: no such program; -ECANCELED: ended by us; -EIO:
 * it failed: *out then tells what it said. Free *out in every case.
 */
int bench_child_run(char *const argv[], const char *input, int keep_fd, struct bench_output *out);
void bench_output_free(struct bench_output *out);
/* First line of a text, for messages; cuts the text there. */
const char *bench_first_line(char *text);

/* ---- plots (plot.c, plot_script.c) ------------------------------------------ */

/* For gnuplot's stdin; the picture comes out of its stdout. To be freed; NULL without memory. */
char *bench_plot_script(const json_t *report, bool svg);
/* Draws a report of ofl-bench nvme into path, which ends with .svg or .png. Returns a status. */
int bench_plot(const json_t *report, const char *path);
/* Whether it could: the suffix, gnuplot, the directory. Returns a status. */
int bench_plot_check(const char *path);

#endif
