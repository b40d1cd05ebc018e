/*
 * liboffload: memory for models larger than the accelerator's.
 *
 * The library owns the bytes of named tensors and keeps them in three tiers:
 * accelerator memory (DEVICE), pinned RAM (HOST) and a drive (NVME), plus files
 * read in place (sources). A program leases the tensors that it needs next, gets
 * device pointers, enqueues its kernels, and releases them. Each tier has a hard
 * byte budget; the library moves the bytes, and overlaps the moves with compute.
 *
 *     struct ofl_nvme scratch = {.dir = "/mnt/scratch"};
 *     struct ofl_config config = {.size = sizeof config, .device_bytes = 64 << 20,
 *                                 .host_bytes = 128 << 20, .nvme = &scratch, .nvme_count = 1};
 *     struct ofl_lease lease = {.size = sizeof lease, .tensor = weight, .mode = OFL_READ};
 *
 *     ofl_open(&config, &ctx);
 *     ...
 *     ofl_acquire(ctx, &lease, 1, stream);          returns at once, with lease.ptr
 *     ofl_stream_launch(stream, kernel, &args);     runs when the bytes are there
 *     ofl_release(ctx, &lease, 1, stream);          takes effect after the kernel
 *
 * Conventions
 *  - Functions return 0 or a negative code: an errno value or an enum ofl_code.
 *    ofl_error() has the sentence that names the object and the numbers. The
 *    library never prints, exits or aborts.
 *  - Structs that the caller fills or has filled start with their size. Zero means default.
 *    A longer struct than this version knows is fine as long as its tail is zero (-E2BIG); a size of more than
 *    65536 bytes was never set (-EINVAL).
 *  - Strings are copied. Destroyers accept NULL. A failed create leaves nothing.
 *  - Threads: every function says which. "any": from any thread. "step thread":
 *    from the one thread that acquires, releases and brackets steps.
 *  - A NULL where the comment does not allow one, and what belongs to another context, is -EINVAL with a sentence
 *    that names it; of functions without a code the result is 0 or NULL then. Of lists of no elements the pointer
 *    may be NULL.
 *  - fork(): a context is its process's alone. In a forked child every call on it, and on what was made in it, is
 *    -EINVAL and does nothing, ofl_close too; the child may open one of its own (on cuda: only if the parent had not
 *    called the driver, which ofl_device_info_get does, too). Leased memory is not there. Space of the scratch store
 *    is free again, and a kept store whose owner was killed can be opened, once the child has ended, too: one that
 *    lives long does best to exec.
 *
 * Caveats
 *  - Leases that are held together must fit device_bytes together. What can't
 *    fit is refused at once (-OFL_EBUDGET), with the numbers.
 *  - All tensors together must fit the tiers: see "Homes". Without expected_bytes, and without an NVMe
 *    directory, a device_bytes larger than host_bytes must hold all of them.
 *  - The store is scratch: it vanishes with the context. What is to outlive it goes to a kept store, by
 *    commits: see "Kept stores". Or read it out.
 *  - Devices: "host", an emulated accelerator in RAM with an arena, streams and copy threads
 *    of its own; "cuda" (the first GPU) and "cuda:N", through NVIDIA's driver, which is found
 *    at run time (libcuda.so.1, or the file that OFL_CUDA_DRIVER names). On both: tensors,
 *    sources, leases, steps, the optimizer (to the same bits), statistics. Host only, -ENOTSUP on
 *    cuda: ofl_stream_launch, ofl_optimizer_reduce. cuda only: ofl_stream_cuda (offload_cuda.h),
 *    to launch one's own kernels.
 *  - On cuda, host_bytes are taken from RAM whole at ofl_open: the driver pins them. Work on a
 *    stream whose fetch failed is not skipped: see offload_cuda.h.
 */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OFL_API __attribute__((visibility("default")))

#define OFL_VERSION_MAJOR 0
#define OFL_VERSION_MINOR 1
#define OFL_VERSION_PATCH 0

/* Our own codes; functions return them negated. Disjoint from errno. */
enum ofl_code {
    OFL_EBUDGET = 5001, /* cannot fit the tier's budget, now or ever: see ofl_error() for the numbers */
    OFL_EFORMAT,        /* a file is not what it claims to be */
    OFL_ECHECKSUM,      /* bytes came back from the drive changed */
    OFL_EBROKEN,        /* an earlier asynchronous failure broke the context; ofl_error() has the first */
    OFL_EDEADLINE,      /* an asynchronous operation did not complete in time */
    OFL_EPINNED,        /* memory could not be pinned and OFL_FORBID_PAGEABLE is set */
    OFL_EDIRECT,        /* direct I/O refused by the file system and OFL_FORBID_BUFFERED is set */
    OFL_EURING,         /* io_uring refused by the system and OFL_FORBID_THREADS is set */
    OFL_ESTATE,         /* a call out of order, or on a tensor in the wrong state */
    OFL_ECHANGED,       /* a source file was written while it was open */
    OFL_ETORN,          /* a kept store has no generation that is whole */
    OFL_EWRITTEN,       /* a write would pass ofl_config.max_written_bytes */
};

enum ofl_tier { OFL_DEVICE, OFL_HOST, OFL_NVME, OFL_TIERS };

enum ofl_kind {
    OFL_KIND_OTHER,
    OFL_KIND_WEIGHT,
    OFL_KIND_GRADIENT,
    OFL_KIND_OPTIMIZER,
    OFL_KIND_ACTIVATION, /* leased while weights are: placed from the far end of the arena */
    OFL_KIND_WORKSPACE,
    OFL_KIND_CACHE,
    OFL_KINDS
};

