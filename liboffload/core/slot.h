/*
 * slot: kept tensors have room in the kept store for each tile twice. Which of the two has what: the last commit's
 * bytes, and those of the commit in flight, are not written over.
 */
#ifndef OFL_CORE_SLOT_H
#define OFL_CORE_SLOT_H

#include "liboffload/core/pager.h"

/* t's books; nothing of it is stored. -ENOMEM with a sentence. */
int slot_make(struct ofl_tensor *t);
void slot_free(struct ofl_tensor *t); /* also of a tensor that is not kept */
/* t's bytes are what keep->whole has. */
void slot_resume(struct ofl_tensor *t);

/* Where the slot begins, behind the tensor's file_off. */
static inline uint64_t slot_start(const struct ofl_tensor *t, uint8_t slot)
{
    return slot ? t->keep->slot_bytes : 0;
}

/* Where the tile's bytes may go. 0 for a tensor that is not kept. */
uint8_t slot_to_write(const struct pager *p, const struct ofl_tensor *t, uint32_t tile);
/* Not before the commit in flight is over: it, or the last one, has what lies there. */
static inline bool slot_held(const struct pager *p, const struct ofl_tensor *t, uint32_t tile)
{
    const struct core_keep *k = t->keep;

    return k && k->part && k->next[tile].generation && k->next[tile].there &&
           k->next[tile].slot == slot_to_write(p, t, tile);
}
/* The commit in flight has the tile as it is below now: stored, or never written. */
void slot_take(struct pager *p, struct ofl_tensor *t, uint32_t tile);
bool slot_taken(const struct ofl_tensor *t, uint32_t tile);
/* Nothing is taken; or what was taken is whole. */
void slot_forget(struct ofl_tensor *t);
void slot_settle(struct ofl_tensor *t);

#endif
