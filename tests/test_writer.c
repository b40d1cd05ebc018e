/*
 * Proves that what is written as a Hugging Face directory reads back byte for byte, and that
 * a writing that fails at any point leaves nothing, nor touches what was there.
 *
 * Negative controls: the check for left-overs is shown one (left_overs_are_seen), and the
 * same call without a fault succeeds (failures_leave_nothing); the byte comparison is shown
 * a wrong byte (comparison_sees_a_byte).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "examples/model/checkpoint.h"
#include "examples/model/config.h"
#include "examples/model/output.h"
#include "examples/model/writer.h"
#include "liboffload/source/source.h"
#include "tests/model_fixture.h"
#include "tests/temporary.h"

static char root[200];
static struct ofl_ctx *ctx;

static const struct llama_config small = {.shape = {.layers = 2,
                                                    .hidden = 16,
                                                    .heads = 4,
                                                    .kv_heads = 2,
                                                    .head_dim = 6,
                                                    .ffn = 20,
                                                    .vocab = 35,
                                                    .max_positions = 64,
                                                    .rms_eps = 1e-5f,
                                                    .rope_theta = 1e4f,
                                                    .rope = {.factor = 1.0f},
                                                    .tied = true},
                                          .bos_id = 1,
                                          .eos_count = 2,
                                          .eos_ids = {2, 3},
                                          .initializer_range = 0.02f};

/* ---- writing ----------------------------------------------------------- */

struct script {
    const struct llama_shape *shape;
    uint64_t elem_bytes, most_bytes, calls, done_bytes, total_bytes;
    uint64_t fail_at; /* the call of read that fails; 0: none */
    bool silent;      /* without a sentence of its own */
    uint64_t stop_at; /* bytes at which progress says stop; 0: never */
    int add_files;    /* 0: a file; else the code that it fails with */
};

static unsigned char pattern(uint32_t tensor, uint64_t byte)
{
    return (unsigned char)((byte * 0x9E3779B97F4A7C15u + tensor * 0xD6E8FEB86659FD93u) >> 56);
}

static int script_read(void *arg, uint32_t tensor, uint64_t first, uint64_t elems, void *buf, char *error,
                       size_t error_bytes)
{
    struct script *s = arg;
    struct llama_tensor_desc d;

    if (++s->calls == s->fail_at) {
        if (!s->silent)
            snprintf(error, error_bytes, "the script says no");
        return -EIO;
    }
    assert_int_equal(llama_tensor_at(s->shape, tensor, &d), 0);
    assert_true(elems > 0 && first + elems <= d.elems);
    s->most_bytes = elems * s->elem_bytes > s->most_bytes ? elems * s->elem_bytes : s->most_bytes;
    for (uint64_t i = 0; i < elems * s->elem_bytes; i++)
        ((unsigned char *)buf)[i] = pattern(tensor, first * s->elem_bytes + i);
    return 0;
}

static int script_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct script *s = arg;

    assert_true(done_bytes > s->done_bytes && done_bytes <= total_bytes);
    s->done_bytes = done_bytes;
    s->total_bytes = total_bytes;
    return s->stop_at && done_bytes >= s->stop_at ? -ECANCELED : 0;
}

static int script_add(void *arg, const char *dir, char *error, size_t error_bytes)
{
    struct script *s = arg;

    (void)error;
    (void)error_bytes;
    files_put(dir, "added.txt", "added", 5);
    return s->add_files;
}

static struct llama_writer writer(const char *dir, const struct llama_config *config, enum ofl_dtype dtype,
                                  struct script *script)
{
    *script = (struct script){.shape = &config->shape, .elem_bytes = ofl_dtype_bytes(dtype)};
    return (struct llama_writer){.dir = dir,
                                 .config = config,
                                 .dtype = dtype,
                                 .read = script_read,
                                 .progress = script_progress,
                                 .add_files = script_add,
                                 .arg = script};
}

