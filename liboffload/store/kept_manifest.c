/*
 * Manifests of kept stores: what a generation is made of, as bytes and in memory. Whoever reads one trusts nothing of
 * it: its hash in the root tells of accidents, and all else is checked here. Owns no file. docs/format.md has the bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/error.h"
#include "liboffload/store/kept_impl.h"

#define HEAD_BYTES   96u
#define TENSOR_BYTES 56u
#define TILE_BYTES   16u
#define THERE        (1ull << 62)
#define SLOT         (1ull << 63)

typedef unsigned long long ull;

static const char magic[8] = "OFLMANI";

/* ---- what tensors have to be ------------------------------------------------- */

/* Who checks, and what a violation is to him. */
struct judge {
    const struct kept_frame *frame;
    const struct kept_state *state;
    int code;
};

static int bad_tensor(const struct judge *j, uint32_t i, const char *why)
{
    return base_fail(j->code, "%s, generation %llu: tensor %u: %s", j->frame->path, (ull)j->frame->generation,
                     i, why);
}

static bool is_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return false;
    return *name;
}

static uint64_t room_of(const struct judge *j, const struct kept_tensor *t)
{
    return j->frame->head->in_place ? t->slot_bytes : 2 * t->slot_bytes;
}

static int check_shape(const struct judge *j, uint32_t i)
{
    const struct kept_tensor *t = &j->state->tensors[i];
    const struct base_dtype *d = t->dtype < OFL_DTYPES ? base_dtype(t->dtype) : NULL;
    uint64_t bytes;

    if (!is_name(t->name))
        return bad_tensor(j, i, "its name is empty, or has control characters");
    if (strlen(t->name) > KEPT_NAME_MAX)
        return bad_tensor(j, i, "its name has more than 65535 bytes");
    if (!d || t->kind >= OFL_KINDS)
        return bad_tensor(j, i, "unknown dtype or kind");
    if (t->elems == 0 || base_dtype_bytes(d, t->elems, &bytes) < 0 || bytes != t->bytes)
        return bad_tensor(j, i, "its bytes are not those of its elements");
    if (t->tile_bytes == 0 || t->tile_bytes > j->state->tile_bytes ||
        t->tiles_count != (t->bytes - 1) / t->tile_bytes + 1)
        return bad_tensor(j, i, "its tiles don't make up its bytes");
    return 0;
}

static int check_room(const struct judge *j, uint32_t i)
{
    const struct kept_tensor *t = &j->state->tensors[i];

    if (t->offset % KEPT_BLOCK || t->slot_bytes % KEPT_BLOCK)
        return bad_tensor(j, i, "its room is not whole blocks");
    if (t->slot_bytes < t->bytes || t->slot_bytes > INT64_MAX)
        return bad_tensor(j, i, "its slots don't hold it");
    if (t->offset > j->frame->data_bytes || room_of(j, t) > j->frame->data_bytes - t->offset)
        return bad_tensor(j, i, "its room lies beyond the end of " KEPT_FILE_DATA);
    return 0;
}

static int check_tiles(const struct judge *j, uint32_t i)
{
    const struct kept_tensor *t = &j->state->tensors[i];

    for (uint32_t k = 0; k < t->tiles_count; k++) {
        const struct kept_tile *x = &t->tiles[k];

        if (!x->there)
            continue;
        if (x->generation == 0 || x->generation > j->frame->generation)
            return bad_tensor(j, i, "a tile is newer than the generation, or of none");
        if (x->slot && j->frame->head->in_place)
            return bad_tensor(j, i, "a tile is in a slot that a store in place has not");
    }
    return 0;
}

