/*
 * cuda: an NVIDIA GPU, driven through the driver's own interface. Owns the device's memory
 * (one allocation), the registration of the host's, and who waits for whom; cuda_lane.c owns
 * what is in flight. See cuda.h.
 */
#include "liboffload/device/cuda.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNITS_MAX 1000u

static uint64_t total(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* ---- copies --------------------------------------------------------------- */

static void cuda_copy_in(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie)
{
    struct cuda *c = (struct cuda *)d;

    cuda_lane_put(&c->in, &(struct cuda_op){.kind = CUDA_IN,
                                            .dst = dst,
                                            .src = src,
                                            .bytes = bytes,
                                            .cookie = cookie,
                                            .code = dev_holds(d, dst, bytes) ? 0 : -EFAULT});
    cuda_lane_flush(&c->in);
}

static void cuda_copy_out(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie)
{
    struct cuda *c = (struct cuda *)d;

    cuda_lane_put(&c->out, &(struct cuda_op){.kind = CUDA_OUT,
                                             .dst = dst,
                                             .src = src,
                                             .bytes = bytes,
                                             .cookie = cookie,
                                             .code = dev_holds(d, src, bytes) ? 0 : -EFAULT});
    cuda_lane_flush(&c->out);
}

static void cuda_fill(struct dev *d, void *dst, uint8_t byte, uint64_t bytes, void *cookie)
{
    struct cuda *c = (struct cuda *)d;

    cuda_lane_put(&c->in, &(struct cuda_op){.kind = CUDA_FILL,
                                            .dst = dst,
                                            .byte = byte,
                                            .bytes = bytes,
                                            .cookie = cookie,
                                            .code = dev_holds(d, dst, bytes) ? 0 : -EFAULT});
    cuda_lane_flush(&c->in);
}

/* ---- gates ---------------------------------------------------------------- */

static int cuda_gate_create(struct dev *d, struct dev_gate **out)
{
    struct cuda_gate *g = calloc(1, sizeof *g);

    (void)d;
    if (!g)
        return base_fail_errno(-ENOMEM, "create gate: %zu bytes", sizeof *g);
    g->refs = 1;
    *out = &g->base;
    return 0;
}

static void cuda_gate_open(struct dev_gate *base, const struct base_error *error)
{
    struct cuda_gate *g = (struct cuda_gate *)base;
    struct cuda *c = (struct cuda *)base->dev;
    char *text = error ? strdup(error->text) : NULL;

    pthread_mutex_lock(&c->lock);
    g->open = true;
    g->code = error ? error->code : 0;
    g->text = text;
    cuda_gate_pass(c, g);
    pthread_mutex_unlock(&c->lock);
    cuda_gate_put(g);
}

/* ---- user streams --------------------------------------------------------- */

static void cuda_stream_mark(struct dev_stream *s, void *cookie)
{
    cuda_lane_put(&((struct cuda_user_stream *)s)->lane,
                  &(struct cuda_op){.kind = CUDA_MARK, .cookie = cookie});
}

static void cuda_stream_wait(struct dev_stream *s, struct dev_gate *g)
{
    cuda_lane_put(&((struct cuda_user_stream *)s)->lane,
                  &(struct cuda_op){.kind = CUDA_WAIT, .gate = (struct cuda_gate *)g});
}

static void cuda_stream_label(struct dev_stream *s, uint64_t note)
{
    struct cuda_lane *l = &((struct cuda_user_stream *)s)->lane;

    cuda_lane_put(l, &(struct cuda_op){.kind = CUDA_LABEL, .note = note});
    cuda_lane_flush(l);
}

static void cuda_stream_flush(struct dev_stream *s)
{
    cuda_lane_flush(&((struct cuda_user_stream *)s)->lane);
}

static void cuda_stream_room(struct dev_stream *s)
{
    cuda_lane_room(&((struct cuda_user_stream *)s)->lane);
}

static int cuda_stream_sync(struct dev_stream *s)
{
    return cuda_lane_sync(&((struct cuda_user_stream *)s)->lane);
}

static void *cuda_stream_native(struct dev_stream *s)
{
    return ((struct cuda_user_stream *)s)->lane.stream;
}

/* The word goes on from the number that it was left at: no old number comes back. */
static int take_word(struct cuda *c, struct cuda_lane *l)
{
    uint32_t i = 0;

    pthread_mutex_lock(&c->lock);
    while (i < CUDA_WORDS && c->word_used[i])
        i++;
    if (i < CUDA_WORDS) {
        c->word_used[i] = true;
        l->word = i;
        l->number = atomic_load_explicit(&c->words[i], memory_order_relaxed);
    }
    pthread_mutex_unlock(&c->lock);
    if (i < CUDA_WORDS)
        return 0;
    return base_fail(-EMFILE, "%s: create stream: %u streams are the most at once", c->base.name, CUDA_WORDS);
}

static void give_word(struct cuda *c, const struct cuda_lane *l)
{
    pthread_mutex_lock(&c->lock);
    c->word_used[l->word] = false;
    pthread_mutex_unlock(&c->lock);
}

static int cuda_stream_create(struct dev *d, struct dev_stream **out)
{
    struct cuda_user_stream *s = calloc(1, sizeof *s);
    struct cuda *c = (struct cuda *)d;
    int rc;

    if (!s)
        return base_fail_errno(-ENOMEM, "%s: create stream: %zu bytes", d->name, sizeof *s);
    s->lane.cuda = c;
    s->lane.owner = &s->base;
    rc = take_word(c, &s->lane);
    if (rc == 0) {
        rc = cuda_lane_open(&s->lane, 0);
        if (rc != 0)
            give_word(c, &s->lane);
    }
    if (rc != 0) {
        free(s);
        return rc;
    }
    *out = &s->base;
    return 0;
}

static void cuda_stream_destroy(struct dev_stream *base)
{
    struct cuda_user_stream *s = (struct cuda_user_stream *)base;

    cuda_lane_close(&s->lane);
    give_word(s->lane.cuda, &s->lane);
    free(s);
}

/* ---- memory --------------------------------------------------------------- */

/* Once: pinning costs, and the driver refuses pages that it has already. */
static int cuda_register_host(struct dev *d, void *base, uint64_t bytes)
{
    struct cuda *c = (struct cuda *)d;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    cuda_context before;
    cuda_result result;

    if (c->registered || bytes == 0 || bytes % page || (uintptr_t)base % page)
        return base_fail(-EINVAL, "%s: register host memory, %llu bytes: %s", d->name,
                         (unsigned long long)bytes, c->registered ? "done already" : "not whole pages");
    before = cuda_enter(c);
    result = CUDA_CALL(&c->driver, host_register, base, bytes, CUDA_REGISTER_PORTABLE);
    cuda_leave(c, before);
    if (result != CUDA_OK)
        return cuda_driver_fail(&c->driver, result, "%s: cuMemHostRegister of %llu bytes", d->name,
                                (unsigned long long)bytes);
    c->registered = base;
    return 0;
}

static int open_words(struct cuda *c)
{
    size_t bytes = CUDA_WORDS * sizeof *c->words;
    cuda_result result;
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return base_fail_errno(-errno, "open device \"%s\": map %zu bytes", c->base.name, bytes);
    (void)madvise(page, bytes,
                  MADV_DONTFORK); /* after a fork a write moves a page: the GPU would wait for the old */
    result =
        CUDA_CALL(&c->driver, host_register, page, bytes, CUDA_REGISTER_PORTABLE | CUDA_REGISTER_DEVICEMAP);
    if (result != CUDA_OK) {
        munmap(page, bytes);
        return cuda_driver_fail(&c->driver, result, "open device \"%s\": cuMemHostRegister of %zu bytes",
                                c->base.name, bytes);
    }
    c->words = page;
    result = CUDA_CALL(&c->driver, host_pointer, &c->words_device, page, 0);
    if (result != CUDA_OK)
        return cuda_driver_fail(&c->driver, result, "open device \"%s\": cuMemHostGetDevicePointer",
                                c->base.name);
    return 0;
}

static int open_arena(struct cuda *c)
{
    uint64_t bytes = c->base.config.arena_bytes;
    size_t free_bytes = 0, all_bytes = 0;
    cuda_result result = CUDA_CALL(&c->driver, mem_alloc, &c->arena, bytes);

    if (result != CUDA_OK) {
        c->arena = 0;
        (void)CUDA_CALL(&c->driver, mem_info, &free_bytes, &all_bytes); /* zeros say that it failed, too */
        return cuda_driver_fail(&c->driver, result,
                                "open device \"%s\": cuMemAlloc of %llu bytes, %zu of its %zu bytes are free",
                                c->base.name, (unsigned long long)bytes, free_bytes, all_bytes);
    }
    c->base.arena = (void *)(uintptr_t)c->arena;
    return 0;
}

/* ---- open and close ------------------------------------------------------- */

static int open_context(struct cuda *c, unsigned unit)
{
    struct cuda_driver *d = &c->driver;
    cuda_result result;
    int count = 0;

    result = CUDA_CALL(d, device_count, &count);
    if (result == CUDA_OK && unit >= (unsigned)count)
        return base_fail(-ENODEV, "open device \"%s\": there is no such GPU: the driver has %d", c->base.name,
                         count);
    if (result == CUDA_OK)
        result = CUDA_CALL(d, device_get, &c->device, (int)unit);
    if (result != CUDA_OK)
        return cuda_driver_fail(d, result, "open device \"%s\": cuDeviceGet", c->base.name);
    result = CUDA_CALL(d, context_retain, &c->context, c->device);
    if (result != CUDA_OK) {
        c->context = NULL;
        return cuda_driver_fail(d, result, "open device \"%s\": cuDevicePrimaryCtxRetain", c->base.name);
    }
    return 0;
}

/* Needs no context, so that looking costs nothing. */
static int cuda_info(unsigned unit, struct dev_info *out)
{
    cuda_result (*name_of)(char *, int, cuda_device), (*memory_of)(size_t *, cuda_device);
    struct cuda_driver driver = {0};
    cuda_device device;
    cuda_result result;
    size_t bytes = 0;
    int count = 0, rc;

    snprintf(out->device, sizeof out->device, "cuda:%u", unit);
    rc = cuda_driver_load(&driver, out->device);
    if (rc != 0)
        return rc;
    result = CUDA_CALL(&driver, device_count, &count);
    if (result == CUDA_OK && unit >= (unsigned)count)
        return base_fail(-ENODEV, "%s: there is no such GPU: the driver has %d", out->device, count);
    if (result == CUDA_OK)
        result = CUDA_CALL(&driver, device_get, &device, (int)unit);
    if (result != CUDA_OK)
        return cuda_driver_fail(&driver, result, "%s: cuDeviceGet", out->device);
    *(void **)&name_of = cuda_driver_symbol(&driver, "cuDeviceGetName");
    *(void **)&memory_of = cuda_driver_symbol(&driver, "cuDeviceTotalMem_v2");
    if (!name_of || name_of(out->name, sizeof out->name, device) != CUDA_OK)
        snprintf(out->name, sizeof out->name, "GPU");
    if (!memory_of || memory_of(&bytes, device) != CUDA_OK)
        return base_fail(-ENOTSUP, "%s: the driver does not tell how much memory it has", out->device);
    out->memory_bytes = bytes;
    return 0;
}

/* Gates stand and fall with waits on memory words. One that is over at once shows whether the
 * device has them, and that it passes them: open leaves no work behind that its caller knows nothing of, and
 * that would be in the way of whoever frees memory of the driver's. */
static int probe_waits(struct cuda *c)
{
    cuda_result result =
        CUDA_CALL(&c->driver, stream_wait_value, c->in.stream, c->words_device, 0, CUDA_WAIT_GEQ);
    struct base_error why;
    int rc;

    if (result != CUDA_OK)
        return cuda_driver_fail(&c->driver, result,
                                "open device \"%s\": cuStreamWaitValue32, which gates need", c->base.name);
    rc = cuda_lane_sync(&c->in);
    if (rc == 0)
        return 0;
    base_error_save(&why, rc);
    return base_fail(rc, "open device \"%s\": cuStreamWaitValue32, which gates need, then %s", c->base.name,
                     why.text);
}

/* The link's streams get the highest priority: streams of different priorities share no
 * hardware queue, and a copy must not queue up behind a gate that waits for it. */
static int open_parts(struct cuda *c)
{
    int least = 0, greatest = 0, rc;

    rc = open_words(c);
    if (rc == 0)
        rc = open_arena(c);
    if (rc == 0)
        rc = base_pool_create(1, "ofl-cuda", &c->poller);
    if (rc != 0)
        return rc;
    base_pool_submit(c->poller, cuda_poll, c);
    (void)CUDA_CALL(&c->driver, priorities, &least, &greatest); /* 0, the default, does too */
    rc = cuda_lane_open(&c->in, greatest);
    if (rc == 0)
        rc = cuda_lane_open(&c->out, greatest);
    return rc == 0 ? probe_waits(c) : rc;
}

static void close_parts(struct cuda *c)
{
    struct cuda_driver *d = &c->driver;

    cuda_lane_close(&c->in);
    cuda_lane_close(&c->out);
    if (c->poller) {
        pthread_mutex_lock(&c->lock);
        c->stopping = true;
        pthread_cond_signal(&c->work);
        pthread_mutex_unlock(&c->lock);
        base_pool_destroy(c->poller);
    }
    for (size_t i = 0; i < c->events_count; i++)
        (void)CUDA_CALL(d, event_destroy, c->events[i]);
    free(c->events);
    cuda_images_unload(c);
    cuda_hosts_free(c);
    if (c->registered)
        (void)CUDA_CALL(d, host_unregister, c->registered);
    if (c->arena)
        (void)CUDA_CALL(d, mem_free, c->arena);
    if (c->words) {
        (void)CUDA_CALL(d, host_unregister, c->words);
        munmap(c->words, CUDA_WORDS * sizeof *c->words);
    }
}

static void cuda_close(struct dev *base)
{
    struct cuda *c = (struct cuda *)base;

    if (c->context) {
        cuda_context before = cuda_enter(c);

        close_parts(c); /* a lost device fails each call, and has nothing left to free */
        cuda_leave(c, before);
        /* The primary context stays, as with CUDA's runtime: to make it again takes seconds, and libraries
         * that stay loaded (cuBLAS) have state in it. */
    }
    pthread_mutex_destroy(&c->loading);
    pthread_cond_destroy(&c->synced);
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int cuda_open(unsigned unit, const struct dev_config *config, struct dev **out)
{
    struct cuda *c = calloc(1, sizeof *c);
    struct base_error why;
    char what[48];
    int rc;

    if (!c)
        return base_fail_errno(-ENOMEM, "open device \"cuda:%u\": %zu bytes", unit, sizeof *c);
    c->base.config = *config;
    snprintf(c->base.name, sizeof c->base.name, "cuda:%u", unit);
    snprintf(what, sizeof what, "open device \"%s\"", c->base.name);
    c->in.cuda = c->out.cuda = c;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->loading, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->synced, NULL);
    rc = cuda_driver_load(&c->driver, what);
    if (rc == 0)
        rc = open_context(c, unit);
    if (rc == 0) {
        cuda_context before = cuda_enter(c);

        rc = open_parts(c);
        cuda_leave(c, before);
    }
    if (rc != 0) {
        base_error_save(&why, rc);
        cuda_close(&c->base);
        return base_error_restore(&why);
    }
    *out = &c->base;
    return 0;
}

static int cuda_check(struct dev *d)
{
    struct cuda *c = (struct cuda *)d;

    return atomic_load(&c->broken) ? base_error_restore(&c->error) : 0; /* set once, before broken */
}

static void *cuda_native(struct dev *d)
{
    return ((struct cuda *)d)->context;
}

static void *cuda_symbol(struct dev *d, const char *name)
{
    return cuda_driver_symbol(&((struct cuda *)d)->driver, name);
}

static uint64_t calls_made(const struct cuda_counts *counts)
{
    uint64_t sum = 0;

#define X(name, symbol, params) sum += total(&counts->name);
    CUDA_CALLS(X)
#undef X
    return sum;
}

static void cuda_stats(struct dev *d, struct dev_stats *out)
{
    const struct cuda *c = (const struct cuda *)d;

    *out = (struct dev_stats){
        .in_bytes = total(&c->in.bytes),
        .out_bytes = total(&c->out.bytes),
        .in_copies = total(&c->in.copies),
        .out_copies = total(&c->out.copies),
        .in_busy_ns = total(&c->in.busy_ns),
        .out_busy_ns = total(&c->out.busy_ns),
        .stall_ns = total(&c->stall_ns),
        .driver_calls = calls_made(&c->driver.counts),
    };
}

const struct dev_backend dev_backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .info = cuda_info,
    .units = UNITS_MAX,
    .close = cuda_close,
    .stats = cuda_stats,
    .check = cuda_check,
    .native = cuda_native,
    .symbol = cuda_symbol,
    .register_host = cuda_register_host,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .fill = cuda_fill,
    .stream_create = cuda_stream_create,
    .stream_destroy = cuda_stream_destroy,
    .stream_mark = cuda_stream_mark,
    .stream_wait = cuda_stream_wait,
    .stream_label = cuda_stream_label,
    .stream_flush = cuda_stream_flush,
    .stream_room = cuda_stream_room,
    .stream_native = cuda_stream_native,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .kernel_find = cuda_kernel_find,
    .stream_kernel = cuda_stream_kernel,
    .stream_copy_in = cuda_stream_copy_in,
    .stream_sync = cuda_stream_sync,
    .gate_create = cuda_gate_create,
    .gate_open = cuda_gate_open,
};