/* NULL, or the first tensor whose bytes in the file are not the script's. */
static const char *difference(const char *dir, const struct llama_shape *shape, enum ofl_dtype dtype)
{
    static char text[160];
    struct source_file *s = NULL;
    struct llama_tensor_desc d;
    const char *result = NULL;
    size_t bytes = 0;
    char *path = files_path(dir, "model.safetensors");
    unsigned char *file = files_get(path, &bytes);

    assert_int_equal(source_open(path, &s), 0);
    assert_int_equal(s->count, llama_tensor_count(shape));
    for (uint32_t i = 0; !result && llama_tensor_at(shape, i, &d) == 0; i++) {
        const struct source_entry *e = source_find(s, d.name);

        snprintf(text, sizeof text, "%s", d.name);
        if (!e || e->dtype != dtype || e->dims != d.dims || e->shape[0] != d.shape[0] || e->elems != d.elems)
            result = text;
        for (uint64_t b = 0; !result && b < e->bytes; b++)
            if (file[e->offset + b] != pattern(i, b))
                result = text;
    }
    source_close(s);
    free(file);
    free(path);
    return result;
}

/* A directory's mode is what umask asks for, or that of the empty one that was there. */
static void check_mode(const char *dir, bool replaced)
{
    mode_t mask = umask(0);
    struct stat st;

    umask(mask);
    assert_int_equal(stat(dir, &st), 0);
    if ((st.st_mode & 07777) != (replaced ? 01710 : 0777 & ~mask))
        fail_msg("mode %o", (unsigned)st.st_mode);
}

static void check_small_files(const char *dir, const struct llama_config *config)
{
    struct llama_config got;
    char error[1024] = "", *path = files_path(dir, "generation_config.json");
    json_t *generation = json_load_file(path, 0, NULL);

    assert_int_equal(llama_config_load(dir, &got, error, sizeof error), 0);
    assert_memory_equal(&got.shape.layers, &config->shape.layers, 8 * sizeof(uint32_t));
    assert_int_equal(json_array_size(json_object_get(generation, "eos_token_id")), 2);
    assert_int_equal(json_integer_value(json_object_get(generation, "bos_token_id")), 1);
    json_decref(generation);
    free(path);
    path = files_path(dir, "added.txt");
    assert_int_equal(access(path, R_OK), 0);
    free(path);
}

static void check_raw_header(const char *dir)
{
    static const char start[] = "{\"__metadata__\":{\"format\":\"pt\"},\"model.embed_tokens.weight\":{";
    char *path = files_path(dir, "model.safetensors");
    size_t bytes = 0;
    unsigned char *file = files_get(path, &bytes);

    assert_true(bytes > 8 + sizeof start);
    assert_int_equal(file[0] % 8, 0); /* the length, little-endian: the data is aligned */
    assert_memory_equal(file + 8, start, sizeof start - 1);
    free(file);
    free(path);
}

static void writes_what_it_is_given(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

    (void)state;
    for (int n = 0; n < 6; n++) {
        struct llama_config config = small;
        char *parent = files_dir(root, "write"), *dir = files_path(parent, n == 5 ? "out//" : "out"),
             error[1024] = "";
        struct llama_checkpoint *ck = NULL;
        struct script script;
        struct llama_writer w = writer(dir, &config, dtypes[n / 2], &script);

        config.shape.tied = n % 2 == 0;
        if (n == 1)
            config.shape.vocab = 600001; /* chunks within a tensor, and more than one sync */
        if (n == 2) {                    /* empty: may be used, and keeps its mode */
            assert_int_equal(mkdir(dir, 0700), 0);
            assert_int_equal(chmod(dir, 01710), 0);
        }
        assert_int_equal(llama_output_check(dir, false, error, sizeof error), 0);
        if (llama_checkpoint_write(&w, error, sizeof error) != 0)
            fail_msg("%s", error);
        if (difference(dir, &config.shape, w.dtype))
            fail_msg("%d: %s differs", n, difference(dir, &config.shape, w.dtype));
        assert_int_equal(script.done_bytes, llama_param_count(&config.shape) * script.elem_bytes);
        assert_int_equal(script.done_bytes, script.total_bytes);
        assert_true(script.most_bytes <= LLAMA_WRITE_CHUNK_BYTES);
        assert_int_equal(script.most_bytes == LLAMA_WRITE_CHUNK_BYTES, n == 1);
        check_small_files(dir, &config);
        check_mode(dir, n == 2);
        check_raw_header(dir);
        assert_int_equal(llama_checkpoint_open(ctx, dir, &config.shape, &ck, error, sizeof error), 0);
        assert_int_equal(llama_checkpoint_close(ck), 0);
        assert_int_equal(files_count(parent), 1);
        free(dir);
        files_remove(parent);
    }
}

