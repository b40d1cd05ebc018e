/* Files of text that ofl-finetune trains on, as one stream of tokens. */
#include "examples/finetune.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/model/text.h"

#define PIECE_BYTES (256u << 10) /* that are encoded at once */

/* While a text becomes tokens, itself, what is normalized of it and the tokens take so many times its bytes:
 * measured were 5 to 6. */
#define TEXT_TIMES 7
#define TEXT_KEPT  (32ull << 20) /* for the rest of the program */

struct reading {
    struct data_files *f;
    const char *path;
    struct text_stream *stream;
    int status; /* of what takes the tokens */
    uint64_t bytes, ill_formed, first_bad;
    char buffer[PIECE_BYTES + 4];
    size_t kept; /* of it: the beginning of a character */
};

/* ---- tokens --------------------------------------------------------------- */

static int take(void *arg, const uint32_t *ids, size_t count)
{
    struct reading *r = arg;
    struct data *d = r->f->data;
    uint16_t narrow[1024];

    for (size_t i = 0; i < count && r->status == 0; i++)
        r->status = data_check_id(r->f, r->path, ids[i]);
    if (!d->narrow && r->status == 0)
        r->status = common_spool_add(&d->tokens_spool, ids, count);
    for (size_t i = 0; d->narrow && i < count && r->status == 0;) {
        size_t n = 0;

        for (; n < sizeof narrow / sizeof narrow[0] && i < count; n++)
            narrow[n] = (uint16_t)ids[i++];
        r->status = common_spool_add(&d->tokens_spool, narrow, n);
    }
    return r->status ? -ECANCELED : 0;
}

/* ---- is it text? ------------------------------------------------------------ */

static int refuse(const struct reading *r, const char *what)
{
    return common_fail(EXIT_INPUT, "%s %s: it is %s, not text in UTF-8: training on it would teach its bytes",
                       r->f->option, r->path, what);
}

/* A few parts that are not UTF-8 are in many texts; one in 500 bytes is another encoding, or no text at all. */
static int look(struct reading *r, const char *bytes, size_t count, bool end)
{
    struct text_look look;
    char what[160];

    text_look(bytes, count, &look);
    if (r->bytes == 0 && look.binary)
        return refuse(r, look.binary);
    if (look.nul) {
        snprintf(what, sizeof what, "binary (byte %llu is 0)",
                 (unsigned long long)(r->bytes + look.first_bad));
        return refuse(r, what);
    }
    if (look.ill_formed && r->ill_formed == 0)
        r->first_bad = r->bytes + look.first_bad;
    r->ill_formed += look.ill_formed;
    r->kept = count - look.looked;
    r->bytes += look.looked;
    if (r->ill_formed * 500 > r->bytes && (r->ill_formed > 16 || (end && r->ill_formed > 4))) {
        snprintf(
            what, sizeof what,
            "in another encoding or binary (%llu of the first %llu bytes are not UTF-8, byte %llu the first)",
            (unsigned long long)r->ill_formed, (unsigned long long)r->bytes,
            (unsigned long long)r->first_bad);
        return refuse(r, what);
    }
    return 0;
}

/* Who runs out of memory is killed without a word. */
static int check_room(const struct reading *r)
{
    uint64_t bytes = text_waiting(r->stream);
    struct common_room room;

    if (bytes < 8 * PIECE_BYTES)
        return 0;
    common_room(&room);
    if (room.bytes + bytes > TEXT_KEPT + bytes * TEXT_TIMES)
        return 0;
    return common_fail(
        EXIT_INPUT,
        "%s %s: %llu bytes without the beginning of a line or a word, where it could be cut: encoding "
        "them takes up to %d times that in memory for a while, but %s",
        r->f->option, r->path, (unsigned long long)bytes, TEXT_TIMES, room.text);
}

/* ---- reading ------------------------------------------------------------------ */

static int stream_failed(const struct reading *r, int err)
{
    if (r->status)
        return r->status;
    return common_fail(
        common_status(err), "encode %s, near byte %llu: %s", r->path, (unsigned long long)r->bytes,
        err == -EDOM ? "the tokenizer makes other tokens of a part than of the whole" : strerror(-err));
}

static int read_all(struct reading *r, int fd)
{
    int status = 0, err = 0;

    while (status == 0) {
        ssize_t got = read(fd, r->buffer + r->kept, PIECE_BYTES);
        size_t before = r->kept;

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return common_fail(errno == EISDIR ? EXIT_INPUT : EXIT_RUNTIME, "read %s: offset %llu: %s",
                               r->path, (unsigned long long)r->bytes, strerror(errno));
        status = look(r, r->buffer, before + (size_t)got, got == 0);
        if (status == 0 && got > 0)
            err = text_add(r->stream, r->buffer + before, (size_t)got);
        if (got == 0)
            err = text_end(r->stream);
        if (err < 0)
            return stream_failed(r, err);
        if (got == 0)
            return status;
        memmove(r->buffer, r->buffer + before + (size_t)got - r->kept, r->kept);
        if (status == 0)
            status = check_room(r);
        common_progress("reading %s: %s", r->path, common_bytes(r->bytes).text);
        if (common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted: nothing written");
    }
    return status;
}

int data_add_text(struct data_files *f, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), status;
    struct reading *r = calloc(1, sizeof *r);

    if (fd < 0) {
        status = common_fail(EXIT_INPUT, "read %s: %s", path, strerror(errno));
    } else if (!r || text_open(f->tokenizer, PIECE_BYTES, take, r, &r->stream) < 0) {
        status = common_fail(EXIT_FULL, "read %s: out of memory", path);
    } else {
        r->f = f;
        r->path = path;
        status = read_all(r, fd);
    }
    if (status == 0 && r->ill_formed)
        common_line("warning: %s %s: %llu parts are not UTF-8, the first at byte %llu: they are taken as "
                    "U+FFFD, or as "
                    "bytes where the tokenizer has those",
                    f->option, path, (unsigned long long)r->ill_formed, (unsigned long long)r->first_bad);
    if (r)
        text_close(r->stream);
    free(r);
    if (fd >= 0)
        close(fd);
    return status;
}
