/*
 * ofl-bench store verify: whether a kept store is whole, tile by tile, and with --repair back to its newest whole
 * generation. This file reads the command line and tells what liboffload/store finds.
 */
#include "bench/store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "examples/common_options.h"
#include "liboffload/store/kept.h"

/* ---- options ---------------------------------------------------------------- */

struct options {
    const char *words[2]; /* "verify", the directory */
    unsigned count;
    bool repair;
    const char *json;
};

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_FLAG, "repair", NULL, "Make the newest whole generation the last one, where a newer one is not whole", FIELD(repair)},
    {COMMON_TEXT, "json", "FILE", "Write what was found in JSON", FIELD(json)},
    {.kind = COMMON_END}};
/* clang-format on */

static bool add_word(void *options, const char *text, struct common_complaint *c)
{
    struct options *o = options;

    if (o->count == 0 && strcmp(text, "verify") != 0)
        return common_complain(c, "no such word: verify");
    if (o->count == 2)
        return common_complain(c, "one more than verify DIR");
    o->words[o->count++] = text;
    return true;
}

static bool check_words(void *options, struct common_complaint *c)
{
    const struct options *o = options;

    return o->count == 2 || common_complain(c, "verify DIR is needed");
}

static const struct common_command command = {
    .title = "ofl-bench store",
    .arguments = "verify DIR",
    .before = "Reads every tile of the kept store in DIR, of both generations that it names, and compares "
              "seals. Writes "
              "nothing without --repair. A store that a run has is refused.",
    .after = "What is wrong with the last generation is named, tile by tile. The one before it is whole only "
             "until "
             "a run writes over it.\n"
             "\n"
             "Examples:\n"
             "  ofl-bench store verify /mnt/run\n"
             "  ofl-bench store verify /mnt/run --repair\n"
             "\n" COMMON_EXITS ". The store is not whole: 3, and 0 once --repair has made it so.",
    .argument = add_word,
    .check = check_words,
    .tables = {{option_list, 0}}};

/* ---- findings ------------------------------------------------------------------ */

struct findings {
    uint64_t newest, wrong; /* wrong: with the last generation, or with none in particular */
    json_t *list;
};

static void add(struct findings *s, const struct kept_finding *f)
{
    json_t *one =
        json_pack("{s:I, s:o, s:o, s:o}", "generation", (json_int_t)f->generation, "text",
                  bench_text_json(f->text), "tensor", f->tensor ? bench_text_json(f->tensor) : json_null(),
                  "tile", f->tensor ? json_integer(f->tile) : json_null());

    if (one)
        json_array_append_new(s->list, one);
}

/* Names come from the store. */
static const char *clean(const char *from, char to[COMMON_ERROR_BYTES])
{
    snprintf(to, COMMON_ERROR_BYTES, "%s", from);
    common_clean(to);
    return to;
}

static void tell(void *arg, const struct kept_finding *f)
{
    char text[COMMON_ERROR_BYTES];
    struct findings *s = arg;

    if (f->generation && !s->newest)
        s->newest = f->generation;
    if (!f->text) {
        if (common_progress_due())
            common_progress("generation %" PRIu64 ": %s, tile %u", f->generation, f->tensor, f->tile);
        return;
    }
    /* That the one before was written over is as it has to be. */
    if (f->generation && f->generation != s->newest && !s->wrong)
        return;
    s->wrong++;
    common_progress_clear();
    if (f->generation)
        printf("generation %" PRIu64 ": ", f->generation);
    if (f->tensor)
        printf("%s, tile %u: ", clean(f->tensor, text), f->tile);
    printf("%s\n", clean(f->text, text));
    add(s, f);
}

static void print_generations(const struct kept_report *r)
{
    for (int i = 0; i < 2 && r->generations[i]; i++) {
        printf("generation %" PRIu64 ": ", r->generations[i]);
        if (r->generations[i] == r->newest_whole)
            printf("whole: %" PRIu64 " tensors, %s in %" PRIu64 " tiles\n", r->tensors,
                   common_bytes(r->bytes).text, r->tiles);
        else if (r->bad[i] == 0)
            printf("whole\n");
        else if (r->newest_whole > r->generations[i])
            printf("the one before: no longer whole\n");
        else
            printf("not whole: %" PRIu64 " wrong\n", r->bad[i]);
    }
    if (!r->generations[0] && !r->newest_whole)
        printf("no generation: nothing was committed, or what names it is lost\n");
}

static int write_json(const struct options *o, const struct kept_report *r, const struct findings *s,
                      bool whole)
{
    json_t *generations = json_array(), *report;
    int status;

    for (int i = 0; i < 2 && r->generations[i]; i++)
        json_array_append_new(generations,
                              json_pack("{s:I, s:I}", "generation", (json_int_t)r->generations[i], "wrong",
                                        (json_int_t)r->bad[i]));
    report = json_pack("{s:s, s:s, s:o, s:b, s:o, s:I, s:I, s:I, s:I, s:O}", "program", "ofl-bench store",
                       "version", ofl_version(), "dir", bench_text_json(o->words[1]), "whole", whole,
                       "generations", generations, "newest_whole", (json_int_t)r->newest_whole, "tensors",
                       (json_int_t)r->tensors, "tiles", (json_int_t)r->tiles, "bytes", (json_int_t)r->bytes,
                       "findings", s->list);
    if (!report)
        return common_fail(EXIT_FULL, "make the report: out of memory");
    status = common_report_write(o->json, report);
    json_decref(report);
    return status;
}

/* ---- main --------------------------------------------------------------------- */

/* -OFL_ETORN is an answer. */
static int status_of(const struct options *o, int err, const struct kept_report *r, const struct findings *s)
{
    if (err < 0)
        return common_fail(EXIT_DAMAGED, "%s", ofl_error());
    if (r->newest_whole && s->wrong && !o->repair)
        return common_fail(EXIT_DAMAGED,
                           "%s: generation %" PRIu64
                           " is the newest whole one: --repair makes it the last one",
                           o->words[1], r->newest_whole);
    return s->wrong && !o->repair ? EXIT_DAMAGED : 0;
}

static int run(const struct options *o)
{
    struct findings s = {.list = json_array()};
    struct kept_report r = {.newest_whole = 0};
    int (*look)(const char *, void (*)(void *, const struct kept_finding *), void *, struct kept_report *) =
        o->repair ? kept_repair : kept_verify;
    int err = s.list ? look(o->words[1], tell, &s, &r) : -ENOMEM, status;

    common_progress_clear();
    if (err < 0 && err != -OFL_ETORN) {
        json_decref(s.list);
        return common_fail(common_status(err), "%s", ofl_error());
    }
    print_generations(&r);
    status = status_of(o, err, &r, &s);
    if (o->json && write_json(o, &r, &s, status == 0))
        status = EXIT_RUNTIME;
    json_decref(s.list);
    if (fflush(stdout) == EOF || ferror(stdout))
        return common_fail(common_status_late(-errno), "write to stdout: %s", strerror(errno));
    return status;
}

int bench_store_main(int argc, char **argv)
{
    struct options o = {.repair = false};
    int status = common_options_parse(&command, argc, argv, &o);

    if (status == 0 && o.json && (status = common_report_check(o.json)) < 0)
        status = common_fail(EXIT_INPUT, "--json %s: %s", o.json, strerror(-status));
    if (status == 0)
        status = run(&o);
    common_options_free(&command, &o);
    return status;
}