static void comparison_sees_a_byte(void **state)
{
    char *parent = files_dir(root, "byte"), *dir = files_path(parent, "out"), error[1024] = "", *path;
    struct script script;
    struct llama_writer w = writer(dir, &small, OFL_F32, &script);
    unsigned char byte;
    int fd;

    (void)state;
    assert_int_equal(llama_checkpoint_write(&w, error, sizeof error), 0);
    assert_null(difference(dir, &small.shape, OFL_F32));
    path = files_path(dir, "model.safetensors");
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, lseek(fd, 0, SEEK_END) - 1), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, lseek(fd, 0, SEEK_END) - 1), 1);
    close(fd);
    assert_string_equal(difference(dir, &small.shape, OFL_F32), "model.norm.weight");
    free(path);
    free(dir);
    files_remove(parent);
}

static void copies_the_tokenizer(void **state)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "generation_config.json"};
    char *parent = files_dir(root, "copy"), *dir = files_path(parent, "out"), *from = files_dir(root, "from");
    char error[1024] = "";
    struct script script;
    struct llama_writer w = writer(dir, &small, OFL_F32, &script);

    (void)state;
    for (int i = 0; i < 4; i++)
        files_put(from, names[i], names[i], strlen(names[i]));
    files_put(from, "private.txt", "x", 1);
    w.copy_from_dir = from;
    w.progress = NULL;
    w.add_files = NULL;
    assert_int_equal(llama_checkpoint_write(&w, error, sizeof error), 0);
    for (int i = 0; i < 4; i++) {
        char *path = files_path(dir, names[i]);
        size_t bytes = 0;
        unsigned char *file = files_get(path, &bytes);

        assert_int_equal(bytes, strlen(names[i]));
        assert_memory_equal(file, names[i], bytes);
        free(file);
        free(path);
    }
    assert_int_equal(files_count(dir), 4 + 2); /* and config.json, model.safetensors */
    free(dir);
    files_remove(parent);
    files_remove(from);
}

/* ---- failures ---------------------------------------------------------- */

static int limited_write(const struct llama_writer *w, uint64_t file_bytes, char *error, size_t error_bytes)
{
    struct rlimit before, limit;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    int rc;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = file_bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    rc = llama_checkpoint_write(w, error, error_bytes);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    return rc;
}

static void expect_nothing(const char *what, const char *parent, size_t count, int rc, int code,
                           const char *error, const char *word)
{
    if (rc != code)
        fail_msg("%s: %d instead of %d: %s", what, rc, code, error);
    if (!strstr(error, word))
        fail_msg("%s: no %s in the sentence: %s", what, word, error);
    if (files_count(parent) != count)
        fail_msg("%s: %zu entries in the directory instead of %zu", what, files_count(parent), count);
}

