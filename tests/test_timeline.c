/*
 * timeline: the file is what Perfetto reads, whatever was under way when it was opened and closed; what is in it
 * agrees with the statistics, to the byte and the nanosecond; reporting never waits for the file, and what is
 * dropped is counted; stalls are added up by tensor and reason. The judge of files is shown to refuse bad ones.
 *
 *     test_timeline FILE    judges that file alone: for scripts
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "include/offload.h"
#include "liboffload/core/context.h"
#include "liboffload/timeline/timeline.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"
#include "tests/trace_fixture.h"

#define MIB     (1ull << 20)
#define TENSORS 24
#define BYTES   (256u << 10)

/* In the scratch directory. Valid until the next call. */
static const char *file_in(const char *dir)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/run.json", dir);
    return path;
}

/* The file is good; it goes. */
static json_t *take_trace(const char *path)
{
    char why[256];
    json_t *trace = trace_load(path, why);

    if (!trace || !trace_valid(trace, why))
        fail_msg("%s: %s", path, why);
    assert_int_equal(unlink(path), 0);
    return trace;
}

/* ---- the recorder ---------------------------------------------------------- */

static void setup(struct timeline *t)
{
    *t = (struct timeline){.count = 0};
    timeline_init(t);
}

static void add(struct timeline *t, enum timeline_kind kind, uint32_t place, uint64_t start_ns,
                uint64_t end_ns, const char *name)
{
    timeline_add(t, &(struct timeline_event){.start_ns = start_ns,
                                             .end_ns = end_ns,
                                             .bytes = 1,
                                             .name = timeline_name(t, name),
                                             .place = place,
                                             .kind = (uint8_t)kind});
}

static void names_are_kept_once(void **state)
{
    struct timeline t;
    char longer[200];
    uint32_t first;

    (void)state;
    setup(&t);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    first = timeline_name(&t, "a \"tensor\"\n");
    assert_true(first > 0);
    assert_int_equal(timeline_name(&t, "a \"tensor\"\n"), first);
    assert_int_not_equal(timeline_name(&t, "another"), first);
    assert_string_equal(timeline_text(&t, first), "a \"tensor\"\n");
    assert_int_equal(strlen(timeline_text(&t, timeline_name(&t, longer))), TIMELINE_TEXT - 1);
    /* Cut before a character, not inside it; what is no UTF-8 is not kept. */
    memcpy(longer + TIMELINE_TEXT - 2, "\xC3\xA4", 2);
    assert_int_equal(strlen(timeline_text(&t, timeline_name(&t, longer))), TIMELINE_TEXT - 2);
    assert_string_equal(timeline_text(&t, timeline_name(&t, "a\xFFz")), "a?z");
    /* Many, until there is no room: then they have none. */
    for (uint32_t i = 0; i < TIMELINE_CHUNK * TIMELINE_CHUNKS; i++) {
        snprintf(longer, sizeof longer, "tensor %u", i);
        timeline_name(&t, longer);
    }
    assert_int_equal(timeline_name(&t, "one too many"), 0);
    assert_int_equal(timeline_name(&t, "a \"tensor\"\n"), first);
    timeline_destroy(&t);
}

static void stalls_add_up(void **state)
{
    struct timeline t;
    struct timeline_stall s;
    uint32_t a, b;

    (void)state;
    setup(&t);
    assert_false(timeline_worst(&t, 0, &s));
    a = timeline_name(&t, "a");
    b = timeline_name(&t, "b");
    timeline_count_stall(&t, a, OFL_STALL_DRIVE_BUSY, 30);
    timeline_count_stall(&t, b, OFL_STALL_DRIVE_BUSY, 40);
    timeline_count_stall(&t, a, OFL_STALL_NO_ROOM, 50);
    timeline_count_stall(&t, a, OFL_STALL_DRIVE_BUSY, 25);
    assert_true(timeline_worst(&t, 0, &s));
    assert_int_equal(s.name, a);
    assert_int_equal(s.reason, OFL_STALL_DRIVE_BUSY);
    assert_int_equal(s.count, 2);
    assert_int_equal(s.total_ns, 55);
    assert_int_equal(s.longest_ns, 30);
    assert_true(timeline_worst(&t, 1, &s));
    assert_int_equal(s.reason, OFL_STALL_NO_ROOM);
    assert_true(timeline_worst(&t, 2, &s));
    assert_int_equal(s.name, b);
    assert_false(timeline_worst(&t, 3, &s));
    timeline_forget_stalls(&t);
    assert_false(timeline_worst(&t, 0, &s));
    /* More than are kept apart: the rest is one sum. */
    for (uint32_t i = 0; i < TIMELINE_STALLS_MOST + 10; i++)
        timeline_count_stall(&t, i, OFL_STALL_LATE_START, 1);
    assert_true(timeline_worst(&t, 0, &s));
    assert_int_equal(s.reason, OFL_STALL_UNKNOWN);
    assert_int_equal(s.count, 11);
    timeline_destroy(&t);
}

