/* cuda_stub_calls: the driver's entry points, as the stub has them. See cuda_stub.h. */
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_stub_state.h"

/* ---- devices and contexts ------------------------------------------------- */

API cuda_result cuInit(unsigned flags)
{
    ENTER(NOTHING);
    stub.initialised = true;
    if (flags)
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuInit: flags"));
    return leave(stub.config.no_device ? CUDA_NO_DEVICE : CUDA_OK);
}

static unsigned devices(void)
{
    return stub.config.devices ? stub.config.devices : 1;
}

API cuda_result cuDeviceGetCount(int *count)
{
    ENTER(INIT);
    *count = (int)devices();
    return leave(CUDA_OK);
}

API cuda_result cuDeviceGet(cuda_device *device, int ordinal)
{
    ENTER(INIT);
    *device = ordinal;
    return leave(ordinal >= 0 && (unsigned)ordinal < devices() ? CUDA_OK : CUDA_INVALID_DEVICE);
}

API cuda_result cuDevicePrimaryCtxRetain(cuda_context *context, cuda_device device)
{
    ENTER(INIT);
    *context = &stub.contexts[device];
    (*context)->refs++;
    return leave(CUDA_OK);
}

API cuda_result cuDevicePrimaryCtxRelease_v2(cuda_device device)
{
    ENTER(INIT);
    if (stub.contexts[device].refs == 0)
        return leave(stub_violate(CONTEXT, "context released that nobody holds"));
    stub.contexts[device].refs--;
    return leave(CUDA_OK);
}

API cuda_result cuCtxSetCurrent(cuda_context context)
{
    ENTER(INIT);
    if (context && context->refs == 0)
        return leave(stub_violate(CONTEXT, "dead context made current"));
    current = context;
    return leave(CUDA_OK);
}

API cuda_result cuCtxGetCurrent(cuda_context *context)
{
    ENTER(INIT);
    *context = current;
    return leave(CUDA_OK);
}

API cuda_result cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    ENTER(CONTEXT_TOO);
    *least = 0;
    *greatest = -5;
    return leave(CUDA_OK);
}

API cuda_result cuCtxSynchronize(void)
{
    ENTER(CONTEXT_TOO);
    for (struct CUstream_st *s = stub.streams; s; s = s->next)
        stub_drain(s, s->issued);
    return leave(atomic_load(&stub.lost));
}

