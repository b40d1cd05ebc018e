/* See device_fixture.h. */
#include "tests/device_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/cuda_fixture.h"

void sink_init(struct sink *s)
{
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    s->list = NULL;
    s->count = s->capacity = 0;
}

void sink_free(struct sink *s)
{
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s->list);
}

void sink_done(void *sink, void *cookie, int code)
{
    struct sink *s = sink;

    pthread_mutex_lock(&s->lock);
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 256;
        s->list = realloc(s->list, s->capacity * sizeof *s->list);
        if (!s->list)
            abort();
    }
    s->list[s->count++] = (struct done){cookie, code};
    pthread_cond_broadcast(&s->more);
    pthread_mutex_unlock(&s->lock);
}

size_t sink_count(struct sink *s)
{
    size_t count;

    pthread_mutex_lock(&s->lock);
    count = s->count;
    pthread_mutex_unlock(&s->lock);
    return count;
}

struct done sink_wait(struct sink *s, size_t n, size_t index)
{
    struct done done;

    pthread_mutex_lock(&s->lock);
    while (s->count < n)
        pthread_cond_wait(&s->more, &s->lock);
    done = s->list[index];
    pthread_mutex_unlock(&s->lock);
    return done;
}

void fixture_open(struct fixture *f, uint64_t arena_bytes)
{
    struct dev_config config = {.arena_bytes = arena_bytes, .done = sink_done, .sink = &f->sink};

    sink_init(&f->sink);
    assert_int_equal(dev_open(fixture_device(), &config, &f->dev), 0);
    f->arena = dev_arena(f->dev);
}

void fixture_end(struct fixture *f)
{
    dev_close(f->dev);
    sink_free(&f->sink);
}
