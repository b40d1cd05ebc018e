/*
 * pipe: one direction of a link or a drive, in virtual time: what is put into it comes out in the same order, each
 * after a latency, at a rate. Two pipes of one drive may slow each other. One thread.
 */
#ifndef OFL_PLAN_PIPE_H
#define OFL_PLAN_PIPE_H

#include <stdbool.h>
#include <stdint.h>

struct pipe_item {
    struct pipe_item *next;
    uint64_t ready_ns; /* not before */
    double left, work; /* bytes; as long as so many would take */
    uint64_t bytes;
    void *what;
};

struct pipe {
    double rate;        /* bytes per second, alone */
    struct pipe *other; /* of the same drive; NULL: none */
    double both;        /* of its rate, while the other one is at work, too */
    struct pipe_item *head, **tail;
    bool active; /* the first item is being moved */
    uint64_t since_ns, busy_ns;
    double work_ns; /* what came out would have taken, alone */
    double speed;   /* bytes per ns */
    uint32_t turn,
        posted;     /* events of an older turn are void; the one that the owner has posted an event for */
    uint64_t bytes; /* that came out */
};

void pipe_open(struct pipe *p, double bytes_s);
/* Of one drive that moves so many bytes per second when it reads as much as it writes; 0: one after the other. */
void pipe_couple(struct pipe *a, struct pipe *b, double mixed_bytes_s);
/* times: how much longer than by the rate it takes. */
void pipe_put(struct pipe *p, struct pipe_item *item, uint64_t bytes, double times, uint64_t ready_ns);
/* When something is to be done next, as things stand; UINT64_MAX: nothing is in it. */
uint64_t pipe_next_ns(const struct pipe *p, uint64_t now_ns);
/* Goes on to now. What has come out, or NULL. Each call may change when p and p->other go on. */
struct pipe_item *pipe_advance(struct pipe *p, uint64_t now_ns);

/* How long work of so many ns each, one way and the other, takes at least. */
double pipe_least_ns(const struct pipe *p, double one_ns, double other_ns);

#endif
