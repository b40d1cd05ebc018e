/*
 * engine: runs the pager. Owns the lock under which the pager is called, the engine thread, and the ways by
 * which what the pager asks for goes out (device, I/O queue, workers) and comes back.
 *
 * Who calls the pager does so on its own thread, under the lock: a command costs no other thread. So do device
 * threads and workers with what they have finished, if the lock is free; else it lies in a mailbox, and whoever
 * has the lock hears of it before giving that up. The engine thread is for what is left: it alone has the I/O
 * queue start, flush and reap transfers, and so wakes up when the drive has finished some, or has room for
 * what the pager wants.
 *
 * Nothing posted is left lying:
 *  - Mail. A poster sets `mail`, then looks at `held`. Who gives up the lock clears `held`, then looks at
 *    `mail`. Both are sequentially consistent, so at least one sees the other: the holder hears the mail, or
 *    the poster sees that nobody will, and tries for the lock. If that is taken all the same (by who has not
 *    set `held` yet, or is past that look), it wakes the engine thread, which hears the mail.
 *  - The engine thread sets `asleep`, then looks at `mail` and `due`, and sleeps if it finds neither. Who has
 *    something for it sets one of them, then clears `asleep`; if it was set, writes to mail_fd, which ends the
 *    sleep. Again, one sees the other.
 *  - Who waits for `progress` gives up the lock as all do.
 *  - The I/O queue's own events end the sleep as well; I/O that can't start now is started when some ends.
 *
 * Locks, in the order in which they are taken: lock, then those inside the device and the pool; io_lock and
 * mail_lock are leaves. Of the user's only the log function is called while they are held.
 */
#ifndef OFL_CORE_ENGINE_H
#define OFL_CORE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/pool.h"
#include "liboffload/core/pump.h"
#include "liboffload/core/record.h"

struct core_engine {
    struct pager pager;
    struct dev *dev;
    struct io_queue *io;
    struct base_pool *pool;
    /* Engine thread, without locks: a read has come back, and the pager has not heard of it. May set op->io.error. */
    void (*read_ended)(struct core_op *op);

    pthread_mutex_t lock;    /* guards the pager and what follows, to the next blank line */
    pthread_cond_t progress; /* for commands that have to wait */
    unsigned blocked;
    uint64_t progress_seen;
    struct core_op *submit, **submit_tail; /* I/O to be handed to the queue */
    bool startable;                        /* the queue can start some of what it has */
    bool more;                             /* the pump is to be called again */
    struct record_levels levels;           /* that the timeline knows */
    bool closing;                          /* the engine thread waits for the last thing in flight */

    pthread_mutex_t io_lock; /* the I/O queue, and its files: who makes one grow holds it */

    pthread_mutex_t mail_lock; /* guards what follows, to stopping */
    struct core_op *ops, **ops_tail;
    struct core_request *ended;
    bool stopping;

    atomic_bool mail;   /* there may be some */
    atomic_bool held;   /* who has the lock looks at the mail before it gives that up */
    atomic_bool due;    /* the engine thread is to have a look, mail or not */
    atomic_bool asleep; /* the engine thread is, or will be: who has something for it writes to mail_fd */
    int mail_fd;
    pthread_t thread;
    bool runs;

    struct timeline timeline; /* has a lock of its own, a leaf; large, so behind what is always in use */
};

/* Before anything else of e; e is zeroed. 0 or -errno with a sentence. */
int engine_open(struct core_engine *e);
/* e->dev, io, pool, read_ended and the pager's sizes are set. */
int engine_start(struct core_engine *e);
/* Ends the thread, once what is in flight has come back. */
void engine_stop(struct core_engine *e);
void engine_close(struct core_engine *e);

/* Any thread but the library's own. Runs run(arg) under the lock; again after the next progress as long as it
 * returns -EAGAIN. */
int engine_call(struct core_engine *e, int (*run)(void *self, void *arg), void *self, void *arg);
/* From any thread, the device's and workers' too: op has finished. */
void engine_post(struct core_engine *e, struct core_op *op);
/* CPU time of the engine thread so far. */
uint64_t engine_busy_ns(const struct core_engine *e);

#endif
