/* What a GGUF file says about text: see gguf_text.h. Types of tokens are those of the format. */
#include "examples/model/gguf_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/gguf_impl.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

#define SPACE_MARK "\xE2\x96\x81"

/* The vocabulary of a file. */
struct vocabulary {
    const struct gguf_reader *r;
    const struct ofl_text *tokens;
    const int64_t *types; /* NULL: all are normal */
    const double *scores; /* NULL: there are none */
    uint64_t count;
    bool gemma;
    json_t *ids; /* text -> id */
};

#define NO_MEMORY(r) llama_fail(-ENOMEM, (r)->error, (r)->error_bytes, "read %s: no memory", (r)->path)

static int64_t type_of(const struct vocabulary *v, uint64_t id)
{
    return v->types ? v->types[id] : NORMAL;
}

/* An array of the vocabulary's length, or none. */
static int find_list(const struct vocabulary *v, const char *key, enum ofl_metadata_type type,
                     struct ofl_metadata *m)
{
    if (!gguf_find(v->r, key, m))
        return 0;
    if (!m->array || (m->type != type && m->count))
        return GGUF_REFUSE(v->r, "read %s: %s is not a list of its type", v->r->path, key);
    if (v->tokens && m->count != v->count)
        return GGUF_REFUSE(v->r, "read %s: %s has %" PRIu64 " elements for %" PRIu64 " tokens", v->r->path,
                           key, m->count, v->count);
    return 1;
}

/* Gemma's runs of spaces stand as spaces in the file, and as marks in its merges. */
static bool is_spaces(const struct vocabulary *v, uint64_t id)
{
    const struct ofl_text *t = &v->tokens[id];

    return v->gemma && t->count && strspn(t->bytes, " ") == t->count;
}

/* The text of a token as merges have it, for free(). */
static char *spelled(const struct vocabulary *v, uint64_t id)
{
    const size_t mark = sizeof SPACE_MARK - 1;
    size_t count = v->tokens[id].count;
    char *text;

    if (!is_spaces(v, id))
        return strdup(v->tokens[id].bytes);
    text = calloc(count * mark + 1, 1);
    for (size_t i = 0; text && i < count; i++)
        memcpy(text + i * mark, SPACE_MARK, mark);
    return text;
}

/* Of two tokens with one text the first one's id is that of the text. */
static int list_ids(struct vocabulary *v)
{
    v->ids = json_object();
    for (uint64_t i = 0; v->ids && i < v->count; i++) {
        char *text = spelled(v, i);
        int bad = !text || (!json_object_get(v->ids, text) &&
                            json_object_set_new(v->ids, text, json_integer((json_int_t)i)) < 0);

        free(text);
        if (bad || strlen(v->tokens[i].bytes) != v->tokens[i].count)
            return GGUF_REFUSE(v->r, "read %s: token %" PRIu64 " is not UTF-8, or has a NUL in it",
                               v->r->path, i);
    }
    return v->ids ? 0 : NO_MEMORY(v->r);
}

static int read_vocabulary(const struct gguf_reader *r, struct vocabulary *v)
{
    const char *architecture = gguf_get_text(r, "general.architecture");
    struct ofl_metadata m;
    int rc;

    *v = (struct vocabulary){.r = r};
    v->gemma = strncmp(architecture ? architecture : "", "gemma", 5) == 0;
    rc = find_list(v, "tokenizer.ggml.tokens", OFL_METADATA_TEXT, &m);
    if (rc == 0 || (rc > 0 && m.count == 0))
        return GGUF_REFUSE(r, "read %s: tokenizer.ggml.tokens is missing: name a tokenizer with --tokenizer",
                           r->path);
    if (rc < 0)
        return rc;
    v->tokens = m.texts;
    v->count = m.count;
    rc = find_list(v, "tokenizer.ggml.token_type", OFL_METADATA_INT, &m);
    if (rc > 0)
        v->types = m.ints;
    if (rc >= 0)
        rc = find_list(v, "tokenizer.ggml.scores", OFL_METADATA_REAL, &m);
    if (rc > 0)
        v->scores = m.reals;
    return rc < 0 ? rc : list_ids(v);
}

/* ---- merges ------------------------------------------------------------------- */

/* A token out of two others. text: all of it, owned by the vocabulary's ids. */
struct joined {
    double score;
    const char *text;
    uint32_t token, left_bytes, left_chars, right_chars;
    int64_t left_id, right_id;
};

