/*
 * Files of a kept store: whoever can write to the directory can write checksums, too, so they are made right here, and
 * what they cover is the input. The first byte says which part is tried.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "liboffload/store/kept_impl.h"
#include "liboffload/store/store.h"
#include "tests/fuzz/fuzz.h"

#define DATA_BYTES 65536u
#define COVERED    (KEPT_SECTOR - 8u) /* of a sector, by its checksum */
#define SECTORS    4u

static void stop(const char *what)
{
    fprintf(stderr, "fuzz: kept: %s: %s\n", what, base_error_text());
    abort();
}

static void need_error(int err)
{
    if (err >= 0 || err < -OFL_ETORN)
        stop("no code of ours");
    if (!base_error_text()[0])
        stop("a failure without a sentence");
    for (const char *c = base_error_text(); *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            stop("a control character in a sentence");
}

/* What was taken can be used: tiles lie in the file, and names are found. */
static void use(const struct kept_image *m, bool in_place)
{
    for (uint32_t i = 0; i < m->state.count; i++) {
        const struct kept_tensor *t = &m->tensors[i];

        if (kept_image_find(m, t->name) != t)
            stop("a tensor that is not found");
        for (uint32_t k = 0; k < t->tiles_count; k++)
            if (kept_tile_offset(t, k) + kept_tile_bytes(t, k) > DATA_BYTES || (in_place && t->tiles[k].slot))
                stop("a tile beyond the file");
    }
    if (m->state.bytes > DATA_BYTES)
        stop("more bytes than the file has");
}

static void run_manifest(const uint8_t *in, size_t bytes)
{
    struct kept_head head = {.in_place = bytes > 12 && in[12]};
    struct kept_frame frame = {&head, 1, DATA_BYTES, "manifest"};
    struct kept_image *m;
    int err;

    if (bytes >= 40) {
        memcpy(head.uuid, in + 16, sizeof head.uuid);
        frame.generation = kept_get(in + 32, 8);
    }
    err = kept_manifest_decode(&frame, in, bytes, &m);
    if (err < 0)
        need_error(err);
    else
        use(m, head.in_place);
    kept_image_free(m);
}

static void put(const char *dir, const char *name, const void *bytes, size_t count, uint64_t length)
{
    char path[400];
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || pwrite(fd, bytes, count, 0) != (ssize_t)count || ftruncate(fd, (off_t)length) < 0)
        stop("can't write");
    close(fd);
}

/* The four blocks, then the manifest that both roots name. */
static void run_store(const char *dir, const uint8_t *in, size_t bytes, bool repair)
{
    static uint8_t blocks[KEPT_BLOCKS * KEPT_BLOCK];
    size_t covered = SECTORS * COVERED, rest = bytes > covered ? bytes - covered : 0;
    struct kept_report report;
    int err;

    memset(blocks, 0, sizeof blocks);
    for (unsigned i = 0; i < SECTORS; i++) {
        uint8_t *block = blocks + i * KEPT_BLOCK;
        size_t from = (size_t)i * COVERED;

        if (bytes > from)
            memcpy(block, in + from, bytes - from < COVERED ? bytes - from : COVERED);
        if (i == KEPT_ROOT_0 || i == KEPT_ROOT_1)
            kept_put(block + 48, 8,
                     store_seal(in + bytes - rest,
                                kept_get(block + 40, 8) < rest ? kept_get(block + 40, 8) : rest));
        kept_put(block + COVERED, 8, store_seal(block, COVERED));
    }
    put(dir, KEPT_FILE_ROOTS, blocks, sizeof blocks, sizeof blocks);
    put(dir, "manifest-0.ofl", in + bytes - rest, rest, rest);
    put(dir, "manifest-1.ofl", in + bytes - rest, rest, rest);
    put(dir, KEPT_FILE_DATA, "", 0, DATA_BYTES);
    err = (repair ? kept_repair : kept_verify)(dir, NULL, NULL, &report);
    if (err < 0)
        need_error(err);
    else if (report.newest_whole == 0 && report.generations[0])
        stop("generations, and none is whole");
}

static int no_sync(enum kept_which which, int fd)
{
    (void)which;
    (void)fd;
    return 0;
}

void fuzz_kept(const char *dir, const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return;
    kept_calls.sync = no_sync;
    if (data[0] % 4 < 2)
        run_manifest(data + 1, bytes - 1);
    else
        run_store(dir, data + 1, bytes - 1, data[0] % 4 == 3);
}

/* ---- a seed ------------------------------------------------------------------------ */

unsigned char *fuzz_kept_seed(bool store, size_t *bytes)
{
    const struct kept_head head = {.uuid = "seed"};
    const struct kept_frame frame = {&head, 2, DATA_BYTES, "seed"};
    struct kept_tile tiles[3] = {{.seal = 1, .generation = 1, .there = 1},
                                 {.seal = 2, .generation = 2, .there = 1, .slot = 1},
                                 {.there = 0}};
    const struct kept_tensor tensors[2] = {
        {"weight", OFL_KIND_WEIGHT, OFL_F32, 1500, 6000, 4096, 2, 0, 8192, tiles},
        {"weight.exp_avg", OFL_KIND_OPTIMIZER, OFL_BF16, 100, 200, 4096, 1, 16384, 4096, tiles + 2}};
    const struct kept_state state = {2, 4096, tensors, 2, "note", 4, 0};
    size_t before = store ? 1 + SECTORS * COVERED : 1;
    uint8_t block[KEPT_BLOCK], *manifest;
    uint64_t count;
    unsigned char *out;

    if (kept_manifest_encode(&frame, &state, &manifest, &count) < 0 || !(out = calloc(1, before + count)))
        abort();
    out[0] = store ? 2 : 0;
    for (unsigned i = 0; store && i < SECTORS; i++) {
        const struct kept_root root = {2 - i % 2, count, 0};

        if (i == KEPT_HEAD)
            kept_head_encode(&head, block);
        else if (i == KEPT_CLEAN)
            kept_clean_encode(&head, 2, block);
        else
            kept_root_encode(&head, &root, block);
        memcpy(out + 1 + i * COVERED, block, COVERED);
    }
    memcpy(out + before, manifest, count);
    free(manifest);
    *bytes = before + count;
    return out;
}
