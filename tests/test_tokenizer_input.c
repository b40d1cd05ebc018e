/*
 * Proves that the tokenizer refuses what it doesn't support and what makes no sense, with a
 * sentence that names the file, the field and its value, and that no damage to a file makes
 * it crash: truncation at every place, mutations, nesting, other kinds of files.
 *
 * Negative controls: the base of the table of refusals must open, so that each line of it is
 * refused for its one change; and the fuzz must have seen both verdicts.
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "examples/model/tokenizer.h"
#include "tests/tokenizer_fixture.h"

#define FUZZ_ROUNDS 1500

/* Small, and with a part of every kind. */
static const char base[] =
    "{'added_tokens':[{'id':6,'content':'<s>','single_word':false,'lstrip':false,'rstrip':false,"
    "'normalized':false,'special':true}],"
    "'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'_'},"
    "{'type':'Replace','pattern':{'String':' '},'content':'_'}]},"
    "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'Regex':'\\\\d|_+'},"
    "'behavior':'Isolated','invert':false},{'type':'Metaspace','replacement':'_','prepend_scheme':'always',"
    "'split':true},{'type':'ByteLevel','add_prefix_space':false,'use_regex':true}]},"
    "'post_processor':null,'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'_'"
    "},"
    "'content':' '},{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' "
    "','start':1,'stop':0}]},"
    "'model':{'type':'BPE','dropout':null,'unk_token':'u','continuing_subword_prefix':null,"
    "'end_of_word_suffix':null,'fuse_unk':false,'byte_fallback':true,'ignore_merges':false,"
    "'vocab':{'u':0,'a':1,'b':2,'ab':3,'aba':4,'_':5},'merges':['a b',['ab','a']]}}";

static json_t *base_json(void)
{
    char text[sizeof base];
    json_t *root;

    for (size_t i = 0; i < sizeof base; i++)
        text[i] = (char)(base[i] == '\'' ? '"' : base[i]);
    root = json_loads(text, 0, NULL);
    assert_non_null(root);
    return root;
}

