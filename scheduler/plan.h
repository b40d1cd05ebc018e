/*
 * plan: what the recorded step of the current name says of where things rest now. Without a solved plan nothing is
 * said, and what leaves is chosen by next use alone.
 */
#ifndef OFL_SCHEDULER_PLAN_H
#define OFL_SCHEDULER_PLAN_H

#include "scheduler/solve.h"

/* The step that was closed last is another one than its plan was solved for, and worth a solution: the last one saw
 * its step again, or this step has come twice. */
bool sched_plan_unsolved(const struct sched *s);
/* Solves it; see sched_solve. -ENOMEM: it stays unsolved. */
int sched_plan_solve(struct sched *s, const struct sched_item *items, uint32_t ids,
                     const struct sched_room *room);
/* All plans are to be solved anew: what they were solved for has changed. */
void sched_plan_unsolve(struct sched *s);

/* The step closed last works on the host, too. */
bool sched_plan_on_host(const struct sched *s);

/* The current plan is solved, and says where what is used rests. */
bool sched_solved(const struct sched *s);
/* Until its next use, and after that; nothing stays of what the plan does not know. Only if solved. */
struct sched_rest sched_rest_now(const struct sched *s, uint32_t id);
struct sched_rest sched_rest_next(const struct sched *s, uint32_t id);
/* Its copy is to leave the device when the room is wanted. */
bool sched_passing(const struct sched *s, uint32_t id);
/* Device bytes of what rests there; 0 if something rests after one of its uses and not after another, so that what is
 * there changes within a step. Only if solved. */
uint64_t sched_resting_always(const struct sched *s);
/* What a steady step of the current plan moves. Only if solved. */
const struct sched_moved *sched_moved(const struct sched *s);

#endif
