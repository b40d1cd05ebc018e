/* writer: see writer.h. */
#include "liboffload/timeline/writer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

/* A track of ours. */
struct track {
    uint32_t place;
    uint8_t kind;
    uint32_t process, thread; /* thread: of its first lane; the others follow in steps of THREADS */
    uint64_t *ends;           /* by lane: when what it holds is over */
    uint32_t lanes;
};

struct timeline_writer {
    FILE *file;
    char *path;
    uint64_t start_ns;
    struct track *tracks;
    uint32_t count, room, processes;
    bool comma;
    int error;
};

/* Of streams, the link, workers and tiers; drives follow. */
enum { PROCESS_STREAMS = 1, PROCESS_LINK, PROCESS_HOST, PROCESS_TIERS, PROCESS_DRIVES };

static const struct {
    uint32_t process; /* PROCESS_DRIVES: one for each place */
    const char *process_name, *name;
} kinds[TIMELINE_KINDS] = {
    [TIMELINE_WORK] = {PROCESS_STREAMS, "device", "stream"},
    [TIMELINE_STALL] = {PROCESS_STREAMS, "device", "stalls of stream"},
    [TIMELINE_LINK_IN] = {PROCESS_LINK, "link", "to the device"},
    [TIMELINE_LINK_OUT] = {PROCESS_LINK, "link", "from the device"},
    [TIMELINE_READ] = {PROCESS_DRIVES, NULL, "reads"},
    [TIMELINE_WRITE] = {PROCESS_DRIVES, NULL, "writes"},
    [TIMELINE_UPDATE] = {PROCESS_HOST, "host workers", "updates"},
    [TIMELINE_SEAL] = {PROCESS_HOST, "host workers", "seals"},
    [TIMELINE_HELD] = {PROCESS_TIERS, "tiers", NULL},
};

static const char *const reasons[OFL_STALL_REASONS] = {
    [OFL_STALL_UNKNOWN] = "unknown",       [OFL_STALL_LATE_START] = "late start",
    [OFL_STALL_DRIVE_BUSY] = "drive busy", [OFL_STALL_LINK_BUSY] = "link busy",
    [OFL_STALL_NO_ROOM] = "no room",       [OFL_STALL_OFF_PLAN] = "off plan",
    [OFL_STALL_HOST_WORK] = "host work",   [OFL_STALL_OTHER_STREAM] = "other stream",
    [OFL_STALL_COMMIT] = "commit",
};

const char *timeline_reason(enum ofl_stall_reason reason)
{
    return (unsigned)reason < OFL_STALL_REASONS ? reasons[reason] : reasons[0];
}

/* ---- JSON ------------------------------------------------------------------ */

static void line_begin(struct timeline_writer *w)
{
    fputs(w->comma ? ",\n{" : "\n{", w->file);
    w->comma = true;
}

/* Names are UTF-8 already. */
static void string(struct timeline_writer *w, const char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20)
            fprintf(w->file, "\\u%04x", (unsigned char)*text);
        else if (*text == '"' || *text == '\\')
            fprintf(w->file, "\\%c", *text);
        else
            putc(*text, w->file);
    }
}

static void microseconds(struct timeline_writer *w, const char *key, uint64_t ns)
{
    fprintf(w->file, "\"%s\":%" PRIu64 ".%03u,", key, ns / 1000, (unsigned)(ns % 1000));
}

static void describe(struct timeline_writer *w, const char *what, const struct track *t, uint32_t thread)
{
    line_begin(w);
    fprintf(w->file, "\"ph\":\"M\",\"name\":\"%s\",\"pid\":%u,\"tid\":%u,\"args\":{", what, t->process,
            thread);
}

static void name_process(struct timeline_writer *w, const struct timeline *names, const struct track *t)
{
    const char *name = kinds[t->kind].process_name;

    describe(w, "process_name", t, t->thread);
    fputs("\"name\":\"", w->file);
    if (!name)
        fputs("drive ", w->file);
    string(w, name ? name : timeline_text(names, t->place));
    fputs("\"}}", w->file);
    describe(w, "process_sort_index", t, t->thread);
    fprintf(w->file, "\"sort_index\":%u}}", t->process);
}

