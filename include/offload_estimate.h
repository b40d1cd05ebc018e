/*
 * offload_estimate: what a model's step will take of a machine, before anything runs: whether it fits, where its
 * bytes rest, what moves, how long it takes and what binds. Arithmetic alone: nothing is opened, measured or
 * allocated on a device.
 */
#ifndef OFFLOAD_ESTIMATE_H
#define OFFLOAD_ESTIMATE_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what is to be done --------------------------------------------------- */

enum ofl_work {
    OFL_DECODE, /* one text: new tokens behind those that a cache of keys and values holds */
    OFL_TRAIN,  /* all parameters, AdamW; layers computed anew in backward */
};

/* Vectors that a layer has beside its seven matrices and the norms in front of attention and feed-forward. */
enum ofl_vectors {
    OFL_VECTORS_QKV_BIAS = 1,
    OFL_VECTORS_O_BIAS = 2,
    OFL_VECTORS_MLP_BIAS = 4,
    OFL_VECTORS_QK_NORM_HEAD = 8, /* of queries and keys, one for each head's dimensions */
    OFL_VECTORS_QK_NORM_ALL = 16, /* for those of all heads */
    OFL_VECTORS_POST_NORMS = 32,  /* behind attention and feed-forward */
    OFL_VECTORS_NO_PRE_NORMS = 64 /* none in front of them */
};

/* A step of a model of the Llama architecture, or one of its relatives, as ofl-finetune and ofl-generate run it. */
struct ofl_workload {
    size_t size;
    enum ofl_work work;
    uint32_t layers, hidden, heads, kv_heads, vocab;
    uint32_t head_dim;         /* 0: hidden / heads */
    uint32_t intermediate;     /* of the feed-forward part */
    uint32_t tied;             /* 1: the head is the embedding */
    enum ofl_dtype dtype;      /* of weights on the device: OFL_F32 or OFL_BF16 */
    uint64_t batch;            /* training: sequences of a micro-batch; 0: 1 */
    uint64_t seq;              /* training: tokens of a sequence; decode: new tokens of a step; 0: 1 */
    uint64_t accum;            /* training: micro-batches of a step; 0: 1 */
    uint64_t positions;        /* decode: of the text that the cache holds, all of them looked at; 0: seq */
    uint32_t clip;             /* training: 1: gradients are clipped to their norm, updates wait for it */
    uint32_t source;           /* decode: 1: weights are read in place from a checkpoint */
    uint32_t cache_elem_bytes; /* decode: of a number in the cache; 0: as the weights */
    uint32_t inner_elem_bytes; /* of an activation inside a layer; 0: as the weights */
    uint64_t
        workspace_bytes;    /* device memory that the kernels hold all the time; 0: guessed from the shape */
    uint32_t vectors;       /* of enum ofl_vectors; 0: Llama's */
    enum ofl_method method; /* training: of the optimizer */
};

/* ---- what it is done with --------------------------------------------------- */

#define OFL_MACHINE_NAME 64

/* Rates per second, bytes and operations; 0: there is no such thing, or it is not known. */
struct ofl_machine {
    size_t size;
    char name[OFL_MACHINE_NAME];
    double bf16_flops, f32_flops; /* of dense products, at best */
    double products_share;        /* of that, what the products of a model reach; 0: all */
    uint64_t device_bytes;
    double device_bps;                /* read and written bytes of device memory, added up */
    double link_in_bps, link_out_bps; /* to the device, and from it, each alone */
    double link_both_bps;             /* both at once, added up; 0: the sum of the two */
    uint64_t host_bytes;
    double host_bps; /* as device_bps, of RAM by all cores */
    uint32_t drives;
    uint64_t drive_bytes;                   /* of one drive, as all that follow */
    double drive_read_bps, drive_write_bps; /* each alone */
    double drive_mixed_bps;                 /* both at once, added up; 0: each has what the other leaves */
    double drive_endurance_bytes;           /* rated to be written in its life */
    double
        shared; /* share of the host's cores that computing takes, where the "device" is cores and RAM of the
                      host; 0: a device of its own */
    double part_s; /* what each part of a model costs beside its products and bytes */
};

/* any. A machine of the library's table, by name. -ENOENT lists the names. */
OFL_API int ofl_machine_find(const char *name, struct ofl_machine *out);
/* any. The table's index-th; -ENOENT after the last. */
OFL_API int ofl_machine_at(size_t index, struct ofl_machine *out);
/* any. From a JSON file whose members are named as above, but for size: {"name": "mine", "device_bytes": 24e9,
 * ...}. "like" names a machine that the members not given are taken from. -OFL_EFORMAT names what is wrong. */
