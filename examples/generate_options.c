/* The command line and the budgets of ofl-generate. */
#include "examples/generate.h"

#include <stdio.h>
#include <stdlib.h>

typedef unsigned long long ull;

#define HOST_BYTES                                                                                           \
    (256ull << 20) /* by default: weights pass through it, and a fast drive needs many on their way */

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option text_options[] = {
    {COMMON_GROUP, .text = "Text:", .least = 1},
    {COMMON_TEXT, "model", "DIR", "Hugging Face directory of a model: config.json, model.safetensors (or shards "
     "with an index), tokenizer.json; or a GGUF file, the first of them where it is split", FIELD(model)},
    {COMMON_TEXT, "tokenizer", "DIR", "Where tokenizer.json is (default: --model); a GGUF file has its own",
     FIELD(tokenizer)},
    {COMMON_TEXTS, "adapter", "DIR[:WEIGHT]", "LoRA adapter, as PEFT has it, added to the model's weights; may be repeated: "
     "they add up, each times its WEIGHT (1)", FIELD(adapters)},
    {COMMON_TEXT, "prompt", "TEXT", "What to continue; the tokenizer's start token goes in front", FIELD(prompt)},
    {COMMON_TEXT, "prompt-file", "FILE", "The same from a file; -: from standard input", FIELD(prompt_file)},
    {COMMON_TEXT, "prompts", "FILE", "A prompt in each line, one after another; .jsonl: a string, {\"prompt\": ...} or "
     "{\"messages\": [...]}, with \"adapter\": the name of one of --adapter, or null for none", FIELD(prompts)},
    {COMMON_FLAG, "chat", NULL, "The prompt is what a user says: the model's chat template goes around it", FIELD(chat)},
    {COMMON_TEXT, "system", "TEXT", "With --chat: the system message", FIELD(system)},
    {COMMON_COUNT, "max-tokens", "N", "Tokens to generate at most (default 128, or what --context leaves); an end token "
     "ends sooner", FIELD(max_tokens), .least = 1, .most = 1u << 30},
    {COMMON_COUNT, "context", "N", "Tokens that prompt and text have together at most (default: the model's positions)",
     FIELD(context), .least = 2, .most = 1u << 30},
    {COMMON_NUMBER, "temperature", "X", "0: always the likeliest token", FIELD(temperature), "0.8", .low = 0,
     .high = 1e6},
    {COMMON_COUNT, "top-k", "N", "Draw from the N likeliest tokens; 0: from all", FIELD(top_k), "0", 0, 1u << 30},
    {COMMON_NUMBER, "top-p", "X", "Draw from the likeliest tokens that have this probability together", FIELD(top_p),
     "0.95", .low = 0, .high = 1},
    {COMMON_NUMBER, "min-p", "X", "Draw from tokens that have this part of the likeliest one's probability", FIELD(min_p),
     "0", .low = 0, .high = 1},
    {COMMON_NUMBER, "repetition-penalty", "X", "Above 1: tokens of the prompt and the text become less likely",
     FIELD(repetition_penalty), "1", .low = 0.01, .high = 100},
    {COMMON_FLAG, "dry-run", NULL, "Only print the plan, the budgets and the smallest that would do; nothing is generated", FIELD(dry)},
    {COMMON_COUNT, "seed", "N", "Of drawing", FIELD(seed), "1", 0, INT64_MAX},
    {.kind = COMMON_END}};
/* clang-format on */

static const char before[] = "Generates text with a language model inside hard memory budgets.";

static const char after[] =
    "Weights are paged in from the checkpoint itself, slice by slice, and need no second copy: there is no "
    "--nvme here. By default the whole model is kept on the device if it fits, else as much as does: all of "
    "a GPU's memory; of RAM a third, or a quarter. --host-mem is 256M by default, less where memory is "
    "short. "
    "Keys and values of earlier "
    "tokens stay on the device.\n"
    "\n"
    "The text goes to standard output as it comes, figures to standard error. Tokens per second count "
    "generated "
    "tokens only, without the time of the prompt.\n"
    "\n"
    "Examples:\n"
    "  ofl-generate --model story --prompt \"Once upon a time\" --temperature 0\n"
    "  ofl-generate --model llama-7b --prompt \"The sea\" --device-mem 2G \\\n"
    "      --host-mem 1G --report run.json\n"
    "  ofl-generate --model qwen --chat --system \"Be brief.\" \\\n"
    "      --prompt-file question.txt\n"
    "  # a timeline, which https://ui.perfetto.dev opens\n"
    "  ofl-generate --model llama-7b --prompt \"The sea\" --device-mem 2G \\\n"
    "      --timeline trace.json\n"
    "\n" COMMON_EXITS ", after the current token. A text of which the logits are no numbers: 3.";

static bool check(void *options, struct common_complaint *c)
{
    const struct options *o = options;

    int given = (o->prompt != NULL) + (o->prompt_file != NULL) + (o->prompts != NULL);

    if (!o->model || given == 0)
        return common_complain(c,
                               "--model DIR and --prompt TEXT are needed (or --prompt-file, or --prompts)");
    if (given > 1)
        return common_complain(c, "--prompt, --prompt-file and --prompts exclude each other");
    return !o->system || o->chat || common_complain(c, "--system needs --chat");
}

static const struct common_command command = {
    .title = "ofl-generate",
    .before = before,
    .after = after,
    .hint = "the text to continue goes behind --prompt",
    .check = check,
    .tables = {{text_options, 0}, {common_read_options, offsetof(struct options, budget)}}};

void options_free(struct options *o)
{
    common_options_free(&command, o);
    common_budget_free(&o->budget);
}

