/* Waiting for requests: see nvme_wait.h. */
#include "bench/nvme_wait.h"

#include "examples/common.h"

unsigned nvme_wait(struct io_queue *q, struct io_request **done, unsigned max, uint64_t timeout_ns)
{
    unsigned n = io_wait(q, done, max, timeout_ns);
    struct io_request *late;

    while (io_late(q, &late, 1))
        common_log(NULL, OFL_LOG_WARNING, late->error.text);
    return n;
}
