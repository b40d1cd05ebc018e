/* The look at a kept store offline, and its repair: see kept.h. Reads through the page cache, which is emptied first. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "liboffload/store/kept_impl.h"

typedef unsigned long long ull;

struct look {
    struct kept_files files;
    struct kept_found found;
    int data;
    void (*tell)(void *arg, const struct kept_finding *f);
    void *arg;
    struct kept_report *report;
};

static void say(const struct look *l, uint64_t generation, const char *text)
{
    const struct kept_finding f = {.generation = generation, .text = text};

    if (l->tell)
        l->tell(l->arg, &f);
}

static int open_data(struct look *l)
{
    struct stat st;

    l->data = openat(l->files.dir_fd, KEPT_FILE_DATA, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (l->data < 0 && errno != ENOENT)
        return base_fail_errno(-errno, "open %s/%s", l->files.dir, KEPT_FILE_DATA);
    if (l->data < 0 || fstat(l->data, &st) < 0 || !S_ISREG(st.st_mode))
        return base_fail(-OFL_EFORMAT, "open kept store in %s: %s is missing, or not a regular file",
                         l->files.dir, KEPT_FILE_DATA);
    (void)posix_fadvise(l->data, 0, 0, POSIX_FADV_DONTNEED);
    (void)posix_fadvise(l->files.roots, 0, 0, POSIX_FADV_DONTNEED);
    for (int i = 0; i < 2; i++)
        (void)posix_fadvise(l->files.manifest[i], 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

static int check_generation(struct look *l, unsigned i)
{
    const struct kept_generation *g = &l->found.named[i];
    struct kept_report *r = l->report;
    int err = 0;

    r->generations[i] = g->root.generation;
    if (!g->image) {
        r->bad[i] = 1;
        say(l, g->root.generation, g->why);
        return 0;
    }
    err = kept_tiles_check(l->data, g->image, l->tell, l->arg, UINT64_MAX, &r->bad[i]);
    if (err < 0 || r->bad[i] || r->newest_whole)
        return err;
    r->newest_whole = g->root.generation;
    r->tensors = g->image->state.count;
    r->bytes = g->image->state.bytes;
    for (uint32_t k = 0; k < g->image->state.count; k++)
        r->tiles += g->image->tensors[k].tiles_count;
    return 0;
}

static int look(struct look *l, const char *dir, enum kept_use use)
{
    struct stat st;
    int err = kept_files_open(dir, use, &l->files);

    l->data = -1;
    *l->report = (struct kept_report){.newest_whole = 0};
    if (err < 0)
        return err;
    err = open_data(l);
    if (err == 0)
        err = fstat(l->data, &st) < 0 ? base_fail_errno(-errno, "look at %s/%s", dir, KEPT_FILE_DATA)
                                      : kept_load(&l->files, (uint64_t)st.st_size, true, &l->found);
    if (err < 0)
        return err;
    if (l->found.head_bad)
        say(l, 0, l->found.head_why);
    for (unsigned i = 0; i < l->found.bad_count; i++)
        say(l, 0, l->found.bad_why[i]);
    for (unsigned i = 0; i < l->found.count && err == 0; i++)
        err = check_generation(l, i);
    if (err == 0 && !l->report->newest_whole && (l->found.count || l->found.bad_count || l->found.head_bad))
        err = base_fail(-OFL_ETORN, "kept store in %s: no generation is whole", dir);
    return err;
}

static void look_close(struct look *l)
{
    if (l->data >= 0)
        close(l->data);
    kept_found_free(&l->found);
    kept_files_close(&l->files);
}

int kept_verify(const char *dir, void (*tell)(void *arg, const struct kept_finding *f), void *arg,
                struct kept_report *out)
{
    struct look l = {.tell = tell, .arg = arg, .report = out};
    int err = look(&l, dir, KEPT_LOOK);

    look_close(&l);
    return err;
}

/* A root that must not count any more. */
static int empty_root(const struct look *l, unsigned place, const char *what)
{
    const uint8_t block[KEPT_BLOCK] = {0};
    char text[KEPT_WHY_MAX];
    int err = kept_block_write(&l->files, KEPT_ROOT_0 + place, block);

    if (err < 0)
        return err;
    snprintf(text, sizeof text, "%s: root %u, which named %s, was emptied", KEPT_FILE_ROOTS, place, what);
    say(l, 0, text);
    return 0;
}

static int mend(const struct look *l)
{
    uint8_t block[KEPT_BLOCK];
    int err = 0;

    if (l->found.head_bad) {
        kept_head_encode(&l->found.head, block);
        err = kept_block_write(&l->files, KEPT_HEAD, block);
        if (err == 0)
            say(l, 0, KEPT_FILE_ROOTS ": the head was made anew");
    }
    for (unsigned i = 0; i < l->found.bad_count && err == 0; i++)
        err = empty_root(l, l->found.bad_place[i], "nothing");
    for (unsigned i = 0; i < l->found.count && err == 0; i++) {
        char what[40];

        if (l->found.named[i].root.generation <= l->report->newest_whole)
            continue;
        snprintf(what, sizeof what, "generation %llu", (ull)l->found.named[i].root.generation);
        err = empty_root(l, l->found.named[i].place, what);
    }
    return err;
}

int kept_repair(const char *dir, void (*tell)(void *arg, const struct kept_finding *f), void *arg,
                struct kept_report *out)
{
    struct look l = {.tell = tell, .arg = arg, .report = out};
    int err = look(&l, dir, KEPT_MEND);

    if (err == 0)
        err = mend(&l);
    look_close(&l);
    return err;
}
