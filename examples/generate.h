/* What the files of ofl-generate share: generate.c runs, generate_options.c reads the command
 * line and chooses budgets. Only they include this. */
#ifndef EXAMPLES_GENERATE_H
#define EXAMPLES_GENERATE_H

#include "examples/common_budget.h"
#include "examples/model/generator.h"

struct options {
    const char *model, *prompt, *tokenizer;
    uint64_t max_tokens; /* 0: not given */
    uint64_t seed;
    double temperature, top_p;
    struct common_budget budget;
};

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int options_parse(int argc, char **argv, struct options *o);
json_t *options_json(const struct options *o);

/* Chooses what is not given, and refuses what can't work. */
int budget_check(const struct options *o, const struct llama_generator_need *need, struct ofl_config *out);

#endif
