/* What a path is that is given for a model: see directory.h. */
#include "examples/model/directory.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "examples/model/files.h"

#define WANTED                                                                                               \
    "a model is a directory with config.json, *.safetensors and tokenizer.json, as Hugging Face has it"

static bool exists(const char *dir, const char *name)
{
    char *path = llama_path(dir, name);
    struct stat st;
    bool there = path && stat(path, &st) == 0;

    free(path);
    return there;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), e = strlen(end);

    return n > e && strcmp(name + n - e, end) == 0;
}

/* The first name in a directory that begins and ends so, of how many. */
static unsigned find(const char *dir, const char *begin, const char *end, char *name, size_t room)
{
    DIR *d = opendir(dir);
    const struct dirent *entry;
    unsigned found = 0;

    *name = '\0';
    while (d && (entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, begin, strlen(begin)) != 0 || entry->d_name[0] == '.' ||
            (*end && !ends_with(entry->d_name, end)))
            continue;
        if (found++ == 0)
            snprintf(name, room, "%s", entry->d_name);
    }
    if (d)
        closedir(d);
    return found;
}

static size_t head_of(const char *path, char *head, size_t room)
{
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(head, 1, room - 1, f) : 0;

    head[n] = '\0';
    if (f)
        fclose(f);
    return n;
}

static bool is_pointer(const char *path)
{
    static const char words[] = "version https://git-lfs.github.com/spec/";
    char head[sizeof words];

    return head_of(path, head, sizeof head) == sizeof words - 1 && strcmp(head, words) == 0;
}

/* ---- kinds -------------------------------------------------------------------- */

#define SAY(...) llama_fail(-EINVAL, error, error_bytes, __VA_ARGS__)

static int missing(const char *path, int err, char *error, size_t error_bytes)
{
    const char *slash = strchr(path, '/');

    /* org/name, as the hub has it */
    if (err == ENOENT && slash && slash != path && slash[1] && !strchr(slash + 1, '/') && path[0] != '.')
        return llama_fail(
            -err, error, error_bytes,
            "--model %s: no such directory; if it is a name at the Hugging Face hub, download it first "
            "(hf download %s --local-dir DIR): nothing is fetched here",
            path, path);
    return llama_fail(-err, error, error_bytes, "--model %s: %s; %s", path, strerror(err), WANTED);
}

static int one_file(const char *path, bool gguf, char *error, size_t error_bytes)
{
    char head[16];

    head_of(path, head, sizeof head);
    if (is_pointer(path))
        return SAY(
            "--model %s: it is a pointer that git-lfs left in place of a file: git lfs pull fetches it",
            path);
    if (memcmp(head, "GGUF", 4) == 0 && gguf)
        return 0;
    if (memcmp(head, "GGUF", 4) == 0)
        return SAY("--model %s: it is a GGUF file, which ofl-generate reads and --lora trains adapters over: "
                   "without it give the directory that it was made from; %s",
                   path, WANTED);
    if (ends_with(path, ".safetensors"))
        return SAY("--model %s: it is one file of a model: give the directory that it lies in; %s", path,
                   WANTED);
    if (memcmp(head, "PK\003\004", 4) == 0 || head[0] == '\x80')
        return SAY("--model %s: it is a file of PyTorch, which is not read; %s", path, WANTED);
    return SAY("--model %s: it is a file, not a directory; %s", path, WANTED);
}

static int adapter(const char *path, char *error, size_t error_bytes)
{
    char *file = llama_path(path, "adapter_config.json");
    json_t *config = file ? json_load_file(file, 0, NULL) : NULL;
    const char *base = json_string_value(json_object_get(config, "base_model_name_or_path"));
    int err = SAY(
        "--model %s: it is an adapter (adapter_config.json, LoRA or the like) of the model %s, not a model: "
        "give the directory of that, and this one with --adapter",
        path, base ? llama_quote(base).text : "that it was trained on");

    json_decref(config);
    free(file);
    return err;
}

/* The cache of the hub's client: snapshots of one model, or folders of several. */
static int cache(const char *path, char *error, size_t error_bytes)
{
    char name[300], *snapshots = llama_path(path, "snapshots");
    unsigned count = snapshots ? find(snapshots, "", "", name, sizeof name) : 0;

    free(snapshots);
    if (count)
        return SAY("--model %s: it is a folder of the hub's cache; the model lies in its snapshots: give "
                   "%s/snapshots/%s%s",
                   path, path, name, count > 1 ? ", or another of them" : "");
    count = find(path, "models--", "", name, sizeof name);
    return SAY("--model %s: it is the hub's cache, of %u models; give one of the snapshots in it, "
               "%s/%s/snapshots/...",
               path, count, path, name);
}

static int other_directory(const char *path, char *error, size_t error_bytes)
{
    char name[300];

    if (exists(path, "adapter_config.json"))
        return adapter(path, error, error_bytes);
    if (exists(path, "params.json") || find(path, "consolidated.", "", name, sizeof name))
        return SAY("--model %s: it has files as Meta or Mistral publish them (params.json, consolidated.*): "
                   "convert them "
                   "with transformers, or take the Hugging Face form; %s",
                   path, WANTED);
    if (exists(path, "snapshots") || find(path, "models--", "", name, sizeof name))
        return cache(path, error, error_bytes);
    if (find(path, "", ".gguf", name, sizeof name))
        return SAY("--model %s: it has %s, a GGUF file: give that file to ofl-generate; %s", path, name,
                   WANTED);
    if (exists(path, "model_index.json"))
        return SAY("--model %s: it is a pipeline of diffusers, not a language model", path);
    if (find(path, "checkpoint-", "", name, sizeof name))
        return SAY(
            "--model %s: it has no config.json, but folders of a training: give %s/%s or another of them",
            path, path, name);
    if (exists(path, "model.safetensors") || exists(path, "pytorch_model.bin"))
        return SAY("--model %s: it has weights, but no config.json, which says what they are; %s", path,
                   WANTED);
    if (find(path, "", "", name, sizeof name) == 0)
        return SAY("--model %s: it is empty; %s", path, WANTED);
    return SAY("--model %s: it has no config.json; %s", path, WANTED);
}

static int pointers(const char *path, char *error, size_t error_bytes)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "model.safetensors.index.json", "generation_config.json"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *file = llama_path(path, names[i]);
        bool pointer = file && is_pointer(file);

        free(file);
        if (pointer)
            return SAY("--model %s: its %s is a pointer that git-lfs left in place of the file: git lfs "
                       "pull, in there, "
                       "fetches it",
                       path, names[i]);
    }
    return 0;
}

int llama_directory_check(const char *path, bool gguf, char *error, size_t error_bytes)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return missing(path, errno, error, error_bytes);
    if (!S_ISDIR(st.st_mode))
        return one_file(path, gguf, error, error_bytes);
    return exists(path, "config.json") ? pointers(path, error, error_bytes)
                                       : other_directory(path, error, error_bytes);
}
