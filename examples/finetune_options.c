/* The command line of ofl-finetune. */
#include "examples/finetune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct common_word dtypes[] = {{"f32", OFL_F32}, {"bf16", OFL_BF16}, {NULL, 0}};

static const struct common_word schedules[] = {{"constant", SCHEDULE_CONSTANT},
                                               {"linear", SCHEDULE_LINEAR},
                                               {"cosine", SCHEDULE_COSINE},
                                               {"wsd", SCHEDULE_WSD},
                                               {NULL, 0}};

/* Below 1 by enough that bias correction works. */
#define BETA_MOST 0.999999999

#define FIELD(name) .field = offsetof(struct options, name)

static bool set_commit_every(void *field, const char *text, struct common_complaint *c)
{
    uint64_t *steps = field;

    if (strcmp(text, "auto") == 0) {
        *steps = 0;
        return true;
    }
    if (common_parse_count(text, 1, 1u << 30, steps) == 0)
        return true;
    return common_complain(c, "not auto, nor a whole number from 1 to %u", 1u << 30);
}

/* clang-format off */
static const struct common_option what_options[] = {
    {COMMON_GROUP, .text = "Model and data:", .least = 1},
    {COMMON_TEXT, "model", "DIR", "Hugging Face directory of a model: config.json, model.safetensors (or shards "
     "with an index), tokenizer.json", FIELD(model)},
    {COMMON_TEXT, "preset", "NAME", "Fresh model with a byte tokenizer; the names are listed below", FIELD(preset)},
    {COMMON_TEXTS, "data", "FILE", "Text to train on, or where the name ends in .jsonl, examples: conversations, or "
     "prompts and completions, of which what the assistant says is learned; more may follow, or the option be repeated",
     FIELD(data)},
    {COMMON_TEXTS, "eval", "FILE", "Text or examples whose loss is told, and not trained on; may be repeated", FIELD(eval)},
    {COMMON_COUNT, "eval-every", "N", "Steps from one evaluation to the next; 0: after the last only", FIELD(eval_every),
     "0", 0, 1u << 30},
    {COMMON_COUNT, "seq", "N", "Tokens per sequence", FIELD(seq), "128", 1, 1u << 20},
    {COMMON_COUNT, "batch", "N", "Sequences per micro-batch", FIELD(batch), "1", 1, 1u << 20},
    {COMMON_COUNT, "accum", "N", "Micro-batches per step", FIELD(accum), "1", 1, 1u << 20},
    {COMMON_FLAG, "shuffle", NULL, "Take slices of the text, or examples, in an order drawn from --seed, not one after "
     "another", FIELD(shuffle)},
    {COMMON_COUNT, "show-data", "N", "Only print the first N rows, as JSON with ids and which are learned",
     FIELD(show), "0", 0, 1u << 30},
    {COMMON_TEXT, "out", "DIR", "Write the result as a Hugging Face directory, which must not exist or be empty, but for --overwrite",
     FIELD(out)},
    {COMMON_FLAG, "overwrite", NULL, "Replace what an earlier run has written as --out, once the new one is whole",
     FIELD(overwrite)},
    {COMMON_FLAG, "dry-run", NULL, "Only print the plan, the budgets and the smallest that would do; nothing is made or "
     "written", FIELD(dry)},
    {COMMON_TEXT, "log", "FILE", "Write a line for each step as it ends: JSON where the name ends in .jsonl, or .csv; with "
     "--resume behind those that are there", FIELD(log)},
    {.kind = COMMON_END}};

