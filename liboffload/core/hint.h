/* hint: what the caller says will be used, and no plan knows; and where a tensor's bytes are now. */
#ifndef OFL_CORE_HINT_H
#define OFL_CORE_HINT_H

#include "liboffload/core/pager.h"

/* What ofl_hint does; all or nothing. */
int pager_hint(struct pager *p, const struct ofl_lease *leases, size_t n, enum ofl_hint_kind hint);
/* Fetches what was hinted at, in that order, as far as there is room. */
void hint_start(struct pager *p);
/* t is going. */
void hint_forget(struct pager *p, const struct ofl_tensor *t);
void hint_close(struct pager *p);
/* For pager_verify: all of them are of tensors that are there. */
bool hint_verify(const struct pager *p);

/* What ofl_resident says of these bytes. */
void pager_resident(const struct ofl_tensor *t, uint64_t from, uint64_t to, struct ofl_residency *out);

#endif