/* Events come as they end. Those that overlap lie side by side. */
static void tracks_hold_what_does_not_overlap(void **state)
{
    struct timeline t;
    const char *path = file_in(*state);
    uint64_t start, written, dropped;
    json_t *trace;

    setup(&t);
    assert_int_equal(timeline_open(&t, path, 0), 0);
    assert_int_equal(timeline_open(&t, path, 0), -OFL_ESTATE);
    start = base_now_ns() + 1000;
    add(&t, TIMELINE_READ, timeline_name(&t, "/mnt"), start + 10, start + 20, "short");
    add(&t, TIMELINE_READ, timeline_name(&t, "/mnt"), start, start + 30, "long");
    add(&t, TIMELINE_READ, timeline_name(&t, "/mnt"), start + 30, start + 31, "behind");
    add(&t, TIMELINE_READ, timeline_name(&t, "/other"), start + 5, start + 31, "elsewhere");
    add(&t, TIMELINE_WORK, 7, 0, start, "begun before");
    add(&t, TIMELINE_WORK, 7, start + 9, start + 8, "backwards \"\\");
    assert_int_equal(timeline_close(&t, &written, &dropped), 0);
    assert_int_equal(timeline_close(&t, &written, &dropped), -OFL_ESTATE);
    add(&t, TIMELINE_WORK, 7, start, start + 8, "too late");
    trace = take_trace(path);
    assert_int_equal(trace_of(trace, "drive /mnt", "reads").events, 3);
    assert_int_equal(trace_of(trace, "drive /mnt", "reads (2)").events, 1);
    assert_int_equal(trace_of(trace, "drive /other", "reads").events, 1);
    assert_int_equal(trace_of(trace, "device", "stream 7").events, 2);
    assert_int_equal(trace_of(trace, "device", "stream 7").bytes, 2);
    assert_int_equal(trace_named(trace, "backwards \"\\"), 1);
    assert_int_equal(trace_named(trace, "too late"), 0);
    json_decref(trace);
    timeline_destroy(&t);
}

struct drain {
    int fd;
    FILE *out;
};

static void *drain(void *arg)
{
    struct drain *d = arg;
    char bytes[4096];
    ssize_t n;

    while ((n = read(d->fd, bytes, sizeof bytes)) > 0)
        fwrite(bytes, 1, (size_t)n, d->out);
    fclose(d->out);
    close(d->fd);
    return NULL;
}

/* A file that nobody takes from: who reports goes on, and what found no room is counted, in the file as well. */
static void slow_files_lose_events_and_say_so(void **state)
{
    const uint32_t room = 512, all = 20000;
    const char *path = file_in(*state);
    char copy[160];
    struct timeline t;
    struct drain d;
    uint64_t written, dropped;
    pthread_t thread;
    json_t *trace, *last;
    int fd;

    setup(&t);
    assert_int_equal(mkfifo(path, 0600), 0);
    fd = open(path, O_RDWR); /* so that nobody waits for the other end */
    assert_true(fd >= 0);
    assert_int_equal(timeline_open(&t, path, room), 0);
    for (uint32_t i = 0; i < all; i++)
        add(&t, TIMELINE_LINK_IN, 0, base_now_ns(), base_now_ns(), "copy");
    snprintf(copy, sizeof copy, "%s/copy.json", (const char *)*state);
    d = (struct drain){.fd = open(path, O_RDONLY), .out = fopen(copy, "w")};
    assert_true(d.fd >= 0 && d.out);
    assert_int_equal(pthread_create(&thread, NULL, drain, &d), 0);
    close(fd);
    assert_int_equal(timeline_close(&t, &written, &dropped), 0);
    pthread_join(thread, NULL);
    assert_int_equal(written + dropped, all);
    /* A pipe holds 64 KiB of lines, which have more than 64 bytes, and a FILE 4 KiB. */
    assert_true(dropped >= all - 70000 / 64 - 2 * room);
    trace = take_trace(copy);
    assert_int_equal(trace_named(trace, "copy"), written);
    last = json_object_get(json_array_get(trace, json_array_size(trace) - 1), "args");
    assert_int_equal(json_integer_value(json_object_get(last, "dropped")), dropped);
    json_decref(trace);
    unlink(path);
    timeline_destroy(&t);
}

