/*
 * What of a kept store is whole: head, roots and manifests as they lie in the files, and tiles beside their seals. Owns
 * nothing but what it hands out; writes nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "liboffload/store/kept_impl.h"
#include "liboffload/store/store.h"

#define PIECE (1u << 20) /* of a tile, read at once */

typedef unsigned long long ull;

/* ---- roots and manifests --------------------------------------------------------- */

/* The manifest that a root names: 0, -ENOMEM, or -OFL_EFORMAT, -errno with the sentence. */
static int read_manifest(const struct kept_files *f, const struct kept_frame *frame,
                         const struct kept_root *root, struct kept_image **out)
{
    int fd = f->manifest[root->generation % 2], err = 0;
    struct stat st;
    uint8_t *bytes;
    int64_t got;

    if (fstat(fd, &st) < 0)
        return base_fail_errno(-errno, "look at %s", frame->path);
    if (root->manifest_bytes > (uint64_t)st.st_size)
        return base_fail(-OFL_EFORMAT, "%s, generation %llu: %llu bytes, its root names %llu", frame->path,
                         (ull)root->generation, (ull)st.st_size, (ull)root->manifest_bytes);
    bytes = malloc(root->manifest_bytes + 1);
    if (!bytes)
        return base_fail(-ENOMEM, "read %s: %llu bytes: out of memory", frame->path,
                         (ull)root->manifest_bytes);
    got = kept_read(fd, bytes, root->manifest_bytes, 0);
    if (got < 0)
        err = base_fail_errno((int)got, "read %s: offset 0, %llu bytes", frame->path,
                              (ull)root->manifest_bytes);
    else if (store_seal(bytes, root->manifest_bytes) != root->manifest_hash)
        err = base_fail(
            -OFL_EFORMAT,
            "%s, generation %llu: offset 0, %llu bytes: they are not those that its root names: the "
            "checksum differs",
            frame->path, (ull)root->generation, (ull)root->manifest_bytes);
    else
        err = kept_manifest_decode(frame, bytes, root->manifest_bytes, out);
    free(bytes);
    return err;
}

static int load_generation(const struct kept_files *f, const struct kept_head *head, uint64_t data_bytes,
                           struct kept_generation *g)
{
    char *path = kept_path(f, kept_manifest_name(g->root.generation));
    const struct kept_frame frame = {head, g->root.generation, data_bytes, path};
    int err = path ? read_manifest(f, &frame, &g->root, &g->image)
                   : base_fail_errno(-ENOMEM, "open kept store in %s", f->dir);

    free(path);
    if (err == 0 || err == -ENOMEM)
        return err;
    snprintf(g->why, sizeof g->why, "%.*s", (int)sizeof g->why - 1, base_error_text());
    return 0;
}

static void sort_roots(const uint8_t *blocks, struct kept_found *out)
{
    for (unsigned place = 0; place < 2; place++) {
        struct kept_generation *g = &out->named[out->count];
        struct kept_head of;
        char why[KEPT_WHY_MAX];
        const uint8_t *block = blocks + (KEPT_ROOT_0 + place) * KEPT_BLOCK;

        switch (kept_root_decode(block, place, out->head_bad ? NULL : &out->head, &g->root, &of, why)) {
        case KEPT_WHOLE:
            if (out->head_bad && out->count == 0)
                out->head = of;
            g->place = place;
            out->count++;
            break;
        case KEPT_BAD:
            out->bad_place[out->bad_count] = place;
            memcpy(out->bad_why[out->bad_count++], why, sizeof why);
            break;
        default:
            break;
        }
    }
    if (out->count == 2 && out->named[1].root.generation > out->named[0].root.generation) {
        struct kept_generation older = out->named[0];

        out->named[0] = out->named[1];
        out->named[1] = older;
    }
}

int kept_load(const struct kept_files *f, uint64_t data_bytes, bool mend, struct kept_found *out)
{
    uint8_t *blocks = malloc((size_t)KEPT_BLOCKS * KEPT_BLOCK);
    bool newer;
    int64_t got;
    int err = 0;

    *out = (struct kept_found){.count = 0};
    if (!blocks)
        return base_fail_errno(-ENOMEM, "open kept store in %s", f->dir);
    got = kept_read(f->roots, blocks, (uint64_t)KEPT_BLOCKS * KEPT_BLOCK, 0);
    if (got < 0)
        err = base_fail_errno((int)got, "read %s/%s", f->dir, KEPT_FILE_ROOTS);
    if (err == 0)
        err = kept_head_decode(blocks, f->dir, &out->head, &newer);
    if (err == -OFL_EFORMAT && mend && !newer) {
        out->head_bad = true;
        snprintf(out->head_why, sizeof out->head_why, "%.*s", (int)sizeof out->head_why - 1,
                 base_error_text());
        err = 0;
    }
    if (err == 0) {
        sort_roots(blocks, out);
        out->clean = kept_clean_decode(blocks + KEPT_CLEAN * KEPT_BLOCK, &out->head);
    }
    free(blocks);
    for (unsigned i = 0; i < out->count && err == 0; i++)
        err = load_generation(f, &out->head, data_bytes, &out->named[i]);
    if (err < 0)
        kept_found_free(out);
    return err;
}

void kept_found_free(struct kept_found *found)
{
    for (unsigned i = 0; i < found->count; i++)
        kept_image_free(found->named[i].image);
    found->count = 0;
}

