/*
 * world: what the pager moves through in a simulation: virtual time, streams with their gates and kernels, both ways
 * of the link, drives and workers, and the log of what they do. Owns the struct core_env that stands behind the
 * pager. Knows nothing of programs: simulate.c does.
 */
#ifndef OFL_PLAN_WORLD_H
#define OFL_PLAN_WORLD_H

#include "base/events.h"
#include "liboffload/core/pump.h"
#include "liboffload/plan/pipe.h"
#include "liboffload/plan/simulate.h"

#define WORLD_STREAMS 8u

struct world_item;
struct world_part;
struct world_job;

struct world_stream {
    uint64_t id;
    struct world_item *head, **tail;
    bool running;  /* its first item is a kernel at work */
    bool standing; /* at a gate, since since_ns */
    uint64_t since_ns, late_bytes, busy_ns, stall_ns;
    uint32_t ahead; /* acquires and releases that it has not reached */
};

struct world_drive {
    struct plan_drive rates;
    struct pipe way[2]; /* by enum io_op */
    struct {
        struct world_part *head, **tail;
    } waiting[IO_CLASSES];
    uint64_t inflight_bytes, background_bytes;
};

struct world {
    struct pager pager;
    struct plan_rates rates;
    uint64_t now;
    struct base_events events;
    struct world_stream streams[WORLD_STREAMS];
    struct pipe link[2]; /* in, out */
    struct world_drive drives[PLAN_DRIVES];
    uint8_t drive_of[64]; /* of a store's pieces, in turns */
    uint32_t workers_idle;
    struct world_job *jobs[2], **jobs_tail[2]; /* seals come before updates */
    bool due;                                  /* the pager is to be pumped */
    bool out_of_memory;
    bool circles; /* the pump never stands still */
    double jitter;
    uint64_t random;
    uint32_t *number_of;  /* by the pager's id: the tensor's number in the log */
    uint32_t *tensors_of; /* scratch */
    void (*record)(void *arg, const struct plan_record *r);
    void *record_arg;
    uint64_t records, hash, kernels;
    /* So far. */
    uint64_t workers_busy_ns, stall_ns, late_bytes;
    struct world_item *free_items;
    struct world_part *free_parts;
    struct world_job *free_jobs;
    void (*called)(struct pager *p, void *arg); /* a stream has passed a world_call */
};

/* A batch of leases on its way through a stream. */
struct world_batch {
    uint32_t count;
    struct {
        uint32_t tensor;          /* its number in the log */
        uint64_t lease, off, end; /* its range of the device */
    } at[];
};

/* w is zeroed, its rates, jitter, random, record and number_of are set; the pager is not open yet. */
void world_open(struct world *w);
void world_close(struct world *w);
/* A record of now; *r says the rest. */
void world_record(struct world *w, struct plan_record r);
/* As records name it. */
uint32_t world_access(enum core_access access);
/* Everything up to the next moment at which something happens, and the pump. False: nothing will. */
bool world_step(struct world *w);
void world_pump(struct world *w);

/* Of a stream, in order. Batches become the world's, to be freed by it. gate NULL: nothing to wait for. */
void world_wait(struct world *w, uint32_t stream, struct dev_gate *gate, struct world_batch *batch);
void world_launch(struct world *w, uint32_t stream, uint64_t kernel, uint64_t ns);
/* Once the stream has passed it. */
void world_call(struct world *w, uint32_t stream, void *arg);
void world_mark(struct world *w, uint32_t stream, struct core_op *op, struct world_batch *batch);

/* Time that a service takes, with the jitter. */
uint64_t world_ns(struct world *w, double ns);

#endif
