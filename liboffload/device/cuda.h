/*
 * cuda: what cuda.c (the device), cuda_lane.c (its queues) and cuda_kernel.c (its kernels) share.
 * Included by those only.
 *
 * A lane is a CUDA stream and the list of what was put on it and has not been reported yet:
 * one for each direction of the link, one for each user stream. One thread, the poller,
 * queries the events of all lanes, oldest first, and reports. Polling, not host functions:
 * these hold up their stream until the host has run them, may be run one after the other for
 * all streams, and may not call the driver, which whoever is told of a completion does at once.
 *
 * A gate is a number: each user stream has a word of pinned memory and waits until that has
 * reached the number of the wait. The host stores it once all earlier gates of that stream
 * are open, too. So opening a gate costs no call of the driver, and no host function blocks
 * (one that waits for other work may stop all streams for good).
 *
 * Locks: a lane's issuing, then lock. lock is never held over a call of the driver or of the
 * sink; issuing is, of the driver: it keeps the order on the device that of the list.
 */
#ifndef OFL_DEVICE_CUDA_H
#define OFL_DEVICE_CUDA_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/pool.h"
#include "liboffload/device/backend.h"
#include "liboffload/device/cuda_driver.h"

#define CUDA_WORDS 1024u /* user streams at once: a page of them */

enum cuda_kind { CUDA_IN, CUDA_OUT, CUDA_FILL, CUDA_MARK, CUDA_WAIT, CUDA_LABEL, CUDA_SYNC };

struct cuda_gate {
    struct dev_gate base;
    unsigned refs; /* the creator's, and one per wait */
    bool open;
    int code;                /* what it was opened with */
    char *text;              /* sentence of code; NULL when there was no memory for it */
    struct cuda_op *waiting; /* until it is open */
};

/* Lives on the stack of the thread that waits. */
struct cuda_sync {
    bool reached, last; /* last: the lane goes with it */
    struct base_error error;
};

struct cuda_op {
    struct cuda_op *next;
    struct cuda_lane *lane;
    enum cuda_kind kind;
    bool issued;           /* the driver has it */
    int code;              /* refused: reported in its turn, moves nothing */
    cuda_event start, end; /* start: of a copy that found its lane idle, of a wait; NULL: none */
    void *cookie;
    void *dst; /* copies and fills */
    const void *src;
    uint64_t bytes;
    uint8_t byte;
    struct cuda_gate *gate; /* waits */
    struct cuda_op *next_of_gate, *next_wait;
    uint32_t number;
    bool passed; /* the word has reached number */
    struct cuda_sync *sync;
    uint64_t note; /* labels */
};

struct cuda_lane {
    struct cuda *cuda;
    cuda_stream stream;
    const struct dev_stream *owner; /* NULL: a direction of the link */
    pthread_mutex_t issuing;
    struct cuda_lane *next, *prev; /* of the poller's list */
    struct cuda_op *head, **tail;  /* all; guarded by lock, like what follows, to number */
    struct cuda_op *unissued;      /* the first that the driver does not have */
    struct cuda_op *waits, **waits_tail;
    unsigned timed;          /* issued with an end event, not reported */
    unsigned queued;         /* not reported, without labels */
    uint32_t word, number;   /* index of its word; number of its latest wait */
    struct base_error error; /* the first; poller only */
    cuda_event last;         /* end of what was reported last; poller only, like the next two lines */
    uint64_t last_ns;        /* by the host's clock, while somebody wants to know; else 0 */
    uint64_t label, label_ns;
    _Atomic uint64_t bytes, copies, busy_ns;
};

struct cuda_user_stream {
    struct dev_stream base;
    struct cuda_lane lane;
};

struct cuda {
    struct dev base;
    struct cuda_driver driver;
    cuda_device device;
    cuda_context context;
    cuda_pointer arena;
    void *registered; /* host memory */
    struct cuda_lane in, out;
    _Atomic uint64_t stall_ns;
    struct base_pool *poller;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;  /* for the poller: something was issued or opened */
    pthread_cond_t synced;
    struct cuda_lane *lanes;
    uint64_t kicks; /* reasons for the poller to look again */
    bool stopping;
    struct base_error error; /* the driver's first: all later work fails with it */
    atomic_bool broken;      /* error is set */
    cuda_event *events;      /* idle ones */
    size_t events_count, events_room;
    _Atomic uint32_t *words;
    cuda_pointer words_device;
    bool word_used[CUDA_WORDS];
    pthread_mutex_t loading;   /* guards the next two; held over calls of the driver, not under lock */
    struct cuda_image *images; /* loaded */
    struct cuda_host *hosts;   /* memory that kernels reach */
};

/* Any thread. Makes the device's context this thread's; the one before comes back with leave. */
cuda_context cuda_enter(struct cuda *c);
void cuda_leave(struct cuda *c, cuda_context before);

/* The driver failed: this thread's sentence, and code, are what all later work ends with. */
void cuda_broke(struct cuda *c, int code);

/* Zeroed but for cuda and owner. -errno with a sentence. */
int cuda_lane_open(struct cuda_lane *l, int priority);
/* Waits for its work. Not on the poller's thread. */
void cuda_lane_close(struct cuda_lane *l);
/* A copy of op, put at the end. flush hands the driver what it does not have yet. */
void cuda_lane_put(struct cuda_lane *l, const struct cuda_op *op);
void cuda_lane_flush(struct cuda_lane *l);
/* Waits while much is put on the lane and not reported. Not on the poller's thread. */
void cuda_lane_room(struct cuda_lane *l);
/* Waits until everything put so far has been reported. 0, or the lane's first error. */
int cuda_lane_sync(struct cuda_lane *l);
void cuda_gate_put(struct cuda_gate *g); /* gives a reference up */
/* Under lock: g is open now. */
void cuda_gate_pass(struct cuda *c, struct cuda_gate *g);
void cuda_poll(void *cuda); /* the poller: runs until stopping */

/* The backend's calls on kernels. */
int cuda_kernel_find(struct dev *d, const void *image, const char *name, struct dev_kernel **out);
int cuda_stream_kernel(struct dev_stream *s, struct dev_kernel *k, uint32_t blocks, uint32_t threads,
                       void **args);
int cuda_stream_copy_in(struct dev_stream *s, void *dst, const void *src, uint64_t bytes);
int cuda_host_alloc(struct dev *d, uint64_t bytes, void **host, void **device);
void cuda_host_free(struct dev *d, void *host);
/* Under the context, when nothing runs any more. */
void cuda_images_unload(struct cuda *c);
void cuda_hosts_free(struct cuda *c);

#endif
