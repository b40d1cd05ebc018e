/*
 * Runs a tokenizer for tools/check_tokenizers.py, which builds it:
 *
 *     tokens FILE <records >answers         FILE: a tokenizer.json, or a .gguf
 *
 * A record is a letter, a number of 32 bits and as many bytes, or ids of 32 bits: e, a
 * text, or w, with what the post-processor puts around it; d or s, ids, s without
 * special tokens. The answer is a number and as many ids,
 * or bytes. A failure is the number 2^32 - 1. The seconds of processor time that
 * opening and e took go to stderr, as does why FILE can't be opened; then the exit
 * status is 2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "examples/model/gguf.h"
#include "examples/model/gguf_text.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int answer(const void *data, size_t count, size_t each, int rc)
{
    uint32_t number = rc < 0 ? UINT32_MAX : (uint32_t)count;

    if (fwrite(&number, sizeof number, 1, stdout) != 1)
        return -1;
    return rc < 0 || fwrite(data, each, count, stdout) == count ? 0 : -1;
}

static int encode(const struct tokenizer *t, const char *text, size_t bytes, double *seconds)
{
    uint32_t *ids;
    size_t count;
    double start = now();
    int rc = tokenizer_encode(t, text, bytes, &ids, &count);

    *seconds += now() - start;
    rc = answer(ids, count, sizeof *ids, rc);
    free(ids);
    return rc;
}

/* The same between what the post-processor puts around it. */
static int encode_whole(const struct tokenizer *t, const char *text, size_t bytes)
{
    size_t before_count, after_count, count;
    const uint32_t *before = tokenizer_before(t, &before_count), *after = tokenizer_after(t, &after_count);
    uint32_t *ids, *all;
    int rc = tokenizer_encode(t, text, bytes, &ids, &count);

    all = calloc(before_count + count + after_count + 1, sizeof *all);
    if (rc == 0 && all) {
        for (size_t i = 0; i < before_count; i++)
            all[i] = before[i];
        for (size_t i = 0; i < count; i++)
            all[before_count + i] = ids[i];
        for (size_t i = 0; i < after_count; i++)
            all[before_count + count + i] = after[i];
    }
    rc = answer(all, before_count + count + after_count, sizeof *all, rc);
    free(all);
    free(ids);
    return rc;
}

static int decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip)
{
    char *text;
    size_t bytes;
    int rc = tokenizer_decode(t, ids, count, skip, &text, &bytes);

    rc = answer(text, bytes, 1, rc);
    free(text);
    return rc;
}

int main(int argc, char **argv)
{
    struct tokenizer *t;
    char error[1000];
    double start = now(), open, encoding = 0;
    uint32_t count;
    int kind, rc = argc == 2 ? 0 : -1;

    if (rc == 0)
        rc = llama_gguf_is(argv[1]) && strstr(argv[1], ".gguf")
                 ? llama_gguf_tokenizer(argv[1], &t, error, sizeof error)
                 : tokenizer_open(argv[1], &t, error, sizeof error);
    if (rc < 0) {
        fprintf(stderr, "%s\n", argc == 2 ? error : "usage: tokens FILE");
        return 2;
    }
    open = now() - start;
    while (rc == 0 && (kind = getchar()) != EOF && fread(&count, sizeof count, 1, stdin) == 1) {
        size_t each = kind == 'e' || kind == 'w' ? 1 : sizeof(uint32_t);
        char *data = malloc(count * each + 1);
        if (!data || fread(data, each, count, stdin) != count)
            rc = -1;
        else if (kind == 'e')
            rc = encode(t, data, count, &encoding);
        else if (kind == 'w')
            rc = encode_whole(t, data, count);
        else
            rc = decode(t, (const uint32_t *)(void *)data, count, kind == 's');
        free(data);
    }
    tokenizer_close(t);
    fprintf(stderr, "%.6f %.6f\n", open, encoding);
    return rc < 0;
}