static uint32_t chars_of(const char *text, size_t bytes)
{
    uint32_t n = 0;

    for (size_t i = 0; i < bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* Likelier tokens first, of one token's the longer left sides: the order in which Hugging Face's converter of such
 * vocabularies has them. */
static int by_score(const void *left, const void *right)
{
    const struct joined *a = left, *b = right;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->left_chars != b->left_chars)
        return a->left_chars > b->left_chars ? -1 : 1;
    if (a->right_chars != b->right_chars)
        return a->right_chars > b->right_chars ? -1 : 1;
    if (a->token != b->token)
        return a->token < b->token ? -1 : 1;
    return a->left_id != b->left_id ? (a->left_id < b->left_id ? -1 : 1)
                                    : (a->right_id > b->right_id) - (a->right_id < b->right_id);
}

static int64_t id_of(const struct vocabulary *v, const char *text, size_t bytes)
{
    const json_t *id = json_object_getn(v->ids, text, bytes);

    return id ? (int64_t)json_integer_value(id) : -1;
}

/* All pairs that make this token. room: for as many as it has bytes. Gemma's scores do not follow its merges, the order
 * of its tokens does. */
static size_t pairs_of(const struct vocabulary *v, const char *text, uint64_t token, struct joined *out)
{
    size_t n = 0, bytes = strlen(text);

    for (size_t at = 1; at < bytes; at++) {
        struct joined *j = &out[n];

        if (((unsigned char)text[at] & 0xC0) == 0x80)
            continue;
        *j = (struct joined){.score = v->gemma ? -(double)token : v->scores[token],
                             .text = text,
                             .token = (uint32_t)token,
                             .left_bytes = (uint32_t)at,
                             .left_id = id_of(v, text, at),
                             .right_id = id_of(v, text + at, bytes - at)};
        if (j->left_id < 0 || j->right_id < 0)
            continue;
        j->left_chars = chars_of(text, at);
        j->right_chars = chars_of(text + at, bytes - at);
        n++;
    }
    return n;
}

static json_t *list_pairs(const struct joined *all, size_t count)
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++) {
        const struct joined *j = &all[i];
        json_t *pair = json_pack("[s%, s]", j->text, (size_t)j->left_bytes, j->text + j->left_bytes);

        if (!pair || json_array_append_new(list, pair) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* Of all tokens that text can become. */
static int find_pairs(const struct vocabulary *v, struct joined **all, size_t *count)
{
    size_t room = 0;
    const char *text;
    json_t *id;

    json_object_foreach(v->ids, text, id)
    {
        uint64_t token = (uint64_t)json_integer_value(id);
        size_t bytes = strlen(text);

        if (type_of(v, token) != NORMAL && type_of(v, token) != USER_DEFINED)
            continue;
        if (room - *count < bytes) {
            size_t more = 2 * room + bytes + 1024;
            struct joined *larger = realloc(*all, more * sizeof **all);

            if (!larger)
                return NO_MEMORY(v->r);
            *all = larger;
            room = more;
        }
        *count += pairs_of(v, text, token, *all + *count);
    }
    return 0;
}

/* Scores say which token comes of a text first: as merges of all pairs that make it. */
static int merges_by_score(const struct vocabulary *v, json_t **out)
{
    struct joined *all = NULL;
    size_t count = 0;
    int rc;

    if (!v->scores)
        return GGUF_REFUSE(v->r, "read %s: tokenizer.ggml.scores is missing", v->r->path);
    rc = find_pairs(v, &all, &count);
    if (count)
        qsort(all, count, sizeof *all, by_score);
    *out = rc == 0 ? list_pairs(all, count) : NULL;
    free(all);
    return rc == 0 && !*out ? NO_MEMORY(v->r) : rc;
}

static int merges_of_file(const struct vocabulary *v, json_t **out)
{
    struct ofl_metadata m;

    if (!gguf_find(v->r, "tokenizer.ggml.merges", &m) || !m.array || (m.count && !m.texts))
        return GGUF_REFUSE(v->r, "read %s: tokenizer.ggml.merges is missing", v->r->path);
    *out = json_array();
    for (uint64_t i = 0; *out && i < m.count; i++)
        if (json_array_append_new(*out, json_stringn(m.texts[i].bytes, m.texts[i].count)) < 0)
            return GGUF_REFUSE(v->r, "read %s: tokenizer.ggml.merges: element %" PRIu64 " is not UTF-8",
                               v->r->path, i);
    return *out ? 0 : NO_MEMORY(v->r);
}

/* ---- as a tokenizer.json --------------------------------------------------------- */

static json_t *added_tokens(const struct vocabulary *v)
{
    json_t *list = json_array();

    for (uint64_t i = 0; i < v->count; i++) {
        int64_t type = type_of(v, i);

        if ((type == CONTROL || type == UNKNOWN || (type == USER_DEFINED && !is_spaces(v, i))) &&
            v->tokens[i].count)
            json_array_append_new(list,
                                  json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i,
                                            "content", v->tokens[i].bytes, "single_word", 0, "lstrip", 0,
                                            "rstrip", 0, "normalized", 0, "special", type != USER_DEFINED));
    }
    return list;
}

/* An id of a key, if it is there and a token's; -1: none. */
static int64_t special_id(const struct vocabulary *v, const char *key)
{
    struct ofl_metadata m;
    uint64_t id;

    if (!gguf_find(v->r, key, &m) || m.array || (!m.uints && !m.ints))
        return -1;
    id = m.uints ? m.uints[0] : (uint64_t)m.ints[0];
    return id < v->count ? (int64_t)id : -1;
}

static void put_around(json_t *single, json_t *known, const char *name, int64_t id)
{
    if (id < 0)
        return;
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name, "type_id", 0));
    json_object_set_new(known, name,
                        json_pack("{s:s, s:[I], s:[s]}", "id", name, "ids", (json_int_t)id, "tokens", name));
}