static int by_name(const void *a, const void *b, void *arg)
{
    const struct kept_tensor *t = arg;

    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static int by_offset(const void *a, const void *b, void *arg)
{
    const struct kept_tensor *t = arg;
    uint64_t x = t[*(const uint32_t *)a].offset, y = t[*(const uint32_t *)b].offset;

    return (x > y) - (x < y);
}

/* Names are theirs alone, rooms too. order: [count]; by name in the end. */
static int check_apart(const struct judge *j, uint32_t *order)
{
    const struct kept_tensor *t = j->state->tensors;
    uint32_t count = j->state->count;

    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    qsort_r(order, count, sizeof *order, by_offset, (void *)t);
    for (uint32_t i = 1; i < count; i++)
        if (t[order[i]].offset - t[order[i - 1]].offset < room_of(j, &t[order[i - 1]]))
            return bad_tensor(j, order[i], "its room is another one's, too");
    qsort_r(order, count, sizeof *order, by_name, (void *)t);
    for (uint32_t i = 1; i < count; i++)
        if (strcmp(t[order[i]].name, t[order[i - 1]].name) == 0)
            return bad_tensor(j, order[i], "its name is another one's, too");
    return 0;
}

static int check(const struct kept_frame *frame, const struct kept_state *state, int code, uint32_t *order)
{
    const struct judge j = {frame, state, code};
    int err = 0;

    if (state->note_bytes > OFL_NOTE_MAX)
        return base_fail(code, "%s, generation %llu: a note of %llu bytes, more than %u", frame->path,
                         (ull)frame->generation, (ull)state->note_bytes, OFL_NOTE_MAX);
    for (uint32_t i = 0; i < state->count && err == 0; i++) {
        err = check_shape(&j, i);
        if (err == 0)
            err = check_room(&j, i);
        if (err == 0)
            err = check_tiles(&j, i);
    }
    return err == 0 ? check_apart(&j, order) : err;
}

/* ---- encode ------------------------------------------------------------------- */

static void put_head(uint8_t *out, const struct kept_frame *frame, const struct kept_state *state,
                     uint64_t tiles, uint64_t names, uint64_t bytes)
{
    memset(out, 0, HEAD_BYTES);
    memcpy(out, magic, sizeof magic);
    kept_put(out + 8, 4, KEPT_VERSION);
    kept_put(out + 12, 4, frame->head->in_place);
    memcpy(out + 16, frame->head->uuid, sizeof frame->head->uuid);
    kept_put(out + 32, 8, frame->generation);
    kept_put(out + 40, 8, bytes);
    kept_put(out + 48, 8, state->tile_bytes);
    kept_put(out + 56, 8, state->count);
    kept_put(out + 64, 8, tiles);
    kept_put(out + 72, 8, names);
    kept_put(out + 80, 8, state->note_bytes);
}

static void put_tensor(uint8_t *at, const struct kept_tensor *t)
{
    kept_put(at, 8, t->elems);
    kept_put(at + 8, 8, t->bytes);
    kept_put(at + 16, 8, t->tile_bytes);
    kept_put(at + 24, 8, t->offset);
    kept_put(at + 32, 8, t->slot_bytes);
    kept_put(at + 40, 4, t->tiles_count);
    kept_put(at + 44, 4, strlen(t->name));
    kept_put(at + 48, 4, t->kind);
    kept_put(at + 52, 4, t->dtype);
}

static void put_tile(uint8_t *at, const struct kept_tile *x)
{
    kept_put(at, 8, x->there ? x->seal : 0);
    kept_put(at + 8, 8, x->there ? x->generation | THERE | (x->slot ? SLOT : 0) : 0);
}

int kept_manifest_encode(const struct kept_frame *frame, const struct kept_state *state, uint8_t **out,
                         uint64_t *bytes)
{
    uint32_t *order = malloc(((size_t)state->count + 1) * sizeof *order);
    uint64_t tiles = 0, names = 0;
    uint8_t *at, *text;
    int err = order ? check(frame, state, -EINVAL, order) : -ENOMEM;

    *out = NULL;
    free(order);
    if (err == -EINVAL)
        return err;
    for (uint32_t i = 0; i < state->count && err == 0; i++) {
        tiles += state->tensors[i].tiles_count;
        names += strlen(state->tensors[i].name);
    }
    *bytes =
        HEAD_BYTES + (uint64_t)TENSOR_BYTES * state->count + TILE_BYTES * tiles + names + state->note_bytes;
    if (err == 0)
        *out = malloc(*bytes);
    if (!*out)
        return base_fail(-ENOMEM, "%s, generation %llu: %u tensors: out of memory", frame->path,
                         (ull)frame->generation, state->count);
    put_head(*out, frame, state, tiles, names, *bytes);
    at = *out + HEAD_BYTES;
    for (uint32_t i = 0; i < state->count; i++, at += TENSOR_BYTES)
        put_tensor(at, &state->tensors[i]);
    text = at + TILE_BYTES * tiles;
    for (uint32_t i = 0; i < state->count; i++) {
        const struct kept_tensor *t = &state->tensors[i];

        for (uint32_t k = 0; k < t->tiles_count; k++, at += TILE_BYTES)
            put_tile(at, &t->tiles[k]);
        memcpy(text, t->name, strlen(t->name));
        text += strlen(t->name);
    }
    if (state->note_bytes)
        memcpy(text, state->note, state->note_bytes);
    return 0;
}

/* ---- decode -------------------------------------------------------------------- */

static int bad(const struct kept_frame *frame, const char *why)
{
    return base_fail(-OFL_EFORMAT, "%s, generation %llu: %s", frame->path, (ull)frame->generation, why);
}

struct sizes {
    uint64_t tensors, tiles, names, note;
};

/* Sizes that the bytes are really as many as. */
static int get_head(const struct kept_frame *frame, const uint8_t *in, uint64_t bytes, struct sizes *s)
{
    uint64_t left = bytes - HEAD_BYTES;

    if (bytes < HEAD_BYTES || memcmp(in, magic, sizeof magic) != 0)
        return bad(frame, "no manifest");
    if (kept_get(in + 8, 4) != KEPT_VERSION)
        return base_fail(-OFL_EFORMAT, "%s, generation %llu: version %u, this library knows %u", frame->path,
                         (ull)frame->generation, (unsigned)kept_get(in + 8, 4), KEPT_VERSION);
    if (kept_get(in + 12, 4) != frame->head->in_place ||
        memcmp(in + 16, frame->head->uuid, sizeof frame->head->uuid) != 0)
        return bad(frame, "another store's manifest");
    if (kept_get(in + 32, 8) != frame->generation)
        return bad(frame, "another generation's manifest");
    s->tensors = kept_get(in + 56, 8);
    s->tiles = kept_get(in + 64, 8);
    s->names = kept_get(in + 72, 8);
    s->note = kept_get(in + 80, 8);
    if (kept_get(in + 40, 8) != bytes || kept_get(in + 88, 8) != 0)
        return bad(frame, "its length differs");
    if (s->tensors > UINT32_MAX || s->tensors > left / TENSOR_BYTES)
        return bad(frame, "it ends within its tensors");
    left -= s->tensors * TENSOR_BYTES;
    if (s->tiles > left / TILE_BYTES)
        return bad(frame, "it ends within its tiles");
    left -= s->tiles * TILE_BYTES;
    if (s->names > left || s->note != left - s->names)
        return bad(frame, "its names and its note are not what is left of it");
    return 0;
}

static struct kept_image *image_alloc(const struct sizes *s)
{
    struct kept_image *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->tensors = calloc(s->tensors + 1, sizeof *m->tensors);
    m->tiles = calloc(s->tiles + 1, sizeof *m->tiles);
    m->names = malloc(s->names + s->tensors + 1);
    m->by_name = malloc((s->tensors + 1) * sizeof *m->by_name);
    m->note = malloc(s->note + 1);
    if (m->tensors && m->tiles && m->names && m->by_name && m->note)
        return m;
    kept_image_free(m);
    return NULL;
}

static bool get_tile(const uint8_t *at, struct kept_tile *x)
{
    uint64_t word = kept_get(at + 8, 8);

    x->seal = kept_get(at, 8);
    x->generation = word & (THERE - 1);
    x->there = (word & THERE) != 0;
    x->slot = (word & SLOT) != 0;
    return x->there || (word == 0 && x->seal == 0);
}

/* Numbers of a tensor, its tiles and its name; *tile, *text: what others before it have of those. */
static int get_tensor(const struct kept_frame *frame, struct kept_image *m, const uint8_t *in,
                      const struct sizes *s, uint32_t i, uint64_t *tile, uint64_t *text)
{
    const uint8_t *at = in + HEAD_BYTES + (uint64_t)TENSOR_BYTES * i,
                  *tiles = in + HEAD_BYTES + TENSOR_BYTES * s->tensors;
    uint64_t name_bytes = kept_get(at + 44, 4), kind = kept_get(at + 48, 4), dtype = kept_get(at + 52, 4);
    struct kept_tensor *t = &m->tensors[i];
    char *name = m->names + *text + i; /* each has its 0 */

    t->elems = kept_get(at, 8);
    t->bytes = kept_get(at + 8, 8);
    t->tile_bytes = kept_get(at + 16, 8);
    t->offset = kept_get(at + 24, 8);
    t->slot_bytes = kept_get(at + 32, 8);
    t->tiles_count = (uint32_t)kept_get(at + 40, 4);
    t->kind = kind < OFL_KINDS ? (enum ofl_kind)kind : OFL_KINDS;
    t->dtype = dtype < OFL_DTYPES ? (enum ofl_dtype)dtype : OFL_DTYPES;
    if (t->tiles_count > s->tiles - *tile || name_bytes > s->names - *text)
        return bad(frame, "its tensors have more tiles or names than it has");
    t->tiles = m->tiles + *tile;
    for (uint32_t k = 0; k < t->tiles_count; k++)
        if (!get_tile(tiles + TILE_BYTES * (*tile + k), &t->tiles[k]))
            return bad(frame, "a tile that is not there has a seal");
    memcpy(name, tiles + TILE_BYTES * s->tiles + *text, name_bytes);
    name[name_bytes] = '\0';
    if (strlen(name) != name_bytes)
        return bad(frame, "a name has a zero in it");
    t->name = name;
    *tile += t->tiles_count;
    *text += name_bytes;
    return 0;
}

static uint64_t bytes_there(const struct kept_image *m)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < m->state.count; i++)
        for (uint32_t k = 0; k < m->tensors[i].tiles_count; k++)
            if (m->tensors[i].tiles[k].there)
                bytes += kept_tile_bytes(&m->tensors[i], k);
    return bytes;
}

