/* program: random programs, from a seed; how they are printed and made smaller. See sim.h. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define PAGE 4096u

static uint32_t one_of(struct sim_random *r, const uint32_t *choices, uint32_t count)
{
    return choices[sim_below(r, count)];
}

#define ONE_OF(r, ...)                                                                                       \
    one_of(r, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

/* ---- tensors ----------------------------------------------------------- */

static uint32_t random_words(struct sim_random *r, uint32_t tile_words, uint32_t tiles)
{
    uint32_t most = tile_words * tiles;

    switch (sim_below(r, 4)) {
    case 0:
        return 2 + 2 * sim_below(r, tile_words / 2); /* within a tile */
    case 1:
        return tile_words * (1 + sim_below(r, tiles)); /* whole tiles */
    default:
        return 2 + 2 * sim_below(r, most / 2);
    }
}

static void make_groups(struct sim_program *prog, struct sim_random *r, uint32_t tiles)
{
    static const enum ofl_kind kinds[] = {OFL_KIND_WEIGHT, OFL_KIND_GRADIENT, OFL_KIND_OPTIMIZER,
                                          OFL_KIND_OPTIMIZER, OFL_KIND_OPTIMIZER};
    uint32_t tile_words = (uint32_t)prog->config.tile_bytes / 8;

    for (uint32_t g = 0; g < SIM_GROUPS; g++) {
        uint32_t words = 2 * random_words(r, tile_words / 2, 1 + sim_below(r, tiles < 6 ? tiles : 6));

        prog->low[g] = prog->config.tile_bytes > PAGE && sim_below(r, 2);
        for (uint32_t i = 0; i < CORE_UPDATE_TENSORS; i++)
            prog->specs[g * CORE_UPDATE_TENSORS + i] = (struct sim_spec){
                .words = i == 0 && prog->low[g] ? words / 2 : words,
                .each = i == 0 && prog->low[g] ? 2 : 4,
                .kind = kinds[i],
            };
    }
}

static void make_others(struct sim_program *prog, struct sim_random *r, uint32_t tiles)
{
    uint32_t tile_words = (uint32_t)prog->config.tile_bytes / 8;

    for (uint32_t i = SIM_GROUPS * CORE_UPDATE_TENSORS; i < SIM_TENSORS; i++) {
        struct sim_spec *spec = &prog->specs[i];
        uint32_t kind = sim_below(r, 8);

        *spec = (struct sim_spec){.words = random_words(r, tile_words, 1 + sim_below(r, tiles)),
                                  .each = ONE_OF(r, 2, 4, 8)};
        if (spec->each == 2 && prog->config.tile_bytes == PAGE)
            spec->each = 4;
        if (spec->each == 2) /* as many tiles of half the bytes */
            spec->words = (spec->words + 3) / 4 * 2;
        spec->kind = kind < 3 ? OFL_KIND_WEIGHT : kind < 6 ? OFL_KIND_ACTIVATION : OFL_KIND_OTHER;
        spec->transient = kind == 6;
        spec->source = kind == 7;
    }
}

/* ---- budgets ----------------------------------------------------------- */

static uint64_t bytes_of(const struct sim_program *prog)
{
    uint64_t sum = 0;

    for (int i = 0; i < SIM_TENSORS; i++)
        if (!prog->specs[i].source && !prog->specs[i].transient)
            sum += (8ull * prog->specs[i].words + PAGE - 1) / PAGE * PAGE;
    return sum;
}

static uint64_t largest_of(const struct sim_program *prog)
{
    uint64_t largest = 0;

    for (int i = 0; i < SIM_TENSORS; i++)
        if (8ull * prog->specs[i].words > largest)
            largest = 8ull * prog->specs[i].words;
    return largest;
}

