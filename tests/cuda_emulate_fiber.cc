/* cuda_emulate_fiber: see cuda_emulate_fiber.h. */
#include "tests/cuda_emulate_fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* Saves the registers that a call keeps and the stack's end in *at, and takes up another one. */
extern "C" __attribute__((visibility("hidden"))) void fiber_swap(void **at, void *other);

#if defined __x86_64__
asm(".text\n"
    ".globl fiber_swap\n"
    ".hidden fiber_swap\n"
    ".type fiber_swap, @function\n"
    "fiber_swap:\n"
    "    endbr64\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size fiber_swap, . - fiber_swap\n");

/* Six registers, where to go, and a return address that nobody uses; the ABI wants the stack 8 off 16
 * where a function begins. */
static void *first_frame(unsigned char *top, void (*body)(void))
{
    uintptr_t *frame = reinterpret_cast<uintptr_t *>(top) - 8;

    memset(frame, 0, 8 * sizeof *frame);
    frame[6] = reinterpret_cast<uintptr_t>(body);
    return frame;
}

#elif defined __aarch64__
asm(".text\n"
    ".globl fiber_swap\n"
    ".hidden fiber_swap\n"
    ".type fiber_swap, %function\n"
    "fiber_swap:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp, #0]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp, #0]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size fiber_swap, . - fiber_swap\n");

static void *first_frame(unsigned char *top, void (*body)(void))
{
    uintptr_t *frame = reinterpret_cast<uintptr_t *>(top) - 20;

    memset(frame, 0, 20 * sizeof *frame);
    frame[11] = reinterpret_cast<uintptr_t>(body); /* x30 */
    return frame;
}

#else
#include <ucontext.h>

/* Slow: two system calls a switch. */
extern "C" void fiber_swap(void **at, void *other)
{
    ucontext_t own;

    *at = &own;
    swapcontext(&own, static_cast<ucontext_t *>(other));
}

static void *first_frame(unsigned char *top, void (*body)(void))
{
    ucontext_t *context = reinterpret_cast<ucontext_t *>(top - (sizeof *context + 63) / 64 * 64);
    unsigned char *stack = top - FIBER_STACK;

    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = (size_t)(reinterpret_cast<unsigned char *>(context) - stack);
    context->uc_link = nullptr;
    makecontext(context, body, 0);
    return context;
}
#endif

unsigned char *fiber_stacks(unsigned count)
{
    size_t bytes = (size_t)count * FIBER_STRIDE;
    void *p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    unsigned char *stacks = static_cast<unsigned char *>(p);

    if (p == MAP_FAILED)
        abort();
    for (unsigned i = 0; i < count; i++)
        if (mprotect(stacks + (size_t)i * FIBER_STRIDE, FIBER_STRIDE - FIBER_STACK, PROT_NONE) != 0)
            abort();
    return stacks;
}

void fiber_make(struct fiber *f, unsigned char *stack, void (*body)(void))
{
    f->stack = stack + FIBER_STRIDE - FIBER_STACK;
    f->stack_bytes = FIBER_STACK;
    f->fake = nullptr;
    fiber_allow(f->stack, f->stack_bytes); /* what the frames of a forgotten one have left */
#ifdef FIBER_TSAN
    if (f->tsan)
        __tsan_destroy_fiber(f->tsan);
    f->tsan = __tsan_create_fiber(0);
#endif
    f->at = first_frame(f->stack + f->stack_bytes, body);
}

void fiber_adopt(struct fiber *f)
{
    memset(f, 0, sizeof *f);
#ifdef FIBER_TSAN
    f->tsan = __tsan_get_current_fiber();
#endif
}

static struct fiber *left; /* the one switched from last */

void fiber_entered(struct fiber *self)
{
#ifdef FIBER_ASAN
    const void *stack;

    /* An adopted one's stack is known from here. */
    __sanitizer_finish_switch_fiber(self->fake, &stack, &left->stack_bytes);
    left->stack = static_cast<unsigned char *>(const_cast<void *>(stack));
#else
    (void)self;
#endif
}

void fiber_switch(struct fiber *from, struct fiber *to)
{
    left = from;
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack_bytes);
#endif
#ifdef FIBER_TSAN
    __tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    fiber_swap(&from->at, to->at);
    fiber_entered(from);
}

#ifdef FIBER_TSAN
extern "C" void __tsan_read_range(void *p, unsigned long bytes);
extern "C" void __tsan_write_range(void *p, unsigned long bytes);
#endif

void fiber_before(void *at)
{
#ifdef FIBER_TSAN
    __tsan_release(at);
#else
    (void)at;
#endif
}

void fiber_after(void *at)
{
#ifdef FIBER_TSAN
    __tsan_acquire(at);
#else
    (void)at;
#endif
}

void fiber_ended(struct fiber *f, struct fiber *self, void *at)
{
#ifdef FIBER_TSAN
    __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
    __tsan_release(at);
    __tsan_switch_to_fiber(self->tsan, __tsan_switch_to_fiber_no_sync);
#else
    (void)f, (void)self, (void)at;
#endif
}

void fiber_reads(const void *p, size_t bytes)
{
#ifdef FIBER_TSAN
    __tsan_read_range(const_cast<void *>(p), bytes);
#else
    (void)p, (void)bytes;
#endif
}

void fiber_writes(void *p, size_t bytes)
{
#ifdef FIBER_TSAN
    __tsan_write_range(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}

void fiber_forbid(const void *p, size_t bytes)
{
#ifdef FIBER_ASAN
    __asan_poison_memory_region(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}

void fiber_allow(const void *p, size_t bytes)
{
#ifdef FIBER_ASAN
    __asan_unpoison_memory_region(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}
