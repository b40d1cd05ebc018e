/* What the files of ofl-finetune share: finetune.c sets up, finetune_run.c does the steps and reports them,
 * finetune_options.c reads the command line, finetune_text.c texts and finetune_chat.c conversations into what
 * finetune_data.c cuts into rows, finetune_eval.c evaluates, finetune_state.c fills, hashes and saves the model,
 * finetune_written.c keeps --max-written, finetune_store.c commits and resumes, with notes by finetune_note.c, and finetune_export.c writes a store out. Only
 * they include this. */
#ifndef EXAMPLES_FINETUNE_H
#define EXAMPLES_FINETUNE_H

#include "examples/common_pace.h"
#include "examples/common_spool.h"
#include "examples/model/config.h"
#include "examples/model/output.h"
#include "examples/model/schedule.h"
#include "examples/model/tokenizer.h"
#include "examples/model/trainer.h"

struct options {
    const char *model, *preset, *out, *tokenizer;
    struct common_texts data;
    uint64_t seq, batch, accum, steps, warmup, decay, seed, eval_every, show;
    struct common_texts eval;
    enum schedule_kind schedule;
    enum ofl_method method;
    double lr, lr_end, beta1, beta2, eps, weight_decay, clip;
    enum ofl_dtype dtype;
    bool shuffle, decay_all, overwrite, dry;
    uint64_t lora; /* rank; 0: all is trained, or what adapter has */
    const char *adapter, *lora_targets;
    double lora_alpha, lora_dropout;
    bool rslora, dora, merge;
    uint64_t commit_every; /* steps; 0: auto */
    bool resume, adjust;
    const char *export_store, *log;
    struct common_budget budget;
};

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int options_parse(int argc, char **argv, struct options *o);
void options_free(struct options *o);
json_t *options_json(const struct options *o);
/* Of --schedule wsd: as given, or chosen. */
uint64_t decay_steps(const struct options *o);
const char *schedule_name(const struct options *o);

/* Of --model or --preset; refuses what can't be trained so. Returns a status. */
int config_load(const struct options *o, struct llama_config *config);

/*
 * What is trained on: the tokens of all files, of texts one stream, of conversations examples. A row has seq inputs
 * and targets: a slice of the stream, or an example with padding behind it. A target that is not learned is -1.
 */
struct data {
    uint64_t rows, seq;
    uint64_t learned; /* targets in all rows */
    uint64_t tokens;  /* inputs in all rows that are no padding */

    struct common_spool tokens_spool, begins_spool;
    const void *ids;        /* uint16_t where all ids fit, else uint32_t; of examples with DATA_LEARNED */
    const uint64_t *begins; /* [rows + 1], of examples; NULL: a stream */
    bool narrow;
    uint32_t *order; /* of the rows; NULL: as they come */
};

#define DATA_LEARNED (1u << 31)

enum data_use { DATA_TRAIN, DATA_EVAL };

/* Of the texts of an option, which sentences name. For evaluation the end of a stream makes a row of its own, and
 * nothing is shuffled. */
int data_load(const struct options *o, const struct common_texts *files, const char *option,
              enum data_use use, const struct llama_config *config, struct data *out);
void data_free(struct data *d);
/* Fills rows of seq inputs and targets from that row on; after the last comes the first. Returns the inputs that are
 * no padding. */
uint64_t data_rows(const struct data *d, uint64_t first, uint64_t rows, int32_t *inputs, int32_t *targets);
/* A row without anything to learn. */
void data_blank(const struct data *d, uint64_t rows, int32_t *inputs, int32_t *targets);

/* What the files that read texts and conversations work with. */
struct data_files {
    const struct options *options;
    const char *option;
    const struct llama_config *config;
    struct tokenizer *tokenizer;
    struct chat *chat; /* NULL: not opened, or a preset */
    struct data *data;
    uint64_t cut, left_out; /* examples */
    uint64_t longest;       /* tokens of one */
};

/* Whether a file of that name holds examples. */
bool data_has_examples(const char *path);
int data_check_id(const struct data_files *f, const char *path, uint32_t id);
int data_add_text(struct data_files *f, const char *path);
int data_add_examples(struct data_files *f, const char *path);

