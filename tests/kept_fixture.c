/* See kept_fixture.h. */
#include "tests/kept_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/store/store.h"

/* ---- the record ---------------------------------------------------------------- */

struct kept_record kept_record;
static struct kept_calls real;

static void *need(void *memory)
{
    if (!memory)
        fail_msg("no memory");
    return memory;
}

void kept_record_add(enum kept_event what, enum kept_which which, const void *data, uint64_t bytes,
                     uint64_t offset)
{
    struct kept_record *r = &kept_record;
    struct kept_entry *e;

    if (!r->on)
        return;
    if (r->count == r->room) {
        r->room = r->room ? 2 * r->room : 256;
        r->entries = need(realloc(r->entries, r->room * sizeof *r->entries));
    }
    e = &r->entries[r->count++];
    *e = (struct kept_entry){.what = what, .which = which, .offset = offset, .bytes = bytes};
    if (data) {
        e->data = need(malloc(bytes + 1));
        memcpy(e->data, data, bytes);
    }
}

static bool fails(void)
{
    struct kept_record *r = &kept_record;

    r->calls++;
    return r->fail_at && (r->calls == r->fail_at || (r->fail_on && r->calls > r->fail_at));
}

static int record_write(enum kept_which which, int fd, const void *bytes, uint64_t count, uint64_t offset)
{
    if (fails()) {
        kept_record_add(KEPT_WROTE, which, bytes, count / 2, offset);
        (void)real.write(which, fd, bytes, count / 2, offset);
        return kept_record.fail_code;
    }
    kept_record_add(KEPT_WROTE, which, bytes, count, offset);
    return real.write(which, fd, bytes, count, offset);
}

static int record_sync(enum kept_which which, int fd)
{
    (void)fd;
    if (fails())
        return kept_record.fail_code;
    if (!(kept_record.forget_syncs & 1u << which))
        kept_record_add(KEPT_SYNCED, which, NULL, 0, 0);
    return 0;
}

static int record_sync_data(struct io_file *f)
{
    int err = record_sync(KEPT_DATA, -1);

    return err < 0 ? base_fail_errno(err, "sync %s", io_file_path(f)) : 0;
}

void kept_record_start(void)
{
    kept_record_stop();
    if (!real.write)
        real = kept_calls;
    kept_calls = (struct kept_calls){record_write, record_sync, record_sync_data};
    kept_record.on = true;
}

void kept_record_stop(void)
{
    if (real.write)
        kept_calls = real;
    for (size_t i = 0; i < kept_record.count; i++)
        free(kept_record.entries[i].data);
    free(kept_record.entries);
    kept_record = (struct kept_record){.count = 0};
}

/* ---- the program ------------------------------------------------------------------ */

static void open_store(struct kept_program *p)
{
    char path[256];

    if (kept_open(&p->config, &p->k) < 0)
        fail_msg("%s", base_error_text());
    snprintf(path, sizeof path, "%s/%s", p->dir, KEPT_FILE_DATA);
    p->data_fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(p->data_fd >= 0);
}

void kept_program_open(struct kept_program *p, const char *dir, uint64_t seed, bool in_place)
{
    memset(p, 0, sizeof *p);
    p->dir = dir;
    p->random.state = seed;
    p->config = (struct kept_config){
        .dir = dir, .bytes = KEPT_BUDGET, .file_flags = IO_FILE_BUFFERED, .in_place = in_place};
    open_store(p);
}

void kept_program_reopen(struct kept_program *p, bool clean)
{
    uint64_t generation = kept_generation(p->k);
    struct kept_copy copy = {.count = {0}};

    kept_close(p->k, clean);
    close(p->data_fd);
    open_store(p);
    assert_int_equal(kept_generation(p->k), generation);
    kept_copy_load(&copy, p->dir);
    if (generation)
        assert_int_equal(kept_compare(p, kept_state(p->k), copy.bytes[KEPT_DATA], copy.count[KEPT_DATA]),
                         KEPT_RIGHT);
    kept_copy_free(&copy);
    assert_int_equal(kept_state(p->k)->generation, generation);
}

void kept_program_close(struct kept_program *p)
{
    kept_close(p->k, false);
    close(p->data_fd);
    for (int i = 0; i < KEPT_GENERATIONS; i++)
        while (p->history[i]) {
            struct kept_past *past = p->history[i];

            p->history[i] = past->next;
            free(past);
        }
}

struct kept_thing *kept_program_create(struct kept_program *p, uint64_t bytes, uint64_t tile_bytes)
{
    struct kept_thing *t = p->things;

