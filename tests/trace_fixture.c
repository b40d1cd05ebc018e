/* See trace_fixture.h. */
#include "tests/trace_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

json_t *trace_load(const char *path, char why[256])
{
    json_error_t error;
    json_t *trace = json_load_file(path, JSON_REJECT_DUPLICATES, &error);

    if (!trace)
        snprintf(why, 256, "line %d: %s", error.line, error.text);
    return trace;
}

static const char *text(const json_t *event, const char *key)
{
    const char *value = json_string_value(json_object_get(event, key));

    return value ? value : "";
}

static json_int_t number(const json_t *event, const char *key)
{
    const json_t *value = json_object_get(event, key);

    return json_is_integer(value) ? json_integer_value(value) : -1;
}

static bool is(const json_t *event, const char *ph)
{
    return strcmp(text(event, "ph"), ph) == 0;
}

/* The name that metadata of that kind give to a process, or to a thread of it. NULL: none. */
static const char *name_of(const json_t *trace, const char *kind, json_int_t pid, json_int_t tid)
{
    const json_t *e;
    size_t i;

    json_array_foreach(trace, i, e) if (is(e, "M") && strcmp(text(e, "name"), kind) == 0 &&
                                        number(e, "pid") == pid && (tid < 0 || number(e, "tid") == tid))
    {
        const char *name = text(json_object_get(e, "args"), "name");

        return name[0] ? name : NULL;
    }
    return NULL;
}

static bool on_same_track(const json_t *a, const json_t *b)
{
    return is(a, "X") && is(b, "X") && number(a, "pid") == number(b, "pid") &&
           number(a, "tid") == number(b, "tid");
}

/* Nanoseconds: times have three digits behind the point. */
static long long ns(const json_t *event, const char *key)
{
    return llround(json_number_value(json_object_get(event, key)) * 1000);
}

/* A counter: its time does not go back, and it counts bytes. */
static bool counter_valid(const json_t *trace, size_t i)
{
    const json_t *e = json_array_get(trace, i);

    if (number(json_object_get(e, "args"), "bytes") < 0 || !json_is_real(json_object_get(e, "ts")) ||
        !name_of(trace, "process_name", number(e, "pid"), -1))
        return false;
    for (size_t k = i; k-- > 0;) {
        const json_t *before = json_array_get(trace, k);

        if (is(before, "C") && strcmp(text(before, "name"), text(e, "name")) == 0)
            return ns(before, "ts") <= ns(e, "ts");
    }
    return true;
}

static bool event_valid(const json_t *trace, size_t i, char why[256])
{
    const json_t *e = json_array_get(trace, i);

    if (!json_is_object(e) || number(e, "pid") < 0 || number(e, "tid") < 0 || !text(e, "name")[0])
        return snprintf(why, 256, "event %zu has no process, thread or name", i), false;
    if (is(e, "M") || is(e, "i"))
        return true;
    if (is(e, "C"))
        return counter_valid(trace, i) ||
               (snprintf(why, 256, "event %zu is no counter of bytes, in order", i), false);
    if (!is(e, "X") || !json_is_real(json_object_get(e, "ts")) || !json_is_real(json_object_get(e, "dur")))
        return snprintf(why, 256, "event %zu is not a whole one, with ts and dur", i), false;
    if (ns(e, "ts") < 0 || ns(e, "dur") < 0)
        return snprintf(why, 256, "event %zu takes %lld ns from %lld on", i, ns(e, "dur"), ns(e, "ts")),
               false;
    return true;
}

bool trace_valid(const json_t *trace, char why[256])
{
    const json_t *e;
    size_t i;

    if (!json_is_array(trace))
        return snprintf(why, 256, "it is no array"), false;
    for (i = 0; i < json_array_size(trace); i++)
        if (!event_valid(trace, i, why))
            return false;
    json_array_foreach(trace, i, e)
    {
        size_t k = i;

        if (!is(e, "X"))
            continue;
        while (k-- > 0 && !on_same_track(json_array_get(trace, k), e))
            ;
        if (k == SIZE_MAX) { /* the first of its track */
            if (!name_of(trace, "process_name", number(e, "pid"), -1) ||
                !name_of(trace, "thread_name", number(e, "pid"), number(e, "tid")))
                return snprintf(why, 256, "event %zu is on a track without a name", i), false;
        } else if (ns(json_array_get(trace, k), "ts") + ns(json_array_get(trace, k), "dur") > ns(e, "ts")) {
            return snprintf(why, 256, "event %zu begins before event %zu of its track has ended", i, k),
                   false;
        }
    }
    return true;
}

struct trace_sum trace_of(const json_t *trace, const char *process, const char *track)
{
    struct trace_sum sum = {0};
    json_int_t pid = -1, tid = -1;
    bool counts = false;
    const json_t *e;
    size_t i;

    json_array_foreach(trace, i, e)
    {
        if (!is(e, "X"))
            continue;
        if (number(e, "pid") != pid || number(e, "tid") != tid) {
            const char *own = name_of(trace, "process_name", number(e, "pid"), -1);
            const char *name = name_of(trace, "thread_name", number(e, "pid"), number(e, "tid"));

            pid = number(e, "pid");
            tid = number(e, "tid");
            counts = own && name && strncmp(own, process, strlen(process)) == 0 &&
                     strncmp(name, track, strlen(track)) == 0;
        }
        if (!counts)
            continue;
        sum.events++;
        sum.bytes += (uint64_t)json_integer_value(json_object_get(json_object_get(e, "args"), "bytes"));
        sum.seconds += (double)ns(e, "dur") * 1e-9;
    }
    return sum;
}

int64_t trace_last(const json_t *trace, const char *counter)
{
    int64_t last = -1;
    const json_t *e;
    size_t i;

    json_array_foreach(trace, i, e) if (is(e, "C") && strcmp(text(e, "name"), counter) == 0) last =
        number(json_object_get(e, "args"), "bytes");
    return last;
}

uint64_t trace_named(const json_t *trace, const char *name)
{
    const json_t *e;
    uint64_t n = 0;
    size_t i;

    json_array_foreach(trace, i, e) n += is(e, "X") && strcmp(text(e, "name"), name) == 0;
    return n;
}
