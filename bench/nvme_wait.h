/* Waiting for requests, with a word about a drive that hangs. */
#ifndef OFL_BENCH_NVME_WAIT_H
#define OFL_BENCH_NVME_WAIT_H

#include "io/io.h"

/* As io_wait. A request that is late is told of on stderr when it is, once: it comes back as an error when
 * the drive has let go of its buffer, which may take any time. */
unsigned nvme_wait(struct io_queue *q, struct io_request **done, unsigned max, uint64_t timeout_ns);

#endif