OFL_API int ofl_machine_load(const char *path, struct ofl_machine *out);

/* any. Sets products_share and device_bps, and the peak where it is less, so that a layer takes as long as it was seen
 * to: forward and backward of a micro-batch, or all new tokens in decode. -EINVAL. */
OFL_API int ofl_machine_fit(struct ofl_machine *machine, const struct ofl_workload *workload, double layer_s);

/* As ofl_config has them. */
struct ofl_budgets {
    size_t size;
    uint64_t device_bytes, host_bytes; /* 0: the machine's less headroom: 1/16 of the device, 1/8 of RAM */
    uint64_t nvme_bytes;               /* 0: the drives', and only where memory can't hold everything */
};

/* ---- what comes of it -------------------------------------------------------- */

enum ofl_resource {
    OFL_COMPUTE,   /* products and device memory */
    OFL_LINK,      /* both directions */
    OFL_DRIVE,     /* reads and writes */
    OFL_HOST_WORK, /* RAM: updates, and what passes through */
    OFL_RESOURCES
};

/*
 * Times of a step, in seconds. A step has two phases, forward and backward; generating has one. During a phase
 * everything that it needs is done side by side, so that it lasts as long as the resource that has most to do:
 *
 *     step_s = sum over phases of max over resources of busy(phase, resource)  +  exposed_s
 *
 * where busy() is, by resource,
 *     compute   sum over parts of max(flops / (peak x products_share), bytes / device_bps) + part_s
 *     link      max(in / link_in_bps, out / link_out_bps, (in + out) / link_both_bps)
 *     drive     max(read / read_bps, written / write_bps, (read + written) / mixed_bps), of all drives together;
 *               without a mixed rate the sum of the first two
 *     host      (bytes of updates + in + out + 2 (read + written)) / host_bps: a tile is moved, and sealed
 * and exposed_s is what nothing can hide: the embedding is updated last, or once the norm is known, and used
 * first. On a machine whose device is the host (shared), in and out count twice in "host", since cores copy them, and
 * a phase lasts at least shared x compute + host.
 * Updates of a clipped step belong to the forward phase of the next one.
 */
struct ofl_estimate {
    size_t size;
    uint32_t fits;                   /* 0: see missing; nothing below it is filled in but least_ */
    char missing[400];               /* what there is too little of, and how much would do */
    uint64_t least_bytes[OFL_TIERS]; /* of each, with the others as they are; UINT64_MAX: no size would do */
    enum ofl_tier home; /* where everything has room of its own: the device, host memory, or the drives */
    uint64_t budget_bytes[OFL_TIERS];            /* as used */
    uint64_t placed_bytes[OFL_TIERS][OFL_KINDS]; /* where bytes rest between two steps; what is held, too */
    uint64_t parameters, tokens, tensor_bytes, held_bytes;
    uint64_t device_in_bytes, device_out_bytes, drive_read_bytes, drive_write_bytes; /* of a step */
    double busy_s[OFL_RESOURCES];                                                    /* over all phases */
    double exposed_s, step_s;
    enum ofl_resource binds; /* of the longest phase */
    double tokens_per_s;
    double flops_per_s; /* 6 for each multiplied parameter and token in training, 2 in generating */
    double peak_share;  /* of the machine's peak in that dtype, by the same count */
    double wear_bytes_per_day, life_days; /* of one drive; 0: nothing is written, or its life is not known */
};

/* any. -EINVAL names what can't be; too small a machine or budget is no error, but fits = 0. budgets may be NULL.
 * Fields beyond *out's size are left out. Takes up to seconds for the largest models. */
OFL_API int ofl_estimate_get(const struct ofl_machine *machine, const struct ofl_workload *workload,
                             const struct ofl_budgets *budgets, struct ofl_estimate *out);

/* What other budgets and machines would do, by the same formula. */
struct ofl_estimate_ways {
    size_t size;
    /* The smallest host, and device budget, the others as they are, whose step takes at most 1.02 times the one
     * with everything in memory; 0: none on this machine. */
    uint64_t hides_host_bytes, hides_device_bytes;
    double resident_step_s; /* with everything in memory, however large */
    /* Tokens per second with one more drive, with 64 GB more of RAM, with twice the batch (generating: not
     * asked); 0: does not fit. */
    double drive_tokens_per_s, ram_tokens_per_s, batch_tokens_per_s;
};

/* any. As ofl_estimate_get, about thirty times. */
OFL_API int ofl_estimate_ways_get(const struct ofl_machine *machine, const struct ofl_workload *workload,
                                  const struct ofl_budgets *budgets, struct ofl_estimate_ways *out);

#ifdef __cplusplus
}
#endif

#endif