enum ofl_dtype {
    OFL_U8,
    OFL_I8,
    OFL_BOOL,
    OFL_I16,
    OFL_U16,
    OFL_F16,
    OFL_BF16,
    OFL_I32,
    OFL_U32,
    OFL_F32,
    OFL_I64,
    OFL_U64,
    OFL_F64,
    /* what kernels don't take as it is: see offload_landing.h for those that can be unpacked */
    OFL_C64, /* two F32 */
    OFL_F8_E4M3,
    OFL_F8_E5M2,
    OFL_F8_E4M3FNUZ,
    OFL_F8_E5M2FNUZ,
    OFL_F8_E8M0,
    OFL_F6_E2M3,
    OFL_F6_E3M2,
    OFL_F4, /* E2M1 */
    /* blocks of GGUF files, with their scales inside */
    OFL_Q4_0,
    OFL_Q4_1,
    OFL_Q5_0,
    OFL_Q5_1,
    OFL_Q8_0,
    OFL_Q2_K,
    OFL_Q3_K,
    OFL_Q4_K,
    OFL_Q5_K,
    OFL_Q6_K,
    OFL_IQ4_NL,
    OFL_IQ4_XS,
    OFL_MXFP4,
    OFL_DTYPES
};

struct ofl_ctx;
struct ofl_tensor;
struct ofl_source;
struct ofl_stream;
struct ofl_optimizer;

/* any: the sentence of this thread's last failure; "" if none. Valid until its next failure. */
OFL_API const char *ofl_error(void);
/* any: static text of a code, errno's or ours, of either sign. */
OFL_API const char *ofl_strerror(int code);
/* any: "0.1.0" */
OFL_API const char *ofl_version(void);
/* any: bytes of one element; 0 for an unknown dtype, and for one whose elements come in blocks. */
OFL_API uint64_t ofl_dtype_bytes(enum ofl_dtype dtype);
/* any: "f32"; NULL for an unknown dtype. */
OFL_API const char *ofl_dtype_name(enum ofl_dtype dtype);

/* Elements are stored in blocks; a tensor has whole ones. Of plain dtypes a block is one element. */
struct ofl_dtype_info {
    size_t size;
    const char *name;        /* "bf16" */
    const char *safetensors; /* "BF16": in files of that format; NULL: they don't have it */
    uint32_t block_elems, block_bytes;
};

/* any. -EINVAL for an unknown dtype. */
OFL_API int ofl_dtype_info_get(enum ofl_dtype dtype, struct ofl_dtype_info *out);

/* ---- devices ----------------------------------------------------------- */

struct ofl_device_info {
    size_t size;
    char device[24];       /* for ofl_config.device: "host", "cuda:0" */
    char name[104];        /* "NVIDIA H100 80GB HBM3"; "RAM" for the host device */
    uint64_t memory_bytes; /* of the GPU, or RAM */
    uint32_t gpu;          /* 1: a GPU with memory of its own */
};

/* any. What a device's name stands for. NULL: the first GPU, or the host device where there is none.
 * -ENODEV with the reason. Fields beyond *out's size are left out. */
OFL_API int ofl_device_info_get(const char *device, struct ofl_device_info *out);

/* ---- context ----------------------------------------------------------- */

enum {
    OFL_FORBID_BUFFERED = 1u << 0, /* fail rather than use buffered I/O */
    OFL_FORBID_THREADS = 1u << 1,  /* fail rather than use the thread engine instead of io_uring */
    OFL_FORBID_PAGEABLE = 1u << 2, /* fail rather than use memory that can't be pinned */
    OFL_USE_THREADS = 1u << 3,     /* use the thread engine even where io_uring works */
    OFL_USE_BUFFERED = 1u << 4,    /* use buffered I/O even where direct I/O works */
    OFL_NO_MEASURE = 1u << 6,      /* take drives as they are: no measurement where no profile is kept */
    OFL_KEEP_IN_PLACE = 1u << 7,   /* a kept store of half the size, which a crash between commits loses */
    OFL_POISON = 1u << 5,          /* debug: fill device memory with 0xFF when its bytes become undefined */
};

enum ofl_log_level { OFL_LOG_WARNING, OFL_LOG_INFO, OFL_LOG_DEBUG };

/* Called from any thread of the library, and from those that call it, one at a time. Must not call back into
 * it: the library's lock may be held. */
typedef void ofl_log_fn(void *arg, enum ofl_log_level level, const char *text);

/* A directory of the store. Several are striped, with shares by their measured speed: about half
 * a second each at ofl_open. */
struct ofl_nvme {
    const char *dir;
    uint64_t
        bytes; /* budget; 0: what is free there, less 5 %; where its bytes are memory, at most what the other
                       budgets leave of it */
};

#define OFL_NVME_MAX    8
#define OFL_WORKERS_MAX 1024u

struct ofl_config {
    size_t size;
    const char *device;          /* "host", "cuda", "cuda:N"; NULL: "host" */
    uint64_t device_bytes;       /* budget of the device arena, > 0 */
    uint64_t host_bytes;         /* budget of the pinned arena; at least OFL_HOST_MIN_BYTES, or 0: none */
    const struct ofl_nvme *nvme; /* directories of the store, at most OFL_NVME_MAX */
    uint32_t nvme_count;         /* 0: no NVMe tier */
    uint64_t tile_bytes;         /* 0: chosen from host_bytes, 64 KiB to 1 MiB; else a power of two */
    uint32_t workers; /* threads for host-side tile work, at most OFL_WORKERS_MAX; 0: one per core */
    uint32_t flags;
    ofl_log_fn *log;
    void *log_arg;
    uint64_t test_seed;   /* tests: non-zero injects seeded short and retried transfers */
    uint32_t test_errors; /* tests: with test_seed, transfers per 1000 that fail with EIO */
    /* What is to come, so that the tiers can hold it together: see "Homes" below. */
    uint64_t
        expected_bytes; /* of all tensors together, each rounded up to 4096; 0: unknown. A drive that was never
                                measured is, at ofl_open, where a budget or this says that 4 GiB or more come to it */
    uint64_t leased_bytes; /* device memory that no tensor may live in, since leases will hold so much
                                at once; at most device_bytes (-EINVAL); 0: half of device_bytes */
    const char
        *keep_dir; /* directory of a kept store, made if it is not there; NULL: none. See "Kept stores" */
    uint64_t keep_bytes; /* its budget; 0: what is free there, less 5 % */
    uint64_t
        max_written_bytes; /* that this context may write to drives; 0: no limit. See "Bytes written" below */
};