static const struct common_option lora_options[] = {
    {COMMON_GROUP, .text = "Adapters (LoRA):", .least = 4},
    {COMMON_COUNT, "lora", "RANK", "Train adapters of this rank, over weights that stay as they are in --model's files; "
     "--out gets the adapter, as PEFT has it", FIELD(lora), .least = 1, .most = LLAMA_LORA_RANK_MOST},
    {COMMON_NUMBER, "lora-alpha", "X", "What adapters give is scaled by X / RANK (default: twice RANK)", FIELD(lora_alpha),
     .low = 1e-6, .high = 1e6},
    {COMMON_NUMBER, "lora-dropout", "X", "Part of an adapter's inputs that training leaves out", FIELD(lora_dropout), .low = 0,
     .high = 0.99},
    {COMMON_TEXT, "lora-targets", "NAMES", "Layers that get one, as q_proj,v_proj; all-linear (default): all of a block",
     FIELD(lora_targets)},
    {COMMON_FLAG, "rslora", NULL, "Scale by X / sqrt(RANK)", FIELD(rslora)},
    {COMMON_FLAG, "dora", NULL, "Train the magnitudes of a matrix' rows, too", FIELD(dora)},
    {COMMON_TEXT, "adapter", "DIR", "Go on with this adapter", FIELD(adapter)},
    {COMMON_FLAG, "merge", NULL, "Train nothing: write --model with --adapter added to its weights as --out", FIELD(merge)},
    {COMMON_TEXT, "tokenizer", "DIR", "With adapters: where tokenizer.json is (default: --model); needed for a GGUF file",
     FIELD(tokenizer)},
    {.kind = COMMON_END}};

static const struct common_option store_options[] = {
    {COMMON_GROUP, .text = "Going on after an end (kept stores):", .least = 5},
    {COMMON_CALL, "store", "DIR[:SIZE]", "Keep what is trained in this directory, on a drive, with room for it twice: a run "
     "that ends, however it does, goes on from its last commit", FIELD(budget.store), .set = common_set_directory},
    {COMMON_CALL, "commit-every", "N|auto", "Steps from one commit to the next; auto: as often as 2 % of the time allows. The "
     "last step, and a signal, commit in any case", FIELD(commit_every), "auto", .set = set_commit_every},
    {COMMON_FLAG, "resume", NULL, "Go on from the last commit in --store; begin where there is none", FIELD(resume)},
    {COMMON_FLAG, "adjust", NULL, "With --resume: take rates, schedule, decays, betas, eps and --clip as they are given now",
     FIELD(adjust)},
    {COMMON_TEXT, "export-store", "DIR", "Train nothing: write the last commit in DIR as --out", FIELD(export_store)},
    {.kind = COMMON_END}};

static const struct common_option training_options[] = {
    {COMMON_GROUP, .text = "Training:", .least = 3},
    {COMMON_COUNT, "steps", "N", "Optimizer steps", FIELD(steps), "100", 1, 1u << 30},
    {COMMON_NUMBER, "lr", "X", "Learning rate", FIELD(lr), "1e-4", .low = 0, .high = 1e6},
    {COMMON_WORD, "schedule", "constant|linear|cosine|wsd", "What the rate does behind --warmup: wsd stays, and falls "
     "linearly over the last steps", FIELD(schedule), "constant", .words = schedules},
    {COMMON_COUNT, "warmup", "N", "Steps over which the rate rises linearly", FIELD(warmup), "0",
     0, 1u << 30},
    {.kind = COMMON_COUNT, .name = "warmup-steps", .value = "N", .text = "--warmup", .field = offsetof(struct options, warmup),
     .most = 1u << 30, .hidden = true},
    {COMMON_COUNT, "decay-steps", "N", "Last steps over which wsd falls; 0: a tenth of all", FIELD(decay), "0", 0, 1u << 30},
    {COMMON_NUMBER, "lr-end", "X", "Rate that a schedule falls to", FIELD(lr_end), "0", .low = 0, .high = 1e6},
    {COMMON_WORD, "optimizer", COMMON_METHODS, "What computes updates. sgd, with momentum, and lion keep one number for "
     "each parameter where the others keep two", FIELD(method), "adamw", .words = common_methods},
    {COMMON_NUMBER, "beta1", "X", "Decay of the first moment; of sgd its momentum", FIELD(beta1), "0.9", .low = 0,
     .high = BETA_MOST},
    {COMMON_NUMBER, "beta2", "X", "Decay of the second moment; of lion that of its one, for which 0.99 is usual",
     FIELD(beta2), "0.999", .low = 0, .high = BETA_MOST},
    /* 0: 0/0 where nothing has a gradient */
    {COMMON_NUMBER, "eps", "X", "Of adamw and adam", FIELD(eps), "1e-8", .low = 1e-30, .high = 1},
    {COMMON_NUMBER, "weight-decay", "X", "On all parameters but norms and biases; of adam and sgd added to the gradient",
     FIELD(weight_decay), "0.01", .low = 0, .high = 1e6},
    {COMMON_FLAG, "decay-all", NULL, "Decay norms and biases, too, as torch.optim.AdamW does by itself", FIELD(decay_all)},
    {COMMON_NUMBER, "clip", "X", "Exact global norm to clip gradients to; 0: off", FIELD(clip), "1", .low = 0,
     .high = 1e30},
    {COMMON_WORD, "dtype", "f32|bf16", "Of weights on the device, and of --out; masters and moments are f32",
     FIELD(dtype), "f32", .words = dtypes},
    {COMMON_COUNT, "seed", "N", "Of --preset's weights and of --shuffle", FIELD(seed), "1", 0, INT64_MAX},
    {.kind = COMMON_END}};