/* What stands around texts. */
static json_t *processor(const struct vocabulary *v, bool start)
{
    json_t *single = json_array(), *known = json_object();
    bool first = gguf_get_bool(v->r, "tokenizer.ggml.add_bos_token", start),
         last = gguf_get_bool(v->r, "tokenizer.ggml.add_eos_token", false);

    put_around(single, known, "bos", first ? special_id(v, "tokenizer.ggml.bos_token_id") : -1);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    put_around(single, known, "eos", last ? special_id(v, "tokenizer.ggml.eos_token_id") : -1);
    return json_pack("{s:s, s:o, s:[], s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     "special_tokens", known);
}

static json_t *byte_level(const char *key, bool prefix)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", (int)prefix,
                     "trim_offsets", 0, key, 0);
}

static int build_byte_level(const struct vocabulary *v, json_t *root, json_t *merges)
{
    const char *name = gguf_get_text(v->r, "tokenizer.ggml.pre");
    const struct gguf_pre *pre = llama_gguf_pre(name);
    bool prefix = gguf_get_bool(v->r, "tokenizer.ggml.add_space_prefix", false);
    json_t *steps = json_array();

    if (!pre) {
        json_decref(merges);
        json_decref(steps);
        return GGUF_REFUSE(v->r,
                           "read %s: tokenizer.ggml.pre \"%s\": how it cuts texts is not known: name a "
                           "directory that has the model's tokenizer.json with --tokenizer DIR",
                           v->r->path, llama_quote(name).text);
    }
    for (size_t i = 0; i < sizeof pre->regex / sizeof pre->regex[0] && pre->regex[i]; i++)
        json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                                               "Regex", pre->regex[i], "behavior", "Isolated", "invert", 0));
    json_array_append_new(steps, byte_level("use_regex", prefix));
    json_object_set_new(root, "normalizer", pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
    json_object_set_new(root, "pre_tokenizer",
                        json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps));
    json_object_set_new(root, "decoder", byte_level("use_regex", false));
    json_object_set_new(root, "post_processor", processor(v, pre->start));
    json_object_set_new(root, "model",
                        json_pack("{s:s, s:b, s:b, s:b, s:O, s:o}", "type", "BPE", "fuse_unk", 0,
                                  "byte_fallback", 0, "ignore_merges", (int)pre->ignore_merges, "vocab",
                                  v->ids, "merges", merges));
    return 0;
}

static const char *unknown_of(const struct vocabulary *v)
{
    int64_t id = special_id(v, "tokenizer.ggml.unknown_token_id");

    for (uint64_t i = 0; id < 0 && i < v->count; i++)
        if (type_of(v, i) == UNKNOWN)
            id = (int64_t)i;
    return id < 0 ? NULL : v->tokens[id].bytes;
}

