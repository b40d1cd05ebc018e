/* Whether an open file is still what it was: see state.h. */
#include "liboffload/source/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "include/offload.h"

#define NS_PER_S 1000000000ll
/* File systems keep times in steps of up to 10 ms (a tick of 100 Hz, exFAT), or else in whole seconds, the
 * coarsest in twos (FAT). */
#define STEP_NS       (20 * (NS_PER_S / 1000))
#define WHOLE_STEP_NS (2 * NS_PER_S)
/* Seen while waiting: after so many the file is being written. */
#define WRITES_MAX 20

static struct source_state state_of(const struct stat *st)
{
    return (struct source_state){.device = st->st_dev,
                                 .inode = st->st_ino,
                                 .bytes = (uint64_t)st->st_size,
                                 .modified_s = st->st_mtim.tv_sec,
                                 .modified_ns = (uint32_t)st->st_mtim.tv_nsec};
}

static bool same(const struct source_state *a, const struct source_state *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->modified_s == b->modified_s && a->modified_ns == b->modified_ns;
}

/* How long a write could still get the time of the last one; 0: any write will show. */
static int64_t unsure_ns(const struct source_state *s)
{
    int64_t step = s->modified_ns ? STEP_NS : WHOLE_STEP_NS, since;
    struct timespec now;

    /* the clock that writes are stamped with */
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec - s->modified_s > 10 || s->modified_s - now.tv_sec > 10)
        return 0; /* long ago; or a time that the clock does not give */
    since = (now.tv_sec - s->modified_s) * NS_PER_S + now.tv_nsec - s->modified_ns;
    return since < step ? step - since : 0;
}

int source_state_take(int fd, const char *path, struct source_state *out)
{
    struct source_state before = {0};

    for (int writes = 0; writes < WRITES_MAX;) {
        struct timespec nap = {0};
        struct stat st;
        int64_t ns;

        if (fstat(fd, &st) != 0)
            return base_fail_errno(-errno, "open %s", path);
        if (!S_ISREG(st.st_mode))
            return base_fail(S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "open %s: not a regular file", path);
        *out = state_of(&st);
        ns = unsure_ns(out);
        if (ns == 0)
            return 0;
        writes += !same(&before, out);
        before = *out;
        nap.tv_sec = ns / NS_PER_S;
        nap.tv_nsec = ns % NS_PER_S;
        nanosleep(&nap, NULL); /* a signal ends it early: looked at again */
    }
    return base_fail(-OFL_ECHANGED,
                     "open %s: it is being written: its time or size changed %d times while we waited for it "
                     "to rest",
                     path, WRITES_MAX - 1);
}

struct moment {
    char text[48];
};

static struct moment moment_of(const struct source_state *s)
{
    time_t seconds = (time_t)s->modified_s;
    struct moment m = {""};
    struct tm utc;
    size_t n = gmtime_r(&seconds, &utc) ? strftime(m.text, sizeof m.text, "%F %T", &utc) : 0;

    snprintf(m.text + n, sizeof m.text - n, ".%06" PRIu32 " UTC", s->modified_ns / 1000);
    return m;
}

int source_state_check(const struct source_state *s, int fd, const char *path, struct base_error *error)
{
    struct source_state now;
    struct stat st;

    if (fstat(fd, &st) != 0) {
        int err = -errno;

        base_error_set(error, err, "read %s: look whether it is unchanged: %s", path, base_strerror(err));
        return err;
    }
    now = state_of(&st);
    if (same(s, &now))
        return 0;
    if (s->device != now.device || s->inode != now.inode)
        base_error_set(error, -OFL_ECHANGED, "open %s: the file was replaced by another while it was opened",
                       path);
    else
        base_error_set(error, -OFL_ECHANGED,
                       "read %s: the file changed while it was open: %" PRIu64
                       " bytes written at %s, now %" PRIu64
                       " written at %s: what was read before and after is not one file. Leave it alone while "
                       "it is in use, or rename a new file over it",
                       path, s->bytes, moment_of(s).text, now.bytes, moment_of(&now).text);
    return error->code;
}

void source_state_refresh(int fd)
{
    struct statx st;

    /* what cannot be refreshed is looked at as it is */
    (void)statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &st);
}
