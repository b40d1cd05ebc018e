/*
 * ofl-bench unpack: landing transforms beside the memory bound of their bytes, on one thread.
 *
 * The bound is what the same thread takes to read as many bytes as are packed and write as many as come out, in the
 * same order, by plain loads and stores, and to do nothing else. Form and bound run in turns. Times are those of the
 * thread on a core.
 */
#include "bench/unpack.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "examples/common_options.h"
#include "include/offload_landing.h"

#define REPEATS_MOST 64u
#define PIECE_ELEMS  4096u /* of a bound's turn of reading and writing: a few cache lines to some pages */

struct options {
    uint64_t values, repeats;
    const char *json;
    bool check;
};

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_GROUP, .text = "Run:", .least = 1},
    {COMMON_COUNT, "values", "N", "Numbers of each dtype, in thousands of 1024", FIELD(values), "16384", 32, 1u << 20},
    {COMMON_COUNT, "repeats", "N", "Runs of each, in turns", FIELD(repeats), "7", 1, REPEATS_MOST},
    {COMMON_FLAG, "check", NULL, "Exit 1 where the best form has less than 80 % of the bound", FIELD(check)},
    {COMMON_TEXT, "json", "FILE", "Write the figures", FIELD(json)},
    {.kind = COMMON_END}};
/* clang-format on */

static const struct common_command command = {
    .title = "ofl-bench unpack",
    .before = "Times landing transforms: packed weights to F32 and BF16, on one thread.",
    .after = "The bound is a loop that reads the packed bytes, writes as many as come out, and does nothing "
             "else.\n\n"
             "Examples:\n  ofl-bench unpack\n  ofl-bench unpack --values 65536 --repeats 15\n\n" COMMON_EXITS
             ". Below 80 %, with --check: 1.",
    .tables = {{option_list, 0}}};

static const struct {
    const char *name;
    enum ofl_landing_form form;
} forms[] = {{"plain", OFL_LANDING_PLAIN},
             {"avx2", OFL_LANDING_AVX2},
             {"avx512", OFL_LANDING_AVX512},
             {"avx512bf16", OFL_LANDING_AVX512BF16}};

/* Matrices with scales of their own. */
static const struct matrix {
    const char *name;
    enum ofl_packing packing;
    enum ofl_dtype dtype, scale_dtype;
    uint32_t scale; /* about 1/100, as often as four bytes have it */
    uint64_t group_rows, group_columns, bits;
} matrices[] = {
    {"f8_e4m3", OFL_PACKING_SCALED, OFL_F8_E4M3, OFL_F32, 0x3c23d70a, 128, 128, 8},
    {"mxfp4 32", OFL_PACKING_FP4, OFL_U8, OFL_U8, 0x78787878, 1, 32, 4},
    {"nvfp4 16", OFL_PACKING_FP4, OFL_U8, OFL_F8_E4M3, 0x05050505, 1, 16, 4},
    {"int4 128", OFL_PACKING_INT4, OFL_U8, OFL_BF16, 0x3c243c24, 1, 128, 4},
    {"gptq 128", OFL_PACKING_GPTQ, OFL_U8, OFL_F16, 0x211f211f, 1, 128, 4},
    {"awq 128", OFL_PACKING_AWQ, OFL_U8, OFL_F16, 0x211f211f, 1, 128, 4},
};

#define COLUMNS 4096u /* of a matrix */

/* What is measured of one dtype, or matrix, and output. */
struct row {
    const struct matrix *matrix; /* NULL: blocks of dtype */
    enum ofl_dtype dtype, to;
    uint64_t elems, packed_bytes, out_bytes;
    struct bench_spread bound, form[ARRAY_COUNT(forms)]; /* seconds; count 0: not on this machine */
};

struct memory {
    uint8_t *packed;
    void *out;
    uint32_t *scales; /* [values / 16] */
};

/* ---- one run ------------------------------------------------------------------ */

typedef uint64_t wide __attribute__((vector_size(64), aligned(1), may_alias));

/* Keeps what was read from being left out. */
static volatile uint64_t sink;