/* ---- tracks ---------------------------------------------------------------- */

/* Threads of a file have numbers of their own: lane n of a track has n steps more than its first. */
#define THREADS 100000u

static void name_lane(struct timeline_writer *w, const struct track *t, uint32_t lane)
{
    uint32_t thread = t->thread + lane * THREADS;

    describe(w, "thread_name", t, thread);
    fprintf(w->file, "\"name\":\"%s", kinds[t->kind].name);
    if (kinds[t->kind].process == PROCESS_STREAMS)
        fprintf(w->file, " %u", t->place);
    if (lane)
        fprintf(w->file, " (%u)", lane + 1);
    fputs("\"}}", w->file);
    describe(w, "thread_sort_index", t, thread);
    fprintf(w->file, "\"sort_index\":%u}}", t->thread * 1000 + lane);
}

/* The drive's, or that of its kind; 0: it is new. */
static uint32_t process_of(const struct timeline_writer *w, const struct timeline_event *e)
{
    for (uint32_t i = 0; i < w->count; i++)
        if (kinds[w->tracks[i].kind].process == kinds[e->kind].process &&
            (kinds[e->kind].process != PROCESS_DRIVES || w->tracks[i].place == e->place))
            return w->tracks[i].process;
    return 0;
}

/* NULL: no memory. */
static struct track *track_of(struct timeline_writer *w, const struct timeline *names,
                              const struct timeline_event *e)
{
    struct track *t;
    bool is_new;

    for (uint32_t i = w->count; i-- > 0;) /* what came last is likely to come again */
        if (w->tracks[i].kind == e->kind && w->tracks[i].place == e->place)
            return &w->tracks[i];
    if (w->count == w->room) {
        uint32_t room = w->room ? 2 * w->room : 16;
        struct track *more = realloc(w->tracks, room * sizeof *more);

        if (!more)
            return NULL;
        w->tracks = more;
        w->room = room;
    }
    t = &w->tracks[w->count];
    *t = (struct track){.place = e->place, .kind = e->kind, .process = process_of(w, e)};
    is_new = t->process == 0;
    if (is_new)
        t->process = kinds[e->kind].process == PROCESS_DRIVES ? PROCESS_DRIVES + w->processes++
                                                              : kinds[e->kind].process;
    t->thread = ++w->count;
    if (is_new)
        name_process(w, names, t);
    return t;
}

/* UINT32_MAX: no memory. */
static uint32_t lane_of(struct timeline_writer *w, struct track *t, uint64_t start_ns)
{
    uint64_t *more;

    for (uint32_t i = 0; i < t->lanes; i++)
        if (t->ends[i] <= start_ns)
            return i;
    more = realloc(t->ends, (t->lanes + 1) * sizeof *more);
    if (!more)
        return UINT32_MAX;
    t->ends = more;
    t->ends[t->lanes] = 0;
    name_lane(w, t, t->lanes);
    return t->lanes++;
}

/* ---- events ---------------------------------------------------------------- */

static void put(struct timeline_writer *w, const struct timeline *names, const struct track *t, uint32_t lane,
                const struct timeline_event *e)
{
    const char *reason = e->kind == TIMELINE_STALL ? timeline_reason(e->reason) : NULL;

    line_begin(w);
    fprintf(w->file, "\"ph\":\"X\",\"pid\":%u,\"tid\":%u,", t->process, t->thread + lane * THREADS);
    microseconds(w, "ts", e->start_ns - w->start_ns);
    microseconds(w, "dur", e->end_ns - e->start_ns);
    fputs("\"name\":\"", w->file);
    if (reason)
        fprintf(w->file, "%s: ", reason);
    string(w, timeline_text(names, e->name));
    putc('"', w->file);
    if (reason) {
        fprintf(w->file, ",\"args\":{\"reason\":\"%s\",\"tensor\":\"", reason);
        string(w, timeline_text(names, e->name));
        fputs("\"}", w->file);
    } else if (e->bytes) {
        fprintf(w->file, ",\"args\":{\"bytes\":%" PRIu64 "}", e->bytes);
    }
    putc('}', w->file);
}

