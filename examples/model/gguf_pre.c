/*
 * How byte-level GGUF vocabularies cut texts, by tokenizer.ggml.pre. The names, and what each means, are llama.cpp's
 * (src/llama-vocab.cpp); the expressions are those of the models' own tokenizer.json, where that has them in another
 * form. NFC is Qwen's: its tokenizer.json has it, GGUF files don't say.
 */
#include <string.h>

#include "examples/model/gguf_text.h"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define ENDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* up to so many digits are one piece */
#define DIGITS(n) ENDS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" n TAIL
#define UPPER     "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* words end where case rises */
#define CASED(ends, n)                                                                                       \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" ends "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" ends     \
    "|" n "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ONE   "\\p{N}"
#define THREE "\\p{N}{1,3}"
#define WORDS " ?[^(\\s|.,!?…。，、।۔،)]+"

static const struct gguf_pre table[] = {
    {.name = "default", .regex = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.name = "llama-bpe", .regex = {DIGITS(THREE)}, .ignore_merges = true, .start = true},
    {.name = "llama3", .regex = {DIGITS(THREE)}, .ignore_merges = true, .start = true},
    {.name = "llama-v3", .regex = {DIGITS(THREE)}, .ignore_merges = true, .start = true},
    {.name = "falcon3", .regex = {DIGITS(THREE)}, .ignore_merges = true, .start = true},
    {.name = "pixtral", .regex = {DIGITS(THREE)}, .ignore_merges = true, .start = true},
    {.name = "dbrx", .regex = {DIGITS(THREE)}},
    {.name = "smaug-bpe", .regex = {DIGITS(THREE)}},
    {.name = "chatglm-bpe", .regex = {DIGITS(THREE)}},
    {.name = "glm4", .regex = {DIGITS(THREE)}},
    {.name = "qwen2", .regex = {DIGITS(ONE)}, .nfc = true},
    {.name = "deepseek-r1-qwen", .regex = {DIGITS(ONE)}},
    {.name = "megrez", .regex = {DIGITS(ONE)}},
    {.name = "stablelm2", .regex = {DIGITS(ONE)}},
    {.name = "gpt-2", .regex = {GPT2}},
    {.name = "phi-2", .regex = {GPT2}},
    {.name = "mpt", .regex = {GPT2}},
    {.name = "olmo", .regex = {GPT2}},
    {.name = "jais", .regex = {GPT2}},
    {.name = "trillion", .regex = {GPT2}},
    {.name = "exaone4", .regex = {GPT2}},
    {.name = "granite-docling", .regex = {GPT2}},
    {.name = "smollm", .regex = {ONE, GPT2}},
    {.name = "starcoder", .regex = {ONE, GPT2}},
    {.name = "refact", .regex = {ONE, GPT2}},
    {.name = "command-r", .regex = {ONE, GPT2}},
    {.name = "codeshell", .regex = {ONE, GPT2}},
    {.name = "exaone", .regex = {ONE, GPT2}},
    {.name = "minerva-7b", .regex = {ONE, GPT2}},
    {.name = "falcon", .regex = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.name = "poro-chat", .regex = {WORDS}},
    {.name = "bloom", .regex = {WORDS}},
    {.name = "viking", .regex = {WORDS, ONE}},
    {.name = "deepseek-coder",
     .regex = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", ONE}},
    {.name = "tekken", .regex = {CASED("", ONE)}, .ignore_merges = true, .start = true},
    {.name = "gpt-4o", .regex = {CASED(ENDS "?", THREE)}},
    {.name = "llama4", .regex = {CASED(ENDS "?", THREE)}},
};

const struct gguf_pre *llama_gguf_pre(const char *name)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(name ? name : "default", table[i].name) == 0)
            return &table[i];
    return NULL;
}
