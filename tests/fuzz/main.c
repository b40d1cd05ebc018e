/*
 * The loaders of model files under libFuzzer: what a file may hold must end in a model or in a sentence. One program,
 * whose target OFL_FUZZ names; tools/fuzz-loaders.sh runs them all. A crash, a leak, a sanitizer's report and a
 * failure without a sentence stop it.
 *
 * OFL_FUZZ_SEEDS=DIR: the target's seeds are written there, and nothing else is done.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/model/chat.h"
#include "examples/model/checkpoint.h"
#include "examples/model/config.h"
#include "examples/model/gguf.h"
#include "examples/model/gguf_text.h"
#include "examples/model/lora_file.h"
#include "examples/model/template.h"
#include "examples/model/tokenizer.h"
#include "examples/model/tokenizer_regex.h"
#include "include/offload_estimate.h"
#include "io/drive.h"

#define ERROR 512

static const char text[] =
    "Hello, wor1d!  \xc3\xa9\xe4\xb8\xad \xcc\x81\n\n<s>12345</s>\t'll \xff \xf0\x9f\x99\x82";

static char dir[256];
static struct ofl_ctx *ctx;

/* ---- helpers --------------------------------------------------------------- */

static void need(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

/* A failure has a sentence, without control characters. */
static void need_sentence(int err, const char *error)
{
    if (err == 0)
        return;
    need(err < 0, "a code above 0");
    need(error[0] != '\0', "a failure without a sentence");
    for (; *error; error++)
        need((unsigned char)*error >= ' ' && *error != 0x7f, "a control character in a sentence");
}

static const char *path_of(const char *name)
{
    static char path[320];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* As of 1970: opening what was written a moment ago waits for a tick of the clock. */
static void put(const char *name, const void *bytes, size_t count)
{
    const struct timespec times[2] = {{0}, {0}};
    int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    need(fd >= 0 && write(fd, bytes, count) == (ssize_t)count && futimens(fd, times) == 0, "can't write");
    close(fd);
}

static void put_text(const char *name, const char *seed)
{
    put(name, seed, strlen(seed));
}

/* A header becomes a file with so many zeros behind it; other bytes are a file. */
static void put_safetensors(const char *name, const void *data, size_t bytes, size_t zeros)
{
    static unsigned char file[1 << 17];
    uint64_t header = bytes;

    if (bytes == 0 || bytes > sizeof file - zeros - sizeof header || *(const char *)data != '{') {
        put(name, data, bytes);
        return;
    }
    memcpy(file, &header, sizeof header);
    memcpy(file + sizeof header, data, bytes);
    memset(file + sizeof header + bytes, 0, zeros);
    put(name, file, sizeof header + bytes + zeros);
}

static const char *seed_of(const char *target)
{
    for (size_t i = 0; fuzz_seeds[i].target; i++)
        if (strcmp(fuzz_seeds[i].target, target) == 0)
            return fuzz_seeds[i].text;
    need(false, "no such seed");
    return NULL;
}

/* The files of dir that a target finds there. */
static void prepare(const char *target)
{
    if (strcmp(target, "adapter") == 0)
        put_safetensors("adapter_model.safetensors", seed_of("adapter_weights"),
                        strlen(seed_of("adapter_weights")), FUZZ_ADAPTER_BYTES);
    if (strcmp(target, "adapter_weights") == 0)
        put_text("adapter_config.json", seed_of("adapter"));
    if (strcmp(target, "generation") == 0)
        put_text("config.json", seed_of("config"));
    if (strcmp(target, "tokenizer_config") == 0 || strcmp(target, "chat") == 0)
        put_text("tokenizer.json", seed_of("tokenizer"));
    if (strcmp(target, "chat") == 0)
        put_text("tokenizer_config.json", seed_of("tokenizer_config"));
}

/* ---- targets --------------------------------------------------------------- */

static void run_config(const uint8_t *data, size_t bytes, const char *name)
{
    static struct llama_config config;
    char error[ERROR] = "";

    put(name, data, bytes);
    need_sentence(llama_config_load(dir, &config, error, sizeof error), error);
}

static void config(const uint8_t *data, size_t bytes)
{
    run_config(data, bytes, "config.json");
}

static void generation(const uint8_t *data, size_t bytes)
{
    run_config(data, bytes, "generation_config.json");
}

static void open_checkpoint(const char *path, const struct llama_shape *shape)
{
    struct llama_checkpoint *ck;
    char error[ERROR] = "";
    int err = llama_checkpoint_open(ctx, path, shape, &ck, error, sizeof error);

    need_sentence(err, error);
    if (err == 0)
        need(llama_checkpoint_close(ck) == 0, "a checkpoint that can't be closed");
}

/* A header, or a whole file. */
static void safetensors(const uint8_t *data, size_t bytes)
{
    static const struct llama_shape shape = FUZZ_SHAPE;

    put_safetensors("model.safetensors", data, bytes, FUZZ_SHAPE_BYTES);
    open_checkpoint(dir, &shape);
}

static void index_file(const uint8_t *data, size_t bytes)
{
    static const struct llama_shape shape = FUZZ_SHAPE;

    put("model.safetensors.index.json", data, bytes);
    open_checkpoint(dir, &shape);
}

/* Encodes and decodes; closes it. */
static void try_tokenizer(struct tokenizer *t)
{
    uint32_t *ids;
    size_t count, length;
    char *back;

    if (tokenizer_encode(t, text, sizeof text - 1, &ids, &count) == 0) {
        for (size_t i = 0; i < count; i++)
            need(ids[i] < tokenizer_vocab(t), "an id beyond the vocabulary");
        if (tokenizer_decode(t, ids, count, false, &back, &length) == 0)
            need(back[length] == '\0', "a text without its end");
        free(back);
    }
    free(ids);
    tokenizer_close(t);
}

static void gguf(const uint8_t *data, size_t bytes)
{
    static struct llama_config config;
    struct ofl_source *source;
    struct tokenizer *t;
    json_t *settings;
    char path[320], error[ERROR] = "";
    int err;

    put("model.gguf", data, bytes);
    snprintf(path, sizeof path, "%s", path_of("model.gguf"));
    /* llama_gguf_config opens a context of its own, which takes long: only for what is a GGUF file. */
    if (ofl_source_open(ctx, path, &source) < 0)
        return;
    need(ofl_source_close(source) == 0, "a source that can't be closed");
    err = llama_gguf_config(path, &config, error, sizeof error);
    need_sentence(err, error);
    if (err == 0)
        open_checkpoint(path, &config.shape);
    error[0] = '\0';
    err = llama_gguf_tokenizer(path, &t, error, sizeof error);
    need_sentence(err, error);
    if (err == 0)
        try_tokenizer(t);
    error[0] = '\0';
    err = llama_gguf_settings(path, &settings, error, sizeof error);
    need_sentence(err, error);
    if (err == 0)
        json_decref(settings);
}

static void load_adapter(void)
{
    static const struct llama_shape shape = FUZZ_SHAPE;
    struct llama_lora lora;
    char error[ERROR] = "";

    need_sentence(llama_lora_load(dir, &shape, &lora, error, sizeof error), error);
}

static void adapter(const uint8_t *data, size_t bytes)
{
    put("adapter_config.json", data, bytes);
    load_adapter();
}

static void adapter_weights(const uint8_t *data, size_t bytes)
{
    put_safetensors("adapter_model.safetensors", data, bytes, FUZZ_ADAPTER_BYTES);
    load_adapter();
}

static void use_tokenizer(void)
{
    struct tokenizer *t;
    char error[ERROR] = "";
    int err = tokenizer_open(path_of("tokenizer.json"), &t, error, sizeof error);

    need_sentence(err, error);
    if (err == 0)
        try_tokenizer(t);
}
static void tokenizer(const uint8_t *data, size_t bytes)
{
    put("tokenizer.json", data, bytes);
    use_tokenizer();
}

static void tokenizer_config(const uint8_t *data, size_t bytes)
{
    put("tokenizer_config.json", data, bytes);
    use_tokenizer();
}

static void regex(const uint8_t *data, size_t bytes)
{
    struct tok_regex *re;
    struct tok_regex_error error = {0};
    struct tok_matcher m = {0};
    struct tok_find find = {0};
    size_t last = 0;

    if (tok_regex_compile((const char *)data, bytes, false, &re, &error) < 0) {
        need(error.cause != NULL && error.at <= bytes, "a pattern refused without a cause");
        return;
    }
    while (tok_regex_next(re, &m, text, sizeof text - 1, &find) == 1) {
        need(find.start >= last && find.end >= find.start && find.end < sizeof text, "a match out of order");
        last = find.end;
    }
    tok_matcher_free(&m);
    tok_regex_free(re);
}

static void template(const uint8_t *data, size_t bytes)
{
    static json_t *variables;
    struct template_text out;
    struct template *t;
    char error[ERROR] = "";
    int err = template_compile((const char *)data, bytes, "fuzz", &t, error, sizeof error);

    need_sentence(err, error);
    if (err < 0)
        return;
    if (!variables)
        variables = json_loads(seed_of("variables"), 0, NULL);
    err = template_render(t, variables, &out, error, sizeof error);
    need_sentence(err, error);
    if (err == 0) {
        for (size_t i = 0; i < out.span_count; i++)
            need(out.spans[i].from <= out.spans[i].to && out.spans[i].to <= out.count,
                 "a span beyond its text");
        template_text_free(&out);
    }
    template_free(t);
}

/* A line of a file of conversations. */
static void chat(const uint8_t *data, size_t bytes)
{
    static struct chat *c;
    static struct tokenizer *t;
    struct chat_tokens tokens;
    struct chat_request request = {0};
    char error[ERROR] = "";
    json_t *line = json_loadb((const char *)data, bytes, JSON_DECODE_ANY, NULL);
    int err;

    if (!c)
        need(chat_open(dir, &c, error, sizeof error) == 0 &&
                 tokenizer_open(path_of("tokenizer.json"), &t, error, sizeof error) == 0,
             "the seeds can't be opened");
    request.messages = json_is_object(line) ? json_object_get(line, "messages") : line;
    request.tools = json_is_object(line) ? json_object_get(line, "tools") : NULL;
    if (request.messages) {
        err = chat_encode(c, t, &request, &tokens, error, sizeof error);
        need_sentence(err, error);
        if (err == 0)
            chat_tokens_free(&tokens);
    }
    json_decref(line);
}

static void kept(const uint8_t *data, size_t bytes)
{
    fuzz_kept(dir, data, bytes);
}

static void machine(const uint8_t *data, size_t bytes)
{
    struct ofl_machine m = {.size = sizeof m};
    int err;

    put("machine.json", data, bytes);
    err = ofl_machine_load(path_of("machine.json"), &m);
    need_sentence(err, err < 0 ? ofl_error() : "");
    need(err < 0 || (m.host_bytes > 0 && m.host_bps >= 0), "a machine without memory");
}

static char profile_name[128]; /* of the file of dir's drive */

/* "KEY" stands for the drive's. */
static void profile(const uint8_t *data, size_t bytes)
{
    static char file[1 << 17];
    struct ofl_place_rates r = {.size = sizeof r};
    const char *at = memmem(data, bytes, "KEY", 3);
    size_t before = at ? (size_t)(at - (const char *)data) : bytes, n;
    char key[96];
    struct io_drive d;
    int err;

    need(io_drive_get(dir, &d) == 0 && setenv("OFL_PROFILE_DIR", dir, 1) == 0, "no drive");
    io_drive_key(&d, key, sizeof key);
    snprintf(profile_name, sizeof profile_name, "%s.json", key);
    n = (size_t)snprintf(file, sizeof file, "%.*s%s%.*s", (int)before, (const char *)data, at ? key : "",
                         at ? (int)(bytes - before - 3) : 0, at ? at + 3 : "");
    put(profile_name, file, n);
    err = ofl_place_rates_get(dir, 0, &r);
    need_sentence(err, err < 0 ? ofl_error() : "");
    need(err < 0 || (r.read_bps > 0 && r.write_bps > 0 && r.read_bps < 1e16 && r.write_bps < 1e16),
         "rates that no drive has");
}

static const struct target {
    const char *name;
    void (*run)(const uint8_t *data, size_t bytes);
    bool json;
} targets[] = {
    {"config", config, true},
    {"generation", generation, true},
    {"safetensors", safetensors, true},
    {"index", index_file, true},
    {"gguf", gguf, false},
    {"adapter", adapter, true},
    {"adapter_weights", adapter_weights, true},
    {"tokenizer", tokenizer, true},
    {"tokenizer_config", tokenizer_config, true},
    {"regex", regex, false},
    {"template", template, false},
    {"chat", chat, true},
    {"kept", kept, false},
    {"machine", machine, true},
    {"profile", profile, true},
};

static const struct target *target;

/* ---- libFuzzer's functions --------------------------------------------------- */

static void write_seeds(const char *to)
{
    char name[24];

    snprintf(dir, sizeof dir, "%s", to);
    for (size_t i = 0; fuzz_seeds[i].target; i++) {
        snprintf(name, sizeof name, "seed-%zu", i);
        if (strcmp(fuzz_seeds[i].target, target->name) == 0)
            put_text(name, fuzz_seeds[i].text);
    }
    if (target->run == gguf) {
        size_t bytes;
        unsigned char *file = fuzz_gguf(&bytes);

        put("seed-gguf", file, bytes);
        free(file);
    }
    for (int i = 0; i < 2 && target->run == kept; i++) {
        size_t bytes;
        unsigned char *file = fuzz_kept_seed(i, &bytes);

        put(i ? "seed-store" : "seed-manifest", file, bytes);
        free(file);
    }
    exit(0);
}

static void remove_dir(void)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "model.safetensors",
                                        "model.safetensors.index.json",
                                        "model.gguf",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "adapter_config.json",
                                        "adapter_model.safetensors",
                                        "store.ofl",
                                        "data.ofl",
                                        "manifest-0.ofl",
                                        "manifest-1.ofl",
                                        "machine.json"};

    ofl_close(ctx);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(path_of(names[i]));
    if (profile_name[0])
        unlink(path_of(profile_name));
    rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("OFL_FUZZ"), *seeds = getenv("OFL_FUZZ_SEEDS"), *tmp = getenv("TMPDIR");
    const struct ofl_config c = {
        .size = sizeof c, .device_bytes = 1 << 20, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};

    (void)argc;
    (void)argv;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (name && strcmp(targets[i].name, name) == 0)
            target = &targets[i];
    if (!target) {
        fprintf(stderr, "fuzz: OFL_FUZZ=TARGET, one of");
        for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
            fprintf(stderr, " %s", targets[i].name);
        fputc('\n', stderr);
        exit(2);
    }
    if (seeds)
        write_seeds(seeds);
    snprintf(dir, sizeof dir, "%s/ofl-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    need(mkdtemp(dir) != NULL, "no folder below TMPDIR");
    need(ofl_open(&c, &ctx) == 0, "ofl_open");
    atexit(remove_dir);
    prepare(target->name);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    target->run(data, bytes);
    return 0;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed);
/* One in four changes bytes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed)
{
    size_t changed = target->json && seed % 4 ? fuzz_mutate_json(data, bytes, room, seed) : 0;

    return changed ? changed : LLVMFuzzerMutate(data, bytes, room);
}
