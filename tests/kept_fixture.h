/*
 * What the tests of kept stores share: a program that writes tensors into slots and commits them, a record of every
 * write and flush that this made, and a reader that trusts nothing but what the program remembers.
 */
#ifndef TESTS_KEPT_FIXTURE_H
#define TESTS_KEPT_FIXTURE_H

#include "liboffload/store/kept_impl.h"
#include "tests/core_fixture.h"

/* ---- the record of writes and flushes -------------------------------------- */

enum kept_event { KEPT_WROTE, KEPT_SYNCED, KEPT_COMMITTED };

struct kept_entry {
    enum kept_event what;
    enum kept_which which;
    uint64_t offset, bytes; /* KEPT_COMMITTED: bytes is the generation */
    uint8_t *data;
};

struct kept_record {
    struct kept_entry *entries;
    size_t count, room;
    bool on;
    unsigned forget_syncs; /* bits of enum kept_which: they don't happen (negative controls) */
    /* The call of that number (from 1) on fail_which fails with fail_code, after half of its bytes. */
    unsigned fail_at, calls;
    int fail_code;
    bool fail_on; /* all that come after it, too */
};

extern struct kept_record kept_record;

/* The store's calls go into the record from here on, without real flushes. */
void kept_record_start(void);
void kept_record_stop(void);
void kept_record_add(enum kept_event what, enum kept_which which, const void *data, uint64_t bytes,
                     uint64_t offset);

/* ---- a program ----------------------------------------------------------------- */

#define KEPT_TENSORS     4
#define KEPT_TILES       5
#define KEPT_BYTES       (KEPT_TILES * 8192u)
#define KEPT_GENERATIONS 64
#define KEPT_BUDGET      (1u << 20)

struct kept_thing {
    bool there;
    char name[24];
    uint64_t bytes, slot_bytes, tile_bytes, offset;
    uint32_t tiles_count;
    struct kept_tile tiles[KEPT_TILES], committed[KEPT_TILES];
    uint8_t content[KEPT_BYTES];
};

/* A commit that was tried. */
struct kept_past {
    struct kept_past *next;
    struct kept_thing things[KEPT_TENSORS];
};

struct kept_program {
    const char *dir;
    struct kept_config config;
    struct kept *k;
    int data_fd;
    struct random random;
    uint64_t serial;
    bool over_what_counts; /* negative control: writes go where the last commit has the tile */
    struct kept_thing things[KEPT_TENSORS];
    struct kept_past *history[KEPT_GENERATIONS]; /* by generation */
};

void kept_program_open(struct kept_program *p, const char *dir, uint64_t seed, bool in_place);
/* The store once more; what it says must be what was committed last. */
void kept_program_reopen(struct kept_program *p, bool clean);
void kept_program_close(struct kept_program *p);
/* Some tensors come, go, and are written to. */
void kept_program_step(struct kept_program *p);
void kept_program_write(struct kept_program *p, struct kept_thing *t, uint32_t tile);
struct kept_thing *kept_program_create(struct kept_program *p, uint64_t bytes, uint64_t tile_bytes);
void kept_program_destroy(struct kept_program *p, struct kept_thing *t);
/* Remembers what is committed, also if that fails. */
int kept_program_commit(struct kept_program *p);

/* ---- the reader ------------------------------------------------------------------- */

enum kept_verdict {
    KEPT_RIGHT,   /* each tile is sealed as it lies there, and is what was committed */
    KEPT_NONE,    /* nothing was committed */
    KEPT_REFUSED, /* -OFL_ETORN, -OFL_EFORMAT */
    KEPT_NOTICED, /* a tile is not as it was sealed */
    KEPT_USED,    /* wrong bytes, and nothing said so */
    KEPT_VERDICTS
};

struct kept_reading {
    enum kept_verdict verdict;
    uint64_t generation;
    bool warned;
};

/* data: of the whole data file. */
struct kept_reading kept_read_back(const struct kept_program *p, const char *dir, const uint8_t *data,
                                   uint64_t bytes);
/* Of an image alone. */
enum kept_verdict kept_compare(const struct kept_program *p, const struct kept_state *state,
                               const uint8_t *data, uint64_t bytes);

/* The files of a store in memory, by enum kept_which. */
struct kept_copy {
    uint8_t *bytes[4];
    uint64_t count[4], room[4];
};

void kept_copy_load(struct kept_copy *c, const char *dir);
void kept_copy_free(struct kept_copy *c);
void kept_copy_set(struct kept_copy *to, const struct kept_copy *from);
const char *kept_file_name(enum kept_which which);
/* Unlinks a store's files, and dir. */
void kept_remove(const char *dir);

#endif
