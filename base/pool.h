/*
 * Pool: worker threads that take jobs first in, first out. With one thread it
 * is a serial queue: each job sees what the jobs before it wrote.
 */
#ifndef OFL_BASE_POOL_H
#define OFL_BASE_POOL_H

#include <stdbool.h>

struct base_pool;

/* Any thread. threads > 0. name is what debuggers show for the threads (15 characters
 * kept). The threads run with all signals blocked: those stay with the program's own. */
int base_pool_create(unsigned threads, const char *name, struct base_pool **out);

/* Any thread, jobs of the pool included. Jobs start in the order of submission. The queue
 * is as long as memory allows: at its end the caller waits until there is room. */
void base_pool_submit(struct base_pool *p, void (*fn)(void *arg), void *arg);

/* The same, but before all that has not started. */
void base_pool_submit_first(struct base_pool *p, void (*fn)(void *arg), void *arg);

/* Nothing is queued or running: whoever asks sees what all jobs so far have written. */
bool base_pool_idle(struct base_pool *p);

/* Waits for all submitted work, and for what that work submits; then ends the threads.
 * Not from a job of the pool, nor while another thread is in a call of it. NULL accepted. */
void base_pool_destroy(struct base_pool *p);

#endif