/* clang-format on */

const char *schedule_name(const struct options *o)
{
    return schedules[o->schedule].name;
}

uint64_t decay_steps(const struct options *o)
{
    return o->decay ? o->decay : (o->steps + 9) / 10;
}

static const char before[] =
    "Fine-tunes a language model, all parameters or adapters, inside hard memory budgets.";

static const char after[] =
    "Without --device-mem, --host-mem and --nvme everything is kept in device memory, if it fits (RAM: a "
    "third of it). "
    "With any of them, --device-mem is needed; --host-mem is 64M by default where --nvme is given. With "
    "--nvme the drive and host memory hold all tensors together; without, one of the two memories has to. "
    "Budgets that can't work are refused at once, with the smallest that can.\n"
    "\n"
    "Examples:\n"
    "  ofl-finetune --model story --data text.txt --steps 200 --lr 1e-3 --out tuned\n"
    "  ofl-finetune --model story --data chats.jsonl --eval held.jsonl \\\n"
    "      --eval-every 20 --schedule cosine --warmup 10 --out chatty\n"
    "  ofl-finetune --preset 300m --data text.txt --seq 512 --accum 4 \\\n"
    "      --dtype bf16 --device-mem 512M --host-mem 256M --nvme /mnt/scratch:8G \\\n"
    "      --report run.json\n"
    "  ofl-finetune --model llama --lora 16 --data text.txt --device-mem 1G \\\n"
    "      --host-mem 256M --out adapter\n"
    "  ofl-finetune --model llama --adapter adapter --merge --out merged\n"
    "  # a timeline, which https://ui.perfetto.dev opens\n"
    "  ofl-finetune --preset 20m --data text.txt --device-mem 64M --host-mem 32M \\\n"
    "      --nvme /mnt/scratch --steps 5 --timeline trace.json\n"
    "  # the same again, after whatever ended it\n"
    "  ofl-finetune --preset 300m --data text.txt --device-mem 512M \\\n"
    "      --host-mem 256M --store /mnt/run --resume --log run.csv\n"
    "  ofl-finetune --export-store /mnt/run --out sofar\n"
    "  ofl-finetune --preset 300m --data text.txt --device-mem 512M \\\n"
    "      --host-mem 256M --nvme /mnt/scratch --dry-run\n"
    "\n" COMMON_EXITS
    ", after the current step, which --store keeps (a second SIGINT or SIGTERM ends at once). A loss or a "
    "weight that is not a number: 1. But after 0 and where the report fails neither --out nor --report is "
    "written, and neither is half-written.";

static bool check_schedule(const struct options *o, struct common_complaint *c)
{
    unsigned long long decay = decay_steps(o), steps = o->steps, warmup = o->warmup;

    if (o->eval_every && o->eval.count == 0)
        return common_complain(c, "--eval-every %llu without --eval FILE", (unsigned long long)o->eval_every);
    if (o->decay && o->schedule != SCHEDULE_WSD)
        return common_complain(c, "--decay-steps %llu: only --schedule wsd has such steps",
                               (unsigned long long)o->decay);
    if (o->lr_end > o->lr)
        return common_complain(c, "--lr-end %g: above --lr %g, which it is to fall from", o->lr_end, o->lr);
    if (o->schedule == SCHEDULE_WSD && (decay > steps || warmup > steps - decay))
        return common_complain(c, "--warmup %llu and --decay-steps %llu: --steps %llu has no room for both",
                               warmup, decay, steps);
    return true;
}

