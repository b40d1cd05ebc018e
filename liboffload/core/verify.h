/* verify: balances all books of a pager. For tests, between inputs. */
#ifndef OFL_CORE_VERIFY_H
#define OFL_CORE_VERIFY_H

#include "liboffload/core/pager.h"

/* 0, or -EINVAL and in *why what does not balance. */
int pager_verify(const struct pager *p, struct base_error *why);
/* Host memory whose return to its free ranges found no memory. */
uint64_t pager_lost_bytes(const struct pager *p);

#endif
