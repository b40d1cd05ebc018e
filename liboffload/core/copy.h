/* copy: device copies: bytes on their way in (fill) and out (drain), and what a failure leaves. */
#ifndef OFL_CORE_COPY_H
#define OFL_CORE_COPY_H

#include "liboffload/core/pager.h"

bool copy_bytes_ready(const struct core_copy *c);
/* What t's fills are, anew: for the choice of what leaves the host. */
void copy_note_fills(struct pager *p, struct ofl_tensor *t);
/* c is to be filled, or not any more. */
void copy_set_fill(struct pager *p, struct core_copy *c, bool fill);
/* One more, or one fewer, awaits c's bytes. */
void copy_await(struct pager *p, struct core_copy *c, int by);
/* Moves what can be moved of c. */
void copy_advance(struct pager *p, struct core_copy *c);
/* The same for those that waited for room in the host arena. */
void copy_advance_stuck(struct pager *p);
/* The ghost has nothing left to do. */
bool copy_over(struct pager *p, struct core_copy *c);
void copy_moved(struct pager *p, struct core_op *op);
/* Bytes [from, to) of t can't be had: copies younger than seq to which some of them are still to come fail. */
void copy_fail(struct pager *p, struct ofl_tensor *t, uint64_t seq, uint64_t from, uint64_t to,
               const struct base_error *error);
/* The tile can't be had: ghosts that were to be drained into it can't be kept. */
void copy_fail_edge(struct pager *p, struct ofl_tensor *t, uint32_t tile, const struct base_error *error);
/* What a write should have put into c is not there. Its range is not published; t is lost if nothing good
 * lies below. version: of the write. */
void copy_ruin(struct pager *p, struct core_copy *c, uint64_t version, const struct base_error *error);
/* It has not all of the tile, which is the first or the last that its bytes lie in. */
bool copy_is_edge(const struct core_copy *c, uint32_t tile);
/* A copy made before c still awaits bytes of its part from the tiles: what is newer must not replace them yet. */
bool copy_fill_older(const struct core_copy *c);
/* Where the plan says that c is to be the only copy, what lies below goes: c is the newest from now on. */
void copy_stand_alone(struct pager *p, struct core_copy *c);
/* Of a copy that has been released for good and has its bytes: if the host's work makes them anew next, it need not
 * find the old ones. */
void copy_let_go(struct pager *p, struct core_copy *c);
/* A write has ended well: what lies below is obsolete, unless somebody is still to read it. whole: it may have
 * written all of the tensor. */
void copy_publish(struct pager *p, struct core_copy *c, uint64_t version, bool whole);
/* Contents are undefined from here on. */
void copy_forget(struct pager *p, struct core_copy *c, uint64_t version);
/* A copy made before that host work still awaits bytes of the tile. */
bool copy_fill_before(const struct ofl_tensor *t, uint64_t ordinal, uint32_t tile);
/* Work on streams has still to pass a use of t. */
bool copy_in_use(const struct ofl_tensor *t);
/* All that was written to t as a command before seq is below the device. */
bool copy_settled(const struct ofl_tensor *t, uint64_t seq);
/* The newest of these bytes of a tile are below the device, as far as copies older than seq are concerned. */
bool copy_drained(const struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t seq);

/* t's bytes are lost: error is what every reader gets until it is overwritten whole. */
void copy_lose(struct ofl_tensor *t, const struct base_error *error);
void copy_found(struct ofl_tensor *t);
/* The sentence of a lost tensor, for who wants to do what; 0 if it is not lost. */
int copy_check_lost(const struct ofl_tensor *t, const char *what);

/* Gives these bytes of t a range before they are acquired, and has them fetched, unless they will be overwritten. False:
 * nothing leaves for what is used in limit events, or later. */
bool copy_start_ahead(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t limit,
                      bool no_fetch);

#endif
