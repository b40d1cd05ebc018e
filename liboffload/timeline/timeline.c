/* timeline: see timeline.h. */
#include "liboffload/timeline/timeline.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "liboffload/timeline/writer.h"

/* So long at most what has happened is not in the file yet. */
#define EVERY_MS 200

void timeline_init(struct timeline *t)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void timeline_destroy(struct timeline *t)
{
    for (uint32_t i = 0; i < TIMELINE_CHUNKS; i++)
        free(t->chunks[i]);
    free(t->stalls);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
}

/* ---- names ----------------------------------------------------------------- */

static uint32_t hash(const char *text)
{
    uint32_t h = 2166136261u; /* FNV-1a */

    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 16777619u;
    return h % TIMELINE_BUCKETS;
}

/* As it is kept: cut, and with no bytes that are not UTF-8, which JSON is. */
static void clean(char out[TIMELINE_TEXT], const char *text)
{
    size_t length = strnlen(text, TIMELINE_TEXT - 1);
    json_t *probe;

    while (length && text[length] && ((unsigned char)text[length] & 0xC0) == 0x80)
        length--; /* not inside a character */
    memcpy(out, text, length);
    out[length] = '\0';
    probe = json_string(out);
    for (char *c = out; !probe && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    json_decref(probe);
}

static struct timeline_name *name_at(const struct timeline *t, uint32_t name)
{
    return &t->chunks[name / TIMELINE_CHUNK][name % TIMELINE_CHUNK];
}

/* Under lock. 0: no room. */
static uint32_t name_new(struct timeline *t, const char *text, uint32_t bucket)
{
    uint32_t name = t->names_count + 1;
    struct timeline_name **chunk;

    if (name >= TIMELINE_CHUNK * TIMELINE_CHUNKS)
        return 0;
    chunk = &t->chunks[name / TIMELINE_CHUNK];
    if (!*chunk && !(*chunk = calloc(TIMELINE_CHUNK, sizeof **chunk)))
        return 0;
    strcpy(name_at(t, name)->text, text);
    name_at(t, name)->next = t->name_heads[bucket];
    t->name_heads[bucket] = name;
    t->names_count = name;
    return name;
}

uint32_t timeline_name(struct timeline *t, const char *text)
{
    char own[TIMELINE_TEXT];
    uint32_t bucket, name;

    clean(own, text);
    bucket = hash(own);
    pthread_mutex_lock(&t->lock);
    for (name = t->name_heads[bucket]; name && strcmp(name_at(t, name)->text, own) != 0;)
        name = name_at(t, name)->next;
    if (!name)
        name = name_new(t, own, bucket);
    pthread_mutex_unlock(&t->lock);
    return name;
}

/* Whoever has the number has taken the lock since the name was made, or has it from one who did. */
const char *timeline_text(const struct timeline *t, uint32_t name)
{
    return name ? name_at(t, name)->text : "(unnamed)";
}

/* ---- stalls ---------------------------------------------------------------- */

/* Under lock. The first one if there is no room for another. */
static struct timeline_stall *stall_new(struct timeline *t, uint32_t name, enum ofl_stall_reason reason,
                                        uint32_t bucket)
{
    struct timeline_stall *s;

    if (t->stalls_count == t->stalls_room && t->stalls_room < TIMELINE_STALLS_MOST) {
        uint32_t room = t->stalls_room ? 2 * t->stalls_room : 256;
        struct timeline_stall *more = realloc(t->stalls, room * sizeof *more);

        if (more) {
            t->stalls = more;
            t->stalls_room = room;
        }
    }
    if (t->stalls_count == t->stalls_room)
        return t->stalls;
    if (t->stalls_count == 0) /* its number means none in the lists */
        t->stalls[t->stalls_count++] = (struct timeline_stall){.reason = OFL_STALL_UNKNOWN};
    s = &t->stalls[t->stalls_count];
    *s = (struct timeline_stall){.name = name, .reason = (uint8_t)reason, .next = t->stall_heads[bucket]};
    t->stall_heads[bucket] = t->stalls_count++;
    return s;
}

void timeline_count_stall(struct timeline *t, uint32_t name, enum ofl_stall_reason reason, uint64_t ns)
{
    uint32_t bucket = (name * 2654435761u + (uint32_t)reason) % TIMELINE_BUCKETS, i;
    struct timeline_stall *s;

    pthread_mutex_lock(&t->lock);
    for (i = t->stall_heads[bucket]; i && (t->stalls[i].name != name || t->stalls[i].reason != reason);)
        i = t->stalls[i].next;
    s = i ? &t->stalls[i] : stall_new(t, name, reason, bucket);
    if (s) {
        s->count++;
        s->total_ns += ns;
        if (ns > s->longest_ns)
            s->longest_ns = ns;
    }
    pthread_mutex_unlock(&t->lock);
}

/* a before b: the larger, and of equal ones that which came first. */
static bool worse(const struct timeline_stall *a, const struct timeline_stall *b)
{
    return a->total_ns != b->total_ns ? a->total_ns > b->total_ns : a < b;
}

bool timeline_worst(struct timeline *t, uint32_t index, struct timeline_stall *out)
{
    const struct timeline_stall *last = NULL;

    pthread_mutex_lock(&t->lock);
    for (uint32_t k = 0; k <= index; k++) {
        const struct timeline_stall *best = NULL;

        for (uint32_t i = 0; i < t->stalls_count; i++) {
            const struct timeline_stall *s = &t->stalls[i];

            if (s->count && (!last || worse(last, s)) && (!best || worse(s, best)))
                best = s;
        }
        last = best;
        if (!last)
            break;
    }
    if (last)
        *out = *last;
    pthread_mutex_unlock(&t->lock);
    return last != NULL;
}

void timeline_forget_stalls(struct timeline *t)
{
    pthread_mutex_lock(&t->lock);
    t->stalls_count = 0;
    memset(t->stall_heads, 0, sizeof t->stall_heads);
    pthread_mutex_unlock(&t->lock);
}

/* ---- events ---------------------------------------------------------------- */

void timeline_add(struct timeline *t, const struct timeline_event *event)
{
    if (!timeline_on(t))
        return;
    pthread_mutex_lock(&t->lock);
    if (t->buffer && t->count == t->room) {
        t->dropped++;
    } else if (t->buffer) {
        t->buffer[t->count++] = *event;
        if (t->count == t->room / 2 + 1)
            pthread_cond_signal(&t->wake);
    }
    pthread_mutex_unlock(&t->lock);
}

/* Under lock, which it gives up meanwhile: writes what has come. */
static void drain(struct timeline *t)
{
    struct timeline_event *events = t->buffer;
    uint32_t count = t->count;
    uint64_t written = 0;

    t->buffer = t->spare;
    t->count = 0;
    pthread_mutex_unlock(&t->lock);
    while (written < count && timeline_writer_put(t->writer, t, &events[written]))
        written++;
    timeline_writer_flush(t->writer);
    pthread_mutex_lock(&t->lock);
    t->spare = events;
    t->written += written;
    t->dropped += count - written;
}

static void *write_events(void *arg)
{
    struct timeline *t = arg;

    pthread_setname_np(pthread_self(), "ofl-timeline");
    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct timespec until;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += EVERY_MS * 1000000l;
        if (until.tv_nsec >= 1000000000l) {
            until.tv_nsec -= 1000000000l;
            until.tv_sec++;
        }
        while (!t->stopping && t->count < t->room / 2 + 1 &&
               pthread_cond_timedwait(&t->wake, &t->lock, &until) == 0)
            ;
        if (t->count)
            drain(t);
        else if (t->stopping)
            break;
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- life ------------------------------------------------------------------ */

static int start(struct timeline *t)
{
    sigset_t all, old;
    int err;

    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = -pthread_create(&t->thread, NULL, write_events, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err < 0 ? base_fail_errno(err, "open timeline: start its thread") : 0;
}

int timeline_open(struct timeline *t, const char *path, uint32_t events)
{
    struct timeline_event *buffers[2];
    int err;

    if (t->writer)
        return base_fail(-OFL_ESTATE, "open timeline %s: another one is open", path);
    t->room = events ? events : TIMELINE_EVENTS;
    buffers[0] = calloc(t->room, sizeof *buffers[0]);
    buffers[1] = calloc(t->room, sizeof *buffers[1]);
    err = buffers[0] && buffers[1] ? timeline_writer_open(path, &t->writer)
                                   : base_fail(-ENOMEM, "open timeline %s: out of memory", path);
    if (err == 0) {
        pthread_mutex_lock(&t->lock);
        t->buffer = buffers[0];
        t->spare = buffers[1];
        t->count = 0;
        t->written = t->dropped = 0;
        t->stopping = false;
        pthread_mutex_unlock(&t->lock);
        err = start(t);
        if (err == 0) {
            atomic_store(&t->on, true);
            return 0;
        }
        (void)timeline_writer_close(t->writer, 0);
        t->writer = NULL;
        t->buffer = t->spare = NULL;
    }
    free(buffers[0]);
    free(buffers[1]);
    return err;
}

int timeline_close(struct timeline *t, uint64_t *written, uint64_t *dropped)
{
    int err;

    *written = *dropped = 0;
    if (!t->writer)
        return base_fail(-OFL_ESTATE, "close timeline: none is open");
    atomic_store(&t->on, false);
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_mutex_lock(&t->lock); /* who found it on may be about to add */
    t->dropped += t->count;
    free(t->buffer);
    free(t->spare);
    t->buffer = t->spare = NULL;
    *written = t->written;
    *dropped = t->dropped;
    pthread_mutex_unlock(&t->lock);
    err = timeline_writer_close(t->writer, *dropped);
    t->writer = NULL;
    return err;
}
