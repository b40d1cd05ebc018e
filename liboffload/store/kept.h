/*
 * kept: a kept store. Owns a directory, its lock, the data file with two slots for each tensor, and the record of what
 * is whole: manifests, and two roots that name them. Knows nothing of the pager, and moves no tensor's bytes itself:
 * the pager writes and reads slots on kept_file(), and says at a commit which slot of each tile counts.
 *
 * What a commit does, in this order, each durable before the next begins: the data; a manifest, in the file that the
 * last root does not name; a root, in the place that the last one does not have. So at every moment one root is whole
 * whose manifest is whole whose tiles are whole, provided that nobody writes to a slot that it names (kept_slot).
 * docs/format.md has the bytes.
 *
 * Threads: kept_commit may run on one thread while others call the rest; all else is called by one at a time.
 */
#ifndef OFL_STORE_KEPT_H
#define OFL_STORE_KEPT_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload.h"
#include "io/io.h"

struct kept;

/* Offsets, and bytes of a slot, are multiples of this. */
#define KEPT_BLOCK 4096u

struct kept_tile {
    uint64_t seal;            /* store_seal() of its bytes */
    uint64_t generation : 62; /* of the commit that was the first to have these bytes */
    uint64_t there : 1;       /* 0: never written, zeros */
    uint64_t slot : 1;
};

struct kept_tensor {
    const char *name;
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint64_t elems, bytes;
    uint64_t tile_bytes; /* all tiles but the last one */
    uint32_t tiles_count;
    uint64_t offset;     /* of slot 0 in kept_file() */
    uint64_t slot_bytes; /* slot 1 lies so much behind it (in place: there is none) */
    struct kept_tile *tiles;
};

struct kept_config {
    const char *dir;
    uint64_t bytes;      /* budget; 0: what is free there, less 5 % */
    unsigned file_flags; /* IO_FILE_ */
    bool in_place;       /* one slot */
    /* As store_config's. */
    uint64_t memory_bytes;
    const char *memory_text;
    struct base_limit *written; /* what the store itself writes is taken of it: -OFL_EWRITTEN. NULL: none */
};

/* What was committed last. */
struct kept_state {
    uint64_t generation; /* 0: nothing was */
    uint64_t tile_bytes; /* as given to kept_commit: the largest of its tensors */
    const struct kept_tensor *tensors;
    uint32_t count;
    const void *note;
    uint64_t note_bytes;
    uint64_t bytes; /* of tiles that are there */
};

/*
 * Makes dir (mode 0700) and its files (0600) if they are not there, takes the lock, and reads the newest root that is
 * whole, with its manifest. Where an older one had to do, *warning (static or owned by k; may be NULL) says so.
 *  -EBUSY        another process, or context, has it
 *  -OFL_ETORN    there were commits, and none is whole (in place: it was written to after the last one)
 *  -ENOENT, -ENOTEMPTY  it is no kept store (a directory with other files in it is left alone)
 *  -OFL_EFORMAT  it is a newer version's, or not what it claims to be
 *  -EINVAL       it was made in place, and is opened with two slots, or the other way round
 *  -OFL_EBUDGET, -ENOSPC, -errno
 */
int kept_open(const struct kept_config *config, struct kept **out);
/* clean (in place): nothing was written since the last commit. NULL accepted. */
void kept_close(struct kept *k, bool clean);

struct io_file *kept_file(struct kept *k);
const char *kept_dir(const struct kept *k);
const char *kept_warning(const struct kept *k); /* "" if all is well */
/* As it was opened. Valid until the first kept_commit. */
const struct kept_state *kept_state(const struct kept *k);
/* Of that; NULL: no tensor of the name. */
const struct kept_tensor *kept_find(const struct kept *k, const char *name);

/* Room for a tensor, two slots of so many bytes (rounded up to KEPT_BLOCK; in place one), backed by disk space. Those of
 * kept_state() are taken from the start. -OFL_EBUDGET, -ENOSPC: what names the purpose. */
int kept_take(struct kept *k, uint64_t slot_bytes, const char *what, uint64_t *offset);
/* The tensor has gone. Where the last commit has it, its room is free only once a commit without it is durable. */
void kept_give(struct kept *k, uint64_t offset, uint64_t slot_bytes);

/* Makes durable what these tensors hold, in the slots named: generation + 1. Blocks. The arrays are the caller's, and
 * not kept. While it runs, their rooms may be given; before it, not any more once the arrays are made. -EINVAL: they are
 * not what a manifest takes (see docs/format.md): a name with control characters, say. An error leaves the last commit as it is, and the next try may succeed, unless data could not be synced:
 * then all that come after fail, too, since nobody knows what of it is lost. */
int kept_commit(struct kept *k, const struct kept_tensor *tensors, uint32_t count, uint64_t tile_bytes,
                const void *note, uint64_t note_bytes);
uint64_t kept_generation(const struct kept *k); /* the last durable one */

uint64_t kept_budget(const struct kept *k);
uint64_t kept_memory(const struct kept *k);   /* of the budget: what lies in memory */
uint64_t kept_used(const struct kept *k);     /* both slots of all tensors */
uint64_t kept_reserved(const struct kept *k); /* disk space taken */

/* ---- offline ------------------------------------------------------------- */

/* One thing that is wrong with a store, or was done to it. text NULL: this tile is looked at now, for who shows how far
 * it is. */
struct kept_finding {
    uint64_t generation;
    const char *tensor; /* NULL: not of one */
    uint32_t tile;
    const char *text; /* a sentence, with file and offset */
};

struct kept_report {
    uint64_t generations[2];        /* named by roots that are whole, newest first; 0: none */
    uint64_t bad[2];                /* what is wrong with each */
    uint64_t tensors, tiles, bytes; /* of the newest whole one */
    uint64_t newest_whole;          /* 0: none */
};

/* Reads every tile of both generations and compares seals. tell may be NULL. Nothing is written. -OFL_ETORN if none is
 * whole, else 0 with what was found in *out: also if the newest is not whole. */
int kept_verify(const char *dir, void (*tell)(void *arg, const struct kept_finding *f), void *arg,
                struct kept_report *out);
/* As kept_verify; then makes the newest whole generation the last one. */
int kept_repair(const char *dir, void (*tell)(void *arg, const struct kept_finding *f), void *arg,
                struct kept_report *out);

#endif
