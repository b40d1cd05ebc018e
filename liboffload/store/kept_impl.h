/*
 * A kept store's parts, inside its room: the blocks of its files (kept_format.c), manifests (kept_manifest.c), the
 * directory and its lock (kept_dir.c), what of it is whole (kept_load.c). kept.c is the store of a run, kept_verify.c
 * the look at it offline. docs/format.md has the bytes.
 */
#ifndef OFL_STORE_KEPT_IMPL_H
#define OFL_STORE_KEPT_IMPL_H

#include <sys/types.h>

#include "liboffload/store/kept.h"

#define KEPT_VERSION 1u

#define KEPT_FILE_ROOTS "store.ofl"
#define KEPT_FILE_NEW   "store.ofl.new" /* until all that it speaks of is there */
#define KEPT_FILE_DATA  "data.ofl"

/* Of KEPT_FILE_ROOTS, in blocks of KEPT_BLOCK. What a block has to say lies in its first sector: a drive writes that
 * whole or not at all. */
#define KEPT_SECTOR 512u
enum { KEPT_HEAD, KEPT_ROOT_0, KEPT_ROOT_1, KEPT_CLEAN, KEPT_BLOCKS };

#define KEPT_NAME_MAX 65535u /* bytes of a tensor's name */
#define KEPT_WHY_MAX  400u

enum kept_which { KEPT_ROOTS, KEPT_MANIFEST_0, KEPT_MANIFEST_1, KEPT_DATA };

/* All that makes a commit durable goes through these: tests take their place. 0 or -errno; sync_data: with the
 * sentence. */
struct kept_calls {
    int (*write)(enum kept_which which, int fd, const void *bytes, uint64_t count, uint64_t offset);
    int (*sync)(enum kept_which which, int fd);
    int (*sync_data)(struct io_file *f);
};
extern struct kept_calls kept_calls;

/* ---- blocks (kept_format.c) ---------------------------------------------- */

struct kept_head {
    uint8_t uuid[16];
    bool in_place;
};

struct kept_root {
    uint64_t generation; /* its place, and the manifest's file, is generation % 2 */
    uint64_t manifest_bytes, manifest_hash;
};

enum kept_answer { KEPT_EMPTY, KEPT_WHOLE, KEPT_BAD };

void kept_put(uint8_t *at, unsigned bytes, uint64_t value);
uint64_t kept_get(const uint8_t *at, unsigned bytes);

/* Blocks are of KEPT_BLOCK bytes. */
void kept_head_encode(const struct kept_head *h, uint8_t *block);
/* 0, or -OFL_EFORMAT with the sentence. *newer: it is whole, and a later version's. */
int kept_head_decode(const uint8_t *block, const char *dir, struct kept_head *h, bool *newer);
void kept_root_encode(const struct kept_head *h, const struct kept_root *r, uint8_t *block);
/* place: 0 or 1. h NULL: *of is what the root itself says of the store. why (KEPT_WHY_MAX): of what is bad. */
enum kept_answer kept_root_decode(const uint8_t *block, unsigned place, const struct kept_head *h,
                                  struct kept_root *r, struct kept_head *of, char *why);
void kept_clean_encode(const struct kept_head *h, uint64_t generation, uint8_t *block);
/* The generation that nothing was written after; 0: none. */
uint64_t kept_clean_decode(const uint8_t *block, const struct kept_head *h);

/* ---- manifests (kept_manifest.c) ------------------------------------------ */

struct kept_image {
    struct kept_state state;
    struct kept_tensor *tensors;
    struct kept_tile *tiles;
    char *names;
    uint32_t *by_name; /* [count] indices, sorted */
    void *note;
};

/* What a manifest has to agree with. */
struct kept_frame {
    const struct kept_head *head;
    uint64_t generation;
    uint64_t data_bytes; /* of the data file */
    const char *path;    /* for sentences */
};

/* What was encoded, for free(). -EINVAL with the sentence: the tensors are not as a manifest's have to be. -ENOMEM. */
int kept_manifest_encode(const struct kept_frame *frame, const struct kept_state *state, uint8_t **out,
                         uint64_t *bytes);
