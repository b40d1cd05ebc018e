/*
 * backend: what one kind of accelerator implements, and what device.c does for
 * all of them. Included by device.c and the backends only.
 *
 * A backend's structs begin with the ones below; device.c fills those in after
 * the backend has created them. Arguments have been checked as far as device.h
 * says; a bad range of a copy is the backend's to report, through done.
 */
#ifndef OFL_DEVICE_BACKEND_H
#define OFL_DEVICE_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>

#include "liboffload/device/device.h"

struct dev_backend {
    const char *name;
    /* Fills (*out)->arena, (*out)->config and (*out)->name. unit: the number after the kind. */
    int (*open)(unsigned unit, const struct dev_config *config, struct dev **out);
    int (*info)(unsigned unit, struct dev_info *out); /* NULL: there is one, of RAM */
    unsigned units;              /* at most so many of the kind: a number is refused from there on */
    int (*check)(struct dev *d); /* NULL: it can't break */
    int (*register_host)(struct dev *d, void *base, uint64_t bytes); /* NULL: nothing to do */
    void *(*native)(struct dev *d);                                  /* NULL: there is none */
    void *(*symbol)(struct dev *d, const char *name);                /* NULL: there are none */
    void (*close)(struct dev *d);
    void (*stats)(struct dev *d, struct dev_stats *out);
    void (*copy_in)(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie);
    void (*copy_out)(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie);
    void (*fill)(struct dev *d, void *dst, uint8_t byte, uint64_t bytes, void *cookie);
    int (*stream_create)(struct dev *d, struct dev_stream **out);
    void (*stream_destroy)(struct dev_stream *s);
    void (*stream_mark)(struct dev_stream *s, void *cookie);
    void (*stream_wait)(struct dev_stream *s, struct dev_gate *g);
    bool (*stream_idle)(struct dev_stream *s, int *code);                  /* NULL: not known */
    void (*stream_label)(struct dev_stream *s, uint64_t note);             /* handed to the device at once */
    void (*stream_flush)(struct dev_stream *s);                            /* NULL: nothing to do */
    void (*stream_room)(struct dev_stream *s);                             /* NULL: there always is */
    void *(*stream_native)(struct dev_stream *s);                          /* NULL: there is none */
    int (*stream_launch)(struct dev_stream *s, dev_job_fn *fn, void *arg); /* NULL: -ENOTSUP */
    /* The next five: NULL all: -ENOTSUP. */
    int (*host_alloc)(struct dev *d, uint64_t bytes, void **host, void **device);
    void (*host_free)(struct dev *d, void *host);
    int (*kernel_find)(struct dev *d, const void *image, const char *name, struct dev_kernel **out);
    int (*stream_kernel)(struct dev_stream *s, struct dev_kernel *k, uint32_t blocks, uint32_t threads,
                         void **args);
    int (*stream_copy_in)(struct dev_stream *s, void *dst, const void *src, uint64_t bytes);
    int (*stream_sync)(struct dev_stream *s);
    int (*gate_create)(struct dev *d, struct dev_gate **out);
    void (*gate_open)(struct dev_gate *g, const struct base_error *error); /* error NULL or code < 0 */
};

struct dev {
    const struct dev_backend *backend;
    struct dev_config config;
    void *arena;
    char name[24];
    _Atomic uint64_t traced_ns; /* dev_trace: since when; 0: off */
    _Atomic uint64_t streams;   /* created so far: the last id given out */
};

struct dev_stream {
    struct dev *dev;
    uint64_t id;
    _Atomic bool uncounted; /* its waits are not stalls of the user's work */
};

struct dev_gate {
    struct dev *dev;
    uint64_t note;
};

extern const struct dev_backend dev_backend_host;
extern const struct dev_backend dev_backend_cuda;

/* Since when copies, fills and work are to be reported; 0: they are not. Stalls always are, where there is a sink
 * for them. */
static inline uint64_t dev_traced(const struct dev *d)
{
    return atomic_load_explicit(&d->traced_ns, memory_order_relaxed);
}

static inline void dev_report(const struct dev *d, const struct dev_span *span)
{
    if (d->config.span)
        d->config.span(d->config.sink, span);
}

/* Whether [p, p + bytes) lies inside the arena; an empty range may sit at its end. */
static inline bool dev_holds(const struct dev *d, const void *p, uint64_t bytes)
{
    uintptr_t at = (uintptr_t)p, base = (uintptr_t)d->arena;

    return at >= base && at - base <= d->config.arena_bytes && bytes <= d->config.arena_bytes - (at - base);
}

#endif
