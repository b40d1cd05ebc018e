/*
 * What the stub driver's files share: cuda_stub.c has the rules, the streams at work and the
 * control; cuda_stub_calls.c the entry points, those of kernels in cuda_stub_launch.c;
 * cuda_stub_info.c what the GPU is; cuda_stub_opaque.c its memory. Included by those only.
 */
#ifndef OFL_TESTS_CUDA_STUB_STATE_H
#define OFL_TESTS_CUDA_STUB_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "liboffload/device/cuda_driver.h"
#include "tests/cuda_emulate_run.h"
#include "tests/cuda_stub.h"

#define API       __attribute__((visibility("default")))
#define DEVICES   4
#define CALLS     64
#define RANGES    64
#define LOST      719u /* CUDA_ERROR_LAUNCH_FAILED */
#define CONTEXT   201u /* CUDA_ERROR_INVALID_CONTEXT */
#define HANDLE    400u /* CUDA_ERROR_INVALID_HANDLE */
#define UNKNOWN   713u /* CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED */
#define NOT_FOUND 500u /* CUDA_ERROR_NOT_FOUND */
#define NO_INIT   3u   /* CUDA_ERROR_NOT_INITIALIZED */
#define ALIVE     0x5eedu

enum kind { COPY, SET, RECORD, WAIT_VALUE, WAIT_EVENT, HOST, LAUNCH };

struct op {
    struct op *next;
    enum kind kind;
    unsigned char *dst;
    const unsigned char *src;
    void *owned; /* freed with it */
    size_t bytes;
    unsigned char byte;
    struct CUevent_st *event;
    uint64_t turn; /* of the event's record */
    _Atomic uint32_t *word;
    uint32_t value;
    void (*fn)(void *);
    void *arg;
    const struct emulate_launch *launch;
};

struct CUctx_st {
    unsigned refs;
};

struct CUstream_st {
    unsigned alive;
    struct CUstream_st *next;
    struct CUctx_st *context;
    pthread_t thread;
    pthread_cond_t more, room;
    struct op *head, **tail;
    unsigned count;
    uint64_t issued, executed, random;
    uint64_t asked; /* for what was issued up to there, somebody has asked */
    bool closing, lazy;
};

struct CUevent_st {
    unsigned alive;
    struct CUevent_st *next;
    struct CUctx_st *context;
    uint64_t recorded, completed, at_ns;
    struct CUstream_st *stream; /* where it was recorded last, and as which of its operations */
    uint64_t place;
};

struct range {
    uintptr_t base;
    size_t bytes;
    bool owned; /* the driver's: of cuMemHostAlloc */
};

struct stub {
    pthread_mutex_t lock;
    struct cuda_stub_config config;
    bool initialised;
    struct CUctx_st contexts[DEVICES];
    struct CUstream_st *streams; /* dead ones too */
    struct CUevent_st *events;
    struct CUmod_st *modules;
    struct CUfunc_st *functions;
    struct range device[RANGES], host[RANGES];
    uint64_t device_bytes;
    unsigned violations, live;
    char violation[200];
    struct {
        char name[40]; /* a copy: whose it was may be unloaded */
        uint64_t count;
    } calls[CALLS];
    unsigned failable, waits, early, created, launches; /* so far */
    unsigned deepest;                                   /* operations held by a stream */
    atomic_uint copies, operations, lost;               /* lost: code, or 0 */
};

extern struct stub stub;
extern _Thread_local struct CUctx_st *current; /* this thread's */

/* Counts a call, checks what it needs, and says what it is to return at once: 0 if it may go
 * on. Under the lock, like all that follows. */
enum need { NOTHING, INIT, CONTEXT_TOO };
unsigned stub_begin(const char *name, enum need need);
/* Notes a mistake of the caller's; returns code. */
unsigned stub_violate(unsigned code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The range of the list that holds so many bytes from p on; NULL: none. */
struct range *stub_range(struct range *list, const void *p, size_t bytes);
struct range *stub_range_free(struct range *list);
unsigned stub_check_stream(const char *name, const struct CUstream_st *s);
unsigned stub_check_event(const char *name, const struct CUevent_st *e);
bool stub_idle(void);   /* nothing is pending on the streams of this context */
void stub_forget(void); /* modules and functions, for reset */
/* Of device memory: bytes from p on. */
unsigned stub_check_device(const char *name, cuda_pointer p, size_t bytes);
/* Device memory; NULL: there is none. stub_reach: where the stub finds it, or host memory. */
void *stub_device_alloc(size_t bytes);
void stub_device_free(void *p);
unsigned char *stub_reach(const void *p);
void *stub_stream(void *stream); /* the thread of one; not under the lock */
/* Gives the lock up while the stream is full. Returns op's place in the order. */
uint64_t stub_enqueue(struct CUstream_st *s, const struct op *op);
void stub_ask(struct CUstream_st *s, uint64_t upto);   /* a lazy stream goes on to that place */
void stub_drain(struct CUstream_st *s, uint64_t upto); /* until that place has been executed */
void stub_nap(void);

#define ENTER(need)                                                                                          \
    unsigned rc;                                                                                             \
                                                                                                             \
    pthread_mutex_lock(&stub.lock);                                                                          \
    rc = stub_begin(__func__, need);                                                                         \
    if (rc != CUDA_OK)                                                                                       \
    return leave(rc)

static inline unsigned leave(unsigned rc)
{
    pthread_mutex_unlock(&stub.lock);
    return rc;
}

#endif