/* What a run has done: with the tensors, all that it goes on from. */
struct past {
    uint64_t step, tokens, learned;
    json_t *loss, *grad_norm, *step_s; /* [step] */
    json_t *evals;
    json_t *resumed; /* the steps after which it went on from a store */
    json_t *changes; /* by --adjust */
};

int past_begin(struct past *p);
void past_free(struct past *p);

/* The trained model. */
struct common_prediction;
struct keep;

struct written {
    uint64_t most; /* 0: no limit */
    uint64_t now;  /* written so far */
    uint64_t step_bytes, predicted_bytes, end_bytes;
    uint64_t steps, seen;
};

struct state {
    struct ofl_ctx *ctx;
    const struct options *options;
    const struct llama_config *config;
    struct llama_trainer *trainer;
    const struct llama_trainer_config *trainer_config;
    const struct common_prediction *predicted;
    struct keep *keep;     /* NULL: no --store */
    uint64_t most_written; /* by the library; 0: no limit */
    struct written written;
    struct llama_writing *model_out;  /* of --out, taken before the first step; */
    struct llama_output *adapter_out; /* of an adapter */
};

/* The steps, and what comes of them. Returns a status. */
int run_steps(struct state *s, const struct data *data, const struct data *eval);

/* The mean loss over all that --eval has. inputs, targets: room for a step. Returns a status; EXIT_INTERRUPTED without
 * a word. */
int eval_run(struct state *s, const struct data *data, int32_t *inputs, int32_t *targets, double *loss);
/* The first examples or slices, a line of JSON each, on standard output. Returns a status. */
int data_show(const struct options *o, const struct data *d);

/* From --model or --preset. */
int state_fill(struct state *s);
/* XXH3-128 over everything that training changes, in the order of names. */
int state_hash(struct state *s, char hex[33]);
/* Whether all weights are. Returns a status. */
int state_finite(struct state *s);
/* Takes the name and the room of --out. */
int state_out_open(struct state *s);
int state_save(struct state *s);
/* Removes what has not become whole. */
void state_out_close(struct state *s);
#define STATE_NOT_FINITE                                                                                     \
    "after the last step: %s holds a value that is not a finite number: nothing written; try a smaller "     \
    "--lr, or --clip and --warmup"
bool state_all_finite(enum ofl_dtype dtype, const void *data, uint64_t bytes);
/* Writes a preset's tokenizer into dir: add_files of a llama_writer. */
int state_save_tokenizer(void *arg, const char *dir, char *error, size_t error_bytes);

/* ---- adapters over frozen weights: finetune_lora.c ------------------------- */

struct lora {
    struct llama_lora config; /* rank 0: there are none */
    enum ofl_dtype *dtypes;   /* of the frozen weights */
};

bool lora_is_wanted(const struct options *o);
/* What contradicts. */
bool lora_check(const struct options *o, struct common_complaint *c);
/* From the options and the files. Return a status, as all that follow. */
int lora_prepare(const struct options *o, struct llama_shape *shape, struct lora *l);
void lora_free(struct lora *l);
/* Parameters that are trained, adapters or all. */
uint64_t lora_trained(const struct llama_trainer_config *c);
/* First values, or those of --adapter. */
int lora_fill(struct state *s);
int lora_out_open(struct state *s);
int lora_save(struct state *s);
/* --merge: the whole run. */
int lora_merge(const struct options *o, struct llama_config *config);

/* ---- what runs may be resumed as: finetune_note.c ---------------------------- */

/* Most steps of a run that commits: a note has numbers of each. */
#define NOTE_STEPS_MAX 500000u
#define NOTE_EVALS_MAX 40000u

/* What identifies a run: an object of objects, by the options' names. NULL after a complaint. */
json_t *note_identity(const struct options *o, const struct lora *lora);
/* With what it is trained on. Returns a status, as all that follow. */
int note_add_data(json_t *identity, const struct data *data);
/* The note of a commit. *out is to be freed. */
int note_write(const struct options *o, const json_t *identity, const struct past *past, uint64_t rows,
               void **out, uint64_t *bytes);
