/*
 * The logits behind a text, for tools/check_families.py, which builds it: reads token ids from standard input, writes
 * vocab F32 numbers to standard output. Weights of a checkpoint, everything in memory.
 *
 *     logits DIR <ids >numbers
 */
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/generator.h"

#define TOKENS_MAX 65536

static int32_t tokens[TOKENS_MAX];

static int fail(const char *sentence)
{
    fprintf(stderr, "logits: %s\n", sentence);
    return 1;
}

static int print(const float *logits, uint32_t vocab)
{
    return fwrite(logits, sizeof *logits, vocab, stdout) == vocab ? 0 : fail("can't write");
}

static int run(struct ofl_ctx *ctx, const char *dir, const struct llama_config *config, size_t n)
{
    struct llama_generator_config c = {
        .shape = config->shape, .positions = n + 1, .piece = n, .fresh = OFL_F32};
    float *logits = calloc(config->shape.vocab, sizeof *logits);
    struct llama_checkpoint *ck = NULL;
    struct llama_generator *g = NULL;
    char error[1024] = "out of memory";
    int status = 1;

    if (logits && llama_checkpoint_open(ctx, dir, &config->shape, &ck, error, sizeof error) == 0 &&
        llama_generator_create(ctx, ck, &c, &g, error, sizeof error) == 0 &&
        llama_generator_feed(g, NULL, tokens, n, logits, error, sizeof error) == 0)
        status = print(logits, config->shape.vocab);
    else
        fail(error);
    llama_generator_destroy(g);
    llama_checkpoint_close(ck);
    free(logits);
    return status;
}

int main(int argc, char **argv)
{
    struct ofl_config open = {.size = sizeof open, .device_bytes = 256u << 20, .host_bytes = 64u << 20};
    struct llama_config config;
    struct ofl_ctx *ctx;
    char error[1024];
    size_t n = 0;
    int status;

    if (argc != 2)
        return fail("usage: logits DIR <ids >numbers");
    while (n < TOKENS_MAX && scanf("%d", &tokens[n]) == 1)
        n++;
    if (n == 0)
        return fail("no tokens");
    if (llama_checkpoint_config(argv[1], &config, error, sizeof error) < 0)
        return fail(error);
    if (ofl_open(&open, &ctx) < 0)
        return fail(ofl_error());
    status = run(ctx, argv[1], &config, n);
    ofl_close(ctx);
    return status;
}