static const struct {
    const char *field, *value; /* the one change */
    int code;
    const char *says;
} refusals[] = {
    {"model", NULL, -EINVAL, "model is absent"},
    {"model", "[]", -EINVAL, "model is an array"},
    {"model.type", "\"WordPiece\"", -ENOTSUP, "model.type is \"WordPiece\": only BPE"},
    {"model.type", "7", -ENOTSUP, "model.type is 7"},
    {"model.dropout", "0.1", -ENOTSUP, "model.dropout is 0.1"},
    {"model.dropout", "\"0\"", -ENOTSUP, "model.dropout is \"0\""},
    {"model.continuing_subword_prefix", "\"##\"", -ENOTSUP, "model.continuing_subword_prefix is \"##\""},
    {"model.end_of_word_suffix", "\"</w>\"", -ENOTSUP, "model.end_of_word_suffix is \"</w>\""},
    {"model.unk_token", "0", -EINVAL, "model.unk_token is 0"},
    {"model.fuse_unk", "1", -EINVAL, "model.fuse_unk is 1"},
    {"model.byte_fallback", "\"x\"", -EINVAL, "model.byte_fallback is \"x\""},
    {"model.ignore_merges", "[]", -EINVAL, "model.ignore_merges is an array"},
    {"model.vocab", NULL, -EINVAL, "model.vocab is absent"},
    {"model.vocab", "{}", -EINVAL, "model.vocab"},
    {"model.vocab.a", "-1", -EINVAL, "the token \"a\" has an id"},
    {"model.vocab.a", "4194304", -EINVAL, "the token \"a\" has an id"},
    {"model.vocab.a", "9223372036854775807", -EINVAL, "the token \"a\" has an id"},
    {"model.vocab.a", "1.5", -EINVAL, "the token \"a\" has an id"},
    {"model.vocab.a", "\"1\"", -EINVAL, "the token \"a\" has an id"},
    {"model.vocab.a", NULL, -EINVAL, "model.merges[0] is \"a b\""},
    {"model.vocab.aba", NULL, -EINVAL, "model.merges[1] is an array"},
    {"model.merges", NULL, -EINVAL, "model.merges is absent"},
    {"model.merges", "{}", -EINVAL, "model.merges is an object"},
    {"model.merges.0", "\"a x\"", -EINVAL, "model.merges[0] is \"a x\""},
    {"model.merges.0", "\"a b a\"", -EINVAL, "model.merges[0] is \"a b a\""},
    {"model.merges.0", "\"ab\"", -EINVAL, "model.merges[0] is \"ab\""},
    {"model.merges.0", "5", -EINVAL, "model.merges[0] is 5"},
    {"model.merges.1", "[\"ab\"]", -EINVAL, "model.merges[1]"},
    {"model.merges.1", "[\"ab\",\"a\",\"b\"]", -EINVAL, "model.merges[1]"},
    {"model.merges.1", "[\"ab\",7]", -EINVAL, "model.merges[1]"},
    {"added_tokens", "{}", -EINVAL, "added_tokens is an object"},
    {"added_tokens.0", "3", -EINVAL, "added_tokens[0].id is absent"},
    {"added_tokens.0.id", "-6", -EINVAL, "added_tokens[0].id is -6"},
    {"added_tokens.0.id", "99999999999", -EINVAL, "added_tokens[0].id is 99999999999"},
    {"added_tokens.0.content", "[]", -EINVAL, "added_tokens[0].content is an array"},
    {"added_tokens.0.single_word", "7", -EINVAL, "added_tokens[0].single_word is 7"},
    {"added_tokens.0.special", NULL, -EINVAL, "added_tokens[0].special is absent"},
    {"version", "\"2.0\"", -ENOTSUP, "version is \"2.0\""},
    {"normalizer.type", "\"BertNormalizer\"", -ENOTSUP, "normalizer.type is \"BertNormalizer\""},
    {"normalizer.type", "\"Strip\"", -EINVAL, "normalizer.strip_left is absent"},
    {"normalizer.type", NULL, -EINVAL, "normalizer.type is absent"},
    {"normalizer.normalizers", "3", -EINVAL, "normalizer.normalizers is 3"},
    {"normalizer.normalizers.0.type", "\"Precompiled\"", -ENOTSUP,
     "normalizer.normalizers[0].type is \"Precompiled\""},
    {"pre_tokenizer.pretokenizers.1.prepend_scheme", "\"first\"", -ENOTSUP, "behind what may move it"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
     "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}]}",
     -ENOTSUP, "behind what may move it"},
    {"normalizer.normalizers.0.prepend", "null", -EINVAL, "normalizer.normalizers[0].prepend is null"},
    {"normalizer.normalizers.1.pattern", "{\"Regex\":\"(\"}", -EINVAL,
     "normalizers[1].pattern: at byte 1: a parenthesis is not closed"},
    {"normalizer.normalizers.1.pattern", "{}", -EINVAL, "normalizers[1].pattern is an object"},
    {"normalizer.normalizers.1.content", NULL, -EINVAL, "normalizer.normalizers[1].content is absent"},
    {"pre_tokenizer.type", "\"UnicodeScripts\"", -ENOTSUP, "pre_tokenizer.type is \"UnicodeScripts\""},
    {"pre_tokenizer", "{\"type\":\"Digits\"}", -EINVAL, "pre_tokenizer.individual_digits is absent"},
    {"pre_tokenizer", "{\"type\":\"FixedLength\",\"length\":0}", -EINVAL, "pre_tokenizer.length is 0"},
    {"pre_tokenizer", "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"ab\"}", -EINVAL,
     "pre_tokenizer.delimiter is \"ab\""},
    {"pre_tokenizer", "{\"type\":\"Punctuation\",\"behavior\":\"isolated\"}", -EINVAL,
     "pre_tokenizer.behavior is \"isolated\""},
    {"pre_tokenizer", "\"ByteLevel\"", -EINVAL, "pre_tokenizer.type is absent"},
    {"pre_tokenizer.pretokenizers.0.behavior", "\"Kept\"", -EINVAL, "pretokenizers[0].behavior is \"Kept\""},
    {"pre_tokenizer.pretokenizers.0.behavior", NULL, -EINVAL, "pretokenizers[0].behavior is absent"},
    {"pre_tokenizer.pretokenizers.0.invert", NULL, -EINVAL, "pretokenizers[0].invert is absent"},
    {"pre_tokenizer.pretokenizers.0.pattern", "{\"Regex\":\"(a\"}", -EINVAL,
     "at byte 2: a parenthesis is not closed"},
    {"pre_tokenizer.pretokenizers.0.pattern", "{}", -EINVAL, "pretokenizers[0].pattern"},
    {"pre_tokenizer.pretokenizers.1.replacement", "\"__\"", -EINVAL,
     "pretokenizers[1].replacement is \"__\""},
    {"pre_tokenizer.pretokenizers.1.prepend_scheme", "\"last\"", -ENOTSUP, "prepend_scheme is \"last\""},
    {"pre_tokenizer.pretokenizers.1.add_prefix_space", "false", -EINVAL, "add_prefix_space says false"},
    {"pre_tokenizer.pretokenizers.2.add_prefix_space", NULL, -EINVAL,
     "pretokenizers[2].add_prefix_space is absent"},
    {"decoder.type", "\"WordPiece\"", -ENOTSUP, "decoder.type is \"WordPiece\""},
    {"decoder.decoders.1.type", "\"CTC\"", -ENOTSUP, "decoder.decoders[1].type is \"CTC\""},
    {"decoder.decoders.3.content", "\"\"", -EINVAL, "decoder.decoders[3].content is \"\""},
    {"decoder.decoders.3.start", "-1", -EINVAL, "decoder.decoders[3].start is -1"},
};

