/* The token stream of ofl-finetune: texts to tokens, tokens to slices. */
#include "examples/finetune.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/model/kernels.h"

/* ---- reading ------------------------------------------------------------- */

/* While a text becomes tokens, itself, what is normalized of it and the tokens take so many times its bytes:
 * measured were 5 to 6. */
#define TEXT_TIMES 7
#define TEXT_KEPT  (32ull << 20) /* for the rest of the program */

/* Who runs out of memory is killed without a word. bytes: of the text, as far as it is known; so many of them
 * have been read, and take memory already. */
static int check_room(const char *path, uint64_t bytes, uint64_t have)
{
    struct common_room room;
    uint64_t most;

    common_room(&room);
    most = room.bytes + have > TEXT_KEPT ? (room.bytes + have - TEXT_KEPT) / TEXT_TIMES : 0;
    if (bytes <= most)
        return 0;
    return common_fail(
        EXIT_INPUT,
        "--data %s: %llu bytes%s: reading it as tokens takes up to %d times that in memory for "
        "a while, but %s; cut it into files of at most %llu bytes (%s) each",
        path, (unsigned long long)bytes, bytes == have ? " or more" : "", TEXT_TIMES, room.text,
        (unsigned long long)most, common_bytes(most).text);
}

/* A file says how large it is. A pipe doesn't: room for it is doubled, and looked for, as it fills. */
static int grow(const char *path, char **text, size_t *room, size_t bytes)
{
    size_t wanted = *text ? 2 * *room + 65536 : *room;
    int status = check_room(path, *text ? bytes : wanted, bytes);
    char *more;

    if (status)
        return status;
    more = realloc(*text, wanted + 1);
    if (!more)
        return common_fail(EXIT_RUNTIME, "read %s, %zu bytes: out of memory", path, wanted);
    *text = more;
    *room = wanted;
    return 0;
}

static int read_all(const char *path, int fd, char **text, size_t *bytes)
{
    size_t room = 0;
    struct stat st;
    int status = 0;

    *text = NULL;
    *bytes = 0;
    if (fstat(fd, &st) < 0 || S_ISDIR(st.st_mode))
        return common_fail(EXIT_INPUT, "read %s: %s", path, strerror(S_ISDIR(st.st_mode) ? EISDIR : errno));
    if (S_ISREG(st.st_mode))
        room = (size_t)st.st_size;
    for (;;) {
        ssize_t got;

        /* One byte more than the file should have, to see its end. */
        if (!*text || *bytes == room + 1)
            status = grow(path, text, &room, *bytes);
        if (status)
            return status;
        got = read(fd, *text + *bytes, room + 1 - *bytes);
        if (got == 0)
            return S_ISREG(st.st_mode) ? 0 : check_room(path, *bytes, *bytes);
        if (got < 0 && errno != EINTR)
            return common_fail(EXIT_RUNTIME, "read %s: offset %zu: %s", path, *bytes, strerror(errno));
        *bytes += got > 0 ? (size_t)got : 0;
    }
}

static int read_text(const char *path, char **text, size_t *bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), status;

    *text = NULL;
    if (fd < 0)
        return common_fail(EXIT_INPUT, "read %s: %s", path, strerror(errno));
    status = read_all(path, fd, text, bytes);
    close(fd);
    if (status) {
        free(*text);
        *text = NULL;
    }
    return status;
}

/* ---- tokens --------------------------------------------------------------- */

static int check_ids(const char *path, const uint32_t *ids, size_t count, uint32_t vocab)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= vocab)
            return common_fail(
                EXIT_INPUT,
                "%s: token %zu has id %u, the model's vocabulary has %u: tokenizer and model don't "
                "belong together",
                path, i, ids[i], vocab);
    return 0;
}

static int append(struct data *d, const uint32_t *ids, size_t count, bool narrow)
{
    size_t total = d->count + count;
    void *more;

    if (count == 0)
        return 0;
    more = narrow ? realloc(d->narrow, total * sizeof *d->narrow) : realloc(d->wide, total * sizeof *d->wide);
    if (!more)
        return common_fail(EXIT_RUNTIME, "keep %zu tokens: out of memory", total);
    if (narrow) {
        d->narrow = more;
        for (size_t i = 0; i < count; i++)
            d->narrow[d->count + i] = (uint16_t)ids[i];
    } else {
        d->wide = more;
        memcpy(d->wide + d->count, ids, count * sizeof *ids);
    }
    d->count = total;
    return 0;
}