/* ---- tiles ------------------------------------------------------------------------ */

struct check {
    int fd;
    uint8_t *piece;
    XXH3_state_t *hash;
};

/* 1: as sealed; 0: not; -errno: it can't be read. */
static int compare(const struct check *c, const struct kept_tensor *t, uint32_t tile)
{
    uint64_t left = kept_tile_bytes(t, tile), at = kept_tile_offset(t, tile);

    XXH3_64bits_reset(c->hash);
    while (left) {
        uint64_t n = left < PIECE ? left : PIECE;
        int64_t got = kept_read(c->fd, c->piece, n, at);

        if (got < 0)
            return (int)got;
        XXH3_64bits_update(c->hash, c->piece, n); /* zeros behind the end */
        at += n;
        left -= n;
    }
    return XXH3_64bits_digest(c->hash) == t->tiles[tile].seal;
}

/* why: as compare() answers; 1 here: it is begun. */
static void report(void (*tell)(void *arg, const struct kept_finding *f), void *arg, uint64_t generation,
                   const struct kept_tensor *t, uint32_t tile, int why)
{
    struct kept_finding f = {.generation = generation, .tensor = t->name, .tile = tile};
    char text[KEPT_WHY_MAX];

    if (!tell)
        return;
    if (why == 1) {
        tell(arg, &f);
        return;
    }
    snprintf(text, sizeof text, "%s, offset %llu, %llu bytes: %s", KEPT_FILE_DATA,
             (ull)kept_tile_offset(t, tile), (ull)kept_tile_bytes(t, tile),
             why < 0 ? base_strerror(why) : "they are not those that were sealed");
    f.text = text;
    tell(arg, &f);
}

int kept_tiles_check(int data_fd, const struct kept_image *image,
                     void (*tell)(void *arg, const struct kept_finding *f), void *arg, uint64_t most,
                     uint64_t *bad)
{
    struct check c = {data_fd, malloc(PIECE), XXH3_createState()};
    bool memory = c.piece && c.hash;

    *bad = 0;
    for (uint32_t i = 0; memory && i < image->state.count && *bad < most; i++) {
        const struct kept_tensor *t = &image->tensors[i];

        for (uint32_t k = 0; k < t->tiles_count && *bad < most; k++) {
            int same;

            report(tell, arg, image->state.generation, t, k, 1);
            same = t->tiles[k].there ? compare(&c, t, k) : 1;
            if (same == 1)
                continue;
            ++*bad;
            report(tell, arg, image->state.generation, t, k, same);
        }
    }
    free(c.piece);
    XXH3_freeState(c.hash);
    return memory ? 0 : base_fail_errno(-ENOMEM, "check %s", KEPT_FILE_DATA);
}

/* ---- what a run takes up ------------------------------------------------------------ */

static void add_warning(struct kept_chosen *c, const char *text)
{
    size_t used = strlen(c->warning);

    snprintf(c->warning + used, sizeof c->warning - used, "%s%s", used ? "; " : "", text);
}

static void warn(struct kept_chosen *c, const struct kept_found *found)
{
    char text[80];

    for (unsigned i = 0; i < found->bad_count; i++)
        add_warning(c, found->bad_why[i]);
    if (found->count && found->named[0].why[0])
        add_warning(c, found->named[0].why);
    if (!c->warning[0])
        return;
    snprintf(text, sizeof text, "generation %llu is used", (ull)c->image->state.generation);
    add_warning(c, text);
}

/* In place, what was written after the commit lies over it. */
static int check_in_place(const struct kept_files *f, const struct kept_image *image)
{
    uint64_t bad;
    int fd = openat(f->dir_fd, KEPT_FILE_DATA, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), err;

    if (fd < 0)
        return base_fail_errno(-errno, "open %s/%s", f->dir, KEPT_FILE_DATA);
    err = kept_tiles_check(fd, image, NULL, NULL, 1, &bad);
    close(fd);
    if (err == 0 && bad)
        err = base_fail(
            -OFL_ETORN,
            "open kept store in %s: it is kept in place, and was written to after generation %llu, its "
            "last commit: nothing in it is whole",
            f->dir, (ull)image->state.generation);
    return err;
}

int kept_choose(const struct kept_files *f, uint64_t data_bytes, bool in_place, struct kept_chosen *out)
{
    static const char *const ways[] = {"with two slots", "in place"};
    struct kept_found found;
    int err = kept_load(f, data_bytes, false, &found);

    *out = (struct kept_chosen){.image = NULL};
    if (err < 0)
        return err;
    out->head = found.head;
    for (unsigned i = 0; i < found.count && !out->image; i++) {
        out->image = found.named[i].image;
        found.named[i].image = NULL;
    }
    if (found.head.in_place != in_place)
        err = base_fail(-EINVAL, "open kept store in %s: it was made %s, and is opened %s", f->dir,
                        ways[found.head.in_place], ways[in_place]);
    else if (!out->image && found.count + found.bad_count)
        err = base_fail(-OFL_ETORN, "open kept store in %s: there were commits, and none is whole: %s",
                        f->dir, found.count ? found.named[0].why : found.bad_why[0]);
    else if (out->image && in_place && found.clean != out->image->state.generation)
        err = check_in_place(f, out->image);
    if (err == 0 && out->image)
        warn(out, &found);
    if (err < 0) {
        kept_image_free(out->image);
        out->image = NULL;
    }
    kept_found_free(&found);
    return err;
}
