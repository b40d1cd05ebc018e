/* world_impl: what the files of the world share. See world.h. */
#ifndef OFL_PLAN_WORLD_IMPL_H
#define OFL_PLAN_WORLD_IMPL_H

#include "liboffload/plan/world.h"

enum world_event { WORLD_PIPE, WORLD_JOB, WORLD_KERNEL, WORLD_MARK, WORLD_CALL };

/* A transfer, or what of one goes to a drive; whole: a transfer that is cut over drives. */
struct world_part {
    struct pipe_item item;
    struct plan_record record; /* when it has come out */
    struct core_op *op;
    struct world_part *whole, *next;
    uint64_t bytes;
    uint32_t drive, parts;
};

struct world_job {
    struct core_op *op; /* to seal; NULL: an update's request */
    struct core_request *request;
    uint64_t ns;
    struct world_job *next;
};

void world_post(struct world *w, uint64_t time, enum world_event type, void *what, uint32_t index);
/* Zeroed; NULL: the run is over (out_of_memory). */
void *world_take(struct world *w, size_t bytes);
struct world_part *world_part_get(struct world *w);
void world_part_put(struct world *w, struct world_part *p);
/* Into the pipe, from now on. */
void world_put(struct world *w, struct pipe *p, struct world_part *part, uint64_t bytes, uint64_t latency_ns);
uint64_t world_host_off(const struct world *w, const void *ptr);
/* A record of op's tile. */
struct plan_record world_of_op(const struct world *w, const struct core_op *op, uint32_t type);
void world_record_work(struct world *w, const struct core_request *r, uint32_t type);

/* world_drive.c */
void world_drives_open(struct world *w);
void world_io(void *arg, struct core_op *op);
void world_drive_out(struct world *w, struct world_part *part);

/* world_stream.c */
int world_gate_create(void *arg, struct dev_gate **gate);
void world_gate_open(void *arg, struct dev_gate *gate, const struct base_error *error);
void world_kernel_over(struct world *w, uint32_t stream);
/* Bytes have come in there: late, if a stream stands waiting for them. */
void world_stream_late(struct world *w, uint64_t off, uint64_t bytes);
void world_streams_close(struct world *w);

#endif