/*
 * Bytes written. Drives wear out by what is written to them. With max_written_bytes each write to the stores, scratch and
 * kept, is counted before it begins, whole blocks, commits with all that they write beside tensors, and 64 KiB a
 * directory, of which part is written at ofl_open to see what its file system does. The write that would pass the limit is
 * not begun, nor is any after it: the context is broken by -OFL_EWRITTEN, whose sentence has what was written, the limit and
 * the way out; of the calls that follow (-OFL_EBROKEN) ofl_error() still has it. A kept store keeps its last commit.
 *  - Who wants to stop before that looks at ofl_stats.written_bytes between two steps.
 *  - Nothing is written to measure: drives are driven as a profile that is kept says, and several directories have equal
 *    shares.
 *  - It counts what is handed to the file systems; what these and the drive write beside it (journals, write amplification)
 *    is theirs.
 */

/*
 * Homes. Each tensor but sources' and transient ones has room of its own somewhere, taken when it is
 * created: in the store, in host memory, or on the device. -OFL_EBUDGET if the tiers together have
 * none left, with what each has.
 *  - The store is used first. What is beyond its budget lives in host memory, as long as that keeps
 *    room to move bytes: 32 tiles with a store, 4 without. What is beyond both lives on the device,
 *    whole tensors at a time; leases have the rest of it.
 *  - Without a store everything lives in host memory, or, where device_bytes is larger than
 *    host_bytes (and holds expected_bytes beside leased_bytes, if they are given), on the device.
 *  - With expected_bytes the shares are known from the start, and tensors are spread evenly: each is
 *    cut between host memory (its first tiles) and the store in the same proportion, and each next
 *    one lives on the device if that is behind its share. Without, one tier is filled after another,
 *    and a device that is larger than host memory is the only one. Tiles are chosen so that what is
 *    announced fits, if it can: the sum of the rooms has to be larger by a tile, and by a tensor where
 *    the device is needed.
 *  - Gradients and optimizer states live on the device only if everything does. leased_bytes equal
 *    to device_bytes keeps all tensors from it.
 */

#define OFL_HOST_MIN_BYTES (2u << 20)

/* any. Fails at once, with the numbers, if a budget can't work on this machine. */
OFL_API int ofl_open(const struct ofl_config *config, struct ofl_ctx **out);
/* any, once nothing else uses ctx: waits for work in flight, frees everything of ctx,
 * tensors and streams too. Returns the context's first asynchronous error. A commit that was not waited for may never
 * become durable. */
OFL_API int ofl_close(struct ofl_ctx *ctx);

/* ---- tensors ----------------------------------------------------------- */

struct ofl_tensor_desc {
    size_t size;
    const char *name; /* for messages and statistics; unique names are the caller's business */
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint64_t elems;
    uint32_t flags;
};

enum {
    /* Has bytes only while leased: takes device memory, no room below. At each acquire they are undefined, whatever
     * the mode: written before they are read. */
    OFL_TENSOR_TRANSIENT = 1u << 0,
    OFL_TENSOR_KEPT = 1u << 1, /* its bytes are part of each commit: see "Kept stores" */
};

struct ofl_tensor_info {
    size_t size;
    const char *name; /* valid as long as the tensor */
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint64_t elems;
    uint64_t bytes;
};

/* any. Zeros; no I/O until it is written. -OFL_EBUDGET if the tiers can't hold all tensors. */
OFL_API int ofl_tensor_create(struct ofl_ctx *ctx, const struct ofl_tensor_desc *desc,
                              struct ofl_tensor **out);
/*
 * any. Whether these tensors, made in this order in a context of this config, would all have homes (see "Homes"): 0,
 * or -OFL_EBUDGET with the sentence that ofl_tensor_create would fail with. Nothing is opened or taken: for the
 * smallest budgets that do. Directories count with their bytes, those without a number as having enough.
 */
OFL_API int ofl_homes_check(const struct ofl_config *config, const struct ofl_tensor_desc *tensors, size_t n);
/* any. -OFL_ESTATE if leased. */
OFL_API int ofl_tensor_destroy(struct ofl_tensor *t);
/* any. What it was created with, and its bytes. Fields beyond *out's size are left out. */
OFL_API int ofl_tensor_info_get(const struct ofl_tensor *t, struct ofl_tensor_info *out);
/* step thread. Copies bytes [offset, offset + bytes) to or from the caller's memory; returns
 * when done, in order with releases already made, and behind updates of t that are queued: from
 * ofl_optimizer_apply on, with clipping from ofl_optimizer_end on; before that they have the old bytes.
 * -OFL_ESTATE while t is leased, and of a transient tensor. */
OFL_API int ofl_tensor_read(struct ofl_tensor *t, uint64_t offset, void *buf, uint64_t bytes);
OFL_API int ofl_tensor_write(struct ofl_tensor *t, uint64_t offset, const void *buf, uint64_t bytes);
/*
 * step thread. As ofl_tensor_write, but in order with the work of s: for a batch, uploaded while s computes the one
 * before. Returns at once. What is enqueued on s later, and what is leased later on any stream, sees the bytes; what was
 * enqueued or leased before does not. buf is the library's until s has come past the copy (ofl_stream_sync, or later
 * work of s that has run): unchanged, and not freed. Meanwhile the bytes take device memory, as an OFL_OVERWRITE lease
 * of that part does, and are no part of device_in_bytes. Fails as ofl_acquire does for that lease, and -EINVAL where
 * offset and bytes are not whole elements (of dtypes that have blocks: blocks).
 */
OFL_API int ofl_tensor_write_async(struct ofl_tensor *t, uint64_t offset, const void *buf, uint64_t bytes,
                                   struct ofl_stream *s);

/* ---- kept stores --------------------------------------------------------- */

