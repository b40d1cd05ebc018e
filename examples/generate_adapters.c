/* The adapters of ofl-generate. See generate.h. */
#include "examples/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/model/lora_file.h"

static int out_of_memory(void)
{
    return common_fail(EXIT_FULL, "open the adapters: out of memory");
}

/* The last part of a path, for free(). */
static char *name_of(const char *dir)
{
    size_t end = strlen(dir), from;

    while (end > 1 && dir[end - 1] == '/')
        end--;
    for (from = end; from > 0 && dir[from - 1] != '/';)
        from--;
    return strndup(dir + from, end - from);
}

/* DIR or DIR:WEIGHT; dir is for free(). A directory of the whole name goes first. */
static int split(const char *text, char **dir, double *weight)
{
    const char *colon = access(text, F_OK) == 0 ? NULL : strrchr(text, ':');
    char *end;

    *weight = 1;
    if (colon) {
        *weight = strtod(colon + 1, &end);
        if (end == colon + 1 || *end || !isfinite(*weight))
            return common_fail(EXIT_INPUT, "--adapter %s: no such directory, and behind the colon no number",
                               text);
    }
    *dir = strndup(text, colon ? (size_t)(colon - text) : strlen(text));
    return *dir ? 0 : out_of_memory();
}

static int open_one(const struct llama_config *config, const char *text, struct adapters *a)
{
    struct llama_adapters_one *one = &a->list[a->count];
    char error[COMMON_ERROR_BYTES], *dir = NULL;
    int status = split(text, &dir, &one->weight), err;

    one->dir = dir;
    a->names[a->count++] = dir ? name_of(dir) : NULL;
    if (status)
        return status;
    if (!a->names[a->count - 1])
        return out_of_memory();
    err = llama_lora_load(dir, &config->shape, &one->lora, error, sizeof error);
    return err < 0 ? common_fail(common_status(err), "--adapter %s: %s", dir, error) : 0;
}

/* One that is named alike could not be told from it. */
static int check_names(const struct adapters *a, const struct prompts *prompts)
{
    for (size_t i = 0; i < prompts->count; i++) {
        const char *name = prompts->list[i].adapter;
        size_t found = 0;

        for (size_t k = 0; name && k < a->count; k++)
            found += strcmp(a->names[k], name) == 0;
        if (name && *name && found != 1)
            return common_fail(EXIT_INPUT,
                               "--prompts: prompt %zu goes with the adapter \"%s\": %zu of --adapter have "
                               "that name; it is the last part of a DIR",
                               i + 1, name, found);
    }
    return 0;
}

int adapters_open(const struct options *o, const struct llama_config *config, const struct prompts *prompts,
                  struct adapters *out)
{
    int status = 0;

    *out = (struct adapters){.list = calloc(o->adapters.count + 1, sizeof *out->list),
                             .names = calloc(o->adapters.count + 1, sizeof *out->names)};
    if (!out->list || !out->names)
        return out_of_memory();
    for (size_t i = 0; i < o->adapters.count && status == 0; i++)
        status = open_one(config, o->adapters.texts[i], out);
    if (status == 0)
        status = check_names(out, prompts);
    for (size_t i = 0; i < prompts->count && status == 0; i++) {
        struct llama_adapters set = adapters_of(out, &prompts->list[i]);
        char error[COMMON_ERROR_BYTES];

        if (llama_adapters_check(&set, error, sizeof error) < 0)
            status = common_fail(EXIT_INPUT, "%s", error);
    }
    return status;
}

struct llama_adapters adapters_of(const struct adapters *a, const struct prompt *p)
{
    struct llama_adapters all = {.count = a->count, .list = a->list};

    if (!p->adapter)
        return all;
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->names[i], p->adapter) == 0)
            return (struct llama_adapters){.count = 1, .list = &a->list[i]};
    return (struct llama_adapters){0};
}

void adapters_free(struct adapters *a)
{
    for (size_t i = 0; i < a->count; i++) {
        free((char *)(uintptr_t)a->list[i].dir);
        free(a->names[i]);
    }
    free(a->list);
    free(a->names);
    *a = (struct adapters){0};
}

json_t *adapters_json(const struct options *o)
{
    json_t *list = json_array();

    for (size_t i = 0; i < o->adapters.count; i++) {
        json_t *text = json_string(o->adapters.texts[i]);

        json_array_append_new(list, text ? text : json_null());
    }
    return list;
}
