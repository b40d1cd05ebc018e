/*
 * Proves that a path that is no model is called by its name: each kind is made, and the sentence has to have its
 * words. The control: with a config.json the same directory passes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "examples/model/directory.h"
#include "tests/temporary.h"

#define POINTER "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"

static char root[512];

/* A file below the test's folder, with the folders that it lies in; NULL: the folder alone. */
static void put(const char *name, const char *text)
{
    char path[800];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    if (!text)
        return;
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void check(const char *name, const char *words)
{
    char path[800], error[2048] = "";
    int err;

    snprintf(path, sizeof path, "%s%s%s", root, *name ? "/" : "", name);
    err = llama_directory_check(path, false, error, sizeof error);
    if (words ? err >= 0 || !strstr(error, words) : err != 0)
        fail_msg("%s: %d, %s: wanted %s", name, err, error, words ? words : "nothing");
}

static void kinds_are_named(void **state)
{
    static const struct {
        const char *file, *text, *path, *words;
    } cases[] = {
        {"x.gguf", "GGUF\003", "x.gguf", "it is a GGUF file"},
        {"m.safetensors", "x", "m.safetensors", "it is one file of a model: give the directory"},
        {"m.bin", "PK\003\004", "m.bin", "a file of PyTorch"},
        {"lfs", POINTER, "lfs", "a pointer that git-lfs left"},
        {"plain", "x", "plain", "it is a file, not a directory"},
        {"a/adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}", "a",
         "an adapter (adapter_config.json, LoRA or the like) of the model org/base"},
        {"a2/adapter_config.json", "{", "a2", "of the model that it was trained on"},
        {"meta/params.json", "{}", "meta", "as Meta or Mistral publish them"},
        {"meta2/consolidated.00.pth", "", "meta2", "as Meta or Mistral publish them"},
        {"models--o--n/snapshots/0123/config.json", "{}", "models--o--n", "models--o--n/snapshots/0123"},
        {"hub/models--o--n/snapshots/0123/config.json", "{}", "hub", "it is the hub's cache, of 1 models"},
        {"g/model-q4.gguf", "GGUF", "g", "it has model-q4.gguf, a GGUF file"},
        {"d/model_index.json", "{}", "d", "a pipeline of diffusers"},
        {"t/checkpoint-500/config.json", "{}", "t", "give "},
        {"w/model.safetensors", "", "w", "it has weights, but no config.json"},
        {"e/", NULL, "e", "it is empty"},
        {"o/README.md", "", "o", "it has no config.json"},
        {"p/config.json", POINTER, "p", "its config.json is a pointer that git-lfs left"},
        {"k/tokenizer.json", POINTER, "k", "it has no config.json"},
    };
    char error[2048], path[800];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put(cases[i].file, cases[i].text);
        check(cases[i].path, cases[i].words);
    }
    check("models--o--n/snapshots/0123", NULL);
    check("absent", "No such file or directory");
    check("ab\x7Fs\x1B]e\nnt", "/ab?s?]e?nt"); /* a name from a file, which the terminal is not to obey */
    snprintf(path, sizeof path, "%s/x.gguf", root);
    assert_int_equal(llama_directory_check(path, true, error, sizeof error), 0); /* where such are read */
    assert_true(llama_directory_check("no-such-org/no-such-name", false, error, sizeof error) < 0);
    assert_non_null(strstr(error, "nothing is fetched here"));
    put("a/config.json", "{}"); /* a model with an adapter beside it */
    check("a", NULL);
    put("k/config.json", "{}");
    check("k", "its tokenizer.json is a pointer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kinds_are_named)};

    if (temporary_dir("directory", root, sizeof root) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