/*
 * A kept store is a directory that outlives the context, and the process (format: docs/format.md). Tensors with
 * OFL_TENSOR_KEPT live in it, each with room for its bytes twice: what is written after a commit goes where the
 * commit's bytes are not. So the last commit stays whole until the next one is, whatever happens in between.
 *
 *     config.keep_dir = "/mnt/run";
 *     ofl_open(&config, &ctx);
 *     err = ofl_resume(ctx, &was);          0: tensors come back by name; -ENOENT: nothing was committed yet
 *     ... create tensors, OFL_TENSOR_KEPT; write what is new where nothing came back ...
 *     for (step = ...) {
 *         ... a step ...
 *         ofl_commit(ctx, &step, sizeof step);        returns at once
 *     }
 *     ofl_commit_wait(ctx, NULL);
 *
 *  - Optimizer states are kept if their weight is: "<weight>.exp_avg" and so on. Gradients, activations and
 *    sources need not be.
 *  - Names of kept tensors are theirs alone (-EEXIST), since they come back by them, and have no control characters.
 *  - Budgets, devices and the number of cores may be others at each resume; bytes are the same. Tiles are at most as
 *    large as those that the store was made with; with smaller ones each tensor is read once when it is created.
 *  - One context at a time has the store (-EBUSY). What is read from it is compared with its seal: what is torn, stale
 *    or changed is -OFL_ECHECKSUM, and never used.
 *  - ofl_config.expected_bytes, and the budgets of homes, are without kept tensors. Without an NVMe directory,
 *    keep_dir serves as one.
 *  - OFL_KEEP_IN_PLACE: room for the bytes once. Writes go over the commit's, so a run that ends between two
 *    commits leaves nothing whole (-OFL_ETORN at ofl_resume).
 */

struct ofl_resumed {
    size_t size;
    uint64_t generation;     /* of the commit: 1 and up */
    uint64_t tensors, bytes; /* that it has; bytes without those that were never written */
    const void *note;        /* the program's own words; valid until the first commit that comes after */
    uint64_t note_bytes;
};

/* step thread, before any kept tensor is created. Takes up what was committed last. -ENOENT: nothing was;
 * -OFL_ETORN; -OFL_ESTATE: there are kept tensors already, or no kept store. A store that has a commit, and is not
 * resumed, refuses kept tensors (-EEXIST). */
OFL_API int ofl_resume(struct ofl_ctx *ctx, struct ofl_resumed *out);
/* any. 1: what t holds came back at its creation; 0: it is new, and zeros. */
OFL_API int ofl_tensor_resumed(const struct ofl_tensor *t);
/* step thread, while no kept tensor is leased, and no optimizer step is open (-OFL_ESTATE). What kept tensors
 * hold by all that was released, applied and written before this call is to be durable, together with a note of the
 * program's (at most OFL_NOTE_MAX bytes). Returns at once; what is not in the store yet is written beside what comes
 * next, and only writes of kept tensors wait for it, where they would have to overwrite it. Waits for the commit
 * before, and returns its error, if there was one; then nothing new was begun.
 * -OFL_ESTATE without a kept store; the first error of a tensor that is lost. */
OFL_API int ofl_commit(struct ofl_ctx *ctx, const void *note, uint64_t note_bytes);
#define OFL_NOTE_MAX (16u << 20)
/* step thread. Waits until the commit that was begun last is durable; its error, if it is not to be. *generation, which
 * may be NULL: of the last one that is durable; 0: none. */
OFL_API int ofl_commit_wait(struct ofl_ctx *ctx, uint64_t *generation);

/* ---- sources: files (safetensors, GGUF) read in place ------------------ */

#define OFL_DIMS_MAX 8

struct ofl_source_entry {
    const char *name; /* valid as long as the source */
    enum ofl_dtype dtype;
    uint32_t dims;
    uint64_t shape[OFL_DIMS_MAX];
    uint64_t elems, bytes;
};

/*
 * A source must not be written while it is open: what was read before and after would be parts of two
 * files. A read that ends after the file's size or modification time has changed fails with
 * -OFL_ECHANGED, with a sentence that names the file; bytes that are read again must be those of the first
 * time, else -OFL_ECHECKSUM. Rights, owner, links and names may change, and a file that was replaced by
 * another of its name (as rename does) or removed can be read to the end.
 */

/* any. Checks the whole header before it returns: -OFL_EFORMAT names what is wrong. A file that was written
 * less than a tick of the clock ago (20 ms; 2 s where times are in whole seconds) is waited for, since a
 * further write could not be told from the last one; -OFL_ECHANGED if it does not come to rest. */
OFL_API int ofl_source_open(struct ofl_ctx *ctx, const char *path, struct ofl_source **out);
/* any. -OFL_ESTATE while tensors are bound to it. ofl_close closes what is left. */
OFL_API int ofl_source_close(struct ofl_source *s);
/* any. 0 if the file is what it was when it was opened, else -OFL_ECHANGED. Each read asks by itself; this asks
 * a file server, too, that reads may have believed for a while: at the end of what has to be of one piece. */
OFL_API int ofl_source_check(const struct ofl_source *s);
/* any. How many tensors it has. */
OFL_API size_t ofl_source_count(const struct ofl_source *s);
/* any. The tensor of that index, by name in the order of strcmp. -EINVAL beyond the last. */
OFL_API int ofl_source_entry_get(const struct ofl_source *s, size_t index, struct ofl_source_entry *out);
/* any. -ENOENT if there is none of that name. */
OFL_API int ofl_source_find(const struct ofl_source *s, const char *name, struct ofl_source_entry *out);
/* any. A tensor whose home is the file: paged in from there, never written. */
OFL_API int ofl_source_bind(struct ofl_source *s, const char *name, enum ofl_kind kind,
                            struct ofl_tensor **out);
/* any. The same for elements offset_elems .. offset_elems + count_elems - 1: a tensor of its own, named
 * NAME[FIRST:END], as rows of a matrix that is used slice by slice. Parts may overlap. -EINVAL past the end, for
 * no elements, and inside a dtype's block. */
OFL_API int ofl_source_bind_part(struct ofl_source *s, const char *name, uint64_t offset_elems,
                                 uint64_t count_elems, enum ofl_kind kind, struct ofl_tensor **out);