static void files_that_fail_are_told_of(void **state)
{
    const char *path = file_in(*state);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, full;
    struct timeline t;
    uint64_t written, dropped;
    int err;

    setup(&t);
    assert_int_equal(timeline_open(&t, "/proc/self/nowhere/run.json", 0), -ENOENT);
    assert_non_null(strstr(base_error_text(), "/proc/self/nowhere/run.json"));
    assert_int_equal(timeline_close(&t, &written, &dropped), -OFL_ESTATE);
    assert_int_equal(timeline_open(&t, path, 0), 0);
    /* A file that is full after some of the lines. */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    full = (struct rlimit){.rlim_cur = 16384, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    for (unsigned i = 0; i < 1000; i++)
        add(&t, TIMELINE_SEAL, 0, base_now_ns(), base_now_ns(), "seal");
    err = timeline_close(&t, &written, &dropped);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(err, -EFBIG);
    assert_non_null(strstr(base_error_text(), path));
    assert_int_equal(written + dropped, 1000);
    assert_int_equal(unlink(path), 0);
    timeline_destroy(&t);
}

/* ---- the judge ------------------------------------------------------------- */

static void bad_files_are_refused(void **state)
{
#define NAMES                                                                                                \
    "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"p\"}},"                \
    "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"t\"}}"
#define EVENT(ts, dur) ",{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":" #ts ",\"dur\":" #dur ",\"name\":\"e\"}"
#define COUNTER(ts, bytes)                                                                                   \
    ",{\"ph\":\"C\",\"pid\":1,\"tid\":9,\"ts\":" #ts ",\"name\":\"c\",\"args\":{\"bytes\":" #bytes "}}"
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        {"[" NAMES COUNTER(1.0, 7) EVENT(1.0, 2.0) COUNTER(1.0, 0) "]", true},
        {"[" NAMES COUNTER(2.0, 7) COUNTER(1.0, 0) "]", false},
        {"[" NAMES COUNTER(2.0, "7") "]", false},
        {"[{\"ph\":\"C\",\"pid\":1,\"tid\":9,\"ts\":1.0,\"name\":\"c\",\"args\":{\"bytes\":1}}]", false},
        {"[" NAMES "]", true},
        {"[" NAMES EVENT(1.0, 2.0) EVENT(3.0, 0.0) EVENT(3.0, 1.0) "]", true},
        {"[" NAMES EVENT(1.0, 2.0) EVENT(2.999, 1.0) "]", false},
        {"[" NAMES EVENT(5.0, 1.0) EVENT(1.0, 1.0) "]", false},
        {"[" NAMES EVENT(5.0, -1.0) "]", false},
        {"[" NAMES EVENT(-5.0, 1.0) "]", false},
        {"[" NAMES ",{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":1.0,\"name\":\"e\"}]", false},
        {"[" NAMES ",{\"ph\":\"B\",\"pid\":1,\"tid\":1,\"ts\":1.0,\"name\":\"e\"}]", false},
        {"[" NAMES ",{\"ph\":\"X\",\"pid\":1,\"tid\":2,\"ts\":1.0,\"dur\":1.0,\"name\":\"e\"}]", false},
        {"[" NAMES ",{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":1.0,\"dur\":1.0,\"name\":\"\"}]", false},
        {"{}", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *trace = json_loads(cases[i].text, 0, NULL);
        char why[256] = "";

        assert_non_null(trace);
        if (trace_valid(trace, why) != cases[i].good)
            fail_msg("%s: judged otherwise: %s", cases[i].text, why);
        json_decref(trace);
    }
}

/* ---- a context ------------------------------------------------------------- */

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensors[TENSORS];
};

