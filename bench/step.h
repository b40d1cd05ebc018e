/*
 * `ofl-bench step`.
 */
#ifndef BENCH_STEP_H
#define BENCH_STEP_H

/* Arguments as main gets them; argv[0] is "ofl-bench step". Returns the exit status. */
int bench_step_main(int argc, char **argv);

#endif
