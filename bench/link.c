/*
 * `ofl-bench link`: how fast bytes get to a GPU and back. This file decides what is run in which
 * order, on which node, and how large buffers are; the rest is done below it, see link.h.
 */
#include "bench/link.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/link_report.h"
#include "examples/common_memory.h"

#define COPIES_MOST 4096
#define NODES_DIR   "/sys/devices/system/node"

/* ---- nodes ------------------------------------------------------------------ */

/* "0-7,16": adds what is in allowed, too. */
static void parse_cores(const char *text, const cpu_set_t *allowed, cpu_set_t *out)
{
    unsigned from, to;
    int used;

    CPU_ZERO(out);
    while (sscanf(text, "%u%n", &from, &used) == 1) {
        text += used;
        to = from;
        if (sscanf(text, "-%u%n", &to, &used) == 1)
            text += used;
        for (; from <= to && from < CPU_SETSIZE; from++)
            if (CPU_ISSET(from, allowed))
                CPU_SET(from, out);
        text += *text == ',';
    }
}

static bool node_has_memory(int id)
{
    char path[128], line[128];
    bool has = false;
    ull kib;
    FILE *f;

    snprintf(path, sizeof path, NODES_DIR "/node%d/meminfo", id);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Node %*d MemTotal: %llu kB", &kib) == 1)
            has = kib > 0;
    if (f)
        fclose(f);
    return has;
}

static void add_node(struct link_results *r, int id, const cpu_set_t *allowed)
{
    char path[128], text[4096] = "";
    struct link_node *n = &r->nodes[r->node_count];
    FILE *f;

    snprintf(path, sizeof path, NODES_DIR "/node%d/cpulist", id);
    f = fopen(path, "re");
    if (f && !fgets(text, sizeof text, f))
        text[0] = '\0';
    if (f)
        fclose(f);
    n->id = id;
    parse_cores(text, allowed, &n->cores);
    r->node_count += CPU_COUNT(&n->cores) > 0 && node_has_memory(id);
}

/* Nodes that have memory, and cores that this program may use; without any, the machine as it is. */
static void find_nodes(struct link_results *r, const cpu_set_t *allowed)
{
    for (int id = 0; id < 1024 && r->node_count < LINK_NODES; id++)
        add_node(r, id, allowed);
    if (r->node_count == 0)
        r->nodes[r->node_count++] = (struct link_node){-1, *allowed};
}

/* ---- sizes ------------------------------------------------------------------- */

static uint64_t largest_size(const struct link_options *o)
{
    uint64_t most = 0;

    for (unsigned i = 0; i < o->size_count; i++)
        if (o->sizes[i] > most)
            most = o->sizes[i];
    return most;
}

/* Buffers of the largest copy and of a batch, as far as a quarter of the host's memory and of what
 * the GPU has free go round: on the host there are four, on the GPU two. What was asked for is not
 * made smaller in silence. */
static int fit(struct link_options *o, const struct bench_cuda *c, uint64_t *ring_bytes, char *note,
               size_t size)
{
    uint64_t device = c->free_bytes / 8, most = largest_size(o), host, room;
    struct common_room memory;
    unsigned kept = 0;

    common_room(&memory);
    host = memory.bytes / 16;
    room = (host < device ? host : device) / 4096 * 4096;

    if (most > room && o->sizes_given)
        return common_fail(
            EXIT_INPUT,
            "--size %llu: copies of at most %llu bytes fit: %s of host memory can be had and %s are free on "
            "the GPU, a quarter of each is used",
            (ull)most, (ull)room, common_bytes(host * 16).text, common_bytes(c->free_bytes).text);
    if (o->batch_bytes > room && o->batch_given)
        return common_fail(EXIT_INPUT, "--batch %llu: at most %llu bytes fit", (ull)o->batch_bytes,
                           (ull)room);
    if (most > room || o->batch_bytes > room)
        snprintf(note, size, "copies and samples of more than %s left out: a quarter of the memory is used",
                 common_bytes(room).text);
    for (unsigned i = 0; i < o->size_count; i++)
        if (o->sizes[i] <= room)
            o->sizes[kept++] = o->sizes[i];
    o->size_count = kept;
    if (kept == 0)
        return common_fail(EXIT_RUNTIME, "cuda:%u: %s are free: too little", o->unit,
                           common_bytes(c->free_bytes).text);
    if (o->batch_bytes > room)
        o->batch_bytes = room;
    most = largest_size(o);
    *ring_bytes = ((most > o->batch_bytes ? most : o->batch_bytes) + 4095) / 4096 * 4096;
    return 0;
}

