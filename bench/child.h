/*
 * Other programs, run as children.
 */
#ifndef BENCH_CHILD_H
#define BENCH_CHILD_H

#include <stddef.h>

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

#endif
