/*
 * Tuning: which loads are tried on a drive, in which order, and what follows from the
 * rates. All is bounded in time, not in bytes, so that a slow drive takes no longer than
 * a fast one; every figure is the best of some short runs, since what disturbs a run only
 * makes it slower. Runs that are compared with each other take turns.
 */
#include "io/tune.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/layout.h"

#define KIB 1024u
#define MIB (1024u * KIB)

#define FILE_BYTES  (512ull * MIB)
#define RATES_BYTES (256ull * MIB) /* of the quick look */

#define FILL_S    0.15 /* one run of the first write; there are two at least */
#define FILL_ALL  0.6
#define FILL_MOST 2.0 /* of drives that are too slow to have written FILLED_LEAST before */
#define WRITE_S   0.12
#define READ_S    0.04
#define FLAGS_S   0.06
#define MIXED_S   0.1
#define LATENCY_S 0.1
#define RATES_S   0.2
#define ENOUGH_S  2.0  /* from then on nothing is tried a second time */
#define WINDOW_S  0.05 /* more than the drive moves in that is no window: who would wait behind it? */

#define SLOWEST_BPS   8e6           /* of what is worth measuring */
#define FILLED_LEAST  (16ull * MIB) /* or there is no range to read in */
#define LATENCY_BYTES 4096u
#define ROUNDS        3u
#define ALIKE         0.03 /* what is slower than the best by no more is as good */
#define NOISE_MOST    0.25 /* a setting that is slower by more is worse in any case */
#define SAME_PLACE    0.98 /* of the bytes: less is a measurement of other blocks */
#define DEPTH_LEAST   64u  /* for small requests, which the window doesn't limit */
#define SQPOLL_CORES  4u   /* its thread takes one of them */
#define SQPOLL_END_US 50000u

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* In the order of preference among those that are as good: what the queue's default is; then
 * small, since demand waits for pieces that were started; then those that cost less. */
static const uint32_t blocks[] = {MIB, 256 * KIB, 2 * MIB, 4 * MIB};
static const uint64_t windows[] = {2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 32 * MIB};
#define BLOCKS_WINDOW  (16ull * MIB) /* at which blocks are compared, at most */
#define WINDOW_DEFAULT (8ull * MIB)  /* the queue's */

/* One setting, over its rounds. */
struct trial {
    unsigned runs;
    double best, second, worst;
};

struct tuner {
    struct io_bench bench;
    bool (*progress)(void *arg, double share);
    void *arg;
    unsigned step, steps; /* runs done, and about how many there will be */
    uint64_t start_ns;
    double fill_bps;
    double noise; /* by which runs of the same setting differ */
    struct io_profile *p;
};

/* ---- runs ------------------------------------------------------------------ */

static int note_progress(struct tuner *t)
{
    double share = t->step < t->steps ? (double)t->step / t->steps : 1;

    t->step++;
    if (t->progress && !t->progress(t->arg, share))
        return base_fail(-ECANCELED, "measure %s: ended on request", io_file_path(t->bench.file));
    return 0;
}

static int run(struct tuner *t, const struct io_load *load, struct io_load_rate *rate)
{
    int rc = note_progress(t);

    return rc < 0 ? rc : io_load_run(&t->bench, load, rate);
}

static struct io_load reading(const struct tuner *t, uint32_t block, uint64_t window)
{
    return (struct io_load){.read = true,
                            .block_bytes = block,
                            .window_bytes = window,
                            .to = t->bench.filled_bytes,
                            .seconds = READ_S};
}

static double seconds_passed(const struct tuner *t)
{
    return (double)(base_now_ns() - t->start_ns) * 1e-9;
}

static void keep_best(double *best, double value)
{
    if (value > *best)
        *best = value;
}

static void add(struct trial *t, double bps)
{
    if (bps > t->best) {
        t->second = t->best;
        t->best = bps;
    } else if (bps > t->second) {
        t->second = bps;
    }
    if (t->runs++ == 0 || bps < t->worst)
        t->worst = bps;
}

/* How far runs of one setting are apart, on average over the settings. */
static double noise_of(const struct trial *t, unsigned count)
{
    double sum = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++) {
        if (t[i].runs > 1) {
            sum += 1 - t[i].worst / t[i].best;
            n++;
        }
    }
    return n ? sum / n : 0;
}

/* From which rate on a setting is as good as the best: what noise can't tell apart is alike. */
static double good_enough(struct tuner *t, const struct trial *trials, unsigned count)
{
    double best = 0, noise = noise_of(trials, count);

    for (unsigned i = 0; i < count; i++)
        keep_best(&best, trials[i].best);
    keep_best(&t->p->read_bps, best);
    keep_best(&t->noise, noise);
    if (noise < ALIKE)
        noise = ALIKE;
    return best * (1 - (noise < NOISE_MOST ? noise : NOISE_MOST));
}

