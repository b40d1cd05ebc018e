/* home: where tensors live when nothing wants them. */
#ifndef OFL_CORE_HOME_H
#define OFL_CORE_HOME_H

#include "liboffload/core/pager.h"

/* The tile that config's budgets are served best with. store_bytes: the store's budget, 0: none. */
uint64_t home_tile_bytes(const struct ofl_config *config, uint64_t store_bytes);
/* The same with a kept store, NULL: none. */
uint64_t home_tile_bytes_kept(const struct ofl_config *config, uint64_t store_bytes, const struct kept *kept);
/* After pager_open. */
int home_open(struct pager *p, const struct ofl_config *config);
void home_close(struct pager *p);
/* A home for t: -OFL_EBUDGET with the numbers of all tiers. Nothing for sources and what is transient.
 * -EAGAIN: not yet. */
int home_take(struct pager *p, struct ofl_tensor *t);
void home_give(struct pager *p, struct ofl_tensor *t);

/* The same decisions without memory: p, zeros, keeps the books of a context with this config and store, and each
 * tensor in turn gets a home on paper, or -OFL_EBUDGET. To be closed with home_close. */
int home_try_open(struct pager *p, const struct ofl_config *config, uint64_t store_bytes);
int home_try(struct pager *p, const struct ofl_tensor *t);

#endif
