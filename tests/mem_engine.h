/*
 * A memory engine for the io room's tests: drives are RAM, completions come in seeded
 * random order with faults, and every transfer is checked against the contract between
 * the queue and its engines (io/engine.h): alignment, place, buffer, depth, windows,
 * classes, nothing started twice, no page written both directly and through the page
 * cache at once. Bytes move when a transfer is collected, so a request that comes back
 * too early, or a buffer that is let go of too early, is noticed.
 *
 * Time is counted in collections ("rounds"), so tests of slow drives need no clock.
 */
#ifndef OFL_TESTS_MEM_ENGINE_H
#define OFL_TESTS_MEM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/engine.h"
#include "io/file.h"
#include "io/queue.h"

#define MEM_DRIVES_MAX 32u
#define MEM_LATE       4000u /* rounds after which a lost completion turns up all the same */

/* ---- files in RAM -------------------------------------------------------- */

/* One member of a file. */
struct mem_part {
    uint32_t block; /* 1: buffered */
    uint64_t device;
    double weight;        /* 0: 1 */
    uint64_t limit_bytes; /* 0: none */
};

enum { MEM_READ_ONLY = 1u << 0, MEM_REQUIRE_DIRECT = 1u << 1 };

/* Members are memfds, so that reserving, trimming and asking for the size are the real ones; one
 * member has its size at once, several are reserved by the striping code. NULL: does not fit. */
struct io_file *mem_file_open(const struct mem_part *parts, unsigned count, uint64_t bytes, unsigned flags);
void mem_file_close(struct io_file *f);
/* Where byte `offset` of f is, and how many follow in one piece. */
unsigned char *mem_file_at(const struct io_file *f, uint64_t offset, uint64_t *run);
/* Member `index` ends here from now on, wherever the file believes that its bytes lie. */
void mem_file_truncate(struct io_file *f, unsigned index, uint64_t bytes);
/* Member `index` completes one transfer in so many rounds, in order; 0: no such limit. */
void mem_file_throttle(struct io_file *f, unsigned index, uint64_t rounds);

/* ---- the engine ---------------------------------------------------------- */

/* If a request's cookie is not NULL it points to this: what the engine still has of it. */
struct mem_user {
    unsigned inside;   /* transfers; until 0 the buffer is not the owner's */
    unsigned failures; /* errors that the engine gave to its transfers */
};

/* Of 1000 transfers, how many meet what. All zero: everything that is due comes back whole, in the
 * order of its start, at the next collection. */
struct mem_config {
    uint64_t seed; /* 0: no faults, in order */
    uint32_t cut_short, again, error, no_space;
    uint32_t delay; /* held for up to 32 rounds */
    uint32_t late;  /* held for MEM_LATE rounds */
    bool wait;      /* has a wait of its own: else the queue polls the event descriptor */
    bool overstate; /* a mutant: a short transfer claims one byte more than it moved */
    bool tolerant;  /* breaches of the contract are counted, and do not fail the test */
};

struct mem_slot;

struct mem_engine {
    struct io_backend base;
    struct mem_config config;
    struct io_queue *q;
    uint64_t random, round;
    struct mem_slot *slot;              /* one for each of the queue's transfers */
    uint32_t *ready, *parked;           /* their indices, oldest first if in order */
    uint32_t ready_count, parked_count; /* parked: not due yet */
    struct io_member *slot_member[16];  /* registered files */
    uint32_t slot_count;
    bool hurry; /* everything is due, and comes back */
    unsigned breaches;
    uint64_t started, cancels, background_max;
};

/* The engine goes with the queue. */
struct io_queue *mem_queue_open(const struct io_queue_config *queue, const struct mem_config *config,
                                struct mem_engine **out);
/* Transfers that the engine has. */
static inline uint32_t mem_engine_inside(const struct mem_engine *e)
{
    return e->ready_count + e->parked_count;
}

static inline uint64_t mem_draw(uint64_t *random)
{
    /* xorshift64* (Vigna: "An experimental exploration of Marsaglia's xorshift generators", 2016) */
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    return *random * 0x2545f4914f6cdd1du;
}

/* 0 to below - 1 */
static inline uint64_t mem_below(uint64_t *random, uint64_t below)
{
    return (uint64_t)(((unsigned __int128)mem_draw(random) * below) >> 64);
}

#endif
