/* storage_place: what a path's bytes lie on, as the public header shows it. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/entry.h"
#include "base/error.h"
#include "base/sized.h"
#include "include/offload.h"
#include "io/io.h"
#include "io/profile.h"

int ofl_place_get(const char *path, struct ofl_place *out)
{
    struct ofl_place p = {0};
    struct io_place place;
    const char *const notes[] = {place.note, place.space_note, place.drive_note};
    size_t at = 0;
    int err = base_need(path, out);

    if (err == 0)
        err = io_place_get(path, &place);
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

int ofl_place_rates_get(const char *path, uint32_t measure, struct ofl_place_rates *out)
{
    struct ofl_place_rates r = {0};
    struct io_profile p;
    double age;
    int err = base_need(path, out);

    if (err < 0)
        return err;
    if (!measure || io_profile_measure_rates(path, &r.read_bps, &r.write_bps) < 0) {
        err = io_profile_get(path, 0, NULL, NULL, &p);
        if (err < 0)
            return err;
        if (p.origin != IO_PROFILE_CACHED)
            return base_fail(-ENODATA, "rates of %s: its drive was never measured", path);
        r.read_bps = p.read_bps;
        r.write_bps = p.write_bps;
        age = difftime(time(NULL), (time_t)p.measured_at);
        r.age_s = age > 1 ? (uint64_t)age : 1;
    }
    return base_sized_write(out, &r, sizeof r, "rates of a place: struct ofl_place_rates");
}
