/* verify_copy: the part of verify.c that balances what is said of copies on the device, live ones and ghosts. */
#ifndef OFL_CORE_VERIFY_COPY_H
#define OFL_CORE_VERIFY_COPY_H

#include "liboffload/core/pager.h"

/* Each 0, or -EINVAL and in *why what does not balance. All live copies; those of a tensor; its ghosts, which are added to
 * *all. */
int verify_live(const struct pager *p, struct base_error *why);
int verify_parts(const struct ofl_tensor *t, struct base_error *why);
int verify_ghosts(const struct pager *p, const struct ofl_tensor *t, uint32_t *all, struct base_error *why);
/* Whether the tree of ghosts' ranges has the right sums. */
bool verify_graves(const struct pager *p);
/* Nodes of a tree. */
uint32_t verify_tree(const struct base_node *n);

#endif
