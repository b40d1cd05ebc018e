/* shape: a tensor's object and how it is cut into tiles. No pager knows of it yet. */
#ifndef OFL_CORE_SHAPE_H
#define OFL_CORE_SHAPE_H

#include "liboffload/core/pager.h"

/* For a pager of such tiles: pager_tensor_add is next. A tensor of a source, which begins at *file_off, is cut at
 * blocks of its file; others (NULL) by elements, alike for every dtype up to 4 bytes: a weight, its gradient and its
 * states at the same places. -EINVAL, -EOVERFLOW, -ENOMEM. */
int pager_tensor_make(uint64_t tile_bytes, const struct ofl_tensor_desc *desc, const uint64_t *file_off,
                      struct ofl_tensor **out);
/* No pager knows of it any more. NULL accepted. */
void pager_tensor_free(struct ofl_tensor *t);

#endif