/* Names of counters, which have a track each. */
static const char *const tiers[OFL_TIERS] = {
    [OFL_DEVICE] = "device bytes", [OFL_HOST] = "host bytes", [OFL_NVME] = "nvme bytes"};

static void put_held(struct timeline_writer *w, const struct track *t, const struct timeline_event *e)
{
    line_begin(w);
    fprintf(w->file, "\"ph\":\"C\",\"pid\":%u,\"tid\":%u,", t->process, t->thread);
    microseconds(w, "ts", e->start_ns - w->start_ns);
    fprintf(w->file, "\"name\":\"%s\",\"args\":{\"bytes\":%" PRIu64 "}}", tiers[e->place % OFL_TIERS],
            e->bytes);
}

bool timeline_writer_put(struct timeline_writer *w, const struct timeline *names,
                         const struct timeline_event *event)
{
    struct timeline_event e = *event;
    struct track *t;
    uint32_t lane;

    if (w->error)
        return false;
    if (e.start_ns < w->start_ns) /* it was under way */
        e.start_ns = w->start_ns;
    if (e.end_ns < e.start_ns)
        e.end_ns = e.start_ns;
    t = track_of(w, names, &e);
    if (e.kind == TIMELINE_HELD)
        lane = t ? 0 : UINT32_MAX;
    else
        lane = t ? lane_of(w, t, e.start_ns) : UINT32_MAX;
    if (lane == UINT32_MAX) {
        w->error = -ENOMEM;
        return false;
    }
    errno = 0;
    if (e.kind == TIMELINE_HELD) {
        put_held(w, t, &e);
    } else {
        t->ends[lane] = e.end_ns;
        put(w, names, t, lane, &e);
    }
    if (ferror(w->file))
        w->error = errno ? -errno : -EIO;
    return w->error == 0;
}

void timeline_writer_flush(struct timeline_writer *w)
{
    errno = 0;
    if (w->error == 0 && fflush(w->file) == EOF)
        w->error = errno ? -errno : -EIO;
}

/* ---- life ------------------------------------------------------------------ */

int timeline_writer_open(const char *path, struct timeline_writer **out)
{
    struct timeline_writer *w = calloc(1, sizeof *w);

    *out = NULL;
    if (w)
        w->path = strdup(path);
    if (!w || !w->path) {
        free(w);
        return base_fail(-ENOMEM, "open timeline %s: out of memory", path);
    }
    w->file = fopen(path, "we");
    if (!w->file) {
        int err = -errno;

        free(w->path);
        free(w);
        return base_fail_errno(err, "open timeline %s", path);
    }
    w->start_ns = base_now_ns();
    putc('[', w->file);
    *out = w;
    return 0;
}

int timeline_writer_close(struct timeline_writer *w, uint64_t dropped)
{
    int err = w->error;

    if (dropped) {
        line_begin(w);
        fprintf(w->file,
                "\"ph\":\"i\",\"s\":\"g\",\"pid\":%u,\"tid\":0,\"ts\":0,\"name\":\"%" PRIu64
                " events are missing\",\"args\":{\"dropped\":%" PRIu64 "}}",
                PROCESS_STREAMS, dropped, dropped);
    }
    errno = 0;
    fputs("\n]\n", w->file);
    if ((fflush(w->file) == EOF || ferror(w->file)) && err == 0)
        err = errno ? -errno : -EIO;
    if (fclose(w->file) == EOF && err == 0)
        err = -errno;
    if (err < 0)
        base_fail_errno(err, "write timeline %s", w->path);
    for (uint32_t i = 0; i < w->count; i++)
        free(w->tracks[i].ends);
    free(w->tracks);
    free(w->path);
    free(w);
    return err;
}
