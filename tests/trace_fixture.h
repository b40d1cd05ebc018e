/* What tests know of a timeline's file: read back, judged, and asked. */
#ifndef OFL_TESTS_TRACE_FIXTURE_H
#define OFL_TESTS_TRACE_FIXTURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The file as JSON; NULL, with why: it is none. */
json_t *trace_load(const char *path, char why[256]);
/* That it is what Perfetto reads without loss: whole events, no negative time, tracks that have names, are sorted
 * and hold nothing that overlaps, counters of bytes in the order of time. False: why. */
bool trace_valid(const json_t *trace, char why[256]);

/* Of the events on tracks of that name (their process', and their own, as far as it is given). */
struct trace_sum {
    uint64_t events, bytes;
    double seconds;
};
struct trace_sum trace_of(const json_t *trace, const char *process, const char *track);
/* The bytes that a counter of that name shows last; -1: there is none. */
int64_t trace_last(const json_t *trace, const char *counter);
/* How many events have that name. */
uint64_t trace_named(const json_t *trace, const char *name);

#endif