int kept_manifest_decode(const struct kept_frame *frame, const uint8_t *in, uint64_t bytes,
                         struct kept_image **out)
{
    struct sizes s = {0};
    struct kept_image *m;
    uint64_t tile = 0, text = 0;
    int err = get_head(frame, in, bytes, &s);

    *out = NULL;
    if (err < 0)
        return err;
    m = image_alloc(&s);
    if (!m)
        return base_fail(-ENOMEM, "%s, generation %llu: %llu tensors, %llu tiles: out of memory", frame->path,
                         (ull)frame->generation, (ull)s.tensors, (ull)s.tiles);
    m->state = (struct kept_state){.generation = frame->generation,
                                   .tile_bytes = kept_get(in + 48, 8),
                                   .tensors = m->tensors,
                                   .count = (uint32_t)s.tensors,
                                   .note = m->note,
                                   .note_bytes = s.note};
    for (uint32_t i = 0; i < m->state.count && err == 0; i++)
        err = get_tensor(frame, m, in, &s, i, &tile, &text);
    if (err == 0 && (tile != s.tiles || text != s.names))
        err = bad(frame, "it has more tiles or names than its tensors");
    if (err == 0)
        err = check(frame, &m->state, -OFL_EFORMAT, m->by_name);
    if (err < 0) {
        kept_image_free(m);
        return err;
    }
    memcpy(m->note, in + bytes - s.note, s.note);
    m->state.bytes = bytes_there(m);
    *out = m;
    return 0;
}

/* ---- images --------------------------------------------------------------------- */

void kept_image_free(struct kept_image *m)
{
    if (!m)
        return;
    free(m->tensors);
    free(m->tiles);
    free(m->names);
    free(m->by_name);
    free(m->note);
    free(m);
}

const struct kept_tensor *kept_image_find(const struct kept_image *m, const char *name)
{
    uint32_t from = 0, to = m->state.count;

    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        const struct kept_tensor *t = &m->tensors[m->by_name[middle]];
        int order = strcmp(name, t->name);

        if (order == 0)
            return t;
        if (order < 0)
            to = middle;
        else
            from = middle + 1;
    }
    return NULL;
}
