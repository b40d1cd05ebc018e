/*
 * What a GGUF file says about text: small vocabularies of both models give the ids that follow from their merges or
 * scores, cut as tokenizer.ggml.pre says; start tokens, texts of ids and the chat template are those of the file; what is
 * not known is refused by its name. Ids of real families beside Hugging Face's: tools/check_gguf_tokenizer.py.
 *
 * Negative controls: another cut, and other scores, give other ids; the file that all refused ones are made from opens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "examples/model/chat.h"
#include "examples/model/gguf_text.h"
#include "tests/gguf_fixture.h"
#include "tests/model_fixture.h"

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, TEXT = 8, LIST = 9, MOST = 24 };

static char *dir;

/* A file with a tokenizer only. NULL and 0: the key is left out. */
struct vocabulary {
    const char *model, *pre, *template;
    const char *tokens[MOST], *merges[MOST];
    int32_t types[MOST];
    float scores[MOST];
    uint32_t start; /* 0: none */
    int add_start;  /* -1: not said */
};

static const struct vocabulary bytes = {
    .model = "gpt2",
    .pre = "llama-bpe",
    .template = "{{ bos_token }}{{ messages[0]['content'] }}!",
    .tokens = {"a", "b", "c", "\u0120", "1", "2", "ab", "\u0120a", "abc", "12", "<|end|>", "<t>"},
    .merges = {"a b", "\u0120 a", "ab c", "1 2"},
    .types = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4},
    .start = 10,
    .add_start = -1,
};

static const struct vocabulary scored = {
    .model = "llama",
    .tokens = {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "\u2581a", "ab", "\u2581ab"},
    .types = {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1},
    .scores = {0, 0, 0, 0, 0, -5, -6, -7, -1, -3, -2},
    .start = 1,
    .add_start = -1,
};

static size_t length(const char *const *list)
{
    size_t n = 0;

    while (n < MOST && list[n])
        n++;
    return n;
}

static void add_text(struct gguf_file *f, const char *key, const char *text)
{
    gguf_add_key(f, key, TEXT);
    gguf_add_text(f, text);
}

static void add_list(struct gguf_file *f, const char *key, uint32_t type, size_t count)
{
    gguf_add_key(f, key, LIST);
    gguf_add32(f, type);
    gguf_add64(f, count);
}

static void add_texts(struct gguf_file *f, const char *key, const char *const *list)
{
    add_list(f, key, TEXT, length(list));
    for (size_t i = 0; i < length(list); i++)
        gguf_add_text(f, list[i]);
}

static char *make(const struct vocabulary *v)
{
    static struct gguf_file f;
    static char path[600];
    size_t count = length(v->tokens);
    bool scores = v->scores[count - 1] != 0;

    gguf_begin(&f, 0,
               (uint64_t)(2 + (v->model != NULL) + (v->pre != NULL) + (v->template != NULL) + scores +
                          (v->merges[0] != NULL) + (v->start != 0) + (v->add_start >= 0)));
    add_texts(&f, "tokenizer.ggml.tokens", v->tokens);
    add_list(&f, "tokenizer.ggml.token_type", I32, count);
    gguf_add(&f, v->types, count * sizeof *v->types);
    if (v->model)
        add_text(&f, "tokenizer.ggml.model", v->model);
    if (v->pre)
        add_text(&f, "tokenizer.ggml.pre", v->pre);
    if (v->template)
        add_text(&f, "tokenizer.chat_template", v->template);
    if (scores) {
        add_list(&f, "tokenizer.ggml.scores", F32, count);
        gguf_add(&f, v->scores, count * sizeof *v->scores);
    }
    if (v->merges[0])
        add_texts(&f, "tokenizer.ggml.merges", v->merges);
    if (v->start) {
        gguf_add_key(&f, "tokenizer.ggml.bos_token_id", U32);
        gguf_add32(&f, v->start);
    }
    if (v->add_start >= 0) {
        gguf_add_key(&f, "tokenizer.ggml.add_bos_token", BOOL);
        gguf_add(&f, v->add_start ? "\1" : "\0", 1);
    }
    gguf_end(&f, 32, 0);
    snprintf(path, sizeof path, "%s/v.gguf", dir);
    gguf_put(path, f.bytes, f.count);
    return path;
}

static struct tokenizer *open_it(const struct vocabulary *v)
{
    struct tokenizer *t;
    char error[512];

