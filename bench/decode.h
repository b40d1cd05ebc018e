/*
 * `ofl-bench decode`.
 */
#ifndef BENCH_DECODE_H
#define BENCH_DECODE_H

/* Arguments as main gets them; argv[0] is "ofl-bench decode". Returns the exit status. */
int bench_decode_main(int argc, char **argv);

#endif