/* ---- first writes, and reads where they were --------------------------------- */

static int fill_once(struct tuner *t, double seconds)
{
    struct io_bench *b = &t->bench;
    uint64_t rest = b->file_bytes - b->filled_bytes, share = b->file_bytes / 2;
    struct io_load load = {.write = true,
                           .once = true,
                           .block_bytes = MIB,
                           .window_bytes = 8 * MIB,
                           .from = b->filled_bytes,
                           .to = b->filled_bytes + (rest < share ? rest : share),
                           .seconds = seconds};
    struct io_load_rate rate;
    int rc = run(t, &load, &rate);

    if (rc < 0)
        return rc;
    b->filled_bytes = rate.end;
    keep_best(&t->fill_bps, rate.bps);
    return 0;
}

/* Reads of what was never written would never reach the drive: the range that is measured later
 * is what this has written. */
static int fill(struct tuner *t)
{
    uint64_t start = base_now_ns();
    double passed = 0;
    int rc = 0;

    for (unsigned runs = 0; rc == 0 && t->bench.filled_bytes < t->bench.file_bytes; runs++) {
        passed = (double)(base_now_ns() - start) * 1e-9;
        if (runs >= 2 && passed > (t->bench.filled_bytes < FILLED_LEAST ? FILL_MOST : FILL_ALL))
            break;
        rc = fill_once(t, FILL_S);
        if (rc == 0 && t->fill_bps < SLOWEST_BPS)
            break;
    }
    if (rc == 0 && (t->fill_bps < SLOWEST_BPS || t->bench.filled_bytes < FILLED_LEAST))
        rc = base_fail(-ETIME, "measure %s: a slow drive: %" PRIu64 " bytes written, at %.1f MB/s",
                       io_file_path(t->bench.file), t->bench.filled_bytes, t->fill_bps * 1e-6);
    return rc;
}

/* Makes [0, bytes) of the file as if it had just been reserved, in the blocks where it is: the drive knows them,
 * the file system does not. 1 if so, 0 if the file system takes other blocks for it (XFS and btrfs do), or doesn't
 * tell which; -errno. */
static int forget_in_place(struct tuner *t, uint64_t bytes)
{
    const int fd = io_file_fd(t->bench.file, 0);
    struct io_layout before, after;
    int rc = io_layout_get(fd, bytes, &before);

    if (rc < 0)
        return 0;
    rc = io_file_zero(t->bench.file, 0, bytes);
    if (rc == -EOPNOTSUPP || rc == -ENOSPC) {
        rc = 0;
    } else if (rc == 0 && io_layout_get(fd, bytes, &after) == 0) {
        rc = (double)io_layout_common(&before, &after, bytes) >= SAME_PLACE * (double)bytes;
        io_layout_free(&after);
    }
    io_layout_free(&before);
    return rc;
}

/* Writes a part of the file in space that the drive has seen written before. All of it, since what is not written
 * can't be read from the drive; also where the figure can't be had. */
static int measure_unwritten(struct tuner *t)
{
    uint64_t bytes = (uint64_t)(t->p->write_bps * WRITE_S) / MIB * MIB;
    struct io_load load = {
        .write = true, .once = true, .block_bytes = MIB, .window_bytes = 8 * MIB, .seconds = 10 * WRITE_S};
    struct io_load_rate rate;
    double best = 0;
    int same = 1;

    load.to = bytes < t->bench.filled_bytes ? bytes : t->bench.filled_bytes;
    for (unsigned i = 0; i < 2 && same > 0; i++) {
        int rc;

        same = forget_in_place(t, load.to);
        rc = same < 0 ? same : run(t, &load, &rate);
        if (rc < 0)
            return rc;
        keep_best(&best, rate.bps);
    }
    if (same > 0)
        t->p->unwritten_ratio = best / t->p->write_bps;
    return 0;
}

static int measure_writes(struct tuner *t)
{
    struct io_load load = {.write = true,
                           .block_bytes = MIB,
                           .window_bytes = 8 * MIB,
                           .to = t->bench.filled_bytes,
                           .seconds = WRITE_S};
    struct io_load_rate rate;
    int rc = fill(t);

    for (unsigned i = 0; i < 2 && rc == 0; i++)
        if ((rc = run(t, &load, &rate)) == 0)
            keep_best(&t->p->write_bps, rate.bps);
    if (rc == 0)
        t->p->first_write_ratio = t->fill_bps / t->p->write_bps;
    return rc < 0 ? rc : measure_unwritten(t);
}

/* ---- blocks and windows ---------------------------------------------------------- */