static void make_budgets(struct sim_program *prog, struct sim_random *r, const struct sim_options *o)
{
    struct sim_config *c = &prog->config;
    uint64_t all = bytes_of(prog), tile = c->tile_bytes,
             device = largest_of(prog) * ONE_OF(r, 2, 3, 4, 5) / 2;

    device += tile * sim_below(r, ONE_OF(r, 1, 2, 10, 30));
    if (!o->no_parts && sim_below(r, 8) == 0) /* the largest tensors can be leased in parts alone */
        device = device / ONE_OF(r, 3, 6) + 2 * tile;
    c->device_bytes = device / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
    switch (sim_below(r, 8)) {
    case 0: /* all on the device */
        c->host_bytes = sim_below(r, 2) ? 0 : 24 * tile;
        c->device_bytes += all + c->host_bytes;
        break;
    case 1: /* no store */
        c->host_bytes = all + 16 * tile + tile * sim_below(r, 20);
        c->device_bytes = c->device_bytes < c->host_bytes ? c->device_bytes : c->host_bytes;
        break;
    case 2: /* what the store can't hold lives in host memory, and on the device */
        c->expected_bytes = all;
        c->store_bytes = all / 4096 * ONE_OF(r, 1, 2, 3) / 4 * 4096 + PAGE;
        c->host_bytes = 33 * tile + all / 4096 * ONE_OF(r, 0, 1, 2, 4) / 4 * 4096;
        c->device_bytes += all / 2 / 256 * 256;
        c->leased_bytes = sim_below(r, 2) ? device / 256 * 256 : 0;
        break;
    case 3: /* the same, found out one by one */
        c->store_bytes = all / 2 / 4096 * 4096 + PAGE;
        c->host_bytes = 33 * tile + all / 2 / 4096 * 4096;
        break;
    default:
        c->store_bytes = all + 16 * PAGE;
        c->host_bytes = tile * (32 + sim_below(r, ONE_OF(r, 1, 1, 8, 40)));
    }
}

static void make_config(struct sim_program *prog, struct sim_random *r, const struct sim_options *o)
{
    struct sim_config *c = &prog->config;

    c->tile_bytes = sim_below(r, 3) ? PAGE : 2 * PAGE; /* tiles of 2-byte elements are half as long */
    c->streams = o->no_streams ? 1 : 1 + sim_below(r, SIM_STREAMS);
    c->optims = o->no_streams ? 1 : 1 + sim_below(r, SIM_OPTIMS);
    c->clip = sim_below(r, 4);
    c->active_max = 2 + 2 * sim_below(r, 3);
    c->drive = ONE_OF(r, 2, 50, 400);
    c->link = ONE_OF(r, 2, 20, 100);
    c->work = ONE_OF(r, 2, 50, 400);
    c->job = ONE_OF(r, 2, 100, 1000, 10000);
    c->post = ONE_OF(r, 1, 10, 100);
    c->poison = sim_below(r, 4) == 0;
    switch (sim_below(r, 4)) {
    case 0:
        c->read_error = ONE_OF(r, 2, 10, 50);
        break;
    case 1:
        c->read_bad = ONE_OF(r, 2, 10, 50);
        break;
    case 2:
        c->write_error = ONE_OF(r, 0, 2, 20);
        c->copy_error = ONE_OF(r, 0, 0, 2);
        c->store_full = ONE_OF(r, 0, 100);
        c->read_error = ONE_OF(r, 0, 10);
        break;
    default:
        break;
    }
    switch (sim_below(r, 4)) {
    case 0:
        c->alloc_rate = ONE_OF(r, 20, 100, 500);
        break;
    case 1:
        c->alloc_at = 1 + sim_below(r, ONE_OF(r, 50, 300, 1500));
        break;
    default:
        break;
    }
    c->late = sim_below(r, 4) ? 0 : ONE_OF(r, 2, 20, 50);
    if (o->no_faults)
        c->late = c->read_error = c->read_bad = c->write_error = c->copy_error = c->store_full = 0;
    if (o->no_alloc_failures)
        c->alloc_rate = c->alloc_at = 0;
}

/* ---- statements -------------------------------------------------------- */

struct maker {
    struct sim_program *prog;
    struct sim_random *random;
    const struct sim_options *options;
    uint32_t weights[STMT_TYPES];
    uint32_t hurry, heat; /* 0: time passes; heat: per cent of uses that are of the hot tensors */
    uint32_t hots;
    uint32_t parts, names; /* per cent of leases that are of a part; parts there are of a tensor */
    uint8_t hot[4];
};

static struct sim_stmt *add(struct maker *m, enum sim_stmt_type type)
{
    struct sim_program *prog = m->prog;
    struct sim_stmt *st = &prog->stmts[prog->count];

    if (prog->count < SIM_STMTS - 1)
        prog->count++;
    *st = (struct sim_stmt){.type = (uint8_t)type, .id = sim_next(m->random)};
    if (sim_below(m->random, 2) < 2 - m->hurry)
        st->pause = ONE_OF(m->random, 10, 100, 1000, 3000);
    return st;
}

