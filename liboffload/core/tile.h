/* tile: the HOST tier. Ranges of its arena, reads into them, write-backs out of them, and what leaves. */
#ifndef OFL_CORE_TILE_H
#define OFL_CORE_TILE_H

#include "liboffload/core/pager.h"

enum tile_need { NEED_WORK, NEED_FILL, NEED_AHEAD };
/* NEED_WORK may evict any idle tile; NEED_FILL (of the copy with that seq) none that an older awaited
 * fill still needs, but those of its own that have served; NEED_AHEAD only tiles that no fill needs and
 * whose next use is further than ahead events away. */
struct tile_claim {
    enum tile_need need;
    uint64_t seq, ahead;
    uint32_t tile;   /* that is claimed */
    uint32_t landed; /* NEED_FILL: tiles of its own tensor before this one have served */
};

/* The tensor's sets of tiles are empty ones in zeroed memory of so many 64-bit words. */
uint64_t tile_sets_words(const struct ofl_tensor *t);
void tile_sets_init(struct ofl_tensor *t, uint64_t *words);
uint64_t tile_count_bytes(const struct ofl_tensor *t, uint32_t tile);
/* How large t's tiles are, as the scheduler's sets are cut. */
unsigned tile_class(const struct ofl_tensor *t);
void *tile_ptr(const struct pager *p, const struct ofl_tensor *t, uint32_t tile);
/* It was read, and nobody has used it since; or that is over. */
void tile_set_fetched(struct pager *p, struct core_tile *x, bool fetched);
/* The tile's state has changed, or that of the fills of its tensor (tile_offer). */
void tile_touched(struct pager *p, struct ofl_tensor *t, uint32_t tile);
void tile_offer(struct pager *p, struct ofl_tensor *t);
/* What of t rests, as far as the tile is concerned. */
static inline uint32_t tile_rest_of(const struct ofl_tensor *t, uint32_t tile)
{
    return t->turns && tile < t->served ? t->turns->rest : t->rest;
}

/* Tiles that rest until t's next use, as the plan has it: all, without one. */
uint32_t tile_rest_planned(const struct pager *p, const struct ofl_tensor *t);
/* So many rest now. */
void tile_rest(struct pager *p, struct ofl_tensor *t, uint32_t rest);
/* What a commit held is held no more. */
void tile_let_go(struct pager *p, struct ofl_tensor *t);
/* The first host work in t's queue is done with so many; 0: it is over. */
void tile_served(struct pager *p, struct ofl_tensor *t, uint32_t tiles);
/* Somebody is about to use the tile, or tiles [from, end); or nobody any more. */
void tile_ahead(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool ahead);
void tile_ahead_all(struct pager *p, struct ofl_tensor *t, uint32_t from, uint32_t end, bool ahead);
/* Something is under way that leaves room behind when it ends, or lets something go on that does. */
bool tile_room_comes(const struct pager *p);
bool tile_claim_range(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim);
/* The operation that is to bring the tile's bytes, and a range for them. NULL: no room, or no memory, now. */
struct core_op *tile_arrive(struct pager *p, struct ofl_tensor *t, uint32_t tile, enum core_op_type type,
                            struct tile_claim claim);
bool tile_read_start(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim,
                     enum io_class class);
/* The tile, which was never written, becomes zeros in host memory. False: as above. */
bool tile_zero_start(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim);
void tile_zero_done(struct pager *p, const struct core_op *op);
void tile_set_dirty(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool dirty);
void tile_drop(struct pager *p, struct ofl_tensor *t, uint32_t tile);
void tile_drop_all(struct pager *p, struct ofl_tensor *t);
void tile_pin(struct pager *p, struct ofl_tensor *t, uint32_t tile);
void tile_unpin(struct pager *p, struct ofl_tensor *t, uint32_t tile);
void tile_want(struct pager *p, struct ofl_tensor *t, uint32_t tile, int by);
void tile_write_behind(struct pager *p);
/* Writes the tile, which is dirty and in no write, to the store. False: no memory for it now. */
bool tile_write_start(struct pager *p, struct ofl_tensor *t, uint32_t tile);
uint64_t tile_host_used(const struct pager *p);
void tile_note_peak(struct pager *p);
/* Nothing but homes lies beyond stage_bytes; false: something still does, and is on its way out. */
bool tile_vacate(struct pager *p);
/* Something still uses a range of t. */
bool tile_busy(const struct ofl_tensor *t);

enum tile_io { TILE_IO_DONE, TILE_IO_GOES_ON, TILE_IO_FAILED };
/* A read or a write-back has come back, from the drive or from the worker that seals. GOES_ON: op is on its
 * way again. FAILED: the tile of op can't be had, and *why says why. */
enum tile_io tile_io_done(struct pager *p, struct core_op *op, struct base_error *why);
/* op's deadline has passed, but its buffer is not to be touched before it comes back. */
enum tile_io tile_io_late(struct pager *p, struct core_op *op, struct base_error *why);

#endif