/* The largest window that makes sense on a drive of this rate. */
static uint64_t largest_window(double bps)
{
    uint64_t window = windows[0];

    for (size_t i = 0; i < COUNT(windows); i++)
        if ((double)windows[i] <= bps * WINDOW_S)
            window = windows[i];
    return window;
}

static bool has_time(const struct tuner *t, unsigned round)
{
    return round == 0 || (round < ROUNDS && seconds_passed(t) < ENOUGH_S);
}

static int try_reads(struct tuner *t, uint32_t block, uint64_t window, struct trial *trial)
{
    struct io_load load = reading(t, block, window);
    struct io_load_rate rate;
    int rc = run(t, &load, &rate);

    if (rc == 0)
        add(trial, rate.bps);
    return rc;
}

static int choose_block(struct tuner *t)
{
    uint64_t window = largest_window(t->fill_bps);
    struct trial trials[COUNT(blocks)] = {0};
    double enough;
    int rc = 0;

    if (window > BLOCKS_WINDOW)
        window = BLOCKS_WINDOW;
    for (unsigned round = 0; has_time(t, round) && rc == 0; round++)
        for (unsigned i = 0; i < COUNT(blocks) && rc == 0; i++)
            if (blocks[i] <= window)
                rc = try_reads(t, blocks[i], window, &trials[i]);
    enough = good_enough(t, trials, COUNT(blocks));
    for (unsigned i = COUNT(blocks); i-- > 0;)
        if (trials[i].best >= enough)
            t->p->tuning.piece_bytes = blocks[i];
    return rc;
}

static int choose_window(struct tuner *t)
{
    struct io_tuning *tuning = &t->p->tuning;
    uint64_t most = largest_window(t->p->read_bps);
    struct trial trials[COUNT(windows)] = {0};
    double enough;
    int rc = 0;

    if (most < tuning->piece_bytes)
        most = tuning->piece_bytes;
    for (unsigned round = 0; has_time(t, round) && rc == 0; round++)
        for (unsigned i = 0; i < COUNT(windows) && rc == 0; i++)
            if (windows[i] >= tuning->piece_bytes && windows[i] <= most)
                rc = try_reads(t, tuning->piece_bytes, windows[i], &trials[i]);
    enough = good_enough(t, trials, COUNT(windows));
    tuning->window_bytes = most;
    /* Of those as good the smallest; but less than the default has to be as good twice. */
    for (unsigned i = COUNT(windows); i-- > 0;)
        if (trials[i].best >= enough && (windows[i] >= WINDOW_DEFAULT || windows[i] == most ||
                                         trials[i].second >= (1 - ALIKE) * t->p->read_bps))
            tuning->window_bytes = windows[i];
    tuning->depth = (uint32_t)(tuning->window_bytes / tuning->piece_bytes);
    if (tuning->depth < DEPTH_LEAST)
        tuning->depth = DEPTH_LEAST;
    return rc;
}

/* ---- flags -------------------------------------------------------------------------- */

/*
 * The CPU time is that of the process. Kernels from 5.12 on count SQPOLL's thread in it; what older
 * ones do, and the core that it keeps busy while nothing is to be done, is why it also needs
 * several cores.
 */
static bool is_better(const struct io_load_rate *with, const struct io_load_rate *plain, double noise)
{
    return with->bps > (1 + (noise > 0.05 ? noise : 0.05)) * plain->bps ||
           (with->bps >= plain->bps && with->cpu_s_per_byte < 0.9 * plain->cpu_s_per_byte);
}

static unsigned cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

/* Whether a queue with these flags can be had, and is a ring. */
static bool has_ring(uint32_t flags)
{
    struct io_queue_config config = {.flags = flags};
    struct io_queue *q;
    bool ring;

    if (io_queue_open(&config, &q) < 0)
        return false;
    ring = io_queue_engine(q) == IO_ENGINE_URING;
    io_queue_close(q);
    return ring;
}

static const uint32_t flag_sets[] = {0, IO_QUEUE_DEFER, IO_QUEUE_SQPOLL};

/* One round; there or back, so that none always comes first. */
static int try_flags(struct tuner *t, const bool *tried, unsigned round, struct io_load_rate *rates)
{
    struct io_load load = reading(t, t->p->tuning.piece_bytes, t->p->tuning.window_bytes);
    int rc = 0;

    load.seconds = FLAGS_S;
    for (unsigned i = 0; i < COUNT(flag_sets) && rc == 0; i++) {
        unsigned which = round % 2 ? (unsigned)COUNT(flag_sets) - 1 - i : i;

        load.flags = flag_sets[which];
        if (tried[which])
            rc = run(t, &load, &rates[which]);
        /* its thread spins for some 25 ms after the ring was closed, at the expense of the next run */
        if (tried[which] && (load.flags & IO_QUEUE_SQPOLL))
            (void)usleep(SQPOLL_END_US);
    }
    return rc;
}