    if (llama_gguf_tokenizer(make(v), &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    return t;
}

static bool gives(const struct vocabulary *v, const char *text, const uint32_t *want, size_t count)
{
    struct tokenizer *t = open_it(v);
    uint32_t *ids;
    size_t n;
    bool same;

    assert_int_equal(tokenizer_encode(t, text, strlen(text), &ids, &n), 0);
    same = n == count && memcmp(ids, want, count * sizeof *want) == 0;
    free(ids);
    tokenizer_close(t);
    return same;
}

#define IDS(...) (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)

static void merges_and_cuts(void **state)
{
    struct vocabulary other = bytes;

    (void)state;
    assert_true(gives(&bytes, "abc ab12<|end|><t>", IDS(8, 3, 6, 9, 10, 11)));
    other.pre = "qwen2"; /* digits are pieces of their own */
    assert_true(gives(&other, "abc ab12<|end|><t>", IDS(8, 3, 6, 4, 5, 10, 11)));
    other = bytes;
    other.merges[0] = "1 2";
    other.merges[3] = "a b"; /* the space comes first */
    assert_true(gives(&other, "abc ab12", IDS(8, 7, 1, 9)));
}

static void scores_decide(void **state)
{
    struct vocabulary other = scored;

    (void)state;
    assert_true(gives(&scored, "ab", IDS(10)));
    assert_true(gives(&scored, "b ab", IDS(5, 7, 10)));
    assert_true(gives(&scored, "ab\u00e9", IDS(10, 3, 4)));
    assert_true(gives(&scored, "abz</s>a", IDS(10, 0, 2, 8)));
    other.scores[8] = -9; /* "ab" before the mark and a */
    other.tokens[10] = "x";
    assert_true(gives(&other, "ab", IDS(5, 9)));
}

static void start_tokens(void **state)
{
    static const struct {
        const struct vocabulary *of;
        const char *pre;
        int add;
        bool has;
    } cases[] = {
        {&bytes, "llama-bpe", -1, true}, {&bytes, "qwen2", -1, false}, {&bytes, "qwen2", 1, true},
        {&bytes, "llama-bpe", 0, false}, {&scored, NULL, -1, true},    {&scored, NULL, 0, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vocabulary v = *cases[i].of;
        struct tokenizer *t;
        size_t before;

        v.pre = cases[i].pre;
        v.add_start = cases[i].add;
        t = open_it(&v);
        tokenizer_before(t, &before);
        assert_int_equal(before, cases[i].has);
        tokenizer_close(t);
    }
}

static void text_of_ids(void **state)
{
    struct tokenizer *t = open_it(&scored);
    char *text;
    size_t n;

    (void)state;
    assert_int_equal(tokenizer_decode(t, (const uint32_t[]){1, 10, 3, 4, 5, 7}, 6, true, &text, &n), 0);
    assert_string_equal(text, "ab\u00e9 b");
    free(text);
    tokenizer_close(t);
    t = open_it(&bytes); /* a token of the user's is text, one of control is not */
    assert_true(tokenizer_special(t, 10) && !tokenizer_special(t, 11) && !tokenizer_special(t, 8));
    tokenizer_close(t);
}

static void chat_of_the_file(void **state)
{
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "abc");
    struct chat_request request = {.messages = messages};
    struct vocabulary none = bytes;
    struct chat *c;
    char *text, error[512];
    size_t n;

    (void)state;
    assert_int_equal(chat_open(make(&bytes), &c, error, sizeof error), 0);
    assert_int_equal(chat_prompt(c, &request, &text, &n, error, sizeof error), 0);
    assert_string_equal(text, "<|end|>abc!");
    free(text);
    chat_close(c);
    none.template = NULL;
    assert_int_equal(chat_open(make(&none), &c, error, sizeof error), 0);
    assert_true(chat_prompt(c, &request, &text, &n, error, sizeof error) < 0);
    chat_close(c);
    json_decref(messages);
}

static void refused_by_name(void **state)
{
    static const struct {
        const char *model, *pre, *merge, *says;
        float score;
    } cases[] = {
        {"gpt2", "nobody", "a b", "tokenizer.ggml.pre \"nobody\"", 0},
        {"bert", NULL, NULL, "tokenizer.ggml.model \"bert\"", 0},
        {NULL, NULL, NULL, "tokenizer.ggml.model \"\"", 0},
        {"gpt2", "qwen2", NULL, "tokenizer.ggml.merges is missing", 0},
        {"llama", NULL, NULL, "tokenizer.ggml.scores is missing", 0},
        {"gpt2", "qwen2", "a zz", "model.merges[0]", 0},
    };
    struct tokenizer *t;
    char error[512];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vocabulary v = bytes;

        v.model = cases[i].model;
        v.pre = cases[i].pre;
        memset(v.merges, 0, sizeof v.merges);
        v.merges[0] = cases[i].merge;
        assert_true(llama_gguf_tokenizer(make(&v), &t, error, sizeof error) < 0);
        if (!strstr(error, cases[i].says))
            fail_msg("%s: %s", cases[i].says, error);
    }
}

static int make_dir(void **state)
{
    (void)state;
    dir = files_dir("/var/tmp", "ofl-test-gguf-text");
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    files_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_and_cuts),  cmocka_unit_test(scores_decide),
        cmocka_unit_test(start_tokens),     cmocka_unit_test(text_of_ids),
        cmocka_unit_test(chat_of_the_file), cmocka_unit_test(refused_by_name),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
