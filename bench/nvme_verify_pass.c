/* See nvme_verify_pass.h. */
#include "bench/nvme_verify_pass.h"

#include <errno.h>
#include <stdlib.h>

#include "bench/nvme_progress.h"
#include "bench/nvme_wait.h"

#define BLOCK   MIB
#define DEPTH   16u
#define WAIT_NS 100000000u

struct pass {
    struct nvme_target *target;
    struct io_queue *queue;
    struct io_request requests[DEPTH];
    uint64_t at;
    int status;
};

static void submit(struct pass *p, struct io_request *r)
{
    const struct nvme_target *t = p->target;

    r->op = IO_READ;
    r->file = t->file;
    r->buf = t->buffers + (uint64_t)(r - p->requests) * BLOCK;
    r->offset = p->at;
    r->bytes = t->bytes - p->at < BLOCK ? t->bytes - p->at : BLOCK;
    p->at += r->bytes;
    io_submit(p->queue, r);
}

static void take(struct pass *p, struct io_request *r)
{
    if (r->error.code && p->status == 0)
        p->status = common_fail(common_status_late(r->error.code), "verify: %s", r->error.text);
    if (r->error.code == 0)
        nvme_verify_check(p->target->verify, r->buf, r->offset, r->bytes);
    if (common_stopping() && p->status == 0)
        p->status = common_fail(EXIT_INTERRUPTED, "interrupted: not all was compared");
    if (p->status == 0 && p->at < p->target->bytes)
        submit(p, r);
}

static void run(struct pass *p)
{
    const uint64_t bytes = p->target->bytes;
    struct io_request *done[DEPTH];

    for (unsigned i = 0; i < DEPTH && p->at < bytes; i++)
        submit(p, &p->requests[i]);
    while (io_queue_pending(p->queue)) {
        unsigned n = nvme_wait(p->queue, done, DEPTH, WAIT_NS);

        for (unsigned i = 0; i < n; i++)
            take(p, done[i]);
        common_progress_bytes("verifying:", p->at, bytes);
    }
}

int nvme_verify_pass(struct nvme_target *t)
{
    struct pass p = {.target = t};
    double start;

    nvme_target_drop_cache(t);
    p.status = nvme_queue_open(t, DEPTH, BLOCK, DEPTH * BLOCK, &p.queue);
    if (p.status)
        return p.status;
    start = common_seconds();
    run(&p);
    t->verify->pass_s = common_seconds() - start;
    io_queue_close(p.queue);
    common_progress_clear();
    return p.status;
}

/* ---- what was found ---------------------------------------------------------------- */

int nvme_verify_tell(const struct nvme_target *t)
{
    const struct nvme_verify *v = t->verify;

    printf("verify    %s compared, the whole file at %.3f GB/s, --seed %llu: ",
           common_bytes(v->compared).text, (double)t->bytes / 1e9 / v->pass_s, (ull)v->seed);
    if (v->wrong_units == 0) {
        printf("all is as it was written\n");
        return 0;
    }
    printf("%llu words in %llu blocks of %llu bytes differ\n", (ull)v->wrong_words, (ull)v->wrong_units,
           (ull)v->unit_bytes);
    fflush(stdout);
    for (unsigned i = 0; i < v->count && i < NVME_MISMATCHES_SHOWN; i++) {
        fputs("verify: ", stderr);
        nvme_mismatch_print(stderr, &v->mismatches[i]);
    }
    if (v->count > NVME_MISMATCHES_SHOWN)
        common_line("verify: and %u more; --json has up to %u", v->count - NVME_MISMATCHES_SHOWN,
                    NVME_MISMATCHES_MAX);
    return common_fail(EXIT_DAMAGED, "verify: %llu words are not what was written", (ull)v->wrong_words);
}

/* Words as text: not every reader of JSON has integers of 64 bits without a sign. */
static json_t *hex(uint64_t word)
{
    char text[24];

    snprintf(text, sizeof text, "0x%016llx", (ull)word);
    return json_string(text);
}

static json_t *mismatch_json(const struct nvme_mismatch *m)
{
    return json_pack("{s:I, s:o, s:o, s:I, s:o, s:b}", "offset", (json_int_t)m->offset, "wanted",
                     hex(m->wanted), "got", hex(m->got), "words", (json_int_t)m->words, "belongs",
                     m->belongs == UINT64_MAX ? json_null() : json_integer((json_int_t)m->belongs), "stale",
                     m->stale);
}

json_t *nvme_verify_json(const struct nvme_target *t)
{
    const struct nvme_verify *v = t->verify;
    json_t *all;

    if (!v)
        return json_null();
    all = json_array();
    for (unsigned i = 0; i < v->count; i++)
        json_array_append_new(all, mismatch_json(&v->mismatches[i]));
    return json_pack("{s:o, s:I, s:I, s:o, s:I, s:I, s:o}", "seed", hex(v->seed), "compared_bytes",
                     (json_int_t)v->compared, "unit_bytes", (json_int_t)v->unit_bytes, "gb_per_s",
                     bench_real_json((double)t->bytes / 1e9 / v->pass_s), "wrong_words",
                     (json_int_t)v->wrong_words, "wrong_units", (json_int_t)v->wrong_units, "mismatches",
                     all);
}

/* ---- a file that was kept -------------------------------------------------------------- */

static int write_report(const struct nvme_target *t)
{
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:o, s:I, s:o}", "program", "ofl-bench nvme --verify-file", "version",
                  ofl_version(), "date", bench_date().text, "file", bench_text_json(t->options->verify_file),
                  "file_bytes", (json_int_t)t->bytes, "verify", nvme_verify_json(t));
    int status = j ? common_report_write(t->options->json, j)
                   : common_fail(EXIT_FULL, "make the report: out of memory");

    json_decref(j);
    return status;
}

static int open_kept(struct nvme_target *t, struct nvme_verify *v)
{
    const struct nvme_options *o = t->options;
    int err = io_file_open_read(o->verify_file, o->direct == 0 ? IO_FILE_BUFFERED : 0, &t->file);

    if (err < 0)
        return common_fail(common_status(err), "--verify-file: %s", ofl_error());
    t->bytes = io_file_bytes(t->file);
    if (t->bytes == 0 || t->bytes % NVME_SECTOR)
        return common_fail(
            EXIT_INPUT, "--verify-file %s: %llu bytes: what --keep-file leaves has whole sectors of %u bytes",
            o->verify_file, (ull)t->bytes, NVME_SECTOR);
    if (nvme_verify_open(v, o->seed, t->bytes, 4096, false) < 0)
        return common_fail(EXIT_FULL, "verify: out of memory");
    t->verify = v;
    t->buffer_bytes = DEPTH * BLOCK;
    return nvme_target_renew_buffers(t);
}

int nvme_verify_file(const struct nvme_options *o)
{
    struct nvme_target t = {.options = o};
    struct nvme_verify v = {0};
    int status = open_kept(&t, &v), found = 0;

    if (status == 0)
        status = nvme_verify_pass(&t);
    if (status == 0)
        found = nvme_verify_tell(&t);
    if (status == 0 && o->json)
        status = write_report(&t);
    nvme_verify_close(&v);
    nvme_target_close(&t);
    return status ? status : found;
}