static bool check_export(const struct options *o, struct common_complaint *c)
{
    if (!o->out)
        return common_complain(c, "--export-store needs --out DIR");
    if (o->budget.store.dir || o->data.count || o->eval.count || lora_is_wanted(o) || o->merge)
        return common_complain(
            c, "--export-store trains nothing: of --store, --data, --eval, --lora, --adapter and "
               "--merge it takes none; the run's own are in the store");
    if (o->model && o->preset)
        return common_complain(c, "--model and --preset exclude each other");
    return true;
}

static bool check_store(const struct options *o, struct common_complaint *c)
{
    const char *dir = o->budget.store.dir;

    if (!dir && (o->resume || o->commit_every))
        return common_complain(c, "%s goes with --store DIR", o->resume ? "--resume" : "--commit-every");
    if (o->adjust && !o->resume)
        return common_complain(c, "--adjust goes with --resume");
    if (dir && o->merge)
        return common_complain(c, "--merge trains nothing: leave --store out");
    if (dir && o->steps > NOTE_STEPS_MAX)
        return common_complain(
            c, "--steps %llu: with --store %u at most, since a commit has the numbers of each",
            (unsigned long long)o->steps, NOTE_STEPS_MAX);
    if (dir && o->eval_every && o->steps / o->eval_every > NOTE_EVALS_MAX)
        return common_complain(
            c,
            "--eval-every %llu: with --store and --steps %llu at least %llu, since a commit has "
            "the loss of each evaluation",
            (unsigned long long)o->eval_every, (unsigned long long)o->steps,
            (unsigned long long)o->steps / NOTE_EVALS_MAX + 1);
    return true;
}

static bool is_same(const char *a, const char *b)
{
    struct stat one, two;

    return a && b && stat(a, &one) == 0 && stat(b, &two) == 0 && one.st_dev == two.st_dev &&
           one.st_ino == two.st_ino;
}

/* What is read is not what is replaced. */
static bool check_overwrite(const struct options *o, struct common_complaint *c)
{
    const struct {
        const char *option, *path;
    } dirs[] = {{"--model", o->model},
                {"--adapter", o->adapter},
                {"--tokenizer", o->tokenizer},
                {"--store", o->budget.store.dir},
                {"--export-store", o->export_store}};

    if (!o->overwrite)
        return true;
    if (!o->out)
        return common_complain(c, "--overwrite goes with --out DIR");
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
        if (is_same(o->out, dirs[i].path))
            return common_complain(c, "--overwrite: --out %s is %s itself, which is read: give another name",
                                   o->out, dirs[i].option);
    return true;
}

static bool check(void *options, struct common_complaint *c)
{
    const struct options *o = options;

    if (o->dry && (o->export_store || o->merge || o->show))
        return common_complain(
            c, "--dry-run plans a training: leave --export-store, --merge and --show-data out");
    if (!check_overwrite(o, c))
        return false;
    if (o->export_store)
        return check_export(o, c);
    if (!o->model == !o->preset)
        return common_complain(c, "%s",
                               o->model ? "--model and --preset exclude each other"
                                        : "--model DIR or --preset NAME is needed");
    if (o->data.count == 0 && !o->merge)
        return common_complain(c, "--data FILE is needed");
    return check_schedule(o, c) && log_check(o, c) && lora_check(o, c) && check_store(o, c);
}

/* Files of text may follow the first. */
static bool add_data(void *options, const char *text, struct common_complaint *c)
{
    struct options *o = options;
    const char **more;

    if (o->data.count == 0)
        return common_complain(c, "files of text go behind --data");
    more = realloc(o->data.texts, (o->data.count + 1) * sizeof *more);
    if (!more)
        return common_complain(c, "out of memory");
    o->data.texts = more;
    o->data.texts[o->data.count++] = text;
    return true;
}

static struct common_command command = {.title = "ofl-finetune",
                                        .before = before,
                                        .arguments = "[FILE...]",
                                        .argument = add_data,
                                        .check = check,
                                        .tables = {{what_options, 0},
                                                   {common_budget_options, offsetof(struct options, budget)},
                                                   {training_options, 0},
                                                   {lora_options, 0},
                                                   {store_options, 0}}};

