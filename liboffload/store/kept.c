/*
 * kept: see kept.h. The store of a run: its space, what of it the last commit has, and commits.
 *
 * A room, that is a tensor's slots, is free once its tensor has gone and no durable root names it. Until a commit is
 * known to be durable, or not, both it and the one before may be the last one, so rooms of either stay.
 */
#include "liboffload/store/kept.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/tree.h"
#include "liboffload/store/kept_impl.h"
#include "liboffload/store/store.h"

typedef unsigned long long ull;

struct room {
    struct base_node by_offset;
    uint64_t offset, bytes; /* of all slots */
    bool taken;             /* its tensor is there */
    bool last, next;        /* the last commit has it, the one under way has it */
};

struct kept {
    struct kept_files files;
    struct kept_head head;
    struct kept_image *image; /* as it was opened; NULL: nothing was committed */
    struct kept_state none;
    struct io_file *file; /* the store's, if there is one */
    struct store *store;
    char warning[KEPT_WARNING_MAX];
    struct base_limit *written;

    pthread_mutex_t lock; /* of what follows, and of store */
    struct base_tree rooms;
    uint64_t generation;
    struct base_error dead; /* no commit can come after this */
};

static struct room *room_of(struct base_node *n)
{
    return n ? BASE_TREE_OWNER(n, struct room, by_offset) : NULL;
}

static bool offset_before(const struct base_node *a, const struct base_node *b)
{
    return BASE_TREE_OWNER(a, const struct room, by_offset)->offset <
           BASE_TREE_OWNER(b, const struct room, by_offset)->offset;
}

static uint64_t slots(const struct kept *k)
{
    return k->head.in_place ? 1 : 2;
}

/* ---- open ----------------------------------------------------------------------- */

static int open_data(struct kept *k, const struct kept_config *config)
{
    char *path = kept_path(&k->files, KEPT_FILE_DATA);
    int err = path ? io_file_open_named(path, k->files.fresh, config->file_flags, &k->file)
                   : base_fail_errno(-ENOMEM, "open kept store in %s", k->files.dir);

    if (err == -ENOENT)
        err = base_fail(-OFL_EFORMAT, "open kept store in %s: %s is missing", k->files.dir, KEPT_FILE_DATA);
    free(path);
    return err < 0 ? err : io_file_limit_block(k->file, KEPT_BLOCK);
}

/* A head for a store that is to be. */
static int begin(struct kept *k, bool in_place)
{
    k->head.in_place = in_place;
    if (getrandom(k->head.uuid, sizeof k->head.uuid, 0) != (ssize_t)sizeof k->head.uuid)
        return base_fail_errno(-errno, "create kept store in %s: random bytes", k->files.dir);
    return 0;
}

static int load(struct kept *k, bool in_place)
{
    struct kept_chosen chosen;
    int err = kept_choose(&k->files, io_file_bytes(k->file), in_place, &chosen);

    if (err < 0)
        return err;
    k->head = chosen.head;
    k->image = chosen.image;
    memcpy(k->warning, chosen.warning, sizeof k->warning);
    return 0;
}

static int charge(const struct kept *k, const char *what, uint64_t bytes)
{
    if (base_limit_take(k->written, bytes))
        return 0;
    return base_fail(-OFL_EWRITTEN, "%s %s: " BASE_LIMIT_WRITTEN, what, k->files.dir,
                     (ull)atomic_load(&k->written->taken), (ull)bytes, (ull)k->written->most);
}

/* What opening it writes; in place: closing, too. */
static int charge_open(const struct kept *k)
{
    uint64_t blocks = (k->files.fresh ? KEPT_BLOCKS : 0) + (k->head.in_place ? 2 : 0);

    return charge(k, "open kept store in", blocks * KEPT_BLOCK);
}

/* From here on it may be written to. */
static int unclean(const struct kept *k)
{
    uint8_t block[KEPT_BLOCK] = {0};

    return k->head.in_place ? kept_block_write(&k->files, KEPT_CLEAN, block) : 0;
}

static struct room *add_room(struct kept *k, uint64_t offset, uint64_t bytes)
{
    struct room *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->offset = offset;
    r->bytes = bytes;
    r->taken = true;
    base_tree_insert(&k->rooms, &r->by_offset);
    return r;
}

