/*
 * `ofl-bench link`: link.c decides what is run in which order; link_report.c, link_run.c and link_options.c,
 * each below the one before, do it.
 */
#ifndef BENCH_LINK_H
#define BENCH_LINK_H

/* Arguments as main gets them; argv[0] is "ofl-bench link". Returns the exit status. */
int bench_link_main(int argc, char **argv);

#endif
