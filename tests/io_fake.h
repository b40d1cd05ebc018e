/*
 * An engine that a test plays by hand, for the io room's tests: it holds what the queue starts until the
 * test says how it ends. With a file that has a size and no bytes, and a clock that can be stopped.
 */
#ifndef OFL_TESTS_IO_FAKE_H
#define OFL_TESTS_IO_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>

#include "io/engine.h"
#include "io/file.h"
#include "io/queue.h"

#define FAKE_HELD_MAX 64
#define GIB           (1ull << 30)

struct fake {
    struct io_backend base;
    struct io_transfer *held[FAKE_HELD_MAX]; /* started, oldest first */
    unsigned held_count;
    struct io_transfers done;
    int start_code, flush_code;
    unsigned cancels;
};

extern unsigned fake_closed; /* engines, ever */
extern uint64_t fake_now_ns; /* the time; 0: it goes, from four hours after the machine's start on */

struct fake *fake_create(void);
/* A queue on such an engine, with that clock; the engine goes with it. */
struct io_queue *fake_queue_open(const struct io_queue_config *config, struct fake **out);
/* Likewise, with deadlines of an hour, and pieces and windows out of the way. */
struct io_queue *fake_open(uint32_t depth, struct fake **out);
uint64_t fake_clock(void);

/* The oldest started transfer ends with this result. */
void fake_finish(struct fake *f, int64_t result);
/* As if r had been submitted two hours ago. */
void fake_age(struct io_queue *q, struct io_request *r);

struct fake_file {
    struct io_file file;
    struct io_member member;
    char path[16];
};

/* A file of so many bytes, for the questions that the queue puts to it. */
struct io_file *fake_file_make(struct fake_file *f, uint64_t bytes, uint32_t block);
void fake_file_drop(struct fake_file *f);

/* What io_reap has, or NULL. */
struct io_request *fake_reap(struct io_queue *q);
/* Whether the queue's descriptor is. */
bool fake_readable(struct io_queue *q);
/* Made-up buffer addresses: the engine never follows them. */
void *fake_address(uint64_t at);

#endif
