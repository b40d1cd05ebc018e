/* Blocks of a kept store's root file: see kept_impl.h. Each has a magic number, a version and its own checksum, in one
 * sector. Owns no file. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "liboffload/store/kept_impl.h"
#include "liboffload/store/store.h"

#define AT_CHECKSUM (KEPT_SECTOR - 8u)
#define IN_PLACE    1u /* flag */

static const char head_magic[8] = "OFLKEPT", root_magic[8] = "OFLROOT", clean_magic[8] = "OFLCLEA";

void kept_put(uint8_t *at, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

uint64_t kept_get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void begin(uint8_t *block, const char *magic, const struct kept_head *h)
{
    memset(block, 0, KEPT_BLOCK);
    memcpy(block, magic, 8);
    kept_put(block + 8, 4, KEPT_VERSION);
    kept_put(block + 12, 4, h->in_place ? IN_PLACE : 0);
    memcpy(block + 16, h->uuid, sizeof h->uuid);
}

static void end(uint8_t *block)
{
    kept_put(block + AT_CHECKSUM, 8, store_seal(block, AT_CHECKSUM));
}

/* NULL, or what is wrong. *newer: a later version's, whose blocks say no more to us. */
static const char *look_at(const uint8_t *block, const char *magic, struct kept_head *h, bool *newer)
{
    *newer = false;
    if (memcmp(block, magic, 8) != 0)
        return "it has not the magic number";
    if (kept_get(block + AT_CHECKSUM, 8) != store_seal(block, AT_CHECKSUM))
        return "its checksum differs";
    *newer = kept_get(block + 8, 4) > KEPT_VERSION;
    if (kept_get(block + 8, 4) != KEPT_VERSION)
        return *newer ? "it is of a later version" : "it has no version";
    if (kept_get(block + 12, 4) & ~(uint64_t)IN_PLACE)
        return "it has unknown flags";
    h->in_place = kept_get(block + 12, 4) & IN_PLACE;
    memcpy(h->uuid, block + 16, sizeof h->uuid);
    return NULL;
}

void kept_head_encode(const struct kept_head *h, uint8_t *block)
{
    begin(block, head_magic, h);
    end(block);
}

int kept_head_decode(const uint8_t *block, const char *dir, struct kept_head *h, bool *newer)
{
    const char *why = look_at(block, head_magic, h, newer);

    if (!why)
        return 0;
    if (*newer)
        return base_fail(-OFL_EFORMAT, "open kept store in %s: %s: version %u, this library knows %u", dir,
                         KEPT_FILE_ROOTS, (unsigned)kept_get(block + 8, 4), KEPT_VERSION);
    return base_fail(
        -OFL_EFORMAT,
        "open kept store in %s: %s, offset 0, %u bytes: %s: `ofl-bench store verify --repair` makes it "
        "anew if a root is whole",
        dir, KEPT_FILE_ROOTS, KEPT_SECTOR, why);
}

void kept_root_encode(const struct kept_head *h, const struct kept_root *r, uint8_t *block)
{
    begin(block, root_magic, h);
    kept_put(block + 32, 8, r->generation);
    kept_put(block + 40, 8, r->manifest_bytes);
    kept_put(block + 48, 8, r->manifest_hash);
    end(block);
}

static bool is_empty(const uint8_t *block)
{
    for (unsigned i = 0; i < KEPT_SECTOR; i++)
        if (block[i])
            return false;
    return true;
}

enum kept_answer kept_root_decode(const uint8_t *block, unsigned place, const struct kept_head *h,
                                  struct kept_root *r, struct kept_head *of, char *why)
{
    struct kept_head own = {.in_place = false};
    const char *what;
    bool newer;

    why[0] = '\0';
    if (is_empty(block))
        return KEPT_EMPTY;
    what = look_at(block, root_magic, &own, &newer);
    r->generation = kept_get(block + 32, 8);
    r->manifest_bytes = kept_get(block + 40, 8);
    r->manifest_hash = kept_get(block + 48, 8);
    if (!what && h && (memcmp(own.uuid, h->uuid, sizeof own.uuid) != 0 || own.in_place != h->in_place))
        what = "it is another store's";
    if (!what && (r->generation == 0 || r->generation >> 62 || r->generation % 2 != place))
        what = "its generation can't be in this place";
    if (!what) {
        if (of)
            *of = own;
        return KEPT_WHOLE;
    }
    snprintf(why, KEPT_WHY_MAX, "%s, offset %u, %u bytes: root %u is damaged: %s", KEPT_FILE_ROOTS,
             (KEPT_ROOT_0 + place) * KEPT_BLOCK, KEPT_SECTOR, place, what);
    return KEPT_BAD;
}

void kept_clean_encode(const struct kept_head *h, uint64_t generation, uint8_t *block)
{
    begin(block, clean_magic, h);
    kept_put(block + 32, 8, generation);
    end(block);
}

uint64_t kept_clean_decode(const uint8_t *block, const struct kept_head *h)
{
    struct kept_head own = {.in_place = false};
    bool newer;

    if (look_at(block, clean_magic, &own, &newer) || memcmp(own.uuid, h->uuid, sizeof own.uuid) != 0)
        return 0;
    return kept_get(block + 32, 8);
}