/*
 * any; calls on one source come one after another. Rows of a tensor straight into the caller's memory, past the tiers: row
 * rows[i] (of the first dimension; a tensor without dimensions is one row) to out + i * its bytes. For few bytes from many
 * places, as rows of an embedding: one call reads what lies together once, and all else at once, so that many rows take about
 * as long as one. Returns when they are there; out is undefined after an error. -ENOENT: no such tensor; -EINVAL with the
 * number: a row beyond the last one. Takes up to 4 MiB beside the budgets, from the first call until the source is closed.
 */
OFL_API int ofl_source_gather(struct ofl_source *s, const char *name, const uint64_t *rows, size_t count,
                              void *out);

/* ---- streams ----------------------------------------------------------- */

/* any. A queue of the device: work on it runs in order, asynchronously. */
OFL_API int ofl_stream_create(struct ofl_ctx *ctx, struct ofl_stream **out);
/* any. Waits for its work. */
OFL_API void ofl_stream_destroy(struct ofl_stream *s);
/* any. Blocks until everything enqueued so far has run; returns the stream's first error.
 * After a failed fetch the stream's later jobs are skipped, not run on wrong bytes (host device), and it returns that
 * error from then on: leases are released as ever, then the stream is destroyed, and a new one takes its place. The
 * context, its other streams and tensors go on, unless calls say -OFL_EBROKEN. The tensor is fetched anew at its next
 * lease, and fails again if the cause is still there. */
OFL_API int ofl_stream_sync(struct ofl_stream *s);
/* any. Host device: runs fn(arg) on the stream. *arg is not copied: it must live, as it is to be seen, until the stream
 * has come to the end of fn (ofl_stream_sync). On a stream that has failed fn is never called, so it can't be what frees
 * arg. -ENOTSUP on cuda. */
OFL_API int ofl_stream_launch(struct ofl_stream *s, void (*fn)(void *arg), void *arg);

/* ---- leases ------------------------------------------------------------ */

enum ofl_mode {
    OFL_READ = 1,  /* shared with other readers */
    OFL_UPDATE,    /* read and write, alone */
    OFL_OVERWRITE, /* write, alone; the old bytes are not fetched, and are undefined */
};

enum {
    OFL_LEASE_DROP = 1u << 0, /* done with at release: contents undefined after it, never written back */
    /* No part of the step's record: another step will lease others. What is leased so leaves before what the plan
     * needs again, the least recently used first. */
    OFL_LEASE_UNPLANNED = 1u << 1,
};

/* Leases of a batch stand in an array and have the same size, which is that from one to the next. */
#define OFL_LEASES_MAX (1u << 20) /* of a batch */
struct ofl_lease {
    size_t size; /* sizeof(struct ofl_lease); 0: that of this header */
    struct ofl_tensor *tensor;
    enum ofl_mode mode;
    uint32_t flags;
    /* Which part, in elements: count_elems from offset_elems on, 0: up to the end. See "Parts". */
    uint64_t offset_elems, count_elems;
    void *ptr; /* out: device address of the first element, valid for work on the stream until release */
    uint64_t cookie; /* the library's */
};

/*
 * Parts. A lease of a part takes device memory for that part alone, and moves the tiles that it touches and no
 * others; what is written to it leaves the rest of the tensor as it was. A tensor may be larger than
 * device_bytes if it is leased in parts only.
 *  - Leases of one tensor that are held together must share no byte, or only read, the later one some of the
 *    bytes of the earlier: rows of an embedding while others are written, but not rows 0 to 9 beside 5 to 14.
 *    That later one holds all that the earlier one did, until both are released.
 *  - ptr is 256-byte aligned, unless the part lies inside another one that is held, or in a tensor that lives on
 *    the device (see "Homes"): there it lies as far behind the first element as in the tensor.
 *  - Parts are whole blocks, where the dtype has such. OFL_LEASE_DROP of a part that lies inside a larger one has
 *    no effect. A write that is lost (see ofl_release) loses the whole tensor.
 *  - Parts in a step are predicted as others are, if they are the same ones each time.
 */

/*
 * step thread. Leases n tensors as one batch for work enqueued on s after this call.
 * Returns at once; s, not the host, waits for the bytes. (On cuda the host waits, too, once it has run far
 * ahead of s: see offload_cuda.h.) All or nothing:
 *  -OFL_EBUDGET  the batch does not fit beside what is leased already (the numbers are named)
 *  -EINVAL       a part that the tensor does not have
 *  the first error of a tensor that is lost, see ofl_release
 *  -OFL_ESTATE   a tensor, or a part of it, is leased already in a way that excludes this one
 *  -EROFS        a write lease on a source's tensor
 *  -OFL_EBROKEN  see the code
 */
OFL_API int ofl_acquire(struct ofl_ctx *ctx, struct ofl_lease *leases, size_t n, struct ofl_stream *s);
/* step thread. Takes effect when the work enqueued on s before this call has completed. s is mostly the stream of the
 * acquire; it may be another one, and then that one's work is what is waited for, and no other: work with the lease on
 * the first stream must have ended, or s wait for it.
 * A released write lease is the newest copy: of several, on any streams, the one acquired last. If the work
 * did not run (a fetch failed, and the stream with it), nothing was written: the tensor has its bytes from
 * before, or, where those are gone, is lost: every acquire and read of it returns the first error until it is
 * overwritten whole (OFL_OVERWRITE, or ofl_tensor_write of all its bytes). */
OFL_API int ofl_release(struct ofl_ctx *ctx, struct ofl_lease *leases, size_t n, struct ofl_stream *s);
/* any. Bytes of the device arena that a lease of so many bytes takes. */
OFL_API uint64_t ofl_device_footprint(uint64_t bytes);

/* ---- steps ------------------------------------------------------------- */

/* step thread. A step of a name is recorded the first time, and predicts the next one of that
 * name: what to keep, what to evict, what to fetch ahead. A step that departs from its
 * prediction is served all the same, counted, and becomes the new prediction. A step that
 * could not be ended is still open. */
OFL_API int ofl_step_begin(struct ofl_ctx *ctx, const char *name);
OFL_API int ofl_step_end(struct ofl_ctx *ctx);

/* ---- hints --------------------------------------------------------------- */

