/*
 * Proves that the safetensors parser accepts what the format allows and reads it right, that
 * each kind of malformed file is refused with a sentence that names file, tensor and numbers,
 * and that no mutation of a valid file makes it crash or accept a range that is not safe to
 * read. The check of what was accepted is written independently of the parser.
 *
 * Negative controls: the checker itself is shown broken tables and must object to each
 * (checker_objects); without any one of the parser's range checks the table of hostile
 * headers fails, as each of its lines is refused for one reason only; and the fuzz must
 * have seen both verdicts often.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/source/source.h"

#define FUZZ_ROUNDS 20000
#define STORY       "../shared/models/story/model.safetensors"

static char path[] = "/tmp/ofl-test-XXXXXX.safetensors";

/* ---- helpers ----------------------------------------------------------- */

/* The file becomes these bytes, with zeros behind them up to file_bytes. As of 1970: opening what was
 * written a moment ago waits for a tick of the clock. */
static void put_raw(const void *bytes, size_t count, uint64_t file_bytes)
{
    const struct timespec times[2] = {{0, 1}, {0, 1}};
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    assert_int_equal(ftruncate(fd, (off_t)file_bytes), 0);
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}

static void put(const char *header, size_t header_bytes, uint64_t length, uint64_t file_bytes)
{
    char *raw = malloc(8 + header_bytes);

    assert_non_null(raw);
    for (unsigned i = 0; i < 8; i++)
        raw[i] = (char)(unsigned char)(length >> (8 * i));
    memcpy(raw + 8, header, header_bytes);
    put_raw(raw, 8 + header_bytes, file_bytes);
    free(raw);
}

static void put_header(const char *header, uint64_t data_bytes)
{
    put(header, strlen(header), strlen(header), 8 + strlen(header) + data_bytes);
}

/* Of a tensor's elements, in bits: as safetensors has them. */
static unsigned bits_of(enum ofl_dtype dtype)
{
    switch (dtype) {
    case OFL_F4:
        return 4;
    case OFL_F6_E2M3:
    case OFL_F6_E3M2:
        return 6;
    case OFL_I16:
    case OFL_U16:
    case OFL_F16:
    case OFL_BF16:
        return 16;
    case OFL_I32:
    case OFL_U32:
    case OFL_F32:
        return 32;
    case OFL_I64:
    case OFL_U64:
    case OFL_F64:
    case OFL_C64:
        return 64;
    default:
        return 8;
    }
}

/* What is wrong with an accepted file; NULL if nothing. Pair by pair, in 128 bits. */
static const char *objection(const struct source_file *s, uint64_t data_offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < s->count; i++) {
        const struct source_entry *e = &s->entries[i];
        unsigned __int128 elems = 1;

        if (e->dims > OFL_DIMS_MAX || e->dtype >= OFL_DTYPES)
            return "dims or dtype out of range";
        for (uint32_t d = 0; d < e->dims && elems <= UINT64_MAX; d++)
            elems *= e->shape[d];
        if (elems != e->elems || elems * bits_of(e->dtype) != (unsigned __int128)e->bytes * 8)
            return "elements or bytes are not those of the shape";
        if (e->offset < data_offset || e->offset > s->bytes || e->bytes > s->bytes - e->offset)
            return "a range outside the data";
        for (size_t j = 0; j < i; j++) {
            const struct source_entry *o = &s->entries[j];

            if (strcmp(o->name, e->name) >= 0)
                return "names not in order, or twice";
            if (e->bytes && o->bytes && e->offset < o->offset + o->bytes && o->offset < e->offset + e->bytes)
                return "ranges overlap";
        }
        if (source_find(s, e->name) != e)
            return "an entry is not found by its name";
        sum += e->bytes;
    }
    return sum == s->bytes - data_offset ? NULL : "bytes of the data belong to no tensor";
}

/* ---- accepted ---------------------------------------------------------- */

static const struct {
    const char *header;
    uint64_t data_bytes;
    size_t count;
} good[] = {
    {"{}", 0, 0},
    {"{}      ", 0, 0},
    {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, 1},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}   ", 8, 1},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 1},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4,0,9],\"data_offsets\":[3,3]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
     "\"c\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[3,5]}}",
     5, 3},
    {"{\"z\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[0,10]},"
     "\"__metadata__\":{\"a\":\"b\"},"
     "\"a\":{\"data_offsets\":[10,16],\"shape\":[1,3],\"dtype\":\"F16\"}}",
     16, 2},
    {"{\"a\":{\"dtype\":\"I8\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]}}", 2, 1},
    {"{\"\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2, 1},
};

