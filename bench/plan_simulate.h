/*
 * The simulator's figures for a plan, beside the formulas'.
 */
#ifndef BENCH_PLAN_SIMULATE_H
#define BENCH_PLAN_SIMULATE_H

#include "bench/plan_report.h"

/* Runs the plan's step some times in virtual time, and fills p->simulated. Returns a status. */
int bench_plan_simulate(struct bench_plan *p);

#endif