/* The rooms of what was committed. */
static int hold_rooms(struct kept *k)
{
    uint32_t count = k->image ? k->image->state.count : 0, n = 0;
    struct store_range *ranges = calloc((size_t)count + 1, sizeof *ranges);
    bool memory = ranges != NULL;
    int err;

    for (uint32_t i = 0; i < count && memory; i++) {
        const struct kept_tensor *t = &k->image->tensors[i];
        struct room *r = add_room(k, t->offset, slots(k) * t->slot_bytes);

        memory = r != NULL;
        if (r)
            r->last = true;
    }
    for (struct base_node *at = base_tree_first(&k->rooms); at && memory; at = base_tree_after(&k->rooms, at))
        ranges[n++] = (struct store_range){room_of(at)->offset, room_of(at)->bytes};
    err = memory
              ? store_hold(k->store, ranges, n)
              : base_fail(-ENOMEM, "open kept store in %s: %u tensors: out of memory", k->files.dir, count);
    free(ranges);
    if (err == 0 && store_used(k->store) > store_budget(k->store))
        err = base_fail(
            -OFL_EBUDGET,
            "open kept store in %s: its tensors take %llu bytes, its budget is %llu bytes: raise it by at "
            "least %llu bytes",
            k->files.dir, (ull)store_used(k->store), (ull)store_budget(k->store),
            (ull)(store_used(k->store) - store_budget(k->store)));
    return err;
}

static int open_space(struct kept *k, const struct kept_config *config)
{
    const struct store_path path = {config->dir, config->bytes};
    const struct store_config c = {.paths = &path,
                                   .count = 1,
                                   .file_flags = config->file_flags,
                                   .memory_bytes = config->memory_bytes,
                                   .memory_text = config->memory_text};
    int err = store_open_over(&c, k->file, &k->store);

    return err < 0 ? err : hold_rooms(k);
}

int kept_open(const struct kept_config *config, struct kept **out)
{
    struct kept *k = calloc(1, sizeof *k);
    int err;

    *out = NULL;
    if (!k)
        return base_fail_errno(-ENOMEM, "open kept store in %s", config->dir);
    pthread_mutex_init(&k->lock, NULL);
    k->rooms.before = offset_before;
    k->written = config->written;
    err = kept_files_open(config->dir, KEPT_RUN, &k->files);
    if (err == 0)
        err = open_data(k, config);
    if (err == 0)
        err = k->files.fresh ? begin(k, config->in_place) : load(k, config->in_place);
    if (err == 0)
        err = open_space(k, config);
    if (err == 0)
        err = charge_open(k);
    if (err == 0)
        err = k->files.fresh ? kept_files_publish(&k->files, &k->head) : unclean(k);
    if (err < 0) {
        kept_close(k, false);
        return err;
    }
    k->generation = kept_state(k)->generation;
    *out = k;
    return 0;
}