static void accepts_good_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct source_file *s = NULL;
        int rc;

        put_header(good[i].header, good[i].data_bytes);
        rc = source_open(path, &s);
        if (rc != 0)
            fail_msg("%s: refused: %s", good[i].header, base_error_text());
        assert_int_equal(s->count, good[i].count);
        assert_string_equal(s->path, path);
        assert_int_equal(s->bytes, 8 + strlen(good[i].header) + good[i].data_bytes);
        if (objection(s, 8 + strlen(good[i].header)))
            fail_msg("%s: %s", good[i].header, objection(s, 8 + strlen(good[i].header)));
        assert_null(source_find(s, "nobody"));
        source_close(s);
    }
    source_close(NULL);
}

static void reads_every_dtype(void **state)
{
    static const char *const names[] = {
        "U8",          "I8",          "BOOL",    "I16",     "U16",     "F16", "BF16",    "I32",
        "U32",         "F32",         "I64",     "U64",     "F64",     "C64", "F8_E4M3", "F8_E5M2",
        "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"};

    (void)state;
    assert_int_equal(sizeof names / sizeof names[0], OFL_Q4_0); /* from there on GGUF's */
    for (int dtype = 0; dtype < OFL_Q4_0; dtype++) {
        unsigned bits = bits_of((enum ofl_dtype)dtype);
        uint64_t bytes = 12 * bits / 8;
        struct source_file *s = NULL;
        char header[128];

        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[2,6],\"data_offsets\":[0,%" PRIu64 "]}}", names[dtype],
                 bytes);
        put_header(header, bytes);
        assert_int_equal(source_open(path, &s), 0);
        assert_int_equal(s->entries[0].dtype, dtype);
        assert_int_equal(s->entries[0].bytes, bytes);
        assert_int_equal(s->entries[0].elems, 12);
        assert_int_equal(s->entries[0].dims, 2);
        assert_int_equal(s->entries[0].shape[0], 2);
        assert_int_equal(s->entries[0].shape[1], 6);
        assert_int_equal(s->entries[0].offset, 8 + strlen(header));
        source_close(s);
        if (bits >= 8)
            continue;
        /* half a byte belongs to nobody */
        snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,2]}}",
                 names[dtype]);
        put_header(header, 2);
        assert_int_equal(source_open(path, &s), -OFL_EFORMAT);
        assert_non_null(strstr(base_error_text(), "not whole blocks"));
    }
}

static void reads_a_real_checkpoint(void **state)
{
    struct source_file *s = NULL;
    const struct source_entry *e;

    (void)state;
    if (access(STORY, R_OK) != 0) {
        fprintf(stderr, "no %s here\n", STORY);
        skip();
    }
    assert_int_equal(source_open(STORY, &s), 0);
    assert_int_equal(s->count, 20);
    assert_int_equal(s->bytes, 2626168);
    assert_null(objection(s, 2626168 - 2624000));
    e = source_find(s, "model.layers.1.self_attn.k_proj.weight");
    assert_non_null(e);
    assert_int_equal(e->dtype, OFL_F32);
    assert_int_equal(e->shape[0], 64);
    assert_int_equal(e->shape[1], 128);
    assert_int_equal(e->offset, 2626168 - 2624000 + 2426880);
    source_close(s);
}

/* ---- refused ----------------------------------------------------------- */

#define ONE(rest) "{\"ten.sor\":{" rest "}}"
#define SIX       "\"dtype\":\"F32\",\"shape\":[6],"

