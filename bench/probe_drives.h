/*
 * Drives: see probe.h.
 */
#ifndef BENCH_PROBE_DRIVES_H
#define BENCH_PROBE_DRIVES_H

#include "bench/bench.h"

/* dirs: count of them; none: the current one. measure: as the library measures them, too. Returns a status. */
int probe_drives(json_t *report, const char *const *dirs, unsigned count, bool measure);

#endif
