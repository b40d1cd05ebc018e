/* memlock: see memlock.h. Owns nothing. */
#include "base/memlock.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

const char *base_memlock_command(uint64_t bytes, char text[BASE_MEMLOCK_BYTES])
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= bytes))
        snprintf(text, BASE_MEMLOCK_BYTES, "`ulimit -l %" PRIu64 "`", bytes / 1024 + (bytes % 1024 != 0));
    else
        snprintf(text, BASE_MEMLOCK_BYTES, "`sudo prlimit --pid $$ --memlock=unlimited:unlimited`");
    return text;
}