static void rig_open(struct rig *r, const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 3 * BYTES,
                                .host_bytes = 2 * MIB,
                                .nvme = fixture_nvme(dir, 16 * MIB),
                                .nvme_count = 1,
                                .flags = OFL_NO_MEASURE,
                                .log = fixture_log};

    memset(r, 0, sizeof *r);
    assert_int_equal(ofl_open(&config, &r->ctx), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->stream), 0);
    for (int i = 0; i < TENSORS; i++) {
        char name[32];
        struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U8, .elems = BYTES};

        snprintf(name, sizeof name, "tensor-%d", i);
        assert_int_equal(ofl_tensor_create(r->ctx, &d, &r->tensors[i]), 0);
    }
}

static void add_one(void *arg)
{
    uint8_t *x = fixture_view(arg);

    for (size_t i = 0; i < BYTES; i++)
        x[i]++;
}

static void touch(struct rig *r, int i)
{
    struct ofl_lease l = {.size = sizeof l, .tensor = r->tensors[i], .mode = OFL_UPDATE};
    char name[32];

    snprintf(name, sizeof name, "part %d", i);
    assert_int_equal(ofl_acquire(r->ctx, &l, 1, r->stream), 0);
    assert_int_equal(ofl_stream_label(r->stream, name), 0);
    assert_int_equal(fixture_kernel(r->stream, add_one, l.ptr, (struct fixture_range){l.ptr, BYTES, true}),
                     0);
    assert_int_equal(ofl_stream_label(r->stream, NULL), 0);
    assert_int_equal(ofl_release(r->ctx, &l, 1, r->stream), 0);
}

/* Nothing is under way any more, and nothing is to start. */
static int at_rest(struct ofl_ctx *ctx, void *arg)
{
    bool more = pager_pump(&ctx->engine.pager);

    (void)arg;
    return more || ctx->engine.pager.inflight ? -EAGAIN : 0;
}

static void settle(struct rig *r)
{
    assert_int_equal(core_call(r->ctx, at_rest, NULL), 0);
}