/* Spaces by marks, one in front of each text, and bytes for what no token has. */
static void build_scored(const struct vocabulary *v, json_t *root, json_t *merges)
{
    bool prefix = gguf_get_bool(v->r, "tokenizer.ggml.add_space_prefix", true);
    json_t *normal = json_array(), *decode = json_array();

    if (prefix)
        json_array_append_new(normal, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", SPACE_MARK));
    json_array_append_new(normal, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String",
                                            " ", "content", SPACE_MARK));
    json_array_append_new(decode, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String",
                                            SPACE_MARK, "content", " "));
    json_array_append_new(decode, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(decode, json_pack("{s:s}", "type", "Fuse"));
    if (prefix)
        json_array_append_new(decode, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ",
                                                "start", 1, "stop", 0));
    json_object_set_new(root, "normalizer",
                        json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", normal));
    json_object_set_new(root, "pre_tokenizer", json_null());
    json_object_set_new(root, "decoder", json_pack("{s:s, s:o}", "type", "Sequence", "decoders", decode));
    json_object_set_new(root, "post_processor", processor(v, true));
    json_object_set_new(root, "model",
                        json_pack("{s:s, s:s?, s:b, s:b, s:b, s:O, s:o}", "type", "BPE", "unk_token",
                                  unknown_of(v), "fuse_unk", 1, "byte_fallback", 1, "ignore_merges", 0,
                                  "vocab", v->ids, "merges", merges));
}

static int build(const struct vocabulary *v, json_t **out)
{
    const char *model = gguf_get_text(v->r, "tokenizer.ggml.model");
    bool bytes = model && strcmp(model, "gpt2") == 0;
    json_t *root = json_pack("{s:s, s:n, s:n, s:o}", "version", "1.0", "truncation", "padding",
                             "added_tokens", added_tokens(v)),
           *merges = NULL;
    int rc;

    *out = root;
    if (!root)
        return NO_MEMORY(v->r);
    if (!model || (!bytes && strcmp(model, "llama") != 0))
        return GGUF_REFUSE(
            v->r,
            "read %s: tokenizer.ggml.model \"%s\" is not supported, only gpt2 and llama: name a "
            "directory that has the model's tokenizer.json with --tokenizer DIR",
            v->r->path, llama_quote(model ? model : "").text);
    rc = bytes ? merges_of_file(v, &merges) : merges_by_score(v, &merges);
    if (rc < 0)
        json_decref(merges);
    else if (bytes)
        rc = build_byte_level(v, root, merges);
    else
        build_scored(v, root, merges);
    return rc;
}

int llama_gguf_tokenizer(const char *path, struct tokenizer **out, char *error, size_t error_bytes)
{
    struct gguf_reader r = {.path = path, .error = error, .error_bytes = error_bytes};
    struct vocabulary v = {0};
    json_t *root = NULL;
    int rc = gguf_open(&r);

    *out = NULL;
    if (rc < 0)
        return rc;
    rc = read_vocabulary(&r, &v);
    if (rc == 0)
        rc = build(&v, &root);
    json_decref(v.ids);
    if (rc == 0)
        rc = tokenizer_open_json(path, root, out, error, error_bytes);
    json_decref(root);
    gguf_close(&r);
    return rc;
}

/* ---- as a tokenizer_config.json ---------------------------------------------------- */

static json_t *templates_of(const struct gguf_reader *r)
{
    const char *plain = gguf_get_text(r, "tokenizer.chat_template"),
               *tools = gguf_get_text(r, "tokenizer.chat_template.tool_use");

    if (!plain)
        return json_null();
    if (!tools)
        return json_string(plain);
    return json_pack("[{s:s, s:s}, {s:s, s:s}]", "name", "default", "template", plain, "name", "tool_use",
                     "template", tools);
}

int llama_gguf_settings(const char *path, json_t **out, char *error, size_t error_bytes)
{
    static const char *const names[][2] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                           {"eos_token", "tokenizer.ggml.eos_token_id"},
                                           {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                           {"sep_token", "tokenizer.ggml.seperator_token_id"},
                                           {"pad_token", "tokenizer.ggml.padding_token_id"}};
    struct gguf_reader r = {.path = path, .error = error, .error_bytes = error_bytes};
    struct vocabulary v = {0};
    int rc = gguf_open(&r);

    if (rc < 0)
        return rc;
    rc = read_vocabulary(&r, &v);
    *out = rc == 0 ? json_pack("{s:o}", "chat_template", templates_of(&r)) : NULL;
    if (rc == 0 && !*out)
        rc = GGUF_REFUSE(&r, "read %s: tokenizer.chat_template is not UTF-8", path);
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof names[0]; i++) {
        int64_t id = special_id(&v, names[i][1]);

        if (id >= 0)
            json_object_set_new(*out, names[i][0], json_string(v.tokens[id].bytes));
    }
    json_decref(v.ids);
    gguf_close(&r);
    return rc;
}
