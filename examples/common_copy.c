/* common: how fast RAM is copied, by all cores. See common_predict.h. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/common_memory.h"
#include "examples/common_predict.h"

#define COPY_BYTES  (64ull << 20) /* of a thread: more than a cache holds */
#define COPY_THREAD (1ull << 20)  /* the least of that which is worth a thread */
#define TRIES       5

struct copier {
    char *memory;
    size_t bytes; /* copied: memory has twice as many */
    pthread_t thread;
};

static void *copy_thread(void *arg)
{
    const struct copier *c = arg;

    memcpy(c->memory, c->memory + c->bytes, c->bytes);
    return NULL;
}

static int copy_all(struct copier *each, unsigned count)
{
    unsigned started = 0;

    while (started < count && pthread_create(&each[started].thread, NULL, copy_thread, &each[started]) == 0)
        started++;
    for (unsigned i = 0; i < started; i++)
        pthread_join(each[i].thread, NULL);
    return started < count ? common_fail(EXIT_RUNTIME, "measure memory: no more threads") : 0;
}

/* Of a core, so that all of them take a quarter of what can be had at most. */
static uint64_t copy_bytes(uint64_t most_bytes, unsigned *count)
{
    struct common_room room;
    uint64_t bytes, all;

    common_room(&room);
    all = room.bytes / 8 < most_bytes / 2 ? room.bytes / 8 : most_bytes / 2;
    bytes = all / *count;
    if (bytes < COPY_THREAD) {
        *count = all > COPY_THREAD ? (unsigned)(all / COPY_THREAD) : 1;
        bytes = COPY_THREAD;
    }
    return bytes < COPY_BYTES ? bytes / 4096 * 4096 : COPY_BYTES;
}

int common_copy_rate(uint64_t most_bytes, double *bps)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = cores < 1 ? 1 : cores > 16 ? 16 : (unsigned)cores;
    uint64_t bytes = copy_bytes(most_bytes, &count);
    char *memory = malloc(2 * count * bytes);
    struct copier *each = calloc(count, sizeof *each);
    int status = memory && each ? 0 : common_fail(EXIT_FULL, "measure memory: out of memory");

    *bps = 0;
    if (status == 0)
        memset(memory, 1, 2 * count * bytes);
    for (unsigned i = 0; i < count && status == 0; i++)
        each[i] = (struct copier){.memory = memory + 2 * i * bytes, .bytes = bytes};
    for (int i = 0; i <= TRIES && status == 0; i++) { /* the first one warms up */
        double start = common_seconds(), rate;

        status = copy_all(each, count);
        rate = 2.0 * (double)(count * bytes) / (common_seconds() - start);
        *bps = i > 0 && rate > *bps ? rate : *bps;
    }
    free(memory);
    free(each);
    return status;
}