int options_parse(int argc, char **argv, struct options *o)
{
    char *text = common_with_presets(after);
    int status;

    *o = (struct options){0};
    command.after = text ? text : after;
    status = common_options_parse(&command, argc, argv, o);
    command.after = after;
    free(text);
    return status;
}

void options_free(struct options *o)
{
    common_options_free(&command, o);
    common_budget_free(&o->budget);
}

static json_t *text_or_null(const char *text)
{
    /* Names of files need not be UTF-8, which JSON is. */
    json_t *value = text ? json_string(text) : NULL;

    return value ? value : json_null();
}

json_t *options_json(const struct options *o)
{
    json_t *files = json_array(), *evals = json_array(), *nvme = json_array(), *j = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"seq", o->seq},
                  {"batch", o->batch},
                  {"accum", o->accum},
                  {"steps", o->steps},
                  {"warmup", o->warmup},
                  {"seed", o->seed},
                  {"decay_steps", o->schedule == SCHEDULE_WSD ? decay_steps(o) : 0},
                  {"eval_every", o->eval_every},
                  {"lora", o->lora},
                  {"commit_every", o->commit_every}};
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"lr", o->lr},
                   {"lr_end", o->lr_end},
                   {"beta1", o->beta1},
                   {"beta2", o->beta2},
                   {"eps", o->eps},
                   {"weight_decay", o->weight_decay},
                   {"clip", o->clip},
                   {"lora_alpha", o->lora_alpha},
                   {"lora_dropout", o->lora_dropout}};

    for (size_t i = 0; i < o->data.count; i++)
        json_array_append_new(files, text_or_null(o->data.texts[i]));
    for (size_t i = 0; i < o->eval.count; i++)
        json_array_append_new(evals, text_or_null(o->eval.texts[i]));
    for (uint32_t i = 0; i < o->budget.nvme_count; i++)
        json_array_append_new(nvme, json_pack("{s:o, s:I}", "dir", text_or_null(o->budget.nvme[i].dir),
                                              "bytes", (json_int_t)o->budget.nvme[i].bytes));
    json_object_set_new(j, "model", text_or_null(o->model));
    json_object_set_new(j, "preset", text_or_null(o->preset));
    json_object_set_new(j, "data", files);
    json_object_set_new(j, "eval", evals);
    json_object_set_new(j, "optimizer", json_string(common_method_name(o->method)));
    json_object_set_new(j, "schedule", json_string(schedule_name(o)));
    json_object_set_new(j, "out", text_or_null(o->out));
    json_object_set_new(j, "tokenizer", text_or_null(o->tokenizer));
    json_object_set_new(j, "adapter", text_or_null(o->adapter));
    json_object_set_new(j, "lora_targets", text_or_null(o->lora_targets));
    json_object_set_new(j, "rslora", json_boolean(o->rslora));
    json_object_set_new(j, "dora", json_boolean(o->dora));
    json_object_set_new(j, "dtype", json_string(ofl_dtype_name(o->dtype)));
    json_object_set_new(j, "shuffle", json_boolean(o->shuffle));
    json_object_set_new(j, "decay_all", json_boolean(o->decay_all));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        json_object_set_new(j, counts[i].name, json_integer((json_int_t)counts[i].value));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        json_object_set_new(j, numbers[i].name, json_real(numbers[i].value));
    json_object_set_new(j, "device", json_string(o->budget.chosen.device));
    json_object_set_new(j, "in_memory", json_boolean(o->budget.in_memory));
    json_object_set_new(j, "device_mem", json_integer((json_int_t)o->budget.device_bytes));
    json_object_set_new(j, "host_mem", json_integer((json_int_t)o->budget.host_bytes));
    json_object_set_new(j, "nvme", nvme);
    json_object_set_new(j, "max_written",
                        o->budget.max_written ? json_integer((json_int_t)o->budget.max_written)
                                              : json_null());
    json_object_set_new(j, "store", text_or_null(o->budget.store.dir));
    json_object_set_new(j, "resume", json_boolean(o->resume));
    return j;
}
