/*
 * device: the accelerator interface. Owns an arena of device memory, streams,
 * copies and gates. Knows nothing of tensors, files or plans.
 *
 * Everything is asynchronous. Completions are reported through the sink given
 * at open, from any thread, never while a caller is inside a dev_ call of the
 * same thread. What can be issued: copies on the two link streams of the device
 * itself (one per direction, first in first out), and work on user streams.
 *
 * All functions: any thread, unless said otherwise.
 */
#ifndef OFL_DEVICE_H
#define OFL_DEVICE_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct dev;
struct dev_stream; /* first in, first out */
struct dev_kernel; /* a function that the accelerator runs */
struct dev_gate;   /* closed until opened once; a stream waits at it without the host waiting */

typedef void dev_done_fn(void *sink, void *cookie, int code);
typedef void dev_job_fn(void *arg);

/* What took time, and when, by base_now_ns. */
enum dev_span_kind { DEV_SPAN_IN, DEV_SPAN_OUT, DEV_SPAN_FILL, DEV_SPAN_STALL, DEV_SPAN_WORK };

struct dev_span {
    enum dev_span_kind kind;
    uint64_t start_ns, end_ns;
    uint64_t bytes;  /* of copies and fills */
    void *cookie;    /* likewise: its done comes after this */
    uint64_t stream; /* of stalls and work */
    uint64_t note;   /* likewise: the gate's, or of the label */
};

typedef void dev_span_fn(void *sink, const struct dev_span *span);

struct dev_config {
    uint64_t arena_bytes; /* > 0 */
    dev_done_fn *done;
    dev_span_fn *span; /* from any thread, like done; NULL: nobody wants to know */
    void *sink;
};

struct dev_stats {
    uint64_t in_bytes, out_bytes; /* over the link, towards and from the device */
    uint64_t in_copies, out_copies;
    uint64_t in_busy_ns, out_busy_ns;
    uint64_t stall_ns;     /* user streams, summed: time spent at closed gates */
    uint64_t job_ns;       /* user streams, summed: time spent in jobs */
    uint64_t driver_calls; /* made by the device, of the accelerator's driver */
};

struct dev_info {
    char device[24], name[104]; /* "cuda:0", "NVIDIA H100 80GB HBM3" */
    uint64_t memory_bytes;      /* of its own; 0: it uses RAM */
};

/* What a name stands for, without opening it. -ENODEV. */
int dev_info_get(const char *name, struct dev_info *out);
/* name: "host", "cuda" (the first GPU) or "cuda:N". */
int dev_open(const char *name, const struct dev_config *config, struct dev **out);
void dev_close(struct dev *d); /* waits for all work; streams must be destroyed; NULL accepted */
void *dev_arena(struct dev *d);
const char *dev_name(const struct dev *d); /* "host", "cuda:0" */
/* 0, or the error, with its sentence, that broke the device: all work since has failed with it. */
int dev_check(struct dev *d);
/* Makes host memory reachable by the device's copy engines, until close: copies from and to
 * it need no bounce buffer, and their issuer does not wait for them. Whole pages; once per
 * device; the memory must outlive it. The host device needs none of this. */
int dev_register_host(struct dev *d, void *base, uint64_t bytes);
/* What a program needs to use the accelerator itself: the driver's context (a CUcontext) and
 * its entry points, by the names of its ABI; NULL for the host device or an unknown name. */
void *dev_native(struct dev *d);
void *dev_symbol(struct dev *d, const char *name);
void dev_stats_get(struct dev *d, struct dev_stats *out);
/* Whether spans of all kinds are reported, from now on; else those of stalls are. At first they are not. */
void dev_trace(struct dev *d, bool on);

/* Kernels. The host device has none: -ENOTSUP. */

/* The kernel of that name in image, which is in a format of the accelerator's driver and is
 * loaded once. Valid as long as d; so must image be. -ENOEXEC: the driver does not take it. May
 * wait for the device to be idle. */