API cuda_result cuGetErrorName(cuda_result result, const char **name)
{
    static const struct {
        unsigned code;
        const char *name;
    } names[] = {{CUDA_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
                 {CUDA_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
                 {CUDA_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
                 {CUDA_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
                 {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
                 {LOST, "CUDA_ERROR_LAUNCH_FAILED"}};

    ENTER(NOTHING);
    *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].code == result)
            *name = names[i].name;
    return leave(*name ? CUDA_OK : CUDA_INVALID_VALUE);
}

API cuda_result cuGetErrorString(cuda_result result, const char **text)
{
    ENTER(NOTHING);
    *text = result == LOST ? "unspecified launch failure" : "as the stub was told";
    return leave(CUDA_OK);
}

/* ---- memory --------------------------------------------------------------- */

static uint64_t memory_bytes(void)
{
    return stub.config.memory_bytes ? stub.config.memory_bytes : 1u << 30;
}

API cuda_result cuMemAlloc_v2(cuda_pointer *out, size_t bytes)
{
    struct range *r;
    void *p = NULL;

    ENTER(CONTEXT_TOO);
    r = stub_range_free(stub.device);
    if (bytes == 0)
        return leave(CUDA_INVALID_VALUE);
    if (!r || bytes > memory_bytes() - stub.device_bytes || !(p = stub_device_alloc(bytes)))
        return leave(CUDA_OUT_OF_MEMORY);
    memset(stub_reach(p), 0xCD, bytes);
    *r = (struct range){.base = (uintptr_t)p, .bytes = bytes};
    stub.device_bytes += bytes;
    stub.live++;
    *out = (cuda_pointer)(uintptr_t)p;
    return leave(CUDA_OK);
}

API cuda_result cuMemFree_v2(cuda_pointer p)
{
    struct range *r;

    ENTER(INIT); /* also of a lost device, so that nothing is left of a test */
    r = stub_range(stub.device, (void *)(uintptr_t)p, 1);
    if (!r || r->base != p)
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuMemFree: not an allocation"));
    if (!stub_idle())
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuMemFree: work is pending"));
    stub_device_free((void *)r->base);
    stub.device_bytes -= r->bytes;
    r->bytes = 0;
    stub.live--;
    return leave(atomic_load(&stub.lost));
}

API cuda_result cuMemGetInfo_v2(size_t *free_bytes, size_t *all_bytes)
{
    ENTER(CONTEXT_TOO);
    *all_bytes = memory_bytes();
    *free_bytes = memory_bytes() - stub.device_bytes;
    return leave(CUDA_OK);
}

API cuda_result cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
    struct range *r;

    ENTER(CONTEXT_TOO);
    r = stub_range_free(stub.host);
    if (!p || bytes == 0 || flags > 15 || !r)
        return leave(CUDA_INVALID_VALUE);
    for (int i = 0; i < RANGES; i++)
        if (stub.host[i].bytes && (uintptr_t)p < stub.host[i].base + stub.host[i].bytes &&
            stub.host[i].base < (uintptr_t)p + bytes)
            return leave(stub_violate(CUDA_ALREADY_REGISTERED, "cuMemHostRegister: registered already"));
    *r = (struct range){.base = (uintptr_t)p, .bytes = bytes};
    stub.live++;
    return leave(CUDA_OK);
}

API cuda_result cuMemHostUnregister(void *p)
{
    struct range *r;

    ENTER(INIT);
    r = stub_range(stub.host, p, 1);
    if (!r || r->owned || r->base != (uintptr_t)p)
        return leave(stub_violate(UNKNOWN, "cuMemHostUnregister: not registered"));
    if (!stub_idle())
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuMemHostUnregister: work is pending"));
    r->bytes = 0;
    stub.live--;
    return leave(atomic_load(&stub.lost));
}

API cuda_result cuMemHostGetDevicePointer_v2(cuda_pointer *out, void *p, unsigned flags)
{
    ENTER(CONTEXT_TOO);
    *out = (cuda_pointer)(uintptr_t)p;
    if (flags || !stub_range(stub.host, p, 1))
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuMemHostGetDevicePointer: not registered"));
    return leave(CUDA_OK);
}

/* ---- copies --------------------------------------------------------------- */

API cuda_result cuMemcpyHtoDAsync_v2(cuda_pointer dst, const void *src, size_t bytes, cuda_stream s)
{
    struct op op = {.kind = COPY, .dst = (unsigned char *)(uintptr_t)dst, .src = src, .bytes = bytes};

    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = stub_check_device(__func__, dst, bytes);
    if (rc == CUDA_OK && !stub_range(stub.host, src, bytes)) {
        if (!stub.config.pageable)
            return leave(stub_violate(CUDA_INVALID_VALUE, "%s: host memory is not registered", __func__));
        op.src = op.owned = malloc(bytes); /* read before the call returns */
        if (!op.owned)
            abort();
        memcpy(op.owned, src, bytes);
    }
    if (rc == CUDA_OK)
        stub_enqueue(s, &op);
    return leave(rc);
}

API cuda_result cuMemcpyDtoHAsync_v2(void *dst, cuda_pointer src, size_t bytes, cuda_stream s)
{
    struct op op = {.kind = COPY, .dst = dst, .src = (unsigned char *)(uintptr_t)src, .bytes = bytes};
    uint64_t turn;

    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = stub_check_device(__func__, src, bytes);
    if (rc == CUDA_OK && !stub_range(stub.host, dst, bytes) && !stub.config.pageable)
        rc = stub_violate(CUDA_INVALID_VALUE, "%s: host memory is not registered", __func__);
    if (rc == CUDA_OK) {
        turn = stub_enqueue(s, &op);
        if (!stub_range(stub.host, dst, bytes))
            stub_drain(s, turn); /* such copies are over when the call returns */
    }
    return leave(rc);
}

API cuda_result cuMemsetD8Async(cuda_pointer dst, unsigned char byte, size_t bytes, cuda_stream s)
{
    struct op op = {.kind = SET, .dst = (unsigned char *)(uintptr_t)dst, .byte = byte, .bytes = bytes};

    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = stub_check_device(__func__, dst, bytes);
    if (rc == CUDA_OK)
        stub_enqueue(s, &op);
    return leave(rc);
}

/* ---- streams -------------------------------------------------------------- */

API cuda_result cuStreamCreateWithPriority(cuda_stream *out, unsigned flags, int priority)
{
    struct CUstream_st *s;

    ENTER(CONTEXT_TOO);
    if (flags != CUDA_STREAM_NON_BLOCKING || priority > 0 || priority < -5)
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuStreamCreate: flags or priority"));
    s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->alive = ALIVE;
    s->context = current;
    s->tail = &s->head;
    s->lazy = stub.config.lazy || getenv("OFL_STUB_LAZY");
    s->random = stub.config.seed * 1000 + stub.created++;
    pthread_cond_init(&s->more, NULL);
    pthread_cond_init(&s->room, NULL);
    if (pthread_create(&s->thread, NULL, stub_stream, s) != 0)
        abort();
    s->next = stub.streams;
    stub.streams = s;
    stub.live++;
    *out = s;
    return leave(CUDA_OK);
}

API cuda_result cuStreamDestroy_v2(cuda_stream s)
{
    ENTER(INIT);
    rc = stub_check_stream(__func__, s);
    if (rc != CUDA_OK)
        return leave(rc);
    s->alive = 0;
    s->closing = true;
    stub.live--;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&stub.lock);
    pthread_join(s->thread, NULL);
    return atomic_load(&stub.lost);
}

API cuda_result cuStreamSynchronize(cuda_stream s)
{
    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        stub_drain(s, s->issued);
    return leave(rc);
}

static bool dropped(void)
{
    return ++stub.waits == stub.config.drop_wait;
}

API cuda_result cuStreamWaitValue32_v2(cuda_stream s, cuda_pointer word, uint32_t value, unsigned flags)
{
    struct op op = {.kind = WAIT_VALUE, .word = (_Atomic uint32_t *)(uintptr_t)word, .value = value};

    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK &&
        (flags != CUDA_WAIT_GEQ || word % 4 || !stub_range(stub.host, (void *)(uintptr_t)word, 4)))
        rc = stub_violate(CUDA_INVALID_VALUE, "%s: flags, or word not registered", __func__);
    if (rc == CUDA_OK && !dropped())
        stub_enqueue(s, &op);
    return leave(rc);
}