/* Programs differ in what they do much of: some never wait, some hold leases, some train. */
static void choose_weights(struct maker *m)
{
    static const struct {
        enum sim_stmt_type type;
        uint32_t weights[4];
    } table[] = {
        {STMT_READ, {0, 1, 2, 4}},    {STMT_WRITE, {0, 1, 2, 4}},   {STMT_CREATE, {0, 0, 1, 2}},
        {STMT_DESTROY, {0, 0, 1, 2}}, {STMT_ACQUIRE, {0, 1, 3, 6}}, {STMT_SYNC, {0, 0, 1, 2}},
        {STMT_RENEW, {0, 0, 1, 1}},   {STMT_APPLY, {0, 2, 4, 8}},   {STMT_QUIET, {0, 0, 0, 1}},
        {STMT_USE, {8, 12, 16, 24}},  {STMT_WRONG, {0, 0, 0, 1}},
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        m->weights[table[i].type] = table[i].weights[sim_below(m->random, 4)];
    m->weights[STMT_LAUNCH] = m->weights[STMT_RELEASE] = m->weights[STMT_ACQUIRE];
    m->weights[STMT_OPTIMIZE] = m->weights[STMT_APPLY] / 2;
    if (m->options->no_optimizers)
        m->weights[STMT_APPLY] = m->weights[STMT_OPTIMIZE] = 0;
    if (sim_below(m->random, 5) == 0) /* a storm: streams are never waited for */
        for (uint32_t i = 0; i < STMT_TYPES; i++)
            m->weights[i] = i == STMT_USE ? 24 : i == STMT_APPLY ? sim_below(m->random, 2) : 0;
    m->hurry = sim_below(m->random, 3);
    m->heat = ONE_OF(m->random, 0, 30, 60, 90);
    m->parts = m->options->no_parts ? 0 : ONE_OF(m->random, 0, 0, 30, 60, 95);
    m->names = ONE_OF(m->random, 1, 3, 8, 200);
    m->hots = ONE_OF(m->random, 1, 2, 4);
    for (size_t i = 0; i < sizeof m->hot; i++)
        m->hot[i] = (uint8_t)sim_below(m->random, SIM_TENSORS);
}

static enum sim_stmt_type choose_type(struct maker *m)
{
    uint32_t sum = 0, at;

    for (uint32_t i = 0; i < STMT_TYPES; i++)
        sum += m->weights[i];
    at = sim_below(m->random, sum);
    for (uint32_t i = 0; i < STMT_TYPES; i++) {
        if (at < m->weights[i])
            return i;
        at -= m->weights[i];
    }
    return STMT_USE;
}

static uint8_t any_tensor(struct maker *m)
{
    if (sim_below(m->random, 100) < m->heat)
        return m->hot[sim_below(m->random, m->hots)];
    return (uint8_t)sim_below(m->random, SIM_TENSORS);
}

static void choose_batch(struct maker *m, struct sim_stmt *st)
{
    struct sim_random *r = m->random;

    st->stream = (uint8_t)sim_below(r, m->prog->config.streams);
    st->count = (uint8_t)(1 + sim_below(r, ONE_OF(r, 1, 1, 2, SIM_BATCH)));
    for (uint32_t i = 0; i < st->count; i++) {
        uint32_t kind = sim_below(r, 10);

        st->tensor[i] = any_tensor(m);
        st->mode[i] = kind < 5 ? OFL_READ : kind < 8 ? OFL_UPDATE : OFL_OVERWRITE;
        st->drop[i] = sim_below(r, 12) == 0;
        if (sim_below(r, 100) < m->parts)
            st->part[i] = (uint8_t)(1 + sim_below(r, m->names));
    }
    st->arg = (uint32_t)sim_next(r);
}

static void add_some(struct maker *m)
{
    struct sim_random *r = m->random;
    enum sim_stmt_type type = choose_type(m);
    struct sim_stmt *st = add(m, type);

    st->stream = (uint8_t)sim_below(r, m->prog->config.streams);
    switch (type) {
    case STMT_READ:
    case STMT_WRITE:
        st->arg = (uint32_t)sim_next(r); /* FALLTHROUGH */
    case STMT_CREATE:
    case STMT_DESTROY:
        st->tensor[0] = any_tensor(m);
        break;
    case STMT_ACQUIRE:
    case STMT_USE:
        choose_batch(m, st); /* FALLTHROUGH */
    case STMT_LAUNCH:
    case STMT_RELEASE:
        st->slot = (uint8_t)sim_below(r, SIM_BATCHES);
        break;
    case STMT_APPLY:
        st->slot = (uint8_t)sim_below(r, SIM_GROUPS);
        break;
    case STMT_OPTIMIZE:
        st->slot = (uint8_t)sim_below(r, m->prog->config.optims);
        break;
    default:
        break;
    }
}

/* A step that comes several times: it is recorded, predicted, and departed from. */
static void add_steps(struct maker *m)
{
    struct sim_random *r = m->random;
    uint32_t length = 4 + sim_below(r, 14), times = 2 + sim_below(r, 2), first;
    struct sim_program *prog = m->prog;

    add(m, STMT_BEGIN)->slot = 0;
    first = prog->count;
    for (uint32_t i = 0; i < length; i++)
        add_some(m);
    length = prog->count - first;
    add(m, STMT_END);
    while (--times && prog->count + length + 3 < SIM_STMTS) {
        add(m, STMT_BEGIN)->slot = 0;
        for (uint32_t i = 0; i < length; i++) {
            uint64_t id = sim_next(r);

            if (sim_below(r, 16) == 0)
                continue;
            prog->stmts[prog->count] = prog->stmts[first + i];
            prog->stmts[prog->count++].id = id;
        }
        add(m, STMT_END);
    }
}

static void add_use(struct maker *m, uint8_t tensor, enum ofl_mode mode, bool drop)
{
    struct sim_stmt *st = add(m, STMT_USE);

    st->count = 1;
    st->tensor[0] = tensor;
    st->mode[0] = (uint8_t)mode;
    st->drop[0] = drop;
    st->arg = (uint32_t)sim_next(m->random);
}

/* Steps of training, which follow their plan: a weight is read twice, the last time for good if its update makes it
 * anew from a master; its gradient waits for that update. */
static void add_training(struct maker *m)
{
    struct sim_random *r = m->random;
    uint32_t times = 3 + sim_below(r, 3);

    for (uint8_t i = 0; i < SIM_GROUPS * CORE_UPDATE_TENSORS; i++) {
        struct sim_stmt *st = add(m, STMT_CREATE);

        st->tensor[0] = i;
        st->arg = 1;
        st->pause = 0;
    }
    while (times--) {
        add(m, STMT_BEGIN)->slot = 1;
        for (uint8_t g = 0; g < SIM_GROUPS; g++)
            add_use(m, (uint8_t)(g * CORE_UPDATE_TENSORS), OFL_READ, false);
        for (uint8_t g = SIM_GROUPS; g-- > 0;) {
            add_use(m, (uint8_t)(g * CORE_UPDATE_TENSORS + 1), OFL_OVERWRITE, false);
            add_use(m, (uint8_t)(g * CORE_UPDATE_TENSORS), OFL_READ, m->prog->low[g]);
            add(m, STMT_APPLY)->slot = g;
        }
        for (uint8_t i = 0; i < m->prog->config.optims; i++)
            add(m, STMT_OPTIMIZE)->slot = i;
        add(m, STMT_END);
        if (sim_below(r, 8) == 0)
            add_some(m);
    }
}

/* Of a group all but the gradient, or nothing. */
static void make_kept(struct sim_program *prog)
{
    struct sim_random random = {prog->seed ^ 0x4B455054};

    for (uint32_t i = 0; i < SIM_TENSORS; i++) {
        struct sim_spec *spec = &prog->specs[i];
        uint32_t at = i % CORE_UPDATE_TENSORS;

        if (i >= SIM_GROUPS * CORE_UPDATE_TENSORS || at == 0)
            spec->kept = !spec->source && !spec->transient && sim_below(&random, 4);
        else
            spec->kept = at != 1 && prog->specs[i - at].kept;
    }
}

void sim_program_make(struct sim_program *prog, uint64_t seed, const struct sim_options *options)
{
    struct sim_random random = {seed * 0x2545F4914F6CDD1Dull + 1};
    struct maker m = {.prog = prog, .random = &random, .options = options};
    uint32_t wanted, tiles;

    memset(prog, 0, sizeof *prog);
    prog->seed = seed;
    make_config(prog, &random, options);
    tiles = ONE_OF(&random, 1, 2, 4, SIM_TILES, SIM_TILES); /* of the larger tensors */
    make_groups(prog, &random, tiles);
    make_others(prog, &random, tiles);
    if (options->commits)
        make_kept(prog);
    make_budgets(prog, &random, options);
    choose_weights(&m);
    for (uint32_t i = 0; i < SIM_TENSORS; i++)
        if (sim_below(&random, 8)) {
            struct sim_stmt *st = add(&m, STMT_CREATE);

            st->tensor[0] = (uint8_t)i;
            st->pause = 0;
            st->arg = sim_below(&random, 3) ? 1 : 0; /* written at once */
        }
    wanted = prog->count + 20 + sim_below(&random, 80);
    while (prog->count < wanted) {
        if (!options->no_steps && sim_below(&random, 20) == 0)
            add_steps(&m);
        else
            add_some(&m);
    }
    if (!options->no_steps && !options->no_optimizers && sim_below(&random, 3) == 0)
        add_training(&m);
}

/* ---- printing ---------------------------------------------------------- */

static void print_use(const struct sim_program *prog, const struct sim_stmt *st, uint32_t i)
{
    static const char *const modes[] = {"", "read", "update", "overwrite"};
    struct sim_tensor x = {.spec = prog->specs[st->tensor[i]], .index = st->tensor[i]};
    uint32_t from, to;

    printf(" %u %s%s", st->tensor[i], modes[st->mode[i]], st->drop[i] ? " drop" : "");
    if (!st->part[i])
        return;
    sim_tensor_shape(prog, &x);
    sim_part(&x, st->part[i], &from, &to);
    printf(" bytes %u to %u;", from, to);
}

static void print_stmt(const struct sim_program *prog, const struct sim_stmt *st)
{
    static const char *const names[STMT_TYPES] = {
        [STMT_CREATE] = "create",     [STMT_DESTROY] = "destroy",   [STMT_ACQUIRE] = "acquire",
        [STMT_LAUNCH] = "launch",     [STMT_RELEASE] = "release",   [STMT_USE] = "use",
        [STMT_READ] = "read",         [STMT_WRITE] = "write",       [STMT_SYNC] = "sync",
        [STMT_RENEW] = "renew",       [STMT_BEGIN] = "begin",       [STMT_END] = "end",
        [STMT_APPLY] = "apply",       [STMT_WAIT] = "wait",         [STMT_QUIET] = "quiet",
        [STMT_OPTIMIZE] = "optimize", [STMT_WRONG] = "wrong calls",
    };

    printf("%s", names[st->type]);
    switch (st->type) {
    case STMT_CREATE: {
        const struct sim_spec *spec = &prog->specs[st->tensor[0]];

        printf(" %stensor %u: %u bytes, %u per element, kind %d%s%s", st->arg ? "and write " : "",
               st->tensor[0], 8 * spec->words, spec->each, (int)spec->kind,
               spec->transient ? ", transient" : "", spec->source ? ", a source's" : "");
        break;
    }
    case STMT_DESTROY:
    case STMT_READ:
    case STMT_WRITE:
        printf(" tensor %u", st->tensor[0]);
        if (st->type != STMT_DESTROY && st->arg & 1)
            printf(", a part");
        break;
    case STMT_ACQUIRE:
    case STMT_USE:
        if (st->type == STMT_ACQUIRE)
            printf(" batch %u", st->slot);
        printf(" on stream %u:", st->stream);
        for (uint32_t i = 0; i < st->count; i++)
            print_use(prog, st, i);
        break;
    case STMT_LAUNCH:
    case STMT_RELEASE:
        printf(" batch %u", st->slot);
        break;
    case STMT_SYNC:
    case STMT_RENEW:
        printf(" stream %u", st->stream);
        break;
    case STMT_APPLY:
        printf(" group %u (tensors %u to %u), optimizer %u%s", st->slot, st->slot * CORE_UPDATE_TENSORS,
               st->slot * CORE_UPDATE_TENSORS + (prog->low[st->slot] ? 4 : 3), st->slot % prog->config.optims,
               prog->config.clip >> st->slot % prog->config.optims & 1 ? ", clipped" : "");
        break;
    case STMT_OPTIMIZE:
        printf(" optimizer %u", st->slot);
        break;
    default:
        break;
    }
    if (st->pause)
        printf("; %u pass", st->pause);
    printf("\n");
}

void sim_program_print(const struct sim_program *prog)
{
    const struct sim_config *c = &prog->config;

    printf("seed %llu: device %llu, host %llu, store %llu, expected %llu, leased %llu bytes; %u streams, %u "
           "optimizers, %u requests\n",
           (unsigned long long)prog->seed, (unsigned long long)c->device_bytes,
           (unsigned long long)c->host_bytes, (unsigned long long)c->store_bytes,
           (unsigned long long)c->expected_bytes, (unsigned long long)c->leased_bytes, c->streams, c->optims,
           c->active_max);
    printf("delays: drive %u, link %u, work %u, job %u, post %u; faults: read %u, bad %u, late %u, write %u, "
           "copy %u, "
           "full "
           "%u; allocations 1 in %u, the %u-th%s\n",
           c->drive, c->link, c->work, c->job, c->post, c->read_error, c->read_bad, c->late, c->write_error,
           c->copy_error, c->store_full, c->alloc_rate, c->alloc_at, c->poison ? "; poison" : "");
    for (uint32_t i = 0; i < prog->count; i++) {
        if (prog->stmts[i].type == STMT_NONE)
            continue;
        printf("%4u  ", i);
        print_stmt(prog, &prog->stmts[i]);
    }
}

/* ---- shrinking --------------------------------------------------------- */

static bool fails(const struct sim_program *prog, const struct sim_options *options, struct sim_result *out)
{
    struct sim_result r;

    sim_run(prog, options, &r);
    if (!r.failed || r.kind != out->kind)
        return false;
    *out = r;
    return true;
}

/* Only failures of one kind count: else the search ends at another fault. Statements keep their numbers and seeds: those dropped do nothing. */
static bool drop(struct sim_program *prog, const struct sim_options *options, struct sim_result *out,
                 uint32_t first, uint32_t count)
{
    struct sim_program less = *prog;
    uint32_t dropped = 0;

    for (uint32_t i = first; i < first + count && i < less.count; i++) {
        dropped += less.stmts[i].type != STMT_NONE;
        less.stmts[i].type = STMT_NONE;
        less.stmts[i].pause = 0;
    }
    if (!dropped || !fails(&less, options, out))
        return false;
    *prog = less;
    return true;
}

static bool simplify(struct sim_program *prog, const struct sim_options *options, struct sim_result *out,
                     uint32_t *field, uint32_t value)
{
    uint32_t old = *field;

    if (old == value)
        return false;
    *field = value;
    if (fails(prog, options, out))
        return true;
    *field = old;
    return false;
}

static bool make_whole(struct sim_program *prog, const struct sim_options *options, struct sim_result *out,
                       uint8_t *part)
{
    uint8_t old = *part;

    *part = 0;
    if (old && fails(prog, options, out))
        return true;
    *part = old;
    return false;
}

void sim_shrink(struct sim_program *prog, const struct sim_options *options, struct sim_result *out)
{
    struct sim_config *c = &prog->config;
    uint32_t *const zeros[] = {&c->read_error, &c->read_bad,   &c->late,       &c->write_error,
                               &c->copy_error, &c->store_full, &c->alloc_rate, &c->alloc_at};
    bool smaller = true;

    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++)
        simplify(prog, options, out, zeros[i], 0);
    for (int round = 0; smaller && round < 8; round++) {
        smaller = false;
        for (uint32_t count = prog->count / 2; count; count /= 2)
            for (uint32_t i = 0; i < prog->count; i += count)
                smaller |= drop(prog, options, out, i, count);
        for (uint32_t i = 0; i < prog->count; i++) {
            struct sim_stmt *st = &prog->stmts[i];

            if (st->type == STMT_NONE)
                continue;
            smaller |= simplify(prog, options, out, &st->pause, 0);
            for (uint32_t k = 0; k < st->count; k++)
                smaller |= make_whole(prog, options, out, &st->part[k]);
            for (uint32_t k = 0; k < st->count && st->count > 1; k++) {
                struct sim_stmt old = *st;

                for (uint32_t j = k; j + 1 < st->count; j++) {
                    st->tensor[j] = st->tensor[j + 1];
                    st->mode[j] = st->mode[j + 1];
                    st->drop[j] = st->drop[j + 1];
                    st->part[j] = st->part[j + 1];
                }
                st->count--;
                if (fails(prog, options, out))
                    smaller = true;
                else
                    *st = old;
            }
        }
    }
}