/*
 * For what no recorded step can know: the experts that a router has just chosen, the rows of a batch to come. A hint
 * promises nothing and may be wrong; no stream waits for it. It counts until the tensor is leased, until it is
 * cancelled, or to the end of the step after the one in which it was given.
 */
enum ofl_hint_kind {
    OFL_HINT_NEXT = 1, /* among what is leased next: goes before all that is fetched ahead */
    OFL_HINT_LATER,    /* in some time: what a plan needs within 1,024 events stays where it is */
    OFL_HINT_CANCEL,   /* will not be leased after all; what is on its way for it is given up */
};

/* any. Each lease's tensor, mode and part, as they will be acquired; the rest of it is not looked at. Returns at once:
 * bytes are fetched in the order of the hints as far as there is room, to the device, or to host memory at least. What
 * is to rest, as the plan has it, does not leave for them. All or nothing:
 *  -OFL_EBUDGET  a part that is larger than the device
 *  -EINVAL       a part that the tensor does not have */
OFL_API int ofl_hint(struct ofl_ctx *ctx, const struct ofl_lease *leases, size_t n, enum ofl_hint_kind hint);

/* Where bytes are now; a moment later they may be elsewhere. A byte may be on the device and in host memory; those
 * that were never written are nowhere. */
struct ofl_residency {
    size_t size;
    uint64_t bytes;                             /* asked about */
    uint64_t device_bytes, device_coming_bytes; /* on the device; with a place there, and on their way */
    uint64_t host_bytes, host_coming_bytes;     /* in host memory; being read, or copied out of the device */
    uint64_t below_bytes;                       /* in a source or the store alone */
};

/* any. Of count_elems elements from offset_elems on, 0: up to the end. */
OFL_API int ofl_resident(struct ofl_tensor *t, uint64_t offset_elems, uint64_t count_elems,
                         struct ofl_residency *out);

/* ---- optimizer --------------------------------------------------------- */

/*
 * What an update computes, in fp32, of p (the fp32 master), the gradient and the states m and v, which begin at 0:
 *     g = c * gradient               c = min(1, clip / (norm + 1e-6)), or 1 without clipping
 * OFL_ADAMW (Loshchilov & Hutter, 2019, "Decoupled Weight Decay Regularization"), as torch.optim.AdamW:
 *     p = p * (1 - lr * weight_decay)
 *     m = beta1 * m + (1 - beta1) * g
 *     v = beta2 * v + (1 - beta2) * g * g
 *     p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 * OFL_ADAM (Kingma & Ba, 2015), as torch.optim.Adam: g = g + weight_decay * p instead of the first line.
 * OFL_SGD with momentum (Polyak, 1964), as torch.optim.SGD of momentum beta1 and no dampening:
 *     m = beta1 * m + (g + weight_decay * p)
 *     p = p - lr * m
 * OFL_LION (Chen et al., 2023, "Symbolic Discovery of Optimization Algorithms"):
 *     p = p * (1 - lr * weight_decay) - lr * sign(beta1 * m + (1 - beta1) * g)
 *     m = beta2 * m + (1 - beta2) * g
 * The last two have no v: 4 bytes of state less for each parameter. A BF16 weight has a master beside it and gets p
 * rounded to nearest even; an F32 weight is its own master.
 */
enum ofl_method { OFL_ADAMW, OFL_ADAM, OFL_SGD, OFL_LION, OFL_METHODS };

/* The settings of a step, of any method; what it does not use is not looked at beyond the checks below. */
struct ofl_update_settings {
    size_t size;
    double lr, beta1, beta2, eps, weight_decay; /* none negative, lr and weight_decay finite, betas below 1 */
    double clip;                                /* exact global norm over all bound gradients; 0: off */
    uint64_t step;                              /* t, from 1 */
    uint32_t skip_overflow; /* 1: a step whose norm is no finite number updates nothing, and only consumes its
                               gradients; updates wait for the norm then, without clipping too */
};

enum ofl_state { OFL_STATE_MASTER, OFL_STATE_EXP_AVG, OFL_STATE_EXP_AVG_SQ, OFL_STATES };

/* any; on cuda best before work is queued: loading kernels may wait for what is. -ENOEXEC there if the
 * library has no kernels for the GPU (none at all where it was built without nvcc). */
OFL_API int ofl_optimizer_create(struct ofl_ctx *ctx, struct ofl_optimizer **out);
/* step thread, before the first bind (-OFL_ESTATE else). OFL_ADAMW until it is set. */
OFL_API int ofl_optimizer_method(struct ofl_optimizer *o, enum ofl_method method);
/* any. Waits for its updates. Its state tensors go with it. */
OFL_API int ofl_optimizer_destroy(struct ofl_optimizer *o);
/* step thread, outside an optimizer step. weight F32 or BF16, grad F32 of as many elements.
 * Creates the states: "<weight>.exp_avg" (m), "<weight>.exp_avg_sq" (v) and, for BF16, "<weight>.master".
 * The master starts at zero: write it with ofl_tensor_write together with the weight.
 * -ENOTSUP if some of these tensors live on the device and others do not (see "Homes"). */
OFL_API int ofl_optimizer_bind(struct ofl_optimizer *o, struct ofl_tensor *weight, struct ofl_tensor *grad);
/* any. Bytes that the states of a weight of so many elements take, all together, each rounded up to 4096 as
 * ofl_config.expected_bytes has them: one or two moments, and of BF16 the master. Weight and gradient come on top.
 * 0 for a dtype that can't be trained, a method that there is not, and for more than any memory. */
OFL_API uint64_t ofl_optimizer_bytes(enum ofl_method method, enum ofl_dtype dtype, uint64_t elems);
/* step thread, outside an optimizer step. From the next step on weight_decay is factor times the settings' for this
 * weight: 1 until it is set; 0 for norms and biases, as is common. -ENOENT if not bound; -EINVAL: not a finite
 * number from 0 on; -OFL_ESTATE in a step. */
