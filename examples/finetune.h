/* What the files of ofl-finetune share: finetune.c runs, finetune_options.c reads the command
 * line, finetune_data.c the texts, finetune_state.c fills, hashes and saves the model. Only they
 * include this. */
#ifndef EXAMPLES_FINETUNE_H
#define EXAMPLES_FINETUNE_H

#include "examples/common_budget.h"
#include "examples/model/config.h"
#include "examples/model/tokenizer.h"
#include "examples/model/trainer.h"

struct options {
    const char *model, *preset, *out;
    struct common_texts data;
    uint64_t seq, batch, accum, steps, warmup, seed;
    double lr, beta1, beta2, eps, weight_decay, clip;
    enum ofl_dtype dtype;
    bool shuffle;
    struct common_budget budget;
};

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int options_parse(int argc, char **argv, struct options *o);
void options_free(struct options *o);
json_t *options_json(const struct options *o);

/* The token stream of all texts. */
struct data {
    uint16_t *narrow; /* where all ids fit, */
    uint32_t *wide;   /* else this */
    uint64_t count, slices;
    uint32_t *order; /* of the slices; NULL: as they come */
    uint64_t seq;
};

int data_load(const struct options *o, const struct llama_config *config, struct data *out);
void data_free(struct data *d);
/* Fills rows of seq inputs and targets from that slice on; after the last comes the first. */
void data_slices(const struct data *d, uint64_t first, uint64_t rows, int32_t *inputs, int32_t *targets);

/* The trained model. */
struct common_prediction;

struct state {
    struct ofl_ctx *ctx;
    const struct options *options;
    const struct llama_config *config;
    struct llama_trainer *trainer;
    const struct common_prediction *predicted;
};

/* From --model or --preset. */
int state_fill(struct state *s);
/* XXH3-128 over everything that training changes, in the order of names. */
int state_hash(struct state *s, char hex[33]);
int state_save(struct state *s);

#endif