static void move_bytes(const struct memory *m, const struct row *r)
{
    uint64_t pieces = r->elems / PIECE_ELEMS, in = r->packed_bytes / pieces, out = r->out_bytes / pieces;
    wide sum = {0};

    for (uint64_t i = 0; i < pieces; i++) {
        const uint8_t *from = m->packed + i * in;
        uint8_t *to = (uint8_t *)m->out + i * out;

        for (uint64_t at = 0; at + sizeof sum <= in; at += sizeof sum)
            sum ^= *(const wide *)(const void *)(from + at);
        for (uint64_t at = 0; at + sizeof sum <= out; at += sizeof sum)
            *(wide *)(void *)(to + at) = sum;
    }
    sink = sum[0];
}

/* Of this thread on a core: what others take of the machine is nobody's here. */
static double cpu_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double time_bound(const struct memory *m, const struct row *r)
{
    double start = cpu_seconds();

    move_bytes(m, r);
    return cpu_seconds() - start;
}

/* Zeros are any bytes of what is packed: there are fewer of them. */
static int run_matrix(const struct memory *m, const struct row *r, enum ofl_landing_form form)
{
    const struct matrix *x = r->matrix;
    struct ofl_landing_matrix l = {.size = sizeof l,
                                   .packing = x->packing,
                                   .dtype = x->dtype,
                                   .scale_dtype = x->scale_dtype,
                                   .to = r->to,
                                   .rows = r->elems / COLUMNS,
                                   .columns = COLUMNS,
                                   .group_rows = x->group_rows,
                                   .group_columns = x->group_columns,
                                   .packed = m->packed,
                                   .scales = m->scales,
                                   .zeros = m->packed,
                                   .out = m->out,
                                   .form = form};

    return ofl_landing_matrix_run(&l);
}

/* Below 0: this machine does not have it. */
static double time_form(const struct memory *m, const struct row *r, enum ofl_landing_form form)
{
    struct ofl_landing l = {.size = sizeof l,
                            .dtype = r->dtype,
                            .to = r->to,
                            .elems = r->elems,
                            .packed = m->packed,
                            .out = m->out,
                            .form = form};
    double start = cpu_seconds();

    return (r->matrix ? run_matrix(m, r, form) : ofl_landing_run(&l)) < 0 ? -1 : cpu_seconds() - start;
}

/* ---- one row ------------------------------------------------------------------ */

static void measure(const struct options *o, const struct memory *m, struct row *r)
{
    double bound[REPEATS_MOST], form[ARRAY_COUNT(forms)][REPEATS_MOST];
    unsigned n = (unsigned)o->repeats;

    time_bound(m, r); /* warm: pages are there */
    for (unsigned i = 0; i < n; i++) {
        bound[i] = time_bound(m, r);
        for (size_t f = 0; f < ARRAY_COUNT(forms); f++)
            form[f][i] = time_form(m, r, forms[f].form);
    }
    r->bound = bench_spread(bound, n);
    for (size_t f = 0; f < ARRAY_COUNT(forms); f++)
        r->form[f] = bench_spread(form[f], form[f][0] < 0 ? 0 : n);
}

static double share(const struct row *r, size_t form)
{
    return r->form[form].count ? r->bound.median / r->form[form].median : 0;
}

static double best_share(const struct row *r)
{
    double best = 0;

    for (size_t f = 0; f < ARRAY_COUNT(forms); f++)
        best = share(r, f) > best ? share(r, f) : best;
    return best;
}

static const char *name_of(const struct row *r)
{
    return r->matrix ? r->matrix->name : ofl_dtype_name(r->dtype);
}

static void print_row(const struct row *r)
{
    printf("%-8s %-5s %7.2f", name_of(r), ofl_dtype_name(r->to),
           (double)(r->packed_bytes + r->out_bytes) / r->bound.median * 1e-9);
    for (size_t f = 0; f < ARRAY_COUNT(forms); f++)
        if (r->form[f].count)
            printf("  %6.2f %4.0f %%", (double)r->elems / r->form[f].median * 1e-9, 100 * share(r, f));
        else
            printf("  %6s %6s", "-", "");
    printf("\n");
    fflush(stdout);
}

static json_t *row_json(const struct row *r)
{
    json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o}", "dtype", name_of(r), "to", ofl_dtype_name(r->to),
                          "values", (json_int_t)r->elems, "packed_bytes", (json_int_t)r->packed_bytes,
                          "out_bytes", (json_int_t)r->out_bytes, "bound_s", bench_spread_json(&r->bound));

    for (size_t f = 0; j && f < ARRAY_COUNT(forms); f++)
        json_object_set_new(j, forms[f].name, bench_spread_json(&r->form[f]));
    return j;
}