int options_parse(int argc, char **argv, struct options *o)
{
    *o = (struct options){0};
    return common_options_parse(&command, argc, argv, o);
}

json_t *options_json(const struct options *o)
{
    json_t *j = json_object();
    /* Arguments need not be UTF-8, which JSON is. */
    const struct {
        const char *name, *text;
    } texts[] = {{"model", o->model},
                 {"prompt", o->prompt},
                 {"prompt_file", o->prompt_file},
                 {"prompts", o->prompts},
                 {"system", o->system}};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t *text = texts[i].text ? json_string(texts[i].text) : NULL;

        json_object_set_new(j, texts[i].name, text ? text : json_null());
    }
    json_object_set_new(j, "adapters", adapters_json(o));
    json_object_set_new(j, "chat", json_boolean(o->chat));
    json_object_set_new(j, "context", json_integer((json_int_t)o->context));
    json_object_set_new(j, "top_k", json_integer((json_int_t)o->top_k));
    json_object_set_new(j, "min_p", json_real(o->min_p));
    json_object_set_new(j, "repetition_penalty", json_real(o->repetition_penalty));
    json_object_set_new(j, "max_tokens", json_integer((json_int_t)o->max_tokens));
    json_object_set_new(j, "temperature", json_real(o->temperature));
    json_object_set_new(j, "top_p", json_real(o->top_p));
    json_object_set_new(j, "seed", json_integer((json_int_t)o->seed));
    json_object_set_new(j, "device", json_string(o->budget.chosen.device));
    json_object_set_new(j, "in_memory", json_boolean(o->budget.in_memory));
    json_object_set_new(j, "device_mem", json_integer((json_int_t)o->budget.device_bytes));
    json_object_set_new(j, "host_mem", json_integer((json_int_t)o->budget.host_bytes));
    return j;
}

/* ---- budgets -------------------------------------------------------------- */

static int refuse_device(const struct options *o, uint64_t bytes, const struct llama_generator_need *need)
{
    const struct llama_need *d = &need->device;
    struct common_need n = {.tensor_bytes = need->weight_bytes, .gpu = o->budget.chosen.gpu};
    uint64_t most;
    struct common_room ram;

    common_room(&ram);
    most = common_need_most(&n, &ram);
    if (!n.gpu && most < d->device_bytes + OFL_HOST_MIN_BYTES)
        return common_fail(
            EXIT_INPUT,
            "device memory of %llu bytes: %s needs %llu bytes at once, with a key-value cache of %llu bytes, "
            "and "
            "host memory takes %u bytes at least, but %s, which leaves %llu bytes (%s) for both: no budgets "
            "work here; a smaller --context, --max-tokens or prompt makes the cache smaller",
            (ull)bytes, d->part, (ull)d->device_bytes, (ull)need->cache_bytes, OFL_HOST_MIN_BYTES, ram.text,
            (ull)most, common_bytes(most).text);

    return common_fail(
        EXIT_INPUT,
        "device memory of %llu bytes: %s needs %llu bytes at once, with a key-value cache of %llu "
        "bytes, the largest tensor of it is %s with %llu bytes; the smallest workable --device-mem is "
        "%llu bytes (%s)",
        (ull)bytes, d->part, (ull)d->device_bytes, (ull)need->cache_bytes, d->largest, (ull)d->largest_bytes,
        (ull)d->device_bytes, common_bytes(d->device_bytes).text);
}

/* What is not given. Of RAM a third or a quarter is taken at most: it has other uses, too. */
static void choose(const struct options *o, const struct llama_generator_need *need, struct ofl_config *c)
{
    const struct common_budget *b = &o->budget;
    struct common_need n = {.tensor_bytes = need->weight_bytes, .gpu = b->chosen.gpu};
    uint64_t memory = common_device_memory(b), least = need->device.device_bytes, room, most;
    struct common_room ram;

    common_room(&ram);
    room = common_need_most(&n, &ram);
    c->host_bytes = b->host_bytes ? b->host_bytes : HOST_BYTES;
    if (!b->host_bytes && c->host_bytes > room / 4)
        c->host_bytes = room / 4 > OFL_HOST_MIN_BYTES ? room / 4 : OFL_HOST_MIN_BYTES;
    /* beside a device budget that was asked for: following a refusal's advice must not be refused again */
    if (!b->host_bytes && !b->chosen.gpu && room < b->device_bytes + c->host_bytes)
        c->host_bytes =
            room > b->device_bytes + OFL_HOST_MIN_BYTES ? room - b->device_bytes : OFL_HOST_MIN_BYTES;
    room = b->chosen.gpu ? memory : room > c->host_bytes ? room - c->host_bytes : 0;
    most = b->chosen.gpu || memory / 3 > room ? room : memory / 3;
    c->device_bytes = b->device_bytes;
    if (b->in_memory || (!c->device_bytes && need->device_all_bytes <= most)) {
        c->device_bytes = need->device_all_bytes;
    } else if (!c->device_bytes) {
        most = b->chosen.gpu || memory / 4 > room ? room : memory / 4;
        c->device_bytes = most > least ? most : least;
    }
}

int budget_check(const struct options *o, const struct llama_generator_need *need, struct ofl_config *out)
{
    const struct common_ways ways = {.device_least = need->device.device_bytes,
                                     .host_least = OFL_HOST_MIN_BYTES};

    *out = (struct ofl_config){.size = sizeof *out, .device = o->budget.chosen.device, .log = common_log};
    choose(o, need, out);
    if (out->device_bytes / 256 * 256 < ways.device_least)
        return refuse_device(o, out->device_bytes, need);
    return common_budget_fits(&o->budget, out, need->weight_bytes, 0, &ways);
}