/* ---- rows ---------------------------------------------------------------------- */

static int add_rows(const struct link_options *o, struct link_results *r, enum link_memory memory, int node)
{
    uint64_t batch = memory == LINK_PAGEABLE && !o->batch_given ? o->batch_bytes / 4 : o->batch_bytes;

    for (enum link_direction d = 0; d < LINK_DIRECTIONS; d++) {
        for (unsigned i = 0; i < o->size_count && o->direction[d]; i++) {
            uint64_t copies = batch / o->sizes[i];
            struct link_row *row = &r->rows[r->count++];

            *row = (struct link_row){.memory = memory,
                                     .node = node,
                                     .direction = d,
                                     .bytes = o->sizes[i],
                                     .copies = copies == 0            ? 1
                                               : copies > COPIES_MOST ? COPIES_MOST
                                                                      : copies,
                                     .samples = calloc(o->repeat, sizeof *row->samples)};
            if (!row->samples)
                return common_fail(EXIT_FULL, "results: out of memory");
        }
    }
    return 0;
}

static void show(const struct link_row *row, const char *what, unsigned turn, unsigned of)
{
    common_progress("%s %s of %s, %s %u of %u", link_memory_name(row->memory),
                    link_direction_name(row->direction), common_bytes(row->bytes).text, what, turn, of);
}

/* Ours and plain in turns, each first every other time: what drifts falls on both. */
static int run_pair(struct link_rig *rig, struct link_row *row, unsigned turn)
{
    struct link_sample *s = &row->samples[turn];
    enum link_side first = turn % 2 ? LINK_PLAIN : LINK_OURS;
    int status;

    if (common_stopping())
        return common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    status = link_run(rig, row, first, s);
    if (status == 0)
        status = link_run(rig, row, first == LINK_OURS ? LINK_PLAIN : LINK_OURS, s);
    row->count += status == 0;
    return status;
}

/* The verified run of each side is the warm-up too. */
static int verify(struct link_rig *rig, struct link_row *row)
{
    int status = link_verify(rig, row, LINK_OURS);

    if (status == 0)
        status = link_verify(rig, row, LINK_PLAIN);
    if (status == 0 && common_stopping())
        status = common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    return status;
}

static int run_rows(struct link_rig *rig, struct link_row *rows, unsigned count)
{
    unsigned repeat = (unsigned)rig->options->repeat;
    int status = 0;

    for (unsigned i = 0; i < count && status == 0; i++) {
        show(&rows[i], "comparing bytes", i + 1, count);
        status = verify(rig, &rows[i]);
    }
    for (unsigned turn = 0; turn < repeat && status == 0; turn++) {
        for (unsigned i = 0; i < count && status == 0; i++) {
            show(&rows[i], "run", turn + 1, repeat);
            status = run_pair(rig, &rows[i], turn);
        }
    }
    return status;
}

/* Threads and memory of the whole run are on the node: the library's too, since its threads inherit. */
static int run_kind(const struct link_options *o, struct bench_cuda *c, struct link_results *r,
                    enum link_memory memory, const struct link_node *node, uint64_t ring_bytes)
{
    unsigned first = r->count;
    struct link_rig rig;
    int status;

