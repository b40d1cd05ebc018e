/*
 * Random requests against a model, for test_io_fuzz.c: files are also plain byte arrays,
 * and whatever comes back from the queue is compared with them. It runs on the memory
 * engine and on real files alike.
 *
 * Of bytes whose write failed nothing is known until they are written or read again. No
 * two requests that are out overlap where one writes; neighbours in a page may be out
 * together.
 */
#ifndef OFL_TESTS_IO_MODEL_H
#define OFL_TESTS_IO_MODEL_H

#include "tests/io_fixture.h"
#include "tests/mem_engine.h"

#define MODEL_SLOTS 200u /* requests that are out together, at most */
#define MODEL_FILES 9u

struct model_file {
    struct io_file *file;
    const char *name;
    uint64_t bytes;
    bool writable, require_direct;
    unsigned char *now;     /* what must be there */
    unsigned char *unknown; /* 1: may be anything */
    uint64_t hot;           /* half of the requests lie near here */
};

/* What a slot keeps others from; file NULL: nothing. Apart from the slots, since it is searched. */
struct model_range {
    const struct model_file *file;
    uint64_t begin, end;
    bool write;
};

struct model_slot {
    struct mem_user user; /* first: it is the request's cookie */
    struct io_request r;
    struct model_file *file;
    unsigned char *memory; /* of reads, with guards around the buffer */
    uint64_t capacity;
    uint64_t submit_ns;
    bool busy, cancelled;
    bool told;  /* that it is late */
    int expect; /* unless something is injected */
    uint64_t expect_bytes;
};

struct model {
    struct io_queue *q;
    struct mem_engine *engine; /* NULL: the real kernel */
    struct model_file file[MODEL_FILES];
    unsigned file_count;
    struct model_slot slot[MODEL_SLOTS];
    struct model_range range[MODEL_SLOTS];
    unsigned out; /* slots */
    uint64_t random, submitted, limit_bytes;
    void *mapping;
    const unsigned char *pool; /* what is written: random bytes, read-only */
    uint32_t cancel, deadline; /* of 1000 requests */
    bool may_fail;             /* errors are injected */
    bool asks;                 /* for notices of late requests */
    bool tolerant;             /* mismatches are counted, and do not fail the test */
    unsigned mismatches;
    /* of the queue that is open */
    uint64_t ok_bytes[2], ok_ops[2], moved_bytes[2];
    /* of all */
    uint64_t succeeded, failed, cancelled, expired, told;
};

/* random: a seed. limit_bytes: of one request. */
struct model *model_create(uint64_t seed, uint64_t limit_bytes);
void model_destroy(struct model *m);
/* The file, of `bytes` zeros, is the model's now, but for closing it. */
void model_add(struct model *m, const char *name, struct io_file *f, uint64_t bytes);

/* Puts the queue that has been opened on a clock of the model's, where looks at it make time pass, so that
 * a seed says all. */
void model_set_clock(struct model *m);
/* Checks what has come back. */
void model_take(struct model *m, struct io_request **done, unsigned n);
/* One random step: submissions, and now and then a flush, a cancellation, a collection. */
void model_step(struct model *m);
/* Waits until nothing is out, checks the queue's statistics, and closes it. */
void model_drain(struct model *m);
/* Closes the queue with whatever is out. */
void model_abandon(struct model *m);
/* Compares all bytes of the files. On real files it reads them through q. */
void model_compare(struct model *m, struct io_queue *q);

#endif