static void failures_leave_nothing(void **state)
{
    char *parent = files_dir(root, "fail"), *dir = files_path(parent, "out"), *from = files_dir(root, "from"),
         *in_the_way = files_path(from, "tokenizer.json"), error[1024];
    struct llama_config config = small, broken = small;
    struct script script;
    struct llama_writer w;

    (void)state;
    for (uint64_t at = 1; at <= llama_tensor_count(&config.shape); at += 5) {
        w = writer(dir, &config, OFL_F32, &script);
        script.fail_at = at;
        expect_nothing("read", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -EIO, error,
                       "script says");
    }
    w = writer(dir, &config, OFL_F32, &script);
    script.fail_at = 2, script.silent = true;
    expect_nothing("silent read", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -EIO, error,
                   "model.layers.0.input_layernorm.weight");
    w = writer(dir, &config, OFL_F32, &script);
    script.stop_at = 5000;
    expect_nothing("cancel", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -ECANCELED, error,
                   "stopped");
    w = writer(dir, &config, OFL_F32, &script);
    script.add_files = -ENOSPC;
    expect_nothing("hook", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -ENOSPC, error,
                   "No space");
    w = writer(dir, &config, OFL_F32, &script);
    expect_nothing("limit", parent, 0, limited_write(&w, 8192, error, sizeof error), -EFBIG, error,
                   "model.safetensors");
    assert_int_equal(script.calls, 0); /* room is looked for before the first value */
    expect_nothing("low limit", parent, 0, limited_write(&w, 100, error, sizeof error), -EFBIG, error,
                   "config.json");
    w = writer(dir, &config, OFL_F32, &script);
    w.copy_from_dir = from;
    assert_int_equal(mkdir(in_the_way, 0755), 0);
    expect_nothing("copy", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -EISDIR, error,
                   in_the_way);
    w = writer(dir, &config, OFL_I32, &script);
    expect_nothing("dtype", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -EINVAL, error,
                   "dtype");
    broken.shape.kv_heads = 3;
    w = writer(dir, &broken, OFL_F32, &script);
    expect_nothing("config", parent, 0, llama_checkpoint_write(&w, error, sizeof error), -ENOTSUP, error,
                   "num_key_value_heads");
    w = writer(dir, &config, OFL_F32, &script);
    expect_nothing("control", parent, 1, llama_checkpoint_write(&w, error, sizeof error), 0, "", "");
    free(in_the_way);
    free(dir);
    files_remove(parent);
    files_remove(from);
}

/* A name is taken from the start: who comes second is refused at once, and changes nothing. */
static void a_name_is_taken_once(void **state)
{
    char *parent = files_dir(root, "twice"), *dir = files_path(parent, "out"), error[1024];
    struct llama_config config = small;
    struct llama_writing *first, *second;
    struct script script, other;
    struct llama_writer w = writer(dir, &config, OFL_F32, &script), v = writer(dir, &config, OFL_F32, &other);

    (void)state;
    assert_int_equal(llama_writer_open(&w, &first, error, sizeof error), 0);
    assert_int_equal(script.calls, 0);
    assert_int_equal(llama_writer_open(&v, &second, error, sizeof error), -EBUSY);
    assert_non_null(strstr(error, "another run"));
    assert_null(second);
    assert_int_equal(llama_writer_finish(first, error, sizeof error), 0);
    llama_writer_close(first, error, sizeof error);
    assert_null(difference(dir, &config.shape, OFL_F32));
    assert_int_equal(llama_writer_open(&v, &second, error, sizeof error), -EEXIST);
    assert_int_equal(files_count(parent), 1);
    free(dir);
    files_remove(parent);
}

/* One that is given up leaves nothing, and the name is free again. */
static void a_name_is_given_back(void **state)
{
    char *parent = files_dir(root, "back"), *dir = files_path(parent, "out"), error[1024];
    struct llama_config config = small;
    struct llama_writing *x;
    struct script script;
    struct llama_writer w = writer(dir, &config, OFL_F32, &script);

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(llama_writer_open(&w, &x, error, sizeof error), 0);
        assert_int_equal(files_count(parent), 2);
        llama_writer_close(x, error, sizeof error);
        assert_int_equal(files_count(parent), 0);
    }
    free(dir);
    files_remove(parent);
}