void kept_close(struct kept *k, bool clean)
{
    uint8_t block[KEPT_BLOCK];
    struct base_node *at;

    if (!k)
        return;
    if (clean && k->head.in_place && k->generation && !k->dead.code) {
        kept_clean_encode(&k->head, k->generation, block);
        (void)kept_block_write(&k->files, KEPT_CLEAN, block); /* else it is looked through once more */
    }
    while ((at = base_tree_first(&k->rooms))) {
        base_tree_remove(&k->rooms, at);
        free(room_of(at));
    }
    if (!k->store)
        io_file_close(k->file);
    store_close(k->store);
    kept_image_free(k->image);
    kept_files_close(&k->files);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

/* ---- rooms ------------------------------------------------------------------------ */

static struct room *find_room(const struct kept *k, uint64_t offset, uint64_t bytes)
{
    /* The first one behind the one before. */
    const struct room key = {.offset = offset};
    struct base_node *before = base_tree_before(&k->rooms, &key.by_offset);
    struct room *r = room_of(before ? base_tree_after(&k->rooms, before) : base_tree_first(&k->rooms));

    return r && r->offset == offset && r->bytes == bytes ? r : NULL;
}

/* Nobody needs it any more. */
static void free_room(struct kept *k, struct room *r)
{
    if (r->taken || r->last || r->next)
        return;
    base_tree_remove(&k->rooms, &r->by_offset);
    store_give(k->store, r->offset, r->bytes);
    free(r);
}

static uint64_t blocks(uint64_t bytes)
{
    return (bytes + KEPT_BLOCK - 1) / KEPT_BLOCK * KEPT_BLOCK;
}

int kept_take(struct kept *k, uint64_t slot_bytes, const char *what, uint64_t *offset)
{
    struct room *r = calloc(1, sizeof *r);
    int err;

    if (!r)
        return base_fail(-ENOMEM, "reserve NVMe space for %s: out of memory", what);
    if (slot_bytes > INT64_MAX / 4) {
        free(r);
        return base_fail(-OFL_EBUDGET, "reserve NVMe space for %s: %llu bytes, twice: no file holds that",
                         what, (ull)slot_bytes);
    }
    r->bytes = slots(k) * blocks(slot_bytes);
    r->taken = true;
    pthread_mutex_lock(&k->lock);
    err = store_take(k->store, r->bytes, what, &r->offset);
    if (err == 0) {
        base_tree_insert(&k->rooms, &r->by_offset);
        *offset = r->offset;
    }
    pthread_mutex_unlock(&k->lock);
    if (err < 0)
        free(r);
    return err;
}

void kept_give(struct kept *k, uint64_t offset, uint64_t slot_bytes)
{
    struct room *r;

    pthread_mutex_lock(&k->lock);
    r = find_room(k, offset, slots(k) * blocks(slot_bytes));
    assert(r && r->taken);
    if (r) {
        r->taken = false;
        free_room(k, r);
    }
    pthread_mutex_unlock(&k->lock);
}

/* ---- commit ------------------------------------------------------------------------- */

/* The rooms of what is to be committed stay from here on. */
static int mark_next(struct kept *k, const struct kept_tensor *tensors, uint32_t count)
{
    int err = 0;

    pthread_mutex_lock(&k->lock);
    for (uint32_t i = 0; i < count && err == 0; i++) {
        struct room *r = find_room(k, tensors[i].offset, slots(k) * tensors[i].slot_bytes);

        if (r)
            r->next = true;
        else
            err =
                base_fail(-EINVAL, "commit %s to %s: offset %llu, slots of %llu bytes: it has not taken them",
                          tensors[i].name, k->files.dir, (ull)tensors[i].offset, (ull)tensors[i].slot_bytes);
    }
    pthread_mutex_unlock(&k->lock);
    return err;
}

/* The commit is over: durable, or not; doubt: nobody knows. */
static void settle_rooms(struct kept *k, bool durable, bool doubt)
{
    struct base_node *at, *after;

    pthread_mutex_lock(&k->lock);
    if (durable)
        k->generation++;
    for (at = base_tree_first(&k->rooms); at; at = after) {
        struct room *r = room_of(at);

        after = base_tree_after(&k->rooms, at);
        if (durable)
            r->last = r->next;
        else if (doubt)
            r->last |= r->next;
        r->next = false;
        free_room(k, r);
    }
    pthread_mutex_unlock(&k->lock);
}

static int sync_data(struct kept *k)
{
    struct base_error why;
    int err = kept_calls.sync_data(k->file);

    if (err == 0)
        return 0;
    /* The kernel says so once, and has forgotten what it could not write. */
    base_error_save(&why, err);
    base_error_set(
        &k->dead, err,
        "commit to %s: %.700s: what was written since generation %llu may be lost: resume that one",
        k->files.dir, why.text, (ull)k->generation);
    return base_error_restore(&k->dead);
}

/* In the file that the last root does not name: what is written into it counts for nothing until a root says so. */
static int write_manifest(const struct kept *k, const struct kept_root *root, const uint8_t *bytes)
{
    int index = (int)(root->generation % 2), err;

    err = kept_calls.write(index ? KEPT_MANIFEST_1 : KEPT_MANIFEST_0, k->files.manifest[index], bytes,
                           root->manifest_bytes, 0);
    if (err == 0)
        err = kept_calls.sync(index ? KEPT_MANIFEST_1 : KEPT_MANIFEST_0, k->files.manifest[index]);
    return err < 0 ? base_fail_errno(err, "write %s/%s: offset 0, %llu bytes", k->files.dir,
                                     kept_manifest_name(root->generation), (ull)root->manifest_bytes)
                   : 0;
}

/* A root that failed may have reached the drive all the same, now or later. If its place can be emptied it has not;
 * else what is written next would go over tiles of a commit that may stand. */
static int write_root(struct kept *k, const struct kept_root *root)
{
    unsigned block = KEPT_ROOT_0 + (unsigned)(root->generation % 2);
    uint8_t bytes[KEPT_BLOCK];
    struct base_error why;
    int err;

    kept_root_encode(&k->head, root, bytes);
    err = kept_block_write(&k->files, block, bytes);
    if (err == 0)
        return 0;
    base_error_save(&why, err);
    memset(bytes, 0, sizeof bytes);
    if (kept_block_write(&k->files, block, bytes) < 0)
        base_error_set(
            &k->dead, err,
            "commit to %s: %.700s: nobody knows whether generation %llu or %llu is the last one: nothing "
            "can be committed any more",
            k->files.dir, why.text, (ull)root->generation - 1, (ull)root->generation);
    return base_error_restore(k->dead.code ? &k->dead : &why);
}

/* Of a commit, beside tensors: its manifest, and two roots, since one that failed is emptied. */
static uint64_t commit_bytes(const struct kept_root *root)
{
    return (root->manifest_bytes + KEPT_BLOCK - 1) / KEPT_BLOCK * KEPT_BLOCK + 2 * KEPT_BLOCK;
}

int kept_commit(struct kept *k, const struct kept_tensor *tensors, uint32_t count, uint64_t tile_bytes,
                const void *note, uint64_t note_bytes)
{
    const struct kept_state state = {.generation = k->generation + 1,
                                     .tile_bytes = tile_bytes,
                                     .tensors = tensors,
                                     .count = count,
                                     .note = note,
                                     .note_bytes = note_bytes};
    const struct kept_frame frame = {&k->head, state.generation, kept_reserved(k), k->files.dir};
    struct kept_root root = {.generation = state.generation};
    uint8_t *manifest = NULL;
    int err;

    if (k->dead.code)
        return base_error_restore(&k->dead);
    err = mark_next(k, tensors, count);
    if (err == 0)
        err = kept_manifest_encode(&frame, &state, &manifest, &root.manifest_bytes);
    if (err == 0)
        err = charge(k, "commit to", commit_bytes(&root));
    if (err == 0)
        err = sync_data(k);
    if (err == 0) {
        root.manifest_hash = store_seal(manifest, root.manifest_bytes);
        err = write_manifest(k, &root, manifest);
    }
    if (err == 0) {
        err = write_root(k, &root);
        if (err == 0)
            base_limit_give(k->written, KEPT_BLOCK); /* of the second one */
    }
    free(manifest);
    settle_rooms(k, err == 0, k->dead.code != 0);
    return err;
}

/* ---- what it is ----------------------------------------------------------------------- */

struct io_file *kept_file(struct kept *k)
{
    return k->file;
}

const char *kept_dir(const struct kept *k)
{
    return k->files.dir;
}

const char *kept_warning(const struct kept *k)
{
    return k->warning;
}

const struct kept_state *kept_state(const struct kept *k)
{
    return k->image ? &k->image->state : &k->none;
}

const struct kept_tensor *kept_find(const struct kept *k, const char *name)
{
    return k->image ? kept_image_find(k->image, name) : NULL;
}

/* Under the lock, since a commit may be under way on another thread. */
static uint64_t ask(const struct kept *k, uint64_t (*what)(const struct store *s))
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&k->lock;
    uint64_t n;

    pthread_mutex_lock(lock);
    n = what ? what(k->store) : k->generation;
    pthread_mutex_unlock(lock);
    return n;
}

uint64_t kept_generation(const struct kept *k)
{
    return ask(k, NULL);
}

uint64_t kept_budget(const struct kept *k)
{
    return store_budget(k->store);
}

uint64_t kept_memory(const struct kept *k)
{
    return store_memory(k->store);
}

uint64_t kept_used(const struct kept *k)
{
    return ask(k, store_used);
}

uint64_t kept_reserved(const struct kept *k)
{
    return ask(k, store_reserved);
}