static void step(struct rig *r)
{
    assert_int_equal(ofl_step_begin(r->ctx, "step"), 0);
    for (int i = 0; i < TENSORS; i++)
        touch(r, i);
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

static struct ofl_stats stats_of(struct rig *r)
{
    struct ofl_stats s = {.size = sizeof s};

    assert_int_equal(ofl_stats_get(r->ctx, &s), 0);
    return s;
}

/* Of the one drive. Bytes that were written in vain, since their tile was dropped meanwhile, count here alone. */
static struct ofl_path_stats drive_of(struct rig *r)
{
    struct ofl_path_stats s = {.size = sizeof s};

    assert_int_equal(ofl_path_stats_get(r->ctx, 0, &s), 0);
    return s;
}

/* All sums of stalls together, the worst first. */
static uint64_t stalls_ns(struct rig *r)
{
    struct ofl_stall s = {.size = sizeof s};
    uint64_t sum = 0, before = UINT64_MAX;

    for (uint32_t i = 0; ofl_stall_get(r->ctx, i, &s) == 0; i++) {
        assert_true(s.total_ns <= before && s.longest_ns <= s.total_ns && s.count > 0);
        assert_int_not_equal(s.reason, OFL_STALL_UNKNOWN);
        assert_memory_equal(s.tensor, "tensor-", 7);
        assert_true(s.text && s.text[0]);
        before = s.total_ns;
        sum += s.total_ns;
    }
    return sum;
}

/* From rest to rest: what is in the file is what the statistics have counted meanwhile. */
static void files_agree_with_statistics(void **state)
{
    const char *path = file_in(*state);
    struct ofl_stats before, after;
    struct ofl_path_stats drive_before, drive_after;
    struct trace_sum stalls, reads, writes;
    uint64_t events, dropped;
    struct rig r;
    json_t *trace;

    rig_open(&r, *state);
    step(&r);
    assert_int_equal(ofl_stream_sync(r.stream), 0);
    assert_int_equal(stalls_ns(&r), stats_of(&r).stall_ns);
    assert_int_equal(ofl_stall_clear(r.ctx), 0);
    settle(&r);
    before = stats_of(&r);
    drive_before = drive_of(&r);
    assert_int_equal(ofl_timeline_open(r.ctx, path), 0);
    assert_int_equal(ofl_timeline_open(r.ctx, path), -OFL_ESTATE);
    step(&r);
    step(&r);
    assert_int_equal(ofl_stream_sync(r.stream), 0);
    settle(&r);
    after = stats_of(&r);
    drive_after = drive_of(&r);
    assert_int_equal(ofl_timeline_close(r.ctx, &events, &dropped), 0);
    assert_int_equal(ofl_timeline_close(r.ctx, NULL, NULL), -OFL_ESTATE);
    assert_int_equal(dropped, 0);
    assert_int_equal(stalls_ns(&r), after.stall_ns - before.stall_ns);
    step(&r); /* nobody is told of it */
    assert_int_equal(fixture_ctx_close(r.ctx), 0);
    trace = take_trace(path);
    stalls = trace_of(trace, "device", "stalls of stream ");
    reads = trace_of(trace, "drive ", "reads");
    writes = trace_of(trace, "drive ", "writes");
    assert_true(stalls.events > 0);
    assert_true(llround(stalls.seconds * 1e9) == (long long)(after.stall_ns - before.stall_ns));
    assert_int_equal(trace_of(trace, "link", "to the device").bytes,
                     after.device_in_bytes - before.device_in_bytes);
    assert_int_equal(trace_of(trace, "link", "from the device").bytes,
                     after.device_out_bytes - before.device_out_bytes);
    assert_int_equal(reads.bytes, drive_after.read_bytes - drive_before.read_bytes);
    assert_int_equal(writes.bytes, drive_after.write_bytes - drive_before.write_bytes);
    assert_int_equal(reads.events, drive_after.read_transfers - drive_before.read_transfers);
    assert_true(reads.bytes > 0 && writes.bytes > 0);
    assert_true(trace_of(trace, "host workers", "seals").events > 0);
    assert_int_equal(trace_of(trace, "device", "stream ").events, 2 * TENSORS);
    assert_int_equal(trace_named(trace, "part 3"), 2);
    assert_int_equal(trace_last(trace, "device bytes"), after.used_bytes[OFL_DEVICE]);
    assert_int_equal(trace_last(trace, "host bytes"), after.used_bytes[OFL_HOST]);
    assert_int_equal(trace_last(trace, "nvme bytes"), after.used_bytes[OFL_NVME]);
    assert_true(after.used_bytes[OFL_DEVICE] > 0 && after.used_bytes[OFL_NVME] > 0);
    json_decref(trace);
}

/* Opened and closed in the middle of everything, by another thread than that of the steps; the last one by
 * ofl_close. */
static void files_are_whole_whenever_they_end(void **state)
{
    const char *path = file_in(*state);
    unsigned rounds = fixture_rounds(12);
    struct rig r;

    rig_open(&r, *state);
    for (unsigned i = 0; i < rounds; i++) {
        assert_int_equal(ofl_timeline_open(r.ctx, path), 0);
        for (unsigned k = 0; k <= i; k++)
            touch(&r, (int)(5 * k + i) % TENSORS);
        if (i + 1 < rounds) {
            assert_int_equal(ofl_timeline_close(r.ctx, NULL, NULL), 0);
            json_decref(take_trace(path));
        }
    }
    assert_int_equal(ofl_close(r.ctx), 0);
    json_decref(take_trace(path));
}

/* As scripts call it. */
static int judge(const char *path)
{
    char why[256];
    json_t *trace = trace_load(path, why);
    bool good = trace && trace_valid(trace, why);

    if (!good)
        printf("%s: %s\n", path, why);
    json_decref(trace);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_kept_once),
        cmocka_unit_test(stalls_add_up),
        cmocka_unit_test(tracks_hold_what_does_not_overlap),
        cmocka_unit_test(slow_files_lose_events_and_say_so),
        cmocka_unit_test(files_that_fail_are_told_of),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(files_agree_with_statistics),
        cmocka_unit_test(files_are_whole_whenever_they_end),
    };

    return argc > 1 ? judge(argv[1]) : cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
