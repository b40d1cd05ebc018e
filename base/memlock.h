/* memlock: what lifts RLIMIT_MEMLOCK, for sentences about memory that could not be locked. */
#ifndef OFL_BASE_MEMLOCK_H
#define OFL_BASE_MEMLOCK_H

#include <stdint.h>

#define BASE_MEMLOCK_BYTES 96u

/* The one command of the shell that has this process, started again from it, lock so many bytes: `ulimit -l` as far as the
 * hard limit allows, else one that asks for root. Writes it, in back quotes, to text; returns text. */
const char *base_memlock_command(uint64_t bytes, char text[BASE_MEMLOCK_BYTES]);

#endif