API cuda_result cuLaunchHostFunc(cuda_stream s, void (*fn)(void *), void *arg)
{
    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        stub_enqueue(s, &(struct op){.kind = HOST, .fn = fn, .arg = arg});
    return leave(rc);
}

/* ---- events --------------------------------------------------------------- */

API cuda_result cuEventCreate(cuda_event *out, unsigned flags)
{
    ENTER(CONTEXT_TOO);
    if (flags != CUDA_EVENT_DEFAULT)
        return leave(stub_violate(CUDA_INVALID_VALUE, "cuEventCreate: flags"));
    *out = calloc(1, sizeof **out);
    if (!*out)
        abort();
    (*out)->alive = ALIVE;
    (*out)->context = current;
    (*out)->next = stub.events;
    stub.events = *out;
    stub.live++;
    return leave(CUDA_OK);
}

API cuda_result cuEventDestroy_v2(cuda_event e)
{
    ENTER(INIT);
    rc = stub_check_event(__func__, e);
    if (rc != CUDA_OK)
        return leave(rc);
    e->alive = 0;
    stub.live--;
    return leave(atomic_load(&stub.lost));
}

API cuda_result cuEventRecord(cuda_event e, cuda_stream s)
{
    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = stub_check_event(__func__, e);
    if (rc == CUDA_OK && e->completed != e->recorded)
        (void)stub_violate(0,
                           "cuEventRecord: its last record has not completed"); /* allowed, but our mistake */
    if (rc == CUDA_OK) {
        e->stream = s;
        e->place = stub_enqueue(s, &(struct op){.kind = RECORD, .event = e, .turn = ++e->recorded});
    }
    return leave(rc);
}

/* What is recorded and has not completed is on a stream that lives. */
static void ask(const struct CUevent_st *e)
{
    if (e->completed < e->recorded && e->stream->alive == ALIVE)
        stub_ask(e->stream, e->place);
}

API cuda_result cuEventQuery(cuda_event e)
{
    ENTER(CONTEXT_TOO);
    rc = stub_check_event(__func__, e);
    if (rc == CUDA_OK)
        ask(e);
    if (rc == CUDA_OK && e->completed < e->recorded && ++stub.early != stub.config.early_event)
        rc = CUDA_NOT_READY;
    return leave(rc);
}

API cuda_result cuEventSynchronize(cuda_event e)
{
    uint64_t turn;

    ENTER(CONTEXT_TOO);
    rc = stub_check_event(__func__, e);
    turn = rc == CUDA_OK ? e->recorded : 0;
    if (rc == CUDA_OK)
        ask(e);
    while (rc == CUDA_OK && e->completed < turn && !atomic_load(&stub.lost)) {
        pthread_mutex_unlock(&stub.lock);
        stub_nap();
        pthread_mutex_lock(&stub.lock);
    }
    return leave(rc);
}

API cuda_result cuEventElapsedTime(float *ms, cuda_event from, cuda_event to)
{
    ENTER(CONTEXT_TOO);
    rc = stub_check_event(__func__, from);
    if (rc == CUDA_OK)
        rc = stub_check_event(__func__, to);
    if (rc == CUDA_OK && (from->completed < from->recorded || to->completed < to->recorded))
        rc = CUDA_NOT_READY;
    if (rc == CUDA_OK)
        *ms = (float)((double)(int64_t)(to->at_ns - from->at_ns) / 1e6);
    return leave(rc);
}

API cuda_result cuStreamWaitEvent(cuda_stream s, cuda_event e, unsigned flags)
{
    ENTER(CONTEXT_TOO);
    rc = stub_check_stream(__func__, s);
    if (rc == CUDA_OK)
        rc = stub_check_event(__func__, e);
    if (rc == CUDA_OK && flags)
        rc = stub_violate(CUDA_INVALID_VALUE, "cuStreamWaitEvent: flags");
    if (rc == CUDA_OK)
        ask(e);
    if (rc == CUDA_OK && !dropped())
        stub_enqueue(s, &(struct op){.kind = WAIT_EVENT, .event = e, .turn = e->recorded});
    return leave(rc);
}
