/*
 * commit: makes the store hold what kept tensors held at one point of the order of commands, and then durable. Most of
 * it is there, or on its way, since tiles that were written in a step are written back anyway; the rest is written
 * here, in order with all that works on these tensors (order 7 in pager.h).
 */
#ifndef OFL_CORE_COMMIT_H
#define OFL_CORE_COMMIT_H

#include "liboffload/core/pager.h"

/* Begins one. -EAGAIN while one is in flight; the error of the last one, if it failed, once. */
int pager_commit(struct pager *p);
/* -EAGAIN while one is in flight; the error of the last one, if it failed, once. */
int pager_commit_over(struct pager *p);

void commit_open_books(struct pager *p);
/* t's state may allow the commit in flight to take more tiles of it. */
void commit_look(struct pager *p, struct ofl_tensor *t);
/* Starts what was left for another round. */
void commit_start(struct pager *p);
/* The context is broken. */
void commit_fail_all(struct pager *p);

/* As pager_verify, of what is kept. */
int commit_verify(const struct pager *p, struct base_error *why);

/* A kept tensor of the name; NULL. */
struct ofl_tensor *commit_find(const struct pager *p, const char *name);
void commit_admit(struct pager *p, struct ofl_tensor *t);
void commit_leave(struct pager *p, struct ofl_tensor *t);

#endif