int dev_kernel_find(struct dev *d, const void *image, const char *name, struct dev_kernel **out);
/* Pinned host memory that kernels reach, too, at *device. What they have written is there once
 * a later mark has been posted. */
int dev_host_alloc(struct dev *d, uint64_t bytes, void **host, void **device);
/* NULL accepted; nothing may use it any more. d keeps it for the next who asks. */
void dev_host_free(struct dev *d, void *host);

/* Copies and fills, in issue order per direction; each posts done(sink, cookie, code). */
void dev_copy_in(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie);
void dev_copy_out(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie);
/* On the inward stream. */
void dev_fill(struct dev *d, void *dst, uint8_t byte, uint64_t bytes, void *cookie);

int dev_stream_create(struct dev *d, struct dev_stream **out);
void dev_stream_destroy(struct dev_stream *s); /* waits for its work; NULL accepted */
/* s is the library's own: its waits and jobs stay out of the statistics. */
void dev_stream_uncounted(struct dev_stream *s);
/* Posts done(sink, cookie, code) once everything issued before it on s has completed. */
void dev_stream_mark(struct dev_stream *s, void *cookie);
/* Later work on s waits until g is open. If g is opened with an error, the stream
 * fails: later jobs are skipped, marks still post (with the code), sync returns it.
 * (What others launched on a native stream can't be skipped: it runs on undefined bytes.) */
void dev_stream_wait(struct dev_stream *s, struct dev_gate *g);
/* The same two, in their place in the order at once, but handed to the device by the next
 * dev_stream_flush of s only. For the thread that opens gates: an accelerator's queue is
 * finite, and who hands work to a full one waits until it moves, which may take a gate. */
void dev_stream_mark_later(struct dev_stream *s, void *cookie);
void dev_stream_wait_later(struct dev_stream *s, struct dev_gate *g);
/* True if everything issued on s is known to have completed, without asking a driver; *code: 0, or the stream's
 * first error. False says nothing. */
bool dev_stream_idle(struct dev_stream *s, int *code);
void dev_stream_flush(struct dev_stream *s);
/* What s does from here to its next label is reported as work with this note; 0: it is not. */
void dev_stream_label(struct dev_stream *s, uint64_t note);
/* Waits while more waits and marks are queued on s than its queue should hold. Not for the thread that opens
 * gates. */
void dev_stream_room(struct dev_stream *s);
/* Host device: runs fn(arg) on the stream's thread. -ENOTSUP elsewhere. */
int dev_stream_launch(struct dev_stream *s, dev_job_fn *fn, void *arg);
/* Runs k, in so many blocks of threads, after what has been issued on s, as a native launch
 * would. args: the addresses of its parameters, which are copied. 0, or the error that the
 * device is broken with since. */
int dev_stream_kernel(struct dev_stream *s, struct dev_kernel *k, uint32_t blocks, uint32_t threads,
                      void **args);
/* Copies on s, in order with what has been issued on it; src is pinned, and must live until s has passed it. 0, or the
 * error that the device is broken with since. The host device: -ENOTSUP, launch a job. */
int dev_stream_copy_in(struct dev_stream *s, void *dst, const void *src, uint64_t bytes);
/* Blocks the caller until everything issued so far has completed; 0, or the stream's first error. */
int dev_stream_sync(struct dev_stream *s);
/* A number unique among the live and dead streams of d; never 0. */
uint64_t dev_stream_id(const struct dev_stream *s);
/* The accelerator's own object, to launch work on: a CUstream; NULL for the host device. */
void *dev_stream_native(struct dev_stream *s);

/* A gate has one creator; waits keep it alive; dev_gate_open gives the creator's part up. */
int dev_gate_create(struct dev *d, struct dev_gate **out);
/* What stalls at g are reported with; before it is opened, by who opens it. */
void dev_gate_note(struct dev_gate *g, uint64_t note);
void dev_gate_open(struct dev_gate *g, const struct base_error *error); /* error NULL: success */

#endif