static void refused(const json_t *root, int code, const char *says)
{
    char error[ERROR_BYTES];
    struct tokenizer *t = (struct tokenizer *)error;
    int rc = open_json(root, &t, error);

    if (rc != code || !strstr(error, says))
        fail_msg("%d instead of %d, '%s' instead of '%s'", rc, code, error, says);
    assert_null(t);
    assert_non_null(strstr(error, tokenizer_path));
}

static void refusals_have_reasons(void **state)
{
    char error[ERROR_BYTES];
    struct tokenizer *t;
    json_t *root = base_json();

    (void)state;
    if (open_json(root, &t, error) < 0)
        fail_msg("%s", error);
    assert_int_equal(tokenizer_vocab(t), 7);
    tokenizer_close(t);
    json_decref(root);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        root = base_json();
        patch(root, refusals[i].field, refusals[i].value);
        refused(root, refusals[i].code, refusals[i].says);
        json_decref(root);
    }
}

/* Growth without bounds is noticed where it happens: on encoding, and on opening. */
static void explosions(void **state)
{
    static const char twice[] =
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaaaaaaaa\"}";
    json_t *root = base_json(), *list = json_object_get(json_object_get(root, "normalizer"), "normalizers");
    char error[ERROR_BYTES], text[1000];
    struct tokenizer *t;
    uint32_t *ids;
    size_t count;

    (void)state;
    for (int i = 0; i < 10; i++)
        json_array_append_new(list, json_loads(twice, 0, NULL));
    assert_int_equal(open_json(root, &t, error), 0);
    memset(text, 'a', sizeof text);
    assert_int_equal(tokenizer_encode(t, text, sizeof text, &ids, &count), -E2BIG);
    assert_null(ids);
    tokenizer_close(t);
    patch(root, "added_tokens.0.normalized", "true");
    patch(root, "added_tokens.0.content", "\"aaaa\"");
    refused(root, -E2BIG, "an added token is \"aaaa\": it can't be normalized");
    json_decref(root);

    root = base_json();
    list = json_object_get(json_object_get(root, "decoder"), "decoders");
    for (int i = 0; i < 10; i++)
        json_array_append_new(list, json_loads(twice, 0, NULL));
    refused(root, -E2BIG, "decoder");
    for (int i = 0; i < 40; i++)
        json_array_append_new(list, json_loads(twice, 0, NULL));
    refused(root, -ENOTSUP, "more than 32 steps");
    json_decref(root);

    /* A regular expression that backtracks for ever gives up. */
    root = base_json();
    patch(root, "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(a|a)+(?<=b)\"");
    assert_int_equal(open_json(root, &t, error), 0);
    assert_int_equal(tokenizer_encode(t, text, 200, &ids, &count), -ELOOP);
    tokenizer_close(t);
    json_decref(root);
}

static void nesting(void **state)
{
    json_t *root = base_json(), *inner = json_object_get(root, "normalizer");
    size_t depth = 100000;
    char *deep = malloc(depth), error[ERROR_BYTES];
    struct tokenizer *t;

    (void)state;
    json_incref(inner);
    for (int i = 0; i < 200; i++)
        inner = json_pack("{s:s, s:[o]}", "type", "Sequence", "normalizers", inner);
    json_object_set_new(root, "normalizer", inner);
    refused(root, -ENOTSUP, "nested too deep");
    json_decref(root);
    assert_non_null(deep);
    memset(deep, '[', depth);
    write_all(deep, depth);
    assert_int_equal(tokenizer_open(tokenizer_path, &t, error, sizeof error), -EBADMSG);
    assert_non_null(strstr(error, "depth"));
    free(deep);
}