static int load_file(struct tokenizer *t, const char *path, uint32_t vocab, struct data *d)
{
    char *text;
    size_t bytes = 0, count = 0;
    uint32_t *ids = NULL;
    int status = read_text(path, &text, &bytes), err;

    if (status)
        return status;
    err = tokenizer_encode(t, text, bytes, &ids, &count);
    free(text);
    if (err < 0)
        return common_fail(common_status(err), "encode %s, %zu bytes: %s", path, bytes, strerror(-err));
    status = check_ids(path, ids, count, vocab);
    if (status == 0)
        status = append(d, ids, count, vocab <= UINT16_MAX + 1u);
    free(ids);
    return status;
}

static int open_tokenizer(const struct options *o, struct tokenizer **t)
{
    char path[4096], error[COMMON_ERROR_BYTES] = "out of memory";
    int err;

    if (!o->model) {
        err = tokenizer_bytes(t);
        snprintf(path, sizeof path, "byte tokenizer");
    } else if (snprintf(path, sizeof path, "%s/tokenizer.json", o->model) >= (int)sizeof path) {
        return common_fail(EXIT_INPUT, "open %s: the path is too long", o->model);
    } else {
        err = tokenizer_open(path, t, error, sizeof error);
    }
    return err < 0 ? common_fail(common_status(err), "%s", error) : 0;
}

/* ---- order ----------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u; /* splitmix64 (Steele, Lea, Flood, 2014) */

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Fisher and Yates. */
static int shuffle(struct data *d, uint64_t seed)
{
    if (d->slices > UINT32_MAX)
        return common_fail(EXIT_INPUT, "--shuffle: %llu slices of %llu tokens: more than 2^32; raise --seq",
                           (unsigned long long)d->slices, (unsigned long long)d->seq);
    d->order = malloc(d->slices * sizeof *d->order);
    if (!d->order)
        return common_fail(EXIT_RUNTIME, "shuffle %llu slices: out of memory", (unsigned long long)d->slices);
    for (uint64_t i = 0; i < d->slices; i++)
        d->order[i] = (uint32_t)i;
    for (uint64_t i = d->slices - 1; i > 0; i--) {
        uint64_t k = next_random(&seed) % (i + 1);
        uint32_t other = d->order[k];

        d->order[k] = d->order[i];
        d->order[i] = other;
    }
    return 0;
}

/* ---- data ------------------------------------------------------------------ */

int data_load(const struct options *o, const struct llama_config *config, struct data *out)
{
    struct tokenizer *t = NULL;
    int status = open_tokenizer(o, &t);

    *out = (struct data){.seq = o->seq};
    for (size_t i = 0; i < o->data.count && status == 0; i++) {
        common_progress("reading %s", o->data.texts[i]);
        status = load_file(t, o->data.texts[i], config->shape.vocab, out);
    }
    tokenizer_close(t);
    if (status == 0 && out->count < o->seq + 1)
        status = common_fail(EXIT_INPUT, "--data: %llu tokens in all: --seq %llu needs %llu at least",
                             (unsigned long long)out->count, (unsigned long long)o->seq,
                             (unsigned long long)o->seq + 1);
    if (status == 0) {
        out->slices = (out->count - 1) / o->seq;
        if (o->shuffle)
            status = shuffle(out, o->seed);
    }
    if (status)
        data_free(out);
    malloc_trim(0); /* the encoder's memory counts against what the process may take */
    return status;
}

void data_free(struct data *d)
{
    free(d->narrow);
    free(d->wide);
    free(d->order);
    *d = (struct data){0};
}

void data_slices(const struct data *d, uint64_t first, uint64_t rows, int32_t *inputs, int32_t *targets)
{
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t slice = (first + r) % d->slices;
        uint64_t at = (d->order ? d->order[slice] : slice) * d->seq;

        for (uint64_t i = 0; i < d->seq; i++) {
            inputs[r * d->seq + i] = (int32_t)(d->narrow ? d->narrow[at + i] : d->wide[at + i]);
            targets[r * d->seq + i] = (int32_t)(d->narrow ? d->narrow[at + i + 1] : d->wide[at + i + 1]);
        }
    }
}