struct note {
    json_t *identity;
    struct past past;
    uint64_t steps, next_row;
};
/* dir is for sentences. */
int note_read(const char *dir, const void *bytes, uint64_t count, struct note *out);
void note_free(struct note *n);
/* Whether a run of now can go on from was: what may not differ does not. What --adjust allows is added to changes. */
int note_compare(const struct options *o, const struct note *was, json_t *now, json_t *changes);
int note_compare_data(const struct options *o, const struct note *was, const json_t *now);

/* ---- a line a step: finetune_log.c ------------------------------------------- */

struct log {
    const char *path; /* NULL: there is none */
    int fd;
};

struct log_line {
    uint64_t step, steps, tokens;
    double loss, norm, lr, seconds, stall_s;
};

/* That its name says what to write. */
bool log_check(const struct options *o, struct common_complaint *c);
/* Behind step, 0 where a run begins; lines of later steps are taken out. Returns a status, as all that follow;
 * EXIT_INTERRUPTED without a word. */
int log_open(struct log *l, const struct options *o, uint64_t step);
int log_step(struct log *l, const struct log_line *line);
int log_eval(struct log *l, uint64_t step, uint64_t steps, double loss);
int log_close(struct log *l);

/* ---- --max-written: finetune_written.c --------------------------------------- */

/* Before the first of so many steps: what is predicted and does not fit is told. Returns a status, as the next one. */
int written_begin(struct written *w, const struct state *s, uint64_t steps);
/* After a step. */
int written_step(struct written *w, struct ofl_ctx *ctx);
/* Whether there is room for one more step, and so many ends: commits, or what saving the model may have written. */
bool written_fits(const struct written *w, unsigned ends);
/* Says where the run stands, and the way on. Returns EXIT_WRITTEN. */
int written_tell(const struct written *w, const char *words, const char *way);

/* ---- kept stores: finetune_store.c ------------------------------------------- */

struct keep {
    const struct options *options;
    struct ofl_ctx *ctx;
    struct state *state;
    const struct past *past; /* of the run, set where it begins */
    json_t *identity;
    struct note was;     /* with resuming: what was committed last */
    uint64_t generation; /* of that */
    bool resuming;
    struct common_pace pace;
    uint64_t rows; /* of the data */
    uint64_t committed,
        begun;        /* the step of the last durable commit, and of the one under way; 0: there is none */
    uint64_t commits; /* durable ones of this process, */
    uint64_t failures, wait; /* those that failed, and the step before which none is tried again */
    uint64_t durable_before; /* ofl_stats.commits when the last one was begun */
    int error;               /* of the last commit; 0: none */
    int status;              /* of commits between two steps: no memory */
    bool unsound;            /* what is trained is no more: it holds values that are no finite numbers */
};

/* What there is in --store, without the data; refuses what can't go on there. */
int keep_look(struct keep *k, const struct options *o, const struct lora *lora);
/* The same of the data. */
int keep_look_data(struct keep *k, const struct data *data);
/* In the run's context, before the trainer is made. */
int keep_open(struct keep *k, struct ofl_ctx *ctx);
/* Behind it: what came back is a whole model. */
int keep_check(struct keep *k, struct state *s);
/* After a step: what it has left is committed, if it is time for that, once the next loss has shown that it is sound.
 * Failed commits are told, and no failures. */
int keep_turn(struct keep *k, double step_s);
/* Commits what there is, and waits. EXIT_RUNTIME: the last steps are not committed. */
int keep_commit(struct keep *k);
/* The run has failed: how to go on. Returns status. */
int keep_tell(struct keep *k, int status);
void keep_free(struct keep *k);
json_t *keep_json(const struct keep *k, const struct ofl_stats *stats);

/* Opens the store in a small context, for reading. *ctx, if ctx is not NULL, is to be closed. *found: something was
 * committed. */
int keep_peek(const struct options *o, const char *dir, struct ofl_ctx **ctx, struct note *note,
              uint64_t *generation, bool *found);

/* --export-store: the whole run. */
int export_run(const struct options *o);

#endif
