/*
 * check: whether a run (record.h) kept the rules. Knows the records alone: no pager, no scheduler, no plan. It follows
 * which version of which tile lies in which range, who is at work there, and what every reader has to find.
 */
#ifndef OFL_PLAN_CHECK_H
#define OFL_PLAN_CHECK_H

#include <stdbool.h>

#include "liboffload/plan/record.h"

enum plan_fault {
    PLAN_FAULT_NONE,
    PLAN_FAULT_BUDGET,   /* a range lies beyond its arena */
    PLAN_FAULT_SHARED,   /* two are at work in a range, and one of them writes */
    PLAN_FAULT_FENCE,    /* a range is used before what comes into it has ended */
    PLAN_FAULT_STALE,    /* a reader finds an older version than its own */
    PLAN_FAULT_BYTES,    /* a reader finds another tile's bytes, or none */
    PLAN_FAULT_LOST,     /* the only range with a tile's newest version is given to others */
    PLAN_FAULT_LIFETIME, /* a tensor that is no more is used, or one without bytes between uses is kept */
    PLAN_FAULT_SEAL,   /* bytes from a drive are used before their seal is compared, or written without one */
    PLAN_FAULT_PAIR,   /* something ends that has not begun, or never ends */
    PLAN_FAULT_ORDER,  /* time or a stream goes backwards, kernels of a stream overlap */
    PLAN_FAULT_LEASE,  /* a kernel uses what is not leased */
    PLAN_FAULT_STALL,  /* less stall is claimed than streams stood */
    PLAN_FAULT_HIDDEN, /* bytes that came after a stream stood waiting for them are counted as hidden */
    PLAN_FAULT_COUNT,  /* other bytes are claimed to have come in than have */
    PLAN_FAULT_REST,   /* what the plan lets rest has been given up */
    PLAN_FAULTS
};

struct plan_checked {
    enum plan_fault fault; /* the first one */
    char text[400];
    uint64_t records, faults, uses, moves;   /* uses, moves: whose bytes were compared */
    uint64_t stall_ns, late_bytes, in_bytes; /* as found */
    uint64_t given_up;                       /* tiles that were to rest */
};

struct plan_check;

/* rests: what the plan lets rest has to; else it is counted alone. */
int plan_check_open(bool rests, struct plan_check **out);
void plan_check_record(struct plan_check *c, const struct plan_record *r);
/* What was found, with the end of all records; c is gone. -ENOMEM: it could not follow. */
int plan_check_close(struct plan_check *c, struct plan_checked *out);

/* "old bytes": in a word or two. */
const char *plan_fault_name(enum plan_fault fault);

#endif
