/*
 * Threads of a kernel as the CPU runs them: stacks, and the switch from one to another, which the
 * sanitizers are told of. Knows nothing of kernels. One thread of the system uses fibers at a time.
 */
#ifndef OFL_TESTS_CUDA_EMULATE_FIBER_H
#define OFL_TESTS_CUDA_EMULATE_FIBER_H

#include <stddef.h>

struct fiber {
    void *at; /* where its stack stands while it does not run */
    unsigned char *stack;
    size_t stack_bytes;
    void *fake, *tsan; /* the sanitizers' own */
};

#ifdef __SANITIZE_ADDRESS__
#define FIBER_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif

#ifdef FIBER_ASAN
#define FIBER_STACK (256u << 10)
#else
#define FIBER_STACK (64u << 10)
#endif

/* One mapping for so many stacks, each with a page below it that may not be touched. */
unsigned char *fiber_stacks(unsigned count);
#define FIBER_STRIDE (FIBER_STACK + 4096u)

/* f: zeroed, or one that has been started, which is forgotten. It begins with body, which calls
 * fiber_entered first and never returns. */
void fiber_make(struct fiber *f, unsigned char *stack, void (*body)(void));
/* f becomes the calling thread. */
void fiber_adopt(struct fiber *f);
void fiber_switch(struct fiber *from, struct fiber *to);
void fiber_entered(struct fiber *self);

/* What ThreadSanitizer takes for an order: what the running fiber has done so far comes before what
 * others do after fiber_after(at). Its threads know of no other order: a switch is none. */
void fiber_before(void *at);
void fiber_after(void *at);
/* As fiber_before(at) by f, which will not run again; called by self. */
void fiber_ended(struct fiber *f, struct fiber *self, void *at);
/* Bytes that run-time code reads or writes for the running fiber. */
void fiber_reads(const void *p, size_t bytes);
void fiber_writes(void *p, size_t bytes);

/* Memory that a kernel may not touch, from now on or no more. Without AddressSanitizer: nothing. */
void fiber_forbid(const void *p, size_t bytes);
void fiber_allow(const void *p, size_t bytes);

#endif
