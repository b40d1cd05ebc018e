/*
 * Places: what a path's bytes lie on, for those who must know before they move any there. Owns
 * nothing: a scratch file is made, looked at and gone.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/drive.h"
#include "io/io.h"

static void take_part(const struct io_file *f, struct io_place *out)
{
    struct io_part_info part;

    io_file_part(f, 0, &part);
    out->direct = part.direct;
    out->reserved = part.reserved;
    out->in_memory |= part.in_memory;
    memcpy(out->note, part.note, sizeof out->note);
    memcpy(out->space_note, part.space_note, sizeof out->space_note);
    memcpy(out->drive_note, part.drive_note, sizeof out->drive_note);
}

int io_place_get(const char *path, struct io_place *out)
{
    struct io_file *f = NULL;
    struct io_drive d;
    struct stat st;
    int rc = io_drive_get(path, &d);

    *out = (struct io_place){0};
    if (rc < 0)
        return rc;
    if (stat(path, &st) < 0)
        return base_fail_errno(-errno, "look at %s", path);
    out->in_memory = d.memory[0] != '\0';
    out->cached = d.cached[0] != '\0';
    out->free_bytes = d.free_bytes;
    io_drive_caveat(&d, out->drive_note, sizeof out->drive_note);
    if (S_ISDIR(st.st_mode)) {
        out->writable =
            !d.read_only && access(path, W_OK | X_OK) == 0 && io_file_open_scratch(path, 0, &f) == 0;
    } else if (S_ISREG(st.st_mode)) {
        rc = io_file_open_read(path, 0, &f);
    }
    if (f)
        take_part(f, out);
    io_file_close(f);
    return rc;
}