    while (t->there)
        t++;
    memset(t, 0, sizeof *t);
    t->bytes = bytes;
    t->tile_bytes = tile_bytes;
    t->tiles_count = (uint32_t)((bytes - 1) / tile_bytes + 1);
    t->slot_bytes = (bytes + KEPT_BLOCK - 1) / KEPT_BLOCK * KEPT_BLOCK;
    snprintf(t->name, sizeof t->name, "tensor.%llu", (unsigned long long)p->serial++);
    if (kept_take(p->k, bytes, t->name, &t->offset) < 0)
        fail_msg("%s", base_error_text());
    t->there = true;
    return t;
}

void kept_program_destroy(struct kept_program *p, struct kept_thing *t)
{
    kept_give(p->k, t->offset, t->slot_bytes);
    t->there = false;
}

void kept_program_write(struct kept_program *p, struct kept_thing *t, uint32_t tile)
{
    struct kept_tile *x = &t->tiles[tile], *c = &t->committed[tile];
    uint64_t from = t->tile_bytes * tile,
             bytes = t->bytes - from < t->tile_bytes ? t->bytes - from : t->tile_bytes;
    uint64_t at;

    for (uint64_t i = 0; i < bytes; i++)
        t->content[from + i] = (uint8_t)random_next(&p->random);
    if (c->there && !p->config.in_place)
        x->slot = p->over_what_counts ? c->slot : !c->slot;
    x->there = 1;
    x->generation = (kept_generation(p->k) + 1) & ((1ull << 62) - 1);
    x->seal = store_seal(t->content + from, bytes);
    at = t->offset + from + (x->slot ? t->slot_bytes : 0);
    kept_record_add(KEPT_WROTE, KEPT_DATA, t->content + from, bytes, at);
    assert_int_equal(pwrite(p->data_fd, t->content + from, bytes, (off_t)at), bytes);
}

void kept_program_step(struct kept_program *p)
{
    for (int i = 0; i < KEPT_TENSORS; i++) {
        struct kept_thing *t = &p->things[i];

        if (t->there && random_below(&p->random, 12) == 0)
            kept_program_destroy(p, t);
        else if (!t->there && random_below(&p->random, 3) == 0) {
            uint64_t tile = random_below(&p->random, 2) ? 4096 : 8192;

            t = kept_program_create(p, 1 + random_below(&p->random, KEPT_TILES * tile), tile);
        }
        for (uint32_t k = 0; t->there && k < t->tiles_count; k++)
            if (random_below(&p->random, 3) == 0)
                kept_program_write(p, t, k);
    }
}

int kept_program_commit(struct kept_program *p)
{
    struct kept_tensor list[KEPT_TENSORS];
    struct kept_past **past = &p->history[kept_generation(p->k) + 1], *own = need(malloc(sizeof *own));
    uint32_t count = 0;
    int err;

    assert_true(kept_generation(p->k) + 1 < KEPT_GENERATIONS);
    for (int i = 0; i < KEPT_TENSORS; i++) {
        struct kept_thing *t = &p->things[i];

        if (t->there)
            list[count++] = (struct kept_tensor){.name = t->name,
                                                 .kind = OFL_KIND_WEIGHT,
                                                 .dtype = OFL_U8,
                                                 .elems = t->bytes,
                                                 .bytes = t->bytes,
                                                 .tile_bytes = t->tile_bytes,
                                                 .tiles_count = t->tiles_count,
                                                 .offset = t->offset,
                                                 .slot_bytes = t->slot_bytes,
                                                 .tiles = t->tiles};
    }
    own->next = *past;
    *past = own;
    memcpy(own->things, p->things, sizeof own->things);
    err = kept_commit(p->k, list, count, 8192, p->dir, 5);
    if (err < 0)
        return err;
    kept_record_add(KEPT_COMMITTED, KEPT_ROOTS, NULL, kept_generation(p->k), 0);
    for (int i = 0; i < KEPT_TENSORS; i++)
        memcpy(p->things[i].committed, p->things[i].tiles, sizeof p->things[i].tiles);
    return 0;
}

/* ---- the reader --------------------------------------------------------------------- */

static const struct kept_thing *remembered(const struct kept_past *past, const char *name)
{
    for (int i = 0; i < KEPT_TENSORS; i++)
        if (past->things[i].there && strcmp(past->things[i].name, name) == 0)
            return &past->things[i];
    return NULL;
}

static uint32_t remembered_count(const struct kept_past *past)
{
    uint32_t n = 0;

    for (int i = 0; i < KEPT_TENSORS; i++)
        n += past->things[i].there;
    return n;
}