static void other_files(void **state)
{
    static const struct {
        const char *text, *says;
    } files[] = {
        {"", "line 1, column 0"},
        {"not JSON \x1b[31m\n", "line 1, column 3"},
        {"[1,2]", "it is not a JSON object"},
        {"{\"model\":{\"vocab\":{\"\xff\":0},\"merges\":[]}}", "unable to decode byte 0xff"},
        {"{\"model\":{\"vocab\":{\"a\0b\":0},\"merges\":[]}}", "line 1"},
        {"{\"model\":{\"vocab\":{\"a\":99999999999999999999},\"merges\":[]}}", "too big integer"},
    };
    char error[ERROR_BYTES], want[ERROR_BYTES];
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_all(files[i].text, strlen(files[i].text));
        assert_int_equal(tokenizer_open(tokenizer_path, &t, error, sizeof error),
                         files[i].text[0] == '[' ? -EINVAL : -EBADMSG);
        if (!strstr(error, files[i].says) || strchr(error, 0x1b))
            fail_msg("'%s' instead of '%s'", error, files[i].says);
    }
    assert_int_equal(tokenizer_open(tokenizer_absent, &t, error, sizeof error), -ENOENT);
    snprintf(want, sizeof want, "open tokenizer: %s: No such file or directory", tokenizer_absent);
    assert_string_equal(error, want);
    assert_int_equal(tokenizer_open(tokenizer_dir, &t, error, sizeof error), -EINVAL);
    /* Less room for the sentence than it needs, down to none. */
    for (size_t room = 0; room < strlen(want) + 10; room++) {
        memset(error, 'x', sizeof error);
        assert_int_equal(tokenizer_open(tokenizer_absent, &t, error, room), -ENOENT);
        assert_int_equal(error[room], 'x');
        assert_true(room == 0 || memchr(error, 0, room));
    }
}

static void truncations(void **state)
{
    size_t bytes;
    char *text = read_all(GOLDEN "llama3.json", &bytes), error[ERROR_BYTES];
    struct tokenizer *t;

    (void)state;
    assert_non_null(text);
    while (text[bytes - 1] == '\n')
        bytes--;
    for (size_t keep = 0; keep < bytes; keep += keep < 3000 ? 1 : 97) {
        write_all(text, keep);
        assert_int_equal(tokenizer_open(tokenizer_path, &t, error, sizeof error), -EBADMSG);
        assert_non_null(strstr(error, tokenizer_path));
    }
    free(text);
}

/* Mutated files open or are refused; what opens encodes and decodes, or says why not. */
static void mutations(void **state)
{
    static const char *const names[] = {GOLDEN "words.json", GOLDEN "llama3.json", GOLDEN "dense.json"};
    static const char text[] = "ta ri  <s> len\n \xff <|end|> \u00e9 ab ababb";
    static const char bytes_of_json[] = "0123456789\"[]{},:.-abtfnue \\";
    size_t opened = 0, refused_files = 0;

    (void)state;
    for (uint64_t round = 0; round < FUZZ_ROUNDS; round++) {
        uint64_t random = round + 1;
        char error[ERROR_BYTES], *data, *back;
        struct tokenizer *t;
        size_t bytes, count;
        uint32_t *ids;
        data = read_all(names[round % 3], &bytes);
        assert_non_null(data);
        for (uint64_t i = next_random(&random) % 4; i < 4; i++) {
            size_t at = next_random(&random) % (round % 2 ? bytes : bytes < 1500 ? bytes : 1500);
            size_t from = next_random(&random) % (bytes - 8);
            if (next_random(&random) % 2)
                data[at] = bytes_of_json[next_random(&random) % (sizeof bytes_of_json - 1)];
            else if (at < bytes - 8)
                memmove(data + at, data + from, next_random(&random) % 8);
        }
        write_all(data, bytes);
        free(data);
        if (tokenizer_open(tokenizer_path, &t, error, sizeof error) < 0) {
            refused_files++;
            if (!strstr(error, tokenizer_path) || strlen(error) < strlen(tokenizer_path) + 20)
                fail_msg("round %" PRIu64 ": '%s'", round, error);
            continue;
        }
        opened++;
        if (tokenizer_encode(t, text, sizeof text - 1, &ids, &count) == 0 &&
            tokenizer_decode(t, ids, count, round & 1, &back, NULL) == 0)
            free(back);
        free(ids);
        tokenizer_close(t);
    }
    assert_true(opened > FUZZ_ROUNDS / 20 && refused_files > FUZZ_ROUNDS / 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals_have_reasons), cmocka_unit_test(explosions),  cmocka_unit_test(nesting),
        cmocka_unit_test(other_files),           cmocka_unit_test(truncations), cmocka_unit_test(mutations),
    };

    return cmocka_run_group_tests(tests, tokenizer_setup, tokenizer_teardown);
}
