/* What ofl-finetune trains on: files to tokens, tokens to rows. */
#include "examples/finetune.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/common_tokenizer.h"
#include "examples/model/chat.h"

/* ---- order ----------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u; /* splitmix64 (Steele, Lea, Flood, 2014) */

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Fisher and Yates. */
static int shuffle(struct data *d, uint64_t seed)
{
    if (d->rows > UINT32_MAX)
        return common_fail(EXIT_INPUT, "--shuffle: %llu rows of %llu tokens: more than 2^32; raise --seq",
                           (unsigned long long)d->rows, (unsigned long long)d->seq);
    d->order = malloc(d->rows * sizeof *d->order);
    if (!d->order)
        return common_fail(EXIT_FULL, "shuffle %llu rows: out of memory", (unsigned long long)d->rows);
    for (uint64_t i = 0; i < d->rows; i++)
        d->order[i] = (uint32_t)i;
    for (uint64_t i = d->rows - 1; i > 0; i--) {
        uint64_t k = next_random(&seed) % (i + 1);
        uint32_t other = d->order[k];

        d->order[k] = d->order[i];
        d->order[i] = other;
    }
    return 0;
}

/* ---- rows ------------------------------------------------------------------- */

static uint32_t token_at(const struct data *d, uint64_t at)
{
    return d->narrow ? ((const uint16_t *)d->ids)[at] : ((const uint32_t *)d->ids)[at];
}

/* Where a row's tokens lie; the last of them is a target only. */
static void row_range(const struct data *d, uint64_t row, uint64_t *from, uint64_t *to)
{
    uint64_t end = d->tokens_spool.count;

    *from = d->begins ? d->begins[row] : row * d->seq;
    if (d->begins)
        end = d->begins[row + 1];
    *to = end - *from < d->seq + 1 ? end : *from + d->seq + 1;
}

static uint64_t fill_row(const struct data *d, uint64_t row, int32_t *inputs, int32_t *targets)
{
    uint64_t from, to, n;

    row_range(d, row, &from, &to);
    n = to - from - 1;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t next = token_at(d, from + i + 1);

        inputs[i] = (int32_t)(token_at(d, from + i) & ~DATA_LEARNED);
        targets[i] = d->begins && !(next & DATA_LEARNED) ? -1 : (int32_t)(next & ~DATA_LEARNED);
    }
    /* Behind an example nothing looks: attention is causal, and no loss comes from there. */
    for (uint64_t i = n; i < d->seq; i++) {
        inputs[i] = 0;
        targets[i] = -1;
    }
    return n;
}

uint64_t data_rows(const struct data *d, uint64_t first, uint64_t rows, int32_t *inputs, int32_t *targets)
{
    uint64_t tokens = 0;

    for (uint64_t r = 0; r < rows; r++) {
        uint64_t row = (first + r) % d->rows;

        tokens += fill_row(d, d->order ? d->order[row] : row, inputs + r * d->seq, targets + r * d->seq);
    }
    return tokens;
}

void data_blank(const struct data *d, uint64_t rows, int32_t *inputs, int32_t *targets)
{
    for (uint64_t i = 0; i < rows * d->seq; i++) {
        inputs[i] = 0;
        targets[i] = -1;
    }
}

/* ---- loading ---------------------------------------------------------------- */

bool data_has_examples(const char *path)
{
    size_t length = strlen(path);

    return length > 6 && strcmp(path + length - 6, ".jsonl") == 0;
}

int data_check_id(const struct data_files *f, const char *path, uint32_t id)
{
    if (id < f->config->shape.vocab)
        return 0;
    return common_fail(
        EXIT_INPUT,
        "%s: a token has id %u, the model's vocabulary has %u: tokenizer and model don't belong "
        "together",
        path, id, f->config->shape.vocab);
}

static int open_tokenizer(const struct options *o, struct tokenizer **t)
{
    if (o->model)
        return common_tokenizer_open(o->tokenizer ? o->tokenizer : o->model, t);
    return tokenizer_bytes(t) < 0 ? common_fail(EXIT_FULL, "byte tokenizer: out of memory") : 0;
}

static int check_kinds(const struct common_texts *files, const char *option)
{
    for (size_t i = 1; i < files->count; i++)
        if (data_has_examples(files->texts[i]) != data_has_examples(files->texts[0]))
            return common_fail(
                EXIT_INPUT,
                "%s: %s and %s: examples (.jsonl) and text can't be mixed: one stream has no ends, "
                "examples have; put the text into lines of examples, or train on one after the other",
                option, files->texts[0], files->texts[i]);
    return 0;
}

