/*
 * `ofl-bench plan`: what a model's step will take of a machine.
 */
#ifndef BENCH_PLAN_H
#define BENCH_PLAN_H

/* Arguments as main gets them; argv[0] is "ofl-bench plan". Returns the exit status. */
int bench_plan_main(int argc, char **argv);

#endif
