/* cuda_emulate_warp: shuffles, votes, the tensor cores, asynchronous copies. See cuda_emulate.cc. */
#include "tests/cuda_emulate_state.h"

using namespace emulation;

/* ---- meetings of a warp --------------------------------------------------- */

namespace
{

struct product {
    float *d;
    const uint32_t *a, *b;
};

struct matrices {
    uint32_t *r;
    const void *row;
    bool transposed;
};

float widen(uint32_t pair, unsigned half)
{
    return __uint_as_float(half ? pair & 0xffff0000u : pair << 16);
}

/* PTX ISA, "Matrix fragments for mma.m16n8k16": see mma_bf16 in examples/model/cuda_kernel.cuh. */
void multiply(struct warp *w)
{
    float a[16][16], b[16][8], d[16][8];

    for (unsigned lane = 0; lane < WARP; lane++) {
        const struct product *p = reinterpret_cast<const struct product *>(w->value[lane]);
        unsigned group = lane / 4, pair = lane % 4 * 2;

        for (unsigned i = 0; i < 8; i++)
            a[group + i / 2 % 2 * 8][pair + i / 4 * 8 + i % 2] = widen(p->a[i / 2], i % 2);
        for (unsigned i = 0; i < 4; i++)
            b[pair + i / 2 * 8 + i % 2][group] = widen(p->b[i / 2], i % 2);
        for (unsigned i = 0; i < 4; i++)
            d[group + i / 2 * 8][pair + i % 2] = p->d[i];
    }
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned column = 0; column < 8; column++)
                d[row][column] += a[row][k] * b[k][column];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const struct product *p = reinterpret_cast<const struct product *>(w->value[lane]);

        for (unsigned i = 0; i < 4; i++)
            p->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

void load(struct warp *w)
{
    for (unsigned lane = 0; lane < WARP; lane++) {
        const struct matrices *own = reinterpret_cast<const struct matrices *>(w->value[lane]);

        for (unsigned i = 0; i < 4; i++) {
            uint16_t pair[2];

            for (unsigned j = 0; j < 2; j++) {
                unsigned row = own->transposed ? lane % 4 * 2 + j : lane / 4;
                unsigned column = own->transposed ? lane / 4 : lane % 4 * 2 + j;
                const void *from = reinterpret_cast<const struct matrices *>(w->value[i * 8 + row])->row;

                memcpy(&pair[j], static_cast<const unsigned char *>(from) + 2 * column, 2);
            }
            own->r[i] = pair[0] | (uint32_t)pair[1] << 16;
        }
    }
}

/* All are there. */
void meet(struct warp *w, enum emulate_warp_op op, unsigned mask)
{
    uint64_t given[WARP], ballot = 0;

    if (op == EMULATE_MMA)
        multiply(w);
    if (op == EMULATE_MATRICES)
        load(w);
    if (op != EMULATE_SHUFFLE && op != EMULATE_BALLOT)
        return;
    memcpy(given, w->value, sizeof given);
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1)
            ballot |= (uint64_t)(given[lane] != 0) << lane;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1)
            w->value[lane] = op == EMULATE_SHUFFLE ? given[w->source[lane]] : ballot;
}

struct meeting *find_meeting(struct warp *w, enum emulate_warp_op op, unsigned mask, const char *file,
                             int line)
{
    for (unsigned i = 0; i < w->meetings; i++) {
        struct meeting *m = &w->meeting[i];

        if (m->op == op && m->mask == mask && m->line == line && strcmp(m->file, file) == 0)
            return m;
    }
    w->meeting[w->meetings] = (struct meeting){op, mask, 0, file, line};
    return &w->meeting[w->meetings++];
}

} // namespace

uint64_t emulate_warp(enum emulate_warp_op op, unsigned mask, uint64_t value, unsigned source,
                      const char *file, int line)
{
    struct thread *self = run.current;
    struct warp *w = &run.warps[self->index / WARP];
    unsigned lane = self->index % WARP;
    struct meeting *m;

    if (!(mask >> lane & 1))
        fail("mask 0x%x at %s:%d lacks its own lane %u", mask, base(file), line, lane);
    if (mask & ~w->lanes)
        fail("mask 0x%x at %s:%d names lanes that the block lacks", mask, base(file), line);
    if (mask & w->returned)
        fail("mask 0x%x at %s:%d names lanes that have returned: 0x%x", mask, base(file), line,
             mask & w->returned);
    if (op == EMULATE_SHUFFLE && !(mask >> source & 1))
        fail("shuffle at %s:%d reads lane %u, which mask 0x%x lacks", base(file), line, source, mask);
    m = find_meeting(w, op, mask, file, line);
    fiber_before(w);
    m->arrived |= 1u << lane;
    w->value[lane] = value;
    w->source[lane] = source;
    if (m->arrived == mask) {
        *m = w->meeting[--w->meetings];
        meet(w, op, mask);
        for (unsigned i = 0; i < WARP; i++)
            if (mask >> i & 1)
                make_ready(&run.threads[self->index / WARP * WARP + i]);
    }
    pass(file, line);
    fiber_after(w);
    return w->value[lane];
}

void emulate_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file, int line)
{
    struct product p = {d, a, b};

    emulate_warp(EMULATE_MMA, ~0u, reinterpret_cast<uint64_t>(&p), 0, file, line);
}

void emulate_ldmatrix(uint32_t r[4], const void *row, bool transposed, const char *file, int line)
{
    struct matrices m = {r, row, transposed};

    if ((uintptr_t)row % 16 || !is_shared(row, 16))
        fail("ldmatrix at %s:%d: %s", base(file), line,
             (uintptr_t)row % 16 ? "address not aligned to 16 bytes" : "row not in shared memory");
    fiber_reads(row, 16);
    emulate_warp(EMULATE_MATRICES, ~0u, reinterpret_cast<uint64_t>(&m), 0, file, line);
}

/* ---- asynchronous copies -------------------------------------------------- */

static void arrive(const struct copy *c)
{
    fiber_writes(c->to, 16);
    if (c->valid)
        fiber_reads(c->from, 16);
    if (c->valid)
        memcpy(c->to, c->from, 16);
    else
        memset(c->to, 0, 16);
}

void emulation::land(struct thread *t, unsigned end, unsigned luck)
{
    for (unsigned i = t->copying; i-- > 0;)
        if (t->copies[i].group < end || (luck && random_below(luck) == 0)) {
            arrive(&t->copies[i]);
            t->copies[i] = t->copies[--t->copying];
        }
}

void emulate_copy_async(void *shared, const void *src, bool valid, const char *file, int line)
{
    struct thread *self = run.current;
    struct copy c = {static_cast<unsigned char *>(shared), src, valid, self->groups};

    if ((uintptr_t)shared % 16 || (uintptr_t)src % 16)
        fail("copy at %s:%d: address not aligned to 16 bytes", base(file), line);
    if (!is_shared(shared, 16))
        fail("copy at %s:%d: not to shared memory", base(file), line);
    if (self->copying == COPIES)
        fail("copy at %s:%d: more than %u of a thread in flight", base(file), line, COPIES);
    if (random_below(4) == 0) {
        arrive(&c);
        return;
    }
    fiber_writes(shared, 16);
    memset(shared, GARBAGE, 16);
    self->copies[self->copying++] = c;
}

void emulate_copy_async_commit(void)
{
    run.current->groups++;
}

void emulate_copy_async_wait(int groups)
{
    struct thread *self = run.current;

    land(self, self->groups > (unsigned)groups ? self->groups - (unsigned)groups : 0, 4);
}