OFL_API int ofl_optimizer_decay(struct ofl_optimizer *o, struct ofl_tensor *weight, double factor);
/* step thread, outside an optimizer step. From the next step on lr, betas, eps and weight_decay of this weight are those
 * of rates, as in torch's groups of parameters; clip and step are those of ofl_optimizer_begin. NULL: all are begin's
 * again. ofl_optimizer_decay's factor counts as before. -ENOENT if not bound; -EINVAL as begin; -OFL_ESTATE in a step. */
OFL_API int ofl_optimizer_rates(struct ofl_optimizer *o, struct ofl_tensor *weight,
                                const struct ofl_update_settings *rates);
#define OFL_REDUCE_BYTES (1u << 20)

/*
 * step thread, outside an optimizer step. Several processes that train copies of one model: from the next step on each
 * applied gradient passes through reduce, which makes of bytes at buf, in place, what all processes have together: by a sum
 * over MPI, or sockets. NULL: no longer.
 *  - Called piece by piece: gradients in the order of ofl_optimizer_apply, of each the pieces from its first to its last
 *    byte, OFL_REDUCE_BYTES each, the last one shorter. Neither budgets nor tiles change that, so processes that apply in
 *    the same order meet in every call.
 *  - One call at a time, on the thread of the optimizer's stream; the engine goes on meanwhile, and reduce may block.
 *    It must not call this context. buf is memory that may be written until it returns, aligned to 64 bytes.
 *  - Norm and update see what it has left there. Processes that leave the same bytes stay at the same weights.
 *  - No weight is updated before all have been reduced: ofl_optimizer_end waits for the last call.
 *  - A result other than 0 is a failure: reduce is not called again in that step, and ofl_optimizer_end is -ECANCELED and
 *    names the piece. Nothing is updated then, and the step is over. Gradients are reduced in part: make them anew,
 *    first with OFL_OVERWRITE.
 * Host device only: -ENOTSUP on cuda, whose gradients are not in host memory when norms are made.
 */
OFL_API int ofl_optimizer_reduce(struct ofl_optimizer *o,
                                 int (*reduce)(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg),
                                 void *arg);
/* any. The state tensor, owned by o. The master of an F32 weight is the weight. -ENOENT if not bound, or if the method
 * has no such state. */
OFL_API int ofl_optimizer_state(struct ofl_optimizer *o, struct ofl_tensor *weight, enum ofl_state which,
                                struct ofl_tensor **out);

/* step thread. Opens an optimizer step with these settings. -EINVAL for those that can't be, negative rates among them.
 * Weights that are not applied in it keep their bytes and states; a step without any changes nothing, and its norm
 * is 0. */
OFL_API int ofl_optimizer_begin(struct ofl_optimizer *o, const struct ofl_update_settings *settings);
/* step thread. "The gradient of weight is final" (its write lease has been released): the
 * update may start, and will be done before the next lease of weight sees its bytes. The
 * gradient's contents are consumed: undefined from then on (reads give no error), so that its first lease of the next
 * step is OFL_OVERWRITE. With clipping, updates wait for the last gradient, and until ofl_optimizer_end leases
 * and reads have the weight as it was. */
OFL_API int ofl_optimizer_apply(struct ofl_optimizer *o, struct ofl_tensor *weight);
/* step thread. That was the last gradient of this step. Returns at once, or with ofl_optimizer_reduce when all gradients
 * are reduced. After an error but -ECANCELED the step is still open: apply and end may be called again. */
OFL_API int ofl_optimizer_end(struct ofl_optimizer *o);
/* step thread. Blocks until the norm of the last ended step is known: sqrt of the sum of squares
 * over all applied gradients, before clipping, accumulated in double in a fixed order. Where it is no finite number the
 * step has spoilt its weights, but with skip_overflow, which has left weights (BF16 ones: as the rounded master) and
 * states as they were. */
OFL_API int ofl_optimizer_norm(struct ofl_optimizer *o, double *norm);

/* ---- statistics -------------------------------------------------------- */

struct ofl_stats {
    size_t size;
    uint64_t budget_bytes[OFL_TIERS], used_bytes[OFL_TIERS];
    uint64_t peak_bytes[OFL_TIERS]; /* NVME: disk space, reserved up to 64 MiB ahead of use */
    uint64_t tile_bytes;
    uint64_t source_read_bytes;                 /* source files -> HOST, alignment included */
    uint64_t nvme_read_bytes, nvme_write_bytes; /* store <-> HOST */
    uint64_t device_in_bytes, device_out_bytes; /* HOST <-> DEVICE */
    uint64_t hits, misses; /* tensors acquired: bytes on the device already or on their way, or not */
    uint64_t evictions;    /* device copies given up for others */
    uint64_t prefetches;   /* device copies started ahead of their acquire */
    uint64_t off_plan;     /* acquires that the recorded step did not predict */
    uint64_t updates;      /* optimizer updates completed, in tensors */
    uint64_t stall_ns;     /* the caller's streams, summed: waiting for bytes */
    uint64_t steps;
    uint32_t io_uring, direct, pinned; /* 1: yes; 0: no, and the log says why, or there is none: direct
                                          speaks of the store and all sources, pinned of host memory */
    int32_t numa_node;                 /* that the host arena is bound to; -1: none */
    uint32_t registered;               /* 1: host memory is registered with io_uring: I/O pins no pages;
                                          0: there is no ring, or the log says why not */
    uint32_t paths;                    /* drives that I/O went to: see ofl_path_stats_get */
    uint64_t driver_calls;             /* of the GPU's driver, by the library */
    uint64_t device_in_busy_ns, device_out_busy_ns; /* each direction of the link: copying */
    uint64_t engine_ns;                             /* CPU time of the library's engine thread */
    uint64_t nvme_memory_bytes; /* of the NVMe budget: what lies in memory (tmpfs), and counts as such */
    uint32_t nvme_reserved; /* 1: space of the store that is reserved is there at every write; 0: it is not,
                                   and the log says why, or there is no store */
    uint32_t nvme_cached;   /* 1: a drive of the store passes the page cache below the file system (a loop
                                   device without direct I/O): its speed is that of memory */
    /* What a steady step of the name that ended last moves, as its plan has it: HOST <-> DEVICE, and drives, sources
     * included. 0: it is not planned yet, or nothing has to move. */
    uint64_t planned_in_bytes, planned_out_bytes, planned_read_bytes, planned_write_bytes;
    uint64_t commits;      /* durable ones, since ofl_open */
    uint64_t commit_bytes; /* written for them alone: what would have stayed above the store */
    uint64_t commit_ns;    /* from ofl_commit until durable, summed */
    uint64_t kept_bytes, kept_reserved_bytes; /* of kept tensors; of disk space taken for them */
    uint64_t written_bytes; /* to drives, as max_written_bytes counts them: also without a limit */
};