static int cut_stream(struct data *d, const char *option, enum data_use use)
{
    uint64_t count = d->tokens_spool.count;

    if (use == DATA_TRAIN ? count < d->seq + 1 : count < 2)
        return common_fail(EXIT_INPUT, "%s: %llu tokens in all: --seq %llu needs %llu at least", option,
                           (unsigned long long)count, (unsigned long long)d->seq,
                           use == DATA_TRAIN ? (unsigned long long)d->seq + 1 : 2);
    d->rows = use == DATA_TRAIN ? (count - 1) / d->seq : (count - 2) / d->seq + 1;
    d->learned = d->tokens = use == DATA_TRAIN ? d->rows * d->seq : count - 1;
    return 0;
}

/* What came of the examples, in a line. */
static int sum_examples(const struct data_files *f)
{
    struct data *d = f->data;
    double padding = d->rows ? 100.0 * (1.0 - (double)d->tokens / ((double)d->rows * (double)d->seq)) : 0;

    if (d->rows == 0)
        return common_fail(
            EXIT_INPUT,
            "%s: %llu examples, and within --seq %llu none of them has anything to learn: what the "
            "assistant says, or a completion",
            f->option, (unsigned long long)f->left_out, (unsigned long long)d->seq);
    common_line(
        "%s: %llu examples, %llu of %llu tokens learned; the longest has %llu, %.0f %% of rows of --seq %llu "
        "is padding",
        f->option, (unsigned long long)d->rows, (unsigned long long)d->learned, (unsigned long long)d->tokens,
        (unsigned long long)f->longest, padding, (unsigned long long)d->seq);
    if (f->cut)
        common_line("warning: %s: %llu examples are longer than --seq %llu, and are cut there", f->option,
                    (unsigned long long)f->cut, (unsigned long long)d->seq);
    if (f->left_out)
        common_line("warning: %s: %llu examples have nothing to learn within --seq %llu, and are left out",
                    f->option, (unsigned long long)f->left_out, (unsigned long long)d->seq);
    return 0;
}

static int load_files(struct data_files *f, const struct common_texts *files)
{
    struct data *d = f->data;
    bool examples = data_has_examples(files->texts[0]);
    const void *begins;
    int status = check_kinds(files, f->option);

    d->narrow = !examples && f->config->shape.vocab <= UINT16_MAX + 1u;
    common_spool_begin(&d->tokens_spool, "tokens", d->narrow ? sizeof(uint16_t) : sizeof(uint32_t),
                       &f->options->budget);
    common_spool_begin(&d->begins_spool, "examples", sizeof(uint64_t), &f->options->budget);
    for (size_t i = 0; i < files->count && status == 0; i++)
        status = examples ? data_add_examples(f, files->texts[i]) : data_add_text(f, files->texts[i]);
    common_progress_clear();
    if (status == 0)
        status = common_spool_end(&d->tokens_spool, &d->ids);
    if (status || !examples)
        return status;
    status = common_spool_add(&d->begins_spool, &d->tokens_spool.count, 1);
    if (status == 0)
        status = common_spool_end(&d->begins_spool, &begins);
    d->begins = status == 0 ? begins : NULL;
    d->rows = d->begins_spool.count - 1;
    return status ? status : sum_examples(f);
}

int data_load(const struct options *o, const struct common_texts *files, const char *option,
              enum data_use use, const struct llama_config *config, struct data *out)
{
    struct data_files f = {.options = o, .option = option, .config = config, .data = out};
    int status = open_tokenizer(o, &f.tokenizer);

    *out = (struct data){.seq = o->seq};
    if (status == 0)
        status = load_files(&f, files);
    tokenizer_close(f.tokenizer);
    chat_close(f.chat);
    if (status == 0 && !out->begins)
        status = cut_stream(out, option, use);
    if (status == 0 && o->shuffle && use == DATA_TRAIN)
        status = shuffle(out, o->seed);
    if (status)
        data_free(out);
    malloc_trim(0); /* the encoder's memory counts against what the process may take */
    return status;
}

void data_free(struct data *d)
{
    common_spool_free(&d->tokens_spool);
    common_spool_free(&d->begins_spool);
    free(d->order);
    *d = (struct data){0};
}

/* ---- showing ------------------------------------------------------------------ */

int data_show(const struct options *o, const struct data *d)
{
    int status = 0;

    for (uint64_t row = 0; row < o->show && row < d->rows && status == 0; row++) {
        json_t *ids = json_array(), *learned = json_array(), *line;
        uint64_t from, to;

        row_range(d, d->order ? d->order[row] : row, &from, &to);
        for (uint64_t i = from; i < to; i++) {
            uint32_t id = token_at(d, i);

            json_array_append_new(ids, json_integer(id & ~DATA_LEARNED));
            json_array_append_new(learned, json_integer(i > from && (!d->begins || id & DATA_LEARNED)));
        }
        line = json_pack("{s:o, s:o}", "ids", ids, "learned", learned);
        if (!line || json_dumpf(line, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF)
            status = common_fail(EXIT_RUNTIME, "--show-data: the rows can't be written");
        json_decref(line);
    }
    return status == 0 && fflush(stdout) == EOF
               ? common_fail(EXIT_RUNTIME, "--show-data: the rows can't be written")
               : status;
}