/* What is whole is never removed, though it can't get its name. */
static void a_whole_model_stays(void **state)
{
    char *parent = files_dir(root, "stays"), *dir = files_path(parent, "out"), error[1024], *kept;
    struct llama_config config = small;
    struct llama_writing *x;
    struct script script;
    struct llama_writer w = writer(dir, &config, OFL_F32, &script);
    int rc;

    (void)state;
    assert_int_equal(llama_writer_open(&w, &x, error, sizeof error), 0);
    files_put(dir, "in-the-way", "x", 1);
    rc = llama_writer_finish(x, error, sizeof error);
    assert_true(rc == -ENOTEMPTY || rc == -EEXIST);
    llama_writer_close(x, error, sizeof error);
    kept = strstr(error, "lies in ");
    assert_non_null(kept);
    kept += strlen("lies in ");
    *strchr(kept, ':') = '\0';
    assert_null(difference(kept, &config.shape, OFL_F32));
    assert_int_equal(files_count(dir), 1);
    assert_int_equal(files_count(parent), 2);
    free(dir);
    files_remove(parent);
}

static void left_overs_are_seen(void **state)
{
    char *parent = files_dir(root, "left"), *left = files_path(parent, "out.partial-abcdef");

    (void)state;
    assert_int_equal(files_count(parent), 0);
    assert_int_equal(mkdir(left, 0755), 0);
    assert_int_equal(files_count(parent), 1);
    free(left);
    files_remove(parent);
}

/* Directories that must not be written to: refused before anything is made or read. */
static void refuses_places(void **state)
{
    static const struct {
        const char *dir;
        int code;
    } places[] = {{"full", -EEXIST}, {"full/", -EEXIST},    {"link", -EEXIST},
                  {"file", -EEXIST}, {"none/out", -ENOENT}, {".", -EINVAL},
                  {"..", -EINVAL},   {"full/..", -EINVAL},  {"file/out", -ENOTDIR}};
    char *parent = files_dir(root, "places"), *full = files_path(parent, "full"),
         *link = files_path(parent, "link");
    struct llama_config config = small;
    struct script script;

    (void)state;
    assert_int_equal(mkdir(full, 0755), 0);
    files_put(full, "keep", "keep", 4);
    files_put(parent, "file", "", 0);
    assert_int_equal(symlink("full", link), 0);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char *dir = files_path(parent, places[i].dir), error[1024] = "";
        struct llama_writer w = writer(dir, &config, OFL_F32, &script);

        assert_int_equal(llama_output_check(dir, false, error, sizeof error), places[i].code);
        error[0] = '\0';
        expect_nothing(places[i].dir, parent, 3, llama_checkpoint_write(&w, error, sizeof error),
                       places[i].code, error, parent);
        assert_int_equal(script.calls, 0);
        assert_int_equal(files_count(full), 1);
        free(dir);
    }
    assert_int_equal(llama_output_check("", false, NULL, 0), -EINVAL);
    assert_int_equal(llama_output_check("/", false, NULL, 0), -EINVAL);
    if (access(".", W_OK) == 0)
        assert_int_equal(llama_output_check("ofl-test-nothing-here", false, NULL, 0),
                         0); /* beside us, without a slash */
    free(full);
    free(link);
    files_remove(parent);
}

static int setup(void **state)
{
    struct ofl_config config = {.size = sizeof config, .device_bytes = 1 << 20, .host_bytes = 4 << 20};

    (void)state;
    return temporary_dir("writer", root, sizeof root) == 0 ? ofl_open(&config, &ctx) : -1;
}

static int teardown(void **state)
{
    (void)state;
    files_remove(strdup(root));
    return ofl_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_it_is_given), cmocka_unit_test(comparison_sees_a_byte),
        cmocka_unit_test(copies_the_tokenizer),    cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(left_overs_are_seen),     cmocka_unit_test(a_name_is_taken_once),
        cmocka_unit_test(a_name_is_given_back),    cmocka_unit_test(a_whole_model_stays),
        cmocka_unit_test(refuses_places),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
