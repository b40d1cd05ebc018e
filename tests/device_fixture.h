/*
 * What the tests of the device share: a device (host, or what
 * OFL_TEST_DEVICE says) whose completions go to a list.
 */
#ifndef OFL_TESTS_DEVICE_FIXTURE_H
#define OFL_TESTS_DEVICE_FIXTURE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "liboffload/device/device.h"

struct done {
    void *cookie;
    int code;
};

struct sink {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct done *list;
    size_t count, capacity;
};

struct fixture {
    struct sink sink;
    struct dev *dev;
    unsigned char *arena;
};

void sink_init(struct sink *s);
void sink_free(struct sink *s);
void sink_done(void *sink, void *cookie, int code); /* a dev_done_fn */
size_t sink_count(struct sink *s);
/* Blocks until n completions have come; returns the one that came as number index. */
struct done sink_wait(struct sink *s, size_t n, size_t index);

void fixture_open(struct fixture *f, uint64_t arena_bytes);
void fixture_end(struct fixture *f);

#endif