/* any. Fields beyond *out's size are left out. */
OFL_API int ofl_stats_get(struct ofl_ctx *ctx, struct ofl_stats *out);

/* One drive. Latencies are of single transfers, from hand-over to completion, to 1/8. */
struct ofl_path_stats {
    size_t size;
    char name[64]; /* a directory or file on it */
    uint64_t read_bytes, write_bytes, read_transfers, write_transfers;
    uint64_t errors; /* transfers that failed for good */
    uint64_t read_p50_ns, read_p99_ns, read_p999_ns, write_p50_ns, write_p99_ns, write_p999_ns;
    uint64_t busy_ns;  /* something was in flight */
    uint64_t empty_ns; /* nothing was, between the first transfer and the last */
    uint64_t since_ns; /* from the first transfer until now */
};

/* any. Drive `index` of ofl_stats.paths; -ENOENT beyond. Wear: write_bytes over since_ns. */
OFL_API int ofl_path_stats_get(struct ofl_ctx *ctx, uint32_t index, struct ofl_path_stats *out);

/* ---- stalls and timelines ---------------------------------------------- */

/* Why the bytes that a stream waited for were not there, as things stood when they were acquired. */
enum ofl_stall_reason {
    OFL_STALL_UNKNOWN,
    OFL_STALL_LATE_START,   /* planned, but its reads or copies began only with the acquire, or after it */
    OFL_STALL_DRIVE_BUSY,   /* a read of it was under way before */
    OFL_STALL_LINK_BUSY,    /* all of it was in host memory, and on its way to the device */
    OFL_STALL_NO_ROOM,      /* its place on the device, or in host memory, was still somebody else's */
    OFL_STALL_OFF_PLAN,     /* no recorded step said that it would be needed */
    OFL_STALL_HOST_WORK,    /* an optimizer update, or a write by the host, was to be done first */
    OFL_STALL_OTHER_STREAM, /* work of another stream with it was to end first */
    OFL_STALL_COMMIT,       /* host work was to be done first, and that waited for a commit to be durable */
    OFL_STALL_REASONS
};

/* All waits of streams for one tensor, for one reason; their total_ns add up to ofl_stats.stall_ns. Of a batch the
 * tensor that came last counts. */
struct ofl_stall {
    size_t size;
    char
        tensor[96]; /* cut, if its name is longer; "(unnamed)": of many more tensors than can be kept apart */
    enum ofl_stall_reason reason;
    const char *text; /* "drive busy"; static */
    uint64_t count, total_ns, longest_ns;
};

/* any. The stall of that rank since ofl_open or ofl_stall_clear, 0 being the one with the largest total_ns;
 * -ENOENT beyond the last. */
OFL_API int ofl_stall_get(struct ofl_ctx *ctx, uint32_t rank, struct ofl_stall *out);
/* any. They are counted from now on. */
OFL_API int ofl_stall_clear(struct ofl_ctx *ctx);

/*
 * any, one thread at a time. From now on what ctx does is written to a file in the trace event format, to be opened
 * in https://ui.perfetto.dev: work of streams as ofl_stream_label names it, copies in both directions of the link,
 * transfers of each drive, host workers, stalls with tensor and reason, and the bytes that each tier holds (without a kept
 * store's). The file grows as long as the timeline
 * is open, by about 150 bytes an event; memory does not: where the file is too slow, events are dropped, and
 * counted. -OFL_ESTATE if one is open; -errno.
 */
OFL_API int ofl_timeline_open(struct ofl_ctx *ctx, const char *path);
/* any. Ends the file: all that has ended until now is in it. *events, *dropped, which may be NULL: those that are in
 * it, and those that are not. ofl_close does the same. -OFL_ESTATE: none is open; -errno: it could not be written. */
OFL_API int ofl_timeline_close(struct ofl_ctx *ctx, uint64_t *events, uint64_t *dropped);
/* step thread. In timelines, the time that s takes from here to its next label has this name; NULL: none. Nothing
 * happens while no timeline is open. */
OFL_API int ofl_stream_label(struct ofl_stream *s, const char *name);

/* ---- places ------------------------------------------------------------ */

/* What a path's bytes lie on. Of a directory that may be written to: what a store in it would be, found by trying
 * in a file without a name. */
struct ofl_place {
    size_t size;
    uint32_t in_memory; /* 1: bytes there are memory of this machine (tmpfs; overlayfs or a loop device on it;
                           zram): a store there counts with the memory budgets */
    uint32_t direct;    /* 1: I/O goes past the page cache */
    uint32_t reserved;  /* 1: reserved space is there at every write, as far as the file system goes: what is
                           thinly provisioned below it can run out */
    uint32_t cached;    /* 1: a drive below passes the page cache all the same */
    uint64_t free_bytes;
    char note[400]; /* why not, where one of these is not as one would wish; "" if all are */
};

/* any. -errno if path can't be looked at. Fields beyond *out's size are left out. */
OFL_API int ofl_place_get(const char *path, struct ofl_place *out);

/* What a directory's drive does, in bytes per second, each alone. */
struct ofl_place_rates {
    size_t size;
    double read_bps, write_bps;
    uint64_t age_s; /* since it was measured; 0: just now */
};

/* any. measure: 1: now, in about half a second, in a file without a name, written in the directory; 0, or where that
 * can't be: as it was measured when the library first saw the drive. -ENODATA if it never was. Fields beyond *out's
 * size are left out. */
OFL_API int ofl_place_rates_get(const char *path, uint32_t measure, struct ofl_place_rates *out);

#ifdef __cplusplus
}
#endif

#endif
