/*
 * parallel: a loop over items on as many threads as products use. Items are independent: who computes which, and in
 * what order, never shows in a result.
 */
#ifndef LLAMA_PARALLEL_H
#define LLAMA_PARALLEL_H

#include <stddef.h>

/* Items first .. first + count - 1. */
typedef void llama_loop_fn(void *arg, size_t first, size_t count);

/* Any thread. Calls run for all items, in pieces of `grain`, on this thread and others, and returns when all are done.
 * Where another thread's loop is running all is done here. Threads: those of OpenBLAS, as many as it has. */
void llama_parallel(size_t items, size_t grain, llama_loop_fn *run, void *arg);

#endif