/* data_bytes fits what the header says, so that each is refused for its one reason. */
static const struct {
    const char *header;
    uint64_t data_bytes;
    const char *words[3];
} hostile[] = {
    {" {}", 0, {"not a JSON object"}},
    {"[]", 0, {"not a JSON object"}},
    {"\"text\"", 0, {"not a JSON object"}},
    {"{", 0, {"header, byte"}},
    {"{}x", 0, {"header, byte", "end of file expected"}},
    {"{}{}", 0, {"header, byte", "end of file expected"}},
    {"{\"a\":1,}", 0, {"header, byte"}},
    {"{\"\xff\":1}", 0, {"header, byte"}},
    {"{\"a\\u0000b\":1}", 0, {"header, byte"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     0,
     {"duplicate", "\"a\""}},
    {ONE("\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]"), 0, {"duplicate"}},
    {"{\"__metadata__\":[]}", 0, {"__metadata__"}},
    {"{\"ten.sor\":[]}", 0, {"\"ten.sor\"", "not an object"}},
    {ONE("\"shape\":[6],\"data_offsets\":[0,24]"), 24, {"\"ten.sor\"", "dtype"}},
    {ONE("\"dtype\":7,\"shape\":[6],\"data_offsets\":[0,24]"), 24, {"\"ten.sor\"", "dtype"}},
    {ONE("\"dtype\":\"F8_E3M4\",\"shape\":[6],\"data_offsets\":[0,6]"), 6, {"\"ten.sor\"", "\"F8_E3M4\""}},
    {ONE("\"dtype\":\"f32\",\"shape\":[6],\"data_offsets\":[0,24]"), 24, {"\"ten.sor\"", "\"f32\""}},
    {ONE(SIX "\"data_offsets\":[0,24],\"codec\":\"zip\""), 24, {"\"ten.sor\"", "\"codec\""}},
    {ONE("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, {"\"ten.sor\"", "shape"}},
    {ONE("\"dtype\":\"F32\",\"shape\":6,\"data_offsets\":[0,4]"), 4, {"\"ten.sor\"", "shape"}},
    {ONE("\"dtype\":\"F32\",\"shape\":[6.0],\"data_offsets\":[0,24]"),
     24,
     {"\"ten.sor\"", "shape[0]", "integer"}},
    {ONE("\"dtype\":\"F32\",\"shape\":[6,\"1\"],\"data_offsets\":[0,24]"),
     24,
     {"\"ten.sor\"", "shape[1]", "integer"}},
    {ONE("\"dtype\":\"F32\",\"shape\":[-2,-3],\"data_offsets\":[0,24]"),
     24,
     {"\"ten.sor\"", "-2", "negative"}},
    {ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"),
     1,
     {"\"ten.sor\"", "9 dim"}},
    {ONE("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"),
     0,
     {"\"ten.sor\"", "overflows"}},
    {ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]"),
     0,
     {"\"ten.sor\"", "overflows"}},
    {ONE("\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]"), 0, {"header, byte"}},
    {ONE("\"dtype\":\"F32\",\"shape\":[6]"), 24, {"\"ten.sor\"", "data_offsets"}},
    {ONE(SIX "\"data_offsets\":[24]"), 24, {"\"ten.sor\"", "data_offsets"}},
    {ONE(SIX "\"data_offsets\":[0,24,24]"), 24, {"\"ten.sor\"", "data_offsets"}},
    {ONE(SIX "\"data_offsets\":[-24,0]"), 0, {"\"ten.sor\"", "data_offsets"}},
    {ONE(SIX "\"data_offsets\":[0,24.0]"), 24, {"\"ten.sor\"", "data_offsets"}},
    {ONE(SIX "\"data_offsets\":[24,0]"), 24, {"\"ten.sor\"", "[24, 0]", "before"}},
    {ONE(SIX "\"data_offsets\":[0,24]"), 23, {"\"ten.sor\"", "[0, 24]", "23 bytes of data"}},
    {ONE(SIX "\"data_offsets\":[9223372036854775783,9223372036854775807]"),
     24,
     {"\"ten.sor\"", "24 bytes of data"}},
    {ONE(SIX "\"data_offsets\":[0,23]"), 23, {"\"ten.sor\"", "23 bytes", "need 24"}},
    {ONE(SIX "\"data_offsets\":[0,25]"), 25, {"\"ten.sor\"", "25 bytes", "need 24"}},
    {ONE(SIX "\"data_offsets\":[0,24]"), 25, {"1 bytes too long"}},
    {ONE(SIX "\"data_offsets\":[1,25]"), 25, {"\"ten.sor\"", "from 0", "hole"}},
    {"{}", 1, {"1 bytes too long"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
     7,
     {"\"b\"", "\"a\" ends at 4", "overlap"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4,
     {"overlap"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
     4,
     {"\"b\"", "overlap"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
     9,
     {"\"b\"", "from 4", "hole"}},
};

static void expect_refusal(const char *what, int code, const char *const *words, size_t count)
{
    struct source_file *s = (struct source_file *)8; /* must be left alone */
    int rc = source_open(path, &s);

    if (rc != code)
        fail_msg("%s: %d instead of %d: %s", what, rc, code, rc ? base_error_text() : "accepted");
    assert_ptr_equal(s, (struct source_file *)8);
    if (!strstr(base_error_text(), path))
        fail_msg("%s: the sentence does not name the file: %s", what, base_error_text());
    for (size_t i = 0; i < count && words[i]; i++)
        if (!strstr(base_error_text(), words[i]))
            fail_msg("%s: no %s in the sentence: %s", what, words[i], base_error_text());
}

static void refuses_hostile_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        put_header(hostile[i].header, hostile[i].data_bytes);
        expect_refusal(hostile[i].header, -OFL_EFORMAT, hostile[i].words, 3);
    }
}

static void refuses_hostile_lengths(void **state)
{
    static const struct {
        uint64_t length, file_bytes;
        const char *word;
    } cases[] = {
        {0, 0, "has 0 bytes"},
        {2, 7, "has 7 bytes"},
        {0, 10, "is 0 bytes"},
        {3, 10, "is 3 bytes, but the file has 2"},
        {2, 8, "is 2 bytes, but the"},
        {100000000, 4096, "is 100000000 bytes, but the file has 4088"},
        {100000001, 100000009, "at most 100000000"},
        {UINT64_MAX, 10, "is 18446744073709551615 bytes"},
        {UINT64_MAX - 7, 10, "at most"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("{}", 2, cases[i].length, cases[i].file_bytes);
        expect_refusal(cases[i].word, -OFL_EFORMAT, &cases[i].word, 1);
    }
}

/* A name is text of the file: long ones and control characters don't reach the terminal. */
static void sentences_are_fit_to_print(void **state)
{
    char header[4096], *name = header + 2;
    struct source_file *s;

    (void)state;
    memset(header, 'n', sizeof header);
    memcpy(header, "{\"", 2);
    memcpy(name + 20, "\\u001b[2J", 9);
    memcpy(header + 3000, "\":{}}", 6);
    put_header(header, 0);
    assert_int_equal(source_open(path, &s), -OFL_EFORMAT);
    assert_null(strchr(base_error_text(), 0x1b));
    assert_non_null(strstr(base_error_text(), "nn?[2Jnn"));
    assert_true(strlen(base_error_text()) < 400);
    assert_non_null(strstr(base_error_text(), "dtype is missing"));
}

static void refuses_what_is_no_file(void **state)
{
    struct source_file *s;
    char fifo[sizeof path + 8];

    (void)state;
    assert_int_equal(source_open("/proc/self/nowhere/model.safetensors", &s), -ENOENT);
    assert_non_null(strstr(base_error_text(), "/proc/self/nowhere/model.safetensors"));
    assert_non_null(strstr(base_error_text(), "No such file"));
    assert_int_equal(source_open("/tmp", &s), -EISDIR);
    snprintf(fifo, sizeof fifo, "%s.fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(source_open(fifo, &s), -EINVAL); /* and does not wait for a writer */
    unlink(fifo);
}

/* ---- fuzz -------------------------------------------------------------- */

static uint64_t next(uint64_t *x) /* SplitMix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = *x += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static const char seed_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                  "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                  "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
                                  "\"c\":{\"dtype\":\"U8\",\"shape\":[0,7],\"data_offsets\":[32,32]},"
                                  "\"d\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[32,40]},"
                                  "\"e\":{\"dtype\":\"F16\",\"shape\":[2,2,2],\"data_offsets\":[40,56]}}    ";

static const char *const pieces[] = {"{",
                                     "}",
                                     "[",
                                     "]",
                                     ",",
                                     ":",
                                     "\"",
                                     "-",
                                     ".0",
                                     "e9",
                                     "0",
                                     "1",
                                     "24",
                                     "32",
                                     "40",
                                     "56",
                                     "F32",
                                     "BF16",
                                     "U8",
                                     "I64",
                                     "\\",
                                     "null",
                                     "4294967296",
                                     "9223372036854775807",
                                     "18446744073709551616",
                                     "\"shape\":",
                                     " ",
                                     "\"dtype\":",
                                     "\"data_offsets\":",
                                     "__metadata__",
                                     "\xff",
                                     "\xc3\xa9"};

/* One change of the text; keeps it within room. Returns the new length. */
static size_t mutate(char *text, size_t n, size_t room, uint64_t *seed)
{
    size_t at = n ? next(seed) % n : 0, count;
    const char *piece;

    switch (next(seed) % 6) {
    case 0: /* another byte */
        if (n)
            text[at] = (char)(unsigned char)next(seed);
        return n;
    case 1: /* another digit: the likeliest to be accepted again */
        for (size_t i = 0; i < n; i++)
            if (text[(at + i) % n] >= '0' && text[(at + i) % n] <= '9') {
                text[(at + i) % n] = (char)('0' + next(seed) % 10);
                break;
            }
        return n;
    case 2: /* cut */
        count = next(seed) % 12;
        count = count < n - at ? count : n - at;
        memmove(text + at, text + at + count, n - at - count);
        return n - count;
    case 3: /* doubled */
        count = next(seed) % 70;
        count = count < n - at ? count : n - at;
        if (n + count > room)
            return n;
        memmove(text + at + count, text + at, n - at);
        return n + count;
    case 4: /* swapped */
        if (n) {
            size_t to = next(seed) % n;
            char c = text[at];

            text[at] = text[to];
            text[to] = c;
        }
        return n;
    default: /* a piece put in */
        piece = pieces[next(seed) % (sizeof pieces / sizeof pieces[0])];
        count = strlen(piece);
        if (n + count > room)
            return n;
        memmove(text + at + count, text + at, n - at);
        memcpy(text + at, piece, count);
        return n + count;
    }
}

static void fuzz_round(uint64_t seed, unsigned *accepted, unsigned *refused)
{
    uint64_t x = seed, length, file_bytes, data_bytes = 56;
    struct source_file *s = NULL;
    char text[1024];
    size_t n = sizeof seed_header - 1;
    const char *why;
    int rc;

    memcpy(text, seed_header, n);
    for (uint64_t changes = next(&x) % 4; changes > 0; changes--)
        n = mutate(text, n, sizeof text, &x);
    length = next(&x) % 16 ? n : next(&x) % 8 ? n + next(&x) % 9 - 4 : next(&x);
    if (next(&x) % 8 == 0)
        data_bytes = next(&x) % 80;
    file_bytes = 8 + n + data_bytes;
    if (next(&x) % 16 == 0)
        file_bytes = next(&x) % (file_bytes + 1);
    put(text, n, length, file_bytes);
    rc = source_open(path, &s);
    if (rc != 0) {
        ++*refused;
        if (rc != -OFL_EFORMAT || !strstr(base_error_text(), path))
            fail_msg("seed %" PRIu64 ": code %d: %s", seed, rc, base_error_text());
        return;
    }
    ++*accepted;
    why = objection(s, 8 + length);
    if (why)
        fail_msg("seed %" PRIu64 ": accepted, but %s: %.*s", seed, why, (int)n, text);
    source_close(s);
}

static void survives_mutations(void **state)
{
    const char *given = getenv("OFL_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 20240607;
    unsigned accepted = 0, refused = 0;

    (void)state;
    for (uint64_t i = 0; i < FUZZ_ROUNDS; i++)
        fuzz_round(seed + i, &accepted, &refused);
    /* Both verdicts, or the fuzz proves nothing. */
    if (accepted < FUZZ_ROUNDS / 20 || refused < FUZZ_ROUNDS / 4)
        fail_msg("seed %" PRIu64 ": %u accepted, %u refused", seed, accepted, refused);
}

/* ---- the checker's own control ----------------------------------------- */

static void checker_objects(void **state)
{
    struct source_entry right[] = {
        {.name = "a", .dtype = OFL_F32, .dims = 2, .shape = {2, 3}, .elems = 6, .bytes = 24, .offset = 10},
        {.name = "b", .dtype = OFL_U8, .dims = 1, .shape = {4}, .elems = 4, .bytes = 4, .offset = 34},
    };
    struct source_entry e[2];
    struct source_file s = {.bytes = 38, .count = 2, .entries = e};

    (void)state;
    for (int fault = 0; fault < 9; fault++) {
        memcpy(e, right, sizeof e);
        s.bytes = 38;
        switch (fault) {
        case 1:
            e[1].offset = 33;
            break;
        case 2:
            e[1].offset = 35;
            break;
        case 3:
            e[0].offset = 9;
            break;
        case 4:
            e[0].elems = 7;
            break;
        case 5:
            e[1].shape[0] = 3, e[1].elems = 3;
            break;
        case 6:
            e[1].name = "a";
            break;
        case 7:
            s.bytes = 39;
            break;
        case 8:
            e[0].dims = OFL_DIMS_MAX + 1;
            break;
        default:
            break;
        }
        if ((objection(&s, 10) == NULL) != (fault == 0))
            fail_msg("fault %d: %s", fault, fault ? "not seen" : objection(&s, 10));
    }
}

static int setup(void **state)
{
    int fd = mkstemps(path, (int)strlen(".safetensors"));

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_good_files),      cmocka_unit_test(reads_every_dtype),
        cmocka_unit_test(reads_a_real_checkpoint), cmocka_unit_test(refuses_hostile_headers),
        cmocka_unit_test(refuses_hostile_lengths), cmocka_unit_test(sentences_are_fit_to_print),
        cmocka_unit_test(refuses_what_is_no_file), cmocka_unit_test(survives_mutations),
        cmocka_unit_test(checker_objects),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