/* By the program's memory; seals first, as who reads in earnest does. */
static enum kept_verdict compare_tile(const struct kept_tensor *t, const struct kept_thing *m, uint32_t k,
                                      const uint8_t *data, uint64_t data_bytes)
{
    uint64_t at = kept_tile_offset(t, k), bytes = kept_tile_bytes(t, k);

    if (!t->tiles[k].there)
        return m->tiles[k].there ? KEPT_USED : KEPT_RIGHT;
    if (at + bytes > data_bytes || store_seal(data + at, bytes) != t->tiles[k].seal)
        return KEPT_NOTICED;
    return m->tiles[k].there && memcmp(data + at, m->content + m->tile_bytes * k, bytes) == 0 ? KEPT_RIGHT
                                                                                              : KEPT_USED;
}

static enum kept_verdict compare_past(const struct kept_past *past, const struct kept_state *state,
                                      const uint8_t *data, uint64_t bytes)
{
    enum kept_verdict worst = KEPT_RIGHT;

    if (state->count != remembered_count(past) || state->note_bytes != 5)
        return KEPT_USED;
    for (uint32_t i = 0; i < state->count; i++) {
        const struct kept_tensor *t = &state->tensors[i];
        const struct kept_thing *m = remembered(past, t->name);

        if (!m || m->bytes != t->bytes || m->tile_bytes != t->tile_bytes || m->offset != t->offset)
            return KEPT_USED;
        for (uint32_t k = 0; k < t->tiles_count; k++) {
            enum kept_verdict one = compare_tile(t, m, k, data, bytes);

            worst = one > worst ? one : worst;
        }
    }
    return worst;
}

/* Of a generation that was tried more than once, one is right. */
enum kept_verdict kept_compare(const struct kept_program *p, const struct kept_state *state,
                               const uint8_t *data, uint64_t bytes)
{
    enum kept_verdict best = KEPT_USED;

    for (const struct kept_past *past = state->generation < KEPT_GENERATIONS ? p->history[state->generation]
                                                                             : NULL;
         past; past = past->next) {
        enum kept_verdict one = compare_past(past, state, data, bytes);

        best = one < best ? one : best;
    }
    return best;
}

struct kept_reading kept_read_back(const struct kept_program *p, const char *dir, const uint8_t *data,
                                   uint64_t bytes)
{
    struct kept_reading r = {.verdict = KEPT_NONE};
    struct kept_chosen chosen = {.image = NULL};
    struct kept_files files;
    int err = kept_files_open(dir, KEPT_RUN, &files);

    if (err == 0)
        err = kept_choose(&files, bytes, p->config.in_place, &chosen);
    if (err == -OFL_ETORN || err == -OFL_EFORMAT)
        r.verdict = KEPT_REFUSED;
    else if (err < 0)
        fail_msg("%s", base_error_text());
    if (chosen.image) {
        r.generation = chosen.image->state.generation;
        r.verdict = kept_compare(p, &chosen.image->state, data, bytes);
        r.warned = chosen.warning[0] != '\0';
    }
    kept_image_free(chosen.image);
    kept_files_close(&files);
    return r;
}

/* ---- copies --------------------------------------------------------------------------- */

const char *kept_file_name(enum kept_which which)
{
    static const char *const names[] = {KEPT_FILE_ROOTS, "manifest-0.ofl", "manifest-1.ofl", KEPT_FILE_DATA};

    return names[which];
}

void kept_copy_load(struct kept_copy *c, const char *dir)
{
    for (int i = 0; i < 4; i++) {
        char path[256];
        struct stat st;
        int fd;

        snprintf(path, sizeof path, "%s/%s", dir, kept_file_name((enum kept_which)i));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        c->count[i] = (uint64_t)st.st_size;
        c->room[i] = c->count[i] + (64u << 10);
        free(c->bytes[i]);
        c->bytes[i] = need(calloc(1, c->room[i]));
        assert_int_equal(kept_read(fd, c->bytes[i], c->count[i], 0), c->count[i]);
        close(fd);
    }
}

void kept_copy_free(struct kept_copy *c)
{
    for (int i = 0; i < 4; i++)
        free(c->bytes[i]);
    *c = (struct kept_copy){.count = {0}};
}

void kept_copy_set(struct kept_copy *to, const struct kept_copy *from)
{
    for (int i = 0; i < 4; i++) {
        if (to->room[i] < from->room[i])
            to->bytes[i] = need(realloc(to->bytes[i], from->room[i]));
        to->room[i] = from->room[i] > to->room[i] ? from->room[i] : to->room[i];
        to->count[i] = from->count[i];
        memcpy(to->bytes[i], from->bytes[i], from->count[i]);
    }
}

void kept_remove(const char *dir)
{
    for (int i = 0; i < 4; i++) {
        char path[256];

        snprintf(path, sizeof path, "%s/%s", dir, kept_file_name((enum kept_which)i));
        if (unlink(path) < 0)
            fail_msg("unlink %s: %s", path, strerror(errno));
    }
    if (rmdir(dir) < 0)
        fail_msg("rmdir %s: %s", dir, strerror(errno));
}
