/* common: timelines, and the worst stalls in words. See common.h. */
#include "examples/common.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <stdio.h>

int common_timeline_open(struct ofl_ctx *ctx, const char *path)
{
    /* Who opens a FIFO waits for a reader; here a signal ends that. */
    int fd = path && access(path, F_OK) == 0 ? common_open_to_write(path, 0) : 0, err;

    if (fd == -ECANCELED)
        return common_fail(EXIT_INTERRUPTED, "--timeline %s: interrupted, nobody has read it", path);
    if (fd < 0)
        return common_fail(common_status(fd), "--timeline %s: %s", path, strerror(-fd));
    err = path ? ofl_timeline_open(ctx, path) : 0;
    if (fd > 0)
        close(fd);
    return err < 0 ? common_fail(common_status(err), "--timeline: %s", ofl_error()) : 0;
}

int common_timeline_close(struct ofl_ctx *ctx, const char *path)
{
    uint64_t events, dropped;
    int err;

    if (!path)
        return 0;
    err = ofl_timeline_close(ctx, &events, &dropped);
    if (err < 0)
        return common_fail(common_status_late(err), "--timeline: %s", ofl_error());
    common_line("timeline %s: %llu events%s", path, (unsigned long long)events,
                dropped ? "" : "; https://ui.perfetto.dev opens it");
    if (dropped)
        common_line("timeline %s: %llu events are missing: the file could not be written as fast", path,
                    (unsigned long long)dropped);
    return 0;
}

unsigned common_stalls(struct ofl_ctx *ctx, struct common_stall out[COMMON_STALLS])
{
    struct ofl_stall s = {.size = sizeof s};
    unsigned n = 0;

    for (; n < COMMON_STALLS && ofl_stall_get(ctx, n, &s) == 0; n++)
        snprintf(out[n].text, sizeof out[n].text, "stall     %.3f s for %s: %s (%llu times, longest %.3f s)",
                 (double)s.total_ns * 1e-9, s.tensor, s.text, (unsigned long long)s.count,
                 (double)s.longest_ns * 1e-9);
    return n;
}

json_t *common_stalls_json(struct ofl_ctx *ctx)
{
    struct ofl_stall s = {.size = sizeof s};
    json_t *all = json_array();
    int err = 0;

    for (uint32_t i = 0; i < COMMON_STALLS && ofl_stall_get(ctx, i, &s) == 0; i++)
        err |=
            json_array_append_new(all, json_pack("{s:s, s:s, s:f, s:f, s:I}", "tensor", s.tensor, "reason",
                                                 s.text, "total_s", (double)s.total_ns * 1e-9, "longest_s",
                                                 (double)s.longest_ns * 1e-9, "times", (json_int_t)s.count));
    if (err) {
        json_decref(all);
        return NULL;
    }
    return all;
}