    if (sched_setaffinity(0, sizeof node->cores, &node->cores) < 0)
        return common_fail(EXIT_RUNTIME, "run on NUMA node %d: %s", node->id, strerror(errno));
    status = add_rows(o, r, memory, node->id);
    common_progress("filling %s memory", link_memory_name(memory));
    if (status == 0)
        status = link_rig_open(&rig, o, c, memory, ring_bytes);
    else
        return status;
    if (status == 0 && memory == LINK_PINNED && node->id >= 0 && r->node_count > 1 &&
        rig.arena.node != node->id)
        common_line("node %d: %s", node->id, rig.arena.note[0] ? rig.arena.note : "the memory is elsewhere");
    if (status == 0)
        status = run_rows(&rig, r->rows + first, r->count - first);
    link_rig_close(&rig);
    common_progress_clear();
    return status;
}

static int run_all(struct link_options *o, struct bench_cuda *c, struct link_results *r, uint64_t ring_bytes)
{
    struct link_node everywhere = {.id = -1};
    double started = common_seconds();
    int status = 0;

    if (sched_getaffinity(0, sizeof everywhere.cores, &everywhere.cores) < 0)
        return common_fail(EXIT_RUNTIME, "processors of this program: %s", strerror(errno));
    for (unsigned i = 0; i < r->node_count && status == 0 && o->memory[LINK_PINNED]; i++)
        status = run_kind(o, c, r, LINK_PINNED, &r->nodes[i], ring_bytes);
    if (status == 0 && o->memory[LINK_PAGEABLE])
        status = run_kind(o, c, r, LINK_PAGEABLE, &everywhere, ring_bytes);
    r->elapsed_s = common_seconds() - started;
    return status;
}

/* ---- results --------------------------------------------------------------------- */

static int hand_over(const struct link_options *o, const struct bench_cuda *c, struct link_results *r)
{
    json_t *report;
    int status = 0;

    link_figures(r);
    link_print_results(o, r);
    if (fflush(stdout) == EOF)
        status = common_fail(common_status_late(-errno), "write the results: %m");
    if (status == 0 && o->json) {
        report = link_report(o, c, r);
        status = report ? common_report_write(o->json, report)
                        : common_fail(EXIT_FULL, "make the report: out of memory");
        json_decref(report);
    }
    if (status == 0 && o->check > 0 && r->worst_row && r->worst < o->check)
        status = common_fail(
            EXIT_RUNTIME, "--check %g: %s %s of %s from node %d is at %.3f of the plain copies", o->check,
            link_memory_name(r->worst_row->memory), link_direction_name(r->worst_row->direction),
            common_bytes(r->worst_row->bytes).text, r->worst_row->node, r->worst);
    if (status == 0 && o->check > 0 && !r->worst_row)
        status = common_fail(EXIT_RUNTIME, "--check %g: no row of pinned copies of 1 MiB or more", o->check);
    return status;
}

int bench_link_main(int argc, char **argv)
{
    struct link_results results = {0};
    struct link_options options;
    struct bench_cuda cuda = {0};
    uint64_t ring_bytes = 0;
    cpu_set_t allowed;
    int status = link_options_parse(argc, argv, &options);

    if (status)
        return status;
    common_signals();
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
        return common_fail(EXIT_RUNTIME, "processors of this program: %s", strerror(errno));
    find_nodes(&results, &allowed);
    status = bench_cuda_open(&cuda, options.unit);
    if (status == 0)
        status = fit(&options, &cuda, &ring_bytes, results.note, sizeof results.note);
    if (status == 0) {
        results.rows = calloc((size_t)(results.node_count + 1) * LINK_DIRECTIONS * options.size_count,
                              sizeof *results.rows);
        if (!results.rows)
            status = common_fail(EXIT_FULL, "results: out of memory");
    }
    if (status == 0) {
        link_print_facts(&options, &cuda, &results);
        status = run_all(&options, &cuda, &results, ring_bytes);
    }
    if (status == 0)
        status = hand_over(&options, &cuda, &results);
    for (unsigned i = 0; i < results.count; i++)
        free(results.rows[i].samples);
    free(results.rows);
    bench_cuda_close(&cuda);
    return status;
}
