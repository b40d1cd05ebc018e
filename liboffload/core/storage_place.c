/* storage_place: what a path's bytes lie on, as the public header shows it. */
#include <stdio.h>

#include "base/sized.h"
#include "include/offload.h"
#include "io/io.h"

int ofl_place_get(const char *path, struct ofl_place *out)
{
    struct ofl_place p = {0};
    struct io_place place;
    const char *const notes[] = {place.note, place.space_note, place.drive_note};
    size_t at = 0;
    int err = io_place_get(path, &place);

    if (err < 0)
        return err;
    p.in_memory = place.in_memory;
    p.direct = place.direct;
    p.reserved = place.reserved;
    p.cached = place.cached;
    p.free_bytes = place.free_bytes;
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++)
        if (notes[i][0] && at < sizeof p.note)
            at += (size_t)snprintf(p.note + at, sizeof p.note - at, "%s%s", at ? "; " : "", notes[i]);
    return base_sized_write(out, &p, sizeof p, "look at a place: struct ofl_place");
}
