/* What the files of ofl-generate share: generate.c runs, generate_options.c reads the command
 * line and chooses budgets, generate_prompt.c makes tokens of prompts, generate_text.c prints what
 * comes. Only they include this. */
#ifndef EXAMPLES_GENERATE_H
#define EXAMPLES_GENERATE_H

#include "examples/common_budget.h"
#include "examples/common_options.h"
#include "examples/model/config.h"
#include "examples/model/generator.h"
#include "examples/model/tokenizer.h"

struct options {
    const char *model, *prompt, *prompt_file, *prompts, *system, *tokenizer;
    bool chat, dry;
    uint64_t max_tokens; /* 0: not given */
    uint64_t context;    /* 0: the model's positions */
    uint64_t top_k, seed;
    struct common_texts adapters; /* DIR or DIR:WEIGHT */
    double temperature, top_p, min_p, repetition_penalty;
    struct common_budget budget;
};

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int options_parse(int argc, char **argv, struct options *o);
void options_free(struct options *o);
json_t *options_json(const struct options *o);

/* Chooses what is not given, and refuses what can't work. */
int budget_check(const struct options *o, const struct llama_generator_need *need, struct ofl_config *out);

/* ---- prompts --------------------------------------------------------------- */

struct prompt {
    int32_t *tokens;
    size_t count, max_tokens;
    bool empty;    /* nothing but a start token */
    char *adapter; /* that it goes with, "": none; NULL: all */
};

struct prompts {
    struct prompt *list;
    size_t count;
    size_t longest;   /* tokens of one */
    size_t positions; /* the most that one takes with what follows */
};

/* Of all that the options name. Return a status. */
int prompts_read(const struct options *o, const struct llama_config *config, const struct tokenizer *t,
                 struct prompts *out);
void prompts_free(struct prompts *p);

/* ---- adapters: generate_adapters.c ------------------------------------------- */

struct adapters {
    struct llama_adapters_one *list; /* [count], in the order of the options */
    size_t count;
    char **names; /* [count]: the last part of each DIR */
};

/* Reads what they are; checks that they fit the model and the prompts. Return a status. */
int adapters_open(const struct options *o, const struct llama_config *config, const struct prompts *prompts,
                  struct adapters *out);
/* Those that a prompt goes with. */
struct llama_adapters adapters_of(const struct adapters *a, const struct prompt *p);
void adapters_free(struct adapters *a);
json_t *adapters_json(const struct options *o);

/* ---- text ------------------------------------------------------------------- */

/* What has been generated. Whole characters of it are shown. */
struct text {
    char *bytes;
    size_t used, room, shown;
};

/* Return a status. */
int text_put(struct text *t, const char *bytes, size_t count);
/* The rest, and a line end, if there is any text. */
int text_finish(struct text *t);
/* With U+FFFD for what is no character; NULL: no memory. */
json_t *text_json(const struct text *t);
void text_free(struct text *t);

#endif