/* A flag has to win every round against the plain ring, and there are two at least. */
static int choose_flags(struct tuner *t)
{
    const bool tried[] = {has_ring(0), has_ring(IO_QUEUE_DEFER),
                          cores() >= SQPOLL_CORES && has_ring(IO_QUEUE_SQPOLL)};
    struct io_load_rate rates[COUNT(flag_sets)] = {0};
    unsigned wins[COUNT(flag_sets)] = {0};
    double best = 0;
    int rc = 0;

    for (unsigned round = 0; tried[0] && round < ROUNDS && rc == 0; round++) {
        rc = try_flags(t, tried, round, rates);
        for (unsigned i = 1; i < COUNT(flag_sets); i++)
            wins[i] += tried[i] && is_better(&rates[i], &rates[0], t->noise);
    }
    for (unsigned i = 1; i < COUNT(flag_sets); i++) {
        if (wins[i] == ROUNDS && rates[i].bps > best) {
            best = rates[i].bps;
            t->p->flags = flag_sets[i];
        }
    }
    return rc;
}

/* ---- both at once, and one at a time --------------------------------------------------- */

static int measure_mixed(struct tuner *t)
{
    struct io_load load = reading(t, t->p->tuning.piece_bytes, t->p->tuning.window_bytes);
    struct io_load_rate rate;
    int rc = 0;

    load.write = true;
    load.flags = t->p->flags;
    load.seconds = MIXED_S;
    for (unsigned i = 0; i < 2 && rc == 0; i++)
        if ((rc = run(t, &load, &rate)) == 0)
            keep_best(&t->p->mixed_bps, rate.bps);
    return rc;
}

static int measure_latency(struct tuner *t)
{
    uint32_t block = io_file_block(t->bench.file);
    int rc = note_progress(t);

    return rc < 0 ? rc
                  : io_load_latency(&t->bench, block > LATENCY_BYTES ? block : LATENCY_BYTES, LATENCY_S,
                                    &t->p->read_latency_ns);
}

/* What makes the figures worth less. */
static void describe(const struct tuner *t)
{
    struct io_part_info part;

    io_file_part(t->bench.file, 0, &part);
    if (part.drive_note[0])
        snprintf(t->p->note, sizeof t->p->note, "%s", part.drive_note);
    else if (t->bench.filled_bytes < t->bench.file_bytes / 4)
        snprintf(t->p->note, sizeof t->p->note,
                 "a slow drive: figures come from %" PRIu64 " MiB, which its own cache may hold",
                 t->bench.filled_bytes / MIB);
    else if (t->noise > 0.15)
        snprintf(t->p->note, sizeof t->p->note, "a busy drive: runs of one kind differed by %.0f %%",
                 t->noise * 100);
}

int io_tune_measure(const char *dir, bool (*progress)(void *arg, double share), void *arg,
                    struct io_profile *p)
{
    static int (*const phases[])(struct tuner *) = {measure_writes, choose_block,  choose_window,
                                                    choose_flags,   measure_mixed, measure_latency};
    struct io_profile found = *p;
    struct tuner t = {.progress = progress, .arg = arg, .p = &found, .steps = 42, .start_ns = base_now_ns()};
    int rc = io_bench_open(&t.bench, dir, FILE_BYTES);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < COUNT(phases) && rc == 0; i++)
        rc = phases[i](&t);
    if (rc == 0) {
        found.measure_s = seconds_passed(&t);
        describe(&t);
        *p = found;
    }
    io_bench_close(&t.bench);
    return rc;
}

int io_profile_measure_rates(const char *dir, double *read_bps, double *write_bps)
{
    struct io_profile unused = {0};
    struct tuner t = {.p = &unused};
    struct io_load_rate rate;
    struct io_load load;
    int rc = io_bench_open(&t.bench, dir, RATES_BYTES);

    *read_bps = *write_bps = 0;
    if (rc < 0)
        return rc;
    rc = fill_once(&t, RATES_S);
    if (rc == 0 && t.bench.filled_bytes == 0)
        rc = base_fail(-ETIME, "measure %s: nothing could be written in %.1f s", dir, RATES_S);
    if (rc == 0) {
        load = reading(&t, MIB, 8 * MIB);
        load.seconds = RATES_S;
        rc = run(&t, &load, &rate);
    }
    if (rc == 0) {
        *read_bps = rate.bps;
        *write_bps = t.fill_bps;
    }
    io_bench_close(&t.bench);
    return rc;
}