/* -OFL_EFORMAT with the sentence; -ENOMEM. */
int kept_manifest_decode(const struct kept_frame *frame, const uint8_t *in, uint64_t bytes,
                         struct kept_image **out);
void kept_image_free(struct kept_image *image); /* NULL accepted */
const struct kept_tensor *kept_image_find(const struct kept_image *image, const char *name);

static inline uint64_t kept_tile_bytes(const struct kept_tensor *t, uint32_t tile)
{
    return tile + 1 < t->tiles_count ? t->tile_bytes : t->bytes - t->tile_bytes * tile;
}

static inline uint64_t kept_tile_offset(const struct kept_tensor *t, uint32_t tile)
{
    return t->offset + (t->tiles[tile].slot ? t->slot_bytes : 0) + t->tile_bytes * tile;
}

/* ---- the directory (kept_dir.c) -------------------------------------------- */

enum kept_use {
    KEPT_LOOK, /* read only, beside others who look */
    KEPT_MEND, /* read and write, alone */
    KEPT_RUN,  /* likewise; what is not there is made */
};

struct kept_files {
    char *dir;
    int dir_fd, roots, manifest[2];
    bool made_dir, fresh; /* fresh: not a store until kept_files_publish */
    pid_t owner;          /* a fork's child must not unlock */
};

/* f: what is left of it after a failure is closed, and removed where it was made. */
int kept_files_open(const char *dir, enum kept_use use, struct kept_files *f);
/* Fresh ones become a store, durably: head and empty roots. */
int kept_files_publish(struct kept_files *f, const struct kept_head *head);
void kept_files_close(struct kept_files *f);
/* DIR/NAME, for free(); NULL: no memory. */
char *kept_path(const struct kept_files *f, const char *name);
const char *kept_manifest_name(uint64_t generation);
/* Reads so many bytes: fewer, and zeros behind, if the file ends. Bytes read, or -errno. */
int64_t kept_read(int fd, void *bytes, uint64_t count, uint64_t offset);
/* One block of KEPT_FILE_ROOTS, made durable. 0 or -errno with the sentence. */
int kept_block_write(const struct kept_files *f, unsigned block, const uint8_t *bytes);

/* ---- what is whole (kept_load.c) -------------------------------------------- */

struct kept_generation {
    struct kept_root root;
    unsigned place;
    struct kept_image *image; /* NULL: its manifest is bad */
    char why[KEPT_WHY_MAX];   /* that */
};

struct kept_found {
    struct kept_head head;
    bool head_bad;
    char head_why[KEPT_WHY_MAX];
    struct kept_generation named[2]; /* by roots that are whole, newest first */
    unsigned count;
    unsigned bad_count; /* roots that are neither whole nor empty */
    unsigned bad_place[2];
    char bad_why[2][KEPT_WHY_MAX];
    uint64_t clean; /* kept_clean_decode */
};

/* mend: a bad head is no error, and is taken from a root. -errno, -OFL_EFORMAT: the head; -ENOMEM. */
int kept_load(const struct kept_files *f, uint64_t data_bytes, bool mend, struct kept_found *out);
void kept_found_free(struct kept_found *found);

#define KEPT_WARNING_MAX (3 * KEPT_WHY_MAX)

/* What a run takes up: the newest generation that is named by a whole root and has a whole manifest. */
struct kept_chosen {
    struct kept_head head;
    struct kept_image *image; /* NULL: nothing was committed */
    char warning[KEPT_WARNING_MAX];
};

/* Errors as kept_open's. in_place: as it has to have been made. */
int kept_choose(const struct kept_files *f, uint64_t data_bytes, bool in_place, struct kept_chosen *out);

/* What is wrong with tiles of an image, as data_fd has them: told, and counted. Returns -errno with the sentence if
 * there is no memory. Stops after `most`. */
int kept_tiles_check(int data_fd, const struct kept_image *image,
                     void (*tell)(void *arg, const struct kept_finding *f), void *arg, uint64_t most,
                     uint64_t *bad);

#endif