/* ---- all ---------------------------------------------------------------------- */

/* Numbers, not NaNs: scales are where blocks begin or end. */
static void fill(const struct memory *m, uint64_t bytes)
{
    uint64_t state = 1;

    bench_fill(m->packed, bytes / 8 * 8, &state);
    for (uint64_t i = 0; i < bytes; i++)
        m->packed[i] &= 0xbf;
}

/* Returns a status. */
static int run_row(const struct options *o, const struct memory *m, struct row *r, json_t *rows)
{
    r->elems = o->values * 1024;
    r->out_bytes = r->elems * ofl_dtype_bytes(r->to);
    measure(o, m, r);
    print_row(r);
    json_array_append_new(rows, row_json(r));
    if (!o->check || best_share(r) >= 0.8)
        return 0;
    return common_fail(EXIT_RUNTIME, "%s to %s: %.0f %% of the bound, less than 80 %%", name_of(r),
                       ofl_dtype_name(r->to), 100 * best_share(r));
}

static int run_all(const struct options *o, const struct memory *m, json_t *rows)
{
    static const enum ofl_dtype tos[] = {OFL_F32, OFL_BF16};
    int status = 0, one;

    for (int d = OFL_Q4_0; d <= OFL_MXFP4; d++)
        for (size_t t = 0; t < ARRAY_COUNT(tos); t++) {
            struct ofl_dtype_info info = {.size = sizeof info};
            struct row r = {.dtype = (enum ofl_dtype)d, .to = tos[t]};

            ofl_dtype_info_get(r.dtype, &info);
            r.packed_bytes = o->values * 1024 / info.block_elems * info.block_bytes;
            one = run_row(o, m, &r, rows);
            status = status ? status : one;
        }
    for (size_t i = 0; i < ARRAY_COUNT(matrices); i++)
        for (size_t t = 0; t < ARRAY_COUNT(tos); t++) {
            struct row r = {.matrix = &matrices[i], .to = tos[t]};

            for (uint64_t k = 0; k < o->values * 1024 / 16; k++)
                m->scales[k] = matrices[i].scale;
            r.packed_bytes = o->values * 1024 * matrices[i].bits / 8;
            one = run_row(o, m, &r, rows);
            status = status ? status : one;
        }
    return status;
}

static int run(const struct options *o)
{
    uint64_t bytes = o->values * 1024 * sizeof(float);
    struct memory m = {.packed = malloc(bytes), .out = malloc(bytes), .scales = malloc(bytes / 16)};
    json_t *rows = json_array(), *report;
    int status = 0;

    if (!m.packed || !m.out || !m.scales || !rows) {
        status = common_fail(EXIT_INPUT, "unpack: no memory for %" PRIu64 " values: use a smaller --values",
                             o->values * 1024);
    } else {
        fill(&m, bytes);
        printf("ofl-bench unpack %s, one thread, %" PRIu64 " values, median of %" PRIu64 "\n", ofl_version(),
               o->values * 1024, o->repeats);
        printf("%-8s %-5s %7s", "dtype", "to", "GB/s");
        for (size_t f = 0; f < ARRAY_COUNT(forms); f++)
            printf("  %13s", forms[f].name);
        printf("\n%22s  %13s  %13s  %13s\n", "bound", "10^9/s, share", "", "");
        status = run_all(o, &m, rows);
    }
    if (status != EXIT_INPUT && o->json) {
        report = json_pack("{s:s, s:s, s:I, s:O}", "program", "ofl-bench unpack", "version", ofl_version(),
                           "repeats", (json_int_t)o->repeats, "rows", rows);
        if (common_report_write(o->json, report))
            status = EXIT_RUNTIME;
        json_decref(report);
    }
    json_decref(rows);
    free(m.packed);
    free(m.out);
    free(m.scales);
    return status;
}

int bench_unpack_main(int argc, char **argv)
{
    struct options o = {.values = 0};
    int status = common_options_parse(&command, argc, argv, &o);

    if (status == 0)
        status = run(&o);
    common_options_free(&command, &o);
    return status;
}
