/*
 * device: see device.h. Owns the list of backends and finds one by name; all
 * else is handed to it. Knows nothing of how a backend works.
 */
#include "liboffload/device/device.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "liboffload/device/backend.h"

static const struct dev_backend *const backends[] = {
    &dev_backend_host,
    &dev_backend_cuda,
};

#define BACKENDS (sizeof backends / sizeof backends[0])

static int unknown(const char *name)
{
    char list[128] = "";
    size_t used = 0;

    for (size_t i = 0; i < BACKENDS && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", backends[i]->name);
    return base_fail(-ENODEV, "open device \"%s\": no such kind: this build has %s", name, list);
}

/* "kind" or "kind:N". NULL if there is no such kind, or no unit N of it. */
static const struct dev_backend *find(const char *name, unsigned *unit)
{
    size_t length = strcspn(name, ":");
    char rest;

    *unit = 0;
    if (name[length] == ':' && (!isdigit((unsigned char)name[length + 1]) || strlen(name + length) > 4 ||
                                sscanf(name + length + 1, "%u%c", unit, &rest) != 1))
        return NULL;
    for (size_t i = 0; i < BACKENDS; i++)
        if (strlen(backends[i]->name) == length && memcmp(backends[i]->name, name, length) == 0)
            return *unit < backends[i]->units ? backends[i] : NULL;
    return NULL;
}

int dev_info_get(const char *name, struct dev_info *out)
{
    unsigned unit;
    const struct dev_backend *backend = find(name, &unit);

    *out = (struct dev_info){.name = "RAM"};
    if (!backend)
        return unknown(name);
    snprintf(out->device, sizeof out->device, "%s", backend->name);
    return backend->info ? backend->info(unit, out) : 0;
}

int dev_open(const char *name, const struct dev_config *config, struct dev **out)
{
    const struct dev_backend *backend;
    struct dev *d;
    unsigned unit;
    int rc;

    *out = NULL;
    backend = find(name, &unit);
    if (!backend)
        return unknown(name);
    if (config->arena_bytes == 0 || !config->done)
        return base_fail(-EINVAL, "open device \"%s\": arena of %llu bytes, %s sink: both are needed", name,
                         (unsigned long long)config->arena_bytes, config->done ? "a" : "no");
    rc = backend->open(unit, config, &d);
    if (rc != 0)
        return rc;
    d->backend = backend;
    *out = d;
    return 0;
}

void dev_close(struct dev *d)
{
    if (d)
        d->backend->close(d);
}

void *dev_arena(struct dev *d)
{
    return d->arena;
}

const char *dev_name(const struct dev *d)
{
    return d->name;
}

int dev_check(struct dev *d)
{
    return d->backend->check ? d->backend->check(d) : 0;
}

int dev_register_host(struct dev *d, void *base, uint64_t bytes)
{
    return d->backend->register_host ? d->backend->register_host(d, base, bytes) : 0;
}

void *dev_native(struct dev *d)
{
    return d->backend->native ? d->backend->native(d) : NULL;
}

void *dev_symbol(struct dev *d, const char *name)
{
    return d->backend->symbol ? d->backend->symbol(d, name) : NULL;
}

static int no_kernels(const struct dev *d)
{
    return base_fail(-ENOTSUP, "device \"%s\" runs no kernels", d->name);
}

int dev_kernel_find(struct dev *d, const void *image, const char *name, struct dev_kernel **out)
{
    *out = NULL;
    return d->backend->kernel_find ? d->backend->kernel_find(d, image, name, out) : no_kernels(d);
}

int dev_host_alloc(struct dev *d, uint64_t bytes, void **host, void **device)
{
    *host = *device = NULL;
    return d->backend->host_alloc ? d->backend->host_alloc(d, bytes, host, device) : no_kernels(d);
}

void dev_host_free(struct dev *d, void *host)
{
    if (host)
        d->backend->host_free(d, host);
}

void dev_stats_get(struct dev *d, struct dev_stats *out)
{
    d->backend->stats(d, out);
}

void dev_trace(struct dev *d, bool on)
{
    atomic_store_explicit(&d->traced_ns, on && d->config.span ? base_now_ns() : 0, memory_order_relaxed);
}

void dev_copy_in(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie)
{
    d->backend->copy_in(d, dst, src, bytes, cookie);
}

void dev_copy_out(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie)
{
    d->backend->copy_out(d, dst, src, bytes, cookie);
}

void dev_fill(struct dev *d, void *dst, uint8_t byte, uint64_t bytes, void *cookie)
{
    d->backend->fill(d, dst, byte, bytes, cookie);
}

int dev_stream_create(struct dev *d, struct dev_stream **out)
{
    int rc;

    *out = NULL;
    rc = d->backend->stream_create(d, out);
    if (rc != 0)
        return rc;
    (*out)->dev = d;
    (*out)->id = atomic_fetch_add(&d->streams, 1) + 1;
    return 0;
}

void dev_stream_destroy(struct dev_stream *s)
{
    if (s)
        s->dev->backend->stream_destroy(s);
}

void dev_stream_uncounted(struct dev_stream *s)
{
    s->uncounted = true;
}

void dev_stream_mark_later(struct dev_stream *s, void *cookie)
{
    s->dev->backend->stream_mark(s, cookie);
}

void dev_stream_wait_later(struct dev_stream *s, struct dev_gate *g)
{
    s->dev->backend->stream_wait(s, g);
}

void dev_stream_label(struct dev_stream *s, uint64_t note)
{
    if (dev_traced(s->dev))
        s->dev->backend->stream_label(s, note);
}

void dev_stream_room(struct dev_stream *s)
{
    if (s->dev->backend->stream_room)
        s->dev->backend->stream_room(s);
}

bool dev_stream_idle(struct dev_stream *s, int *code)
{
    return s->dev->backend->stream_idle && s->dev->backend->stream_idle(s, code);
}

void dev_stream_flush(struct dev_stream *s)
{
    if (s->dev->backend->stream_flush)
        s->dev->backend->stream_flush(s);
}

void dev_stream_mark(struct dev_stream *s, void *cookie)
{
    dev_stream_mark_later(s, cookie);
    dev_stream_flush(s);
}

void dev_stream_wait(struct dev_stream *s, struct dev_gate *g)
{
    dev_stream_wait_later(s, g);
    dev_stream_flush(s);
}

int dev_stream_launch(struct dev_stream *s, dev_job_fn *fn, void *arg)
{
    if (!s->dev->backend->stream_launch)
        return base_fail(-ENOTSUP, "launch on stream %llu: device \"%s\" does not run host functions",
                         (unsigned long long)s->id, dev_name(s->dev));
    return s->dev->backend->stream_launch(s, fn, arg);
}

int dev_stream_kernel(struct dev_stream *s, struct dev_kernel *k, uint32_t blocks, uint32_t threads,
                      void **args)
{
    return s->dev->backend->stream_kernel ? s->dev->backend->stream_kernel(s, k, blocks, threads, args)
                                          : no_kernels(s->dev);
}

int dev_stream_copy_in(struct dev_stream *s, void *dst, const void *src, uint64_t bytes)
{
    return s->dev->backend->stream_copy_in ? s->dev->backend->stream_copy_in(s, dst, src, bytes) : -ENOTSUP;
}

int dev_stream_sync(struct dev_stream *s)
{
    return s->dev->backend->stream_sync(s);
}

uint64_t dev_stream_id(const struct dev_stream *s)
{
    return s->id;
}

void *dev_stream_native(struct dev_stream *s)
{
    return s->dev->backend->stream_native ? s->dev->backend->stream_native(s) : NULL;
}

int dev_gate_create(struct dev *d, struct dev_gate **out)
{
    int rc;

    *out = NULL;
    rc = d->backend->gate_create(d, out);
    if (rc != 0)
        return rc;
    (*out)->dev = d;
    return 0;
}

void dev_gate_note(struct dev_gate *g, uint64_t note)
{
    g->note = note;
}

void dev_gate_open(struct dev_gate *g, const struct base_error *error)
{
    g->dev->backend->gate_open(g, error && error->code != 0 ? error : NULL);
}
