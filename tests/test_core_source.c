/*
 * core: a source that is written while tensors are paged from it. Whatever was done to the file, a program
 * gets the bytes that were there when it was opened, or an error that names the file: never others, and
 * never some of each. What leaves the bytes alone is no error.
 *
 * Negative controls: each change that must show is one that the bytes read show, too, so without the look
 * at the file, or without the seals where the time was set back, wrong bytes come back and are counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

#define MIB   (1ull << 20)
#define BYTES (4 * MIB)
#define PART  (64u << 10)

static char path[300], other[sizeof path + 8];

static uint8_t byte_at(unsigned version, uint64_t i)
{
    return (uint8_t)((i * 0x9e3779b97f4a7c15u >> 56) + version);
}

/* The data of version 1 or 2, in a file that is there already, at its place in the file. */
static void put_data(int fd, unsigned version, off_t data)
{
    uint8_t *bytes = malloc(BYTES);

    assert_non_null(bytes);
    for (uint64_t i = 0; i < BYTES; i++)
        bytes[i] = byte_at(version, i);
    for (uint64_t at = 0; at < BYTES; at += PART)
        assert_int_equal(pwrite(fd, bytes + at, PART, data + (off_t)at), PART);
    free(bytes);
}

/* In one tensor, "w", or several, "w0" and so on. Returns the offset of the data. */
static off_t put_tensors(const char *name, unsigned version, unsigned tensors)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t each = BYTES / tensors, length;
    char header[2000] = "{";

    for (unsigned i = 0; i < tensors; i++) {
        char number[16] = "";

        if (tensors > 1)
            snprintf(number, sizeof number, "%u", i);
        length = strlen(header);
        snprintf(header + length, sizeof header - length,
                 "%s\"w%s\":{\"dtype\":\"U8\",\"shape\":[%llu],\"data_offsets\":[%llu,%llu]}", i ? "," : "",
                 number, (unsigned long long)each, (unsigned long long)(i * each),
                 (unsigned long long)((i + 1) * each));
    }
    strcat(header, "}");
    length = strlen(header);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &length, 8), 8);
    assert_int_equal(write(fd, header, length), (ssize_t)length);
    put_data(fd, version, 8 + (off_t)length);
    close(fd);
    return 8 + (off_t)length;
}

static off_t put_file(const char *name, unsigned version)
{
    return put_tensors(name, version, 1);
}

/* ---- what is done to the file --------------------------------------------- */

static void overwrite(off_t data)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    put_data(fd, 2, data);
    close(fd);
}

static void direct_write(off_t data)
{
    int fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    uint8_t *bytes = aligned_alloc(4096, MIB);
    struct stat st;

    if (fd < 0) { /* a file system without it */
        overwrite(data);
        free(bytes);
        return;
    }
    assert_non_null(bytes);
    memset(bytes, 0x5A, MIB);
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t at = (off_t)MIB; at + (off_t)MIB <= st.st_size; at += (off_t)MIB)
        assert_int_equal(pwrite(fd, bytes, MIB, at), (ssize_t)MIB);
    close(fd);
    free(bytes);
}

static void rewrite(off_t data)
{
    (void)data;
    put_file(path, 2); /* truncated first, as cp does */
}

static void cut(off_t data)
{
    assert_int_equal(truncate(path, data + (off_t)BYTES / 8), 0);
}

static void grow(off_t data)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);

    (void)data;
    assert_int_equal(write(fd, "more", 4), 4);
    close(fd);
}

static void map(off_t data)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    assert_true(fd >= 0 && at != MAP_FAILED);
    memset(at + data, 0xA5, BYTES - (size_t)data);
    munmap(at, BYTES);
    close(fd);
}

static void punch(off_t data)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, data, (off_t)BYTES) < 0)
        overwrite(data);
    close(fd);
}

/* As rsync --inplace with times kept: the size and the time are those of before. */
static void set_back(off_t data)
{
    struct timespec times[2];
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    overwrite(data);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void rights(off_t data)
{
    (void)data;
    assert_int_equal(chmod(path, 0440), 0);
}

static void links(off_t data)
{
    (void)data;
    assert_int_equal(link(path, other), 0);
    assert_int_equal(unlink(other), 0);
}

static void replace(off_t data)
{
    (void)data;
    put_file(other, 2);
    assert_int_equal(rename(other, path), 0);
}

static void removed(off_t data)
{
    (void)data;
    assert_int_equal(unlink(path), 0);
}

static const struct change {
    const char *name;
    void (*make)(off_t data);
    int code, check; /* of reads, and of ofl_source_check */
} changes[] = {
    {"overwritten in place", overwrite, -OFL_ECHANGED, -OFL_ECHANGED},
    {"overwritten by direct I/O", direct_write, -OFL_ECHANGED, -OFL_ECHANGED},
    {"truncated and written again", rewrite, -OFL_ECHANGED, -OFL_ECHANGED},
    {"truncated", cut, -OFL_ECHANGED, -OFL_ECHANGED},
    {"grown", grow, -OFL_ECHANGED, -OFL_ECHANGED},
    {"written through a mapping", map, -OFL_ECHANGED, -OFL_ECHANGED},
    {"punched", punch, -OFL_ECHANGED, -OFL_ECHANGED},
    {"written, and its time set back", set_back, -OFL_ECHECKSUM, 0},
    {"given other rights", rights, 0, 0},
    {"linked", links, 0, 0},
    {"replaced", replace, 0, 0},
    {"removed", removed, 0, 0},
};

/* ---- paging ---------------------------------------------------------------- */

struct look {
    uint8_t *bytes;
    uint64_t first, count; /* in the file's data */
    atomic_uint wrong;
};

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_source *source;
    struct ofl_tensor *tensor, *transient;
    off_t data;
    struct look look; /* of the lease; what is skipped never looks */
};

static void rig_open(struct rig *r, uint32_t flags)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 5 * MIB,
                                .host_bytes = 2 * MIB,
                                .flags = flags};
    struct ofl_tensor_desc other_desc = {.size = sizeof other_desc,
                                         .name = "other",
                                         .dtype = OFL_U8,
                                         .elems = 4 * MIB,
                                         .flags = OFL_TENSOR_TRANSIENT};

    memset(r, 0, sizeof *r);
    r->data = put_file(path, 1);
    assert_int_equal(ofl_open(&config, &r->ctx), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->stream), 0);
    assert_int_equal(ofl_tensor_create(r->ctx, &other_desc, &r->transient), 0);
    assert_int_equal(ofl_source_open(r->ctx, path, &r->source), 0);
    assert_int_equal(ofl_source_bind(r->source, "w", OFL_KIND_WEIGHT, &r->tensor), 0);
}

static void rig_close(struct rig *r)
{
    assert_int_equal(ofl_tensor_destroy(r->tensor), 0);
    assert_int_equal(ofl_source_close(r->source), 0);
    fixture_ctx_close(r->ctx);
    unlink(path);
}

static void expect_named(const char *what, int err, int wanted)
{
    if (err != wanted)
        fail_msg("%s: %d instead of %d: %s", what, err, wanted, ofl_error());
    if (!strstr(ofl_error(), path) || !strstr(ofl_error(), "w"))
        fail_msg("%s: the sentence does not name the file: %s", what, ofl_error());
}

/* Reads all of the tensor, twice as large as the host arena; counts parts that failed. */
static unsigned read_all(struct rig *r, const struct change *c)
{
    static uint8_t part[PART];
    unsigned failed = 0;

    for (uint64_t at = 0; at < BYTES; at += PART) {
        int err = ofl_tensor_read(r->tensor, at, part, PART);

        if (err < 0) {
            expect_named(c ? c->name : "unchanged", err, c ? c->code : 0);
            failed++;
            continue;
        }
        for (uint64_t i = 0; i < PART; i++)
            if (part[i] != byte_at(1, at + i))
                fail_msg("%s: byte %llu is another's", c ? c->name : "unchanged",
                         (unsigned long long)(at + i));
    }
    return failed;
}

static void look_run(void *arg)
{
    struct look *l = arg;
    uint8_t *bytes = fixture_view(l->bytes);
    unsigned wrong = 0;

    for (uint64_t i = 0; i < l->count; i++)
        wrong += bytes[i] != byte_at(1, l->first + i);
    atomic_fetch_add(&l->wrong, wrong);
}

/* A lease of the tensor, and one of the transient, which pushes it out; waits for both. */
static int lease(struct rig *r)
{
    struct ofl_lease l = {.tensor = r->tensor, .mode = OFL_READ},
                     t = {.tensor = r->transient, .mode = OFL_OVERWRITE};
    int err;

    ofl_step_begin(r->ctx, "round"); /* so that the next one is fetched ahead */
    err = ofl_acquire(r->ctx, &l, 1, r->stream);
    if (err == 0) {
        r->look.bytes = l.ptr;
        r->look.count = BYTES;
        err = fixture_kernel(r->stream, look_run, &r->look, (struct fixture_range){l.ptr, BYTES, false});
        ofl_release(r->ctx, &l, 1, r->stream);
    }
    if (err == 0)
        err = ofl_acquire(r->ctx, &t, 1, r->stream);
    if (err == 0)
        err = ofl_release(r->ctx, &t, 1, r->stream);
    ofl_step_end(r->ctx);
    return err == 0 ? ofl_stream_sync(r->stream) : err;
}

static bool unseen(const struct change *c)
{
    struct statfs fs;

    return c->make == map && statfs("build", &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static void old_bytes_or_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++)
        for (int buffered = 0; buffered < 2; buffered++) {
            const struct change *c = &changes[i];
            unsigned failed;
            struct rig r;
            int err;

            if (unseen(c)) {
                print_message("%s: left out on tmpfs\n", c->name);
                continue;
            }
            rig_open(&r, buffered ? OFL_USE_BUFFERED : 0);
            assert_int_equal(read_all(&r, NULL), 0);
            assert_int_equal(ofl_source_check(r.source), 0);
            c->make(r.data);
            failed = read_all(&r, c);
            if ((failed > 0) != (c->code != 0))
                fail_msg("%s: %u parts of the tensor failed", c->name, failed);
            err = ofl_source_check(r.source);
            if (err != c->check)
                fail_msg("%s: ofl_source_check: %d", c->name, err);
            /* The same on a stream: the acquire or what follows fails, the kernel is skipped. */
            err = lease(&r);
            if (c->code)
                expect_named(c->name, err, c->code);
            else
                assert_int_equal(err, 0);
            assert_int_equal(r.look.wrong, 0);
            rig_close(&r);
        }
}

struct writer {
    off_t data;
    unsigned delay_us;
};

static void *write_later(void *arg)
{
    struct writer *w = arg;
    const struct timespec nap = {.tv_nsec = w->delay_us * 1000};

    nanosleep(&nap, NULL);
    overwrite(w->data);
    return NULL;
}

/* Another thread overwrites the file at any moment: all that is computed is computed from old bytes. */
static void written_at_any_moment(void **state)
{
    unsigned rounds = fixture_rounds(40), failed = 0;
    struct random random = {.state = 7};

    (void)state;
    for (unsigned round = 0; round < rounds; round++) {
        struct writer w = {.delay_us = (unsigned)random_below(&random, 8000)};
        pthread_t thread;
        struct rig r;
        int err = 0;

        rig_open(&r, 0);
        w.data = r.data;
        assert_int_equal(pthread_create(&thread, NULL, write_later, &w), 0);
        for (unsigned i = 0; i < 8 && err == 0; i++)
            err = lease(&r);
        pthread_join(thread, NULL);
        if (err == 0) /* it was faster: the next one is not */
            err = lease(&r);
        assert_int_equal(r.look.wrong, 0);
        expect_named("overwritten", err, -OFL_ECHANGED);
        failed++;
        rig_close(&r);
    }
    assert_int_equal(failed, rounds);
}

#define MANY 8

/* A step over all of them, of which the device holds two and the host four; waits. */
static int touch_all(struct ofl_ctx *ctx, struct ofl_stream *stream, struct ofl_tensor **tensors)
{
    int err = 0;

    ofl_step_begin(ctx, "round");
    for (int i = 0; i < MANY && err == 0; i++) {
        struct ofl_lease l = {.tensor = tensors[i], .mode = OFL_READ};

        err = ofl_acquire(ctx, &l, 1, stream);
        if (err == 0)
            err = ofl_release(ctx, &l, 1, stream);
        if (err == 0)
            err = ofl_stream_sync(stream);
    }
    ofl_step_end(ctx);
    return err;
}

/* What fails when it is fetched ahead is not tried again and again while nobody asks for it: that kept the
 * engine from hearing those who asked for something else. */
static void what_failed_rests(void **state)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = BYTES / 4,
                                .host_bytes = BYTES / 2};
    struct ofl_stats before = {.size = sizeof before}, after = before;
    const struct timespec nap = {.tv_nsec = 200000000};
    struct ofl_tensor *tensors[MANY];
    struct ofl_source *source;
    struct ofl_stream *stream;
    struct ofl_ctx *ctx;
    off_t data = put_tensors(path, 1, MANY);
    int err = 0;

    (void)state;
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &stream), 0);
    assert_int_equal(ofl_source_open(ctx, path, &source), 0);
    for (int i = 0; i < MANY; i++) {
        char name[] = {'w', (char)('0' + i), 0};

        assert_int_equal(ofl_source_bind(source, name, OFL_KIND_WEIGHT, &tensors[i]), 0);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(touch_all(ctx, stream, tensors), 0);
    overwrite(data);
    for (int i = 0; i < 3 && err == 0; i++)
        err = touch_all(ctx, stream, tensors);
    expect_named("overwritten", err, -OFL_ECHANGED);
    nanosleep(&nap, NULL); /* for what was in flight */
    assert_int_equal(ofl_stats_get(ctx, &before), 0);
    nanosleep(&nap, NULL);
    assert_int_equal(ofl_stats_get(ctx, &after), 0);
    assert_int_equal(after.source_read_bytes, before.source_read_bytes);
    fixture_ctx_close(ctx);
    unlink(path);
}

/* A tensor of many tiles that begins within a block of its file: each block is read once. */
static void a_block_is_read_once(void **state)
{
    struct ofl_stats s = {.size = sizeof s};
    struct ofl_tensor *part;
    struct ofl_lease l = {.mode = OFL_READ};
    struct rig r;

    (void)state;
    rig_open(&r, 0);
    assert_int_equal(ofl_source_bind_part(r.source, "w", 1001, BYTES / 2, OFL_KIND_WEIGHT, &part), 0);
    l.tensor = part;
    assert_int_equal(ofl_acquire(r.ctx, &l, 1, r.stream), 0);
    assert_int_equal(ofl_release(r.ctx, &l, 1, r.stream), 0);
    assert_int_equal(ofl_stream_sync(r.stream), 0);
    assert_int_equal(ofl_stats_get(r.ctx, &s), 0);
    assert_true(s.tile_bytes * 8 < BYTES / 2);
    assert_in_range(s.source_read_bytes, BYTES / 2, BYTES / 2 + 2 * 4096);
    assert_int_equal(fixture_ctx_close(r.ctx), 0);
    unlink(path);
}

/* Behind the header's back: what the header said was of another file. */
static void written_right_after_opening(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct rig r;

        rig_open(&r, 0); /* the file was written a moment before: its time could be that of the next write */
        overwrite(r.data);
        expect_named("check", ofl_source_check(r.source), -OFL_ECHANGED);
        assert_int_equal(read_all(&r, &changes[0]), BYTES / PART);
        rig_close(&r);
    }
}

/* Parts of an entry, at any element and of any length, beside the whole; under leases and through the host. */
static void parts_are_tensors(void **state)
{
    static const uint64_t parts[][2] = {{0, BYTES}, {0, 1}, {1, 4095}, {4097, MIB + 3}, {BYTES - 5, 5}};
    uint8_t *bytes = malloc(BYTES);
    struct ofl_tensor *part = NULL;
    char name[64];
    struct rig r;

    (void)state;
    assert_non_null(bytes);
    rig_open(&r, 0);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        uint64_t offset = parts[i][0], count = parts[i][1], wrong = 0;
        struct ofl_tensor_info info = {.size = sizeof info};
        struct ofl_lease l = {.mode = OFL_READ};

        assert_int_equal(ofl_source_bind_part(r.source, "w", offset, count, OFL_KIND_WEIGHT, &part), 0);
        assert_int_equal(ofl_tensor_info_get(part, &info), 0);
        snprintf(name, sizeof name, "w[%llu:%llu]", (unsigned long long)offset,
                 (unsigned long long)(offset + count));
        assert_string_equal(info.name, name);
        assert_int_equal(info.elems, count);
        l.tensor = part;
        assert_int_equal(ofl_acquire(r.ctx, &l, 1, r.stream), 0);
        r.look = (struct look){.bytes = l.ptr, .first = offset, .count = count};
        assert_int_equal(
            fixture_kernel(r.stream, look_run, &r.look, (struct fixture_range){l.ptr, count, false}), 0);
        assert_int_equal(ofl_release(r.ctx, &l, 1, r.stream), 0);
        assert_int_equal(ofl_stream_sync(r.stream), 0);
        assert_int_equal(atomic_load(&r.look.wrong), 0);
        assert_int_equal(ofl_tensor_read(part, 0, bytes, count), 0);
        for (uint64_t k = 0; k < count; k++)
            wrong += bytes[k] != byte_at(1, offset + k);
        assert_int_equal(wrong, 0);
        assert_int_equal(ofl_tensor_write(part, 0, bytes, count), -EROFS);
        assert_int_equal(ofl_source_close(r.source), -OFL_ESTATE);
        assert_int_equal(ofl_tensor_destroy(part), 0);
    }
    assert_int_equal(ofl_source_bind_part(r.source, "w", BYTES, 1, OFL_KIND_WEIGHT, &part), -EINVAL);
    assert_non_null(strstr(ofl_error(), "it has 4194304"));
    assert_int_equal(ofl_source_bind_part(r.source, "w", 1, BYTES, OFL_KIND_WEIGHT, &part), -EINVAL);
    assert_int_equal(ofl_source_bind_part(r.source, "w", 2, UINT64_MAX, OFL_KIND_WEIGHT, &part), -EINVAL);
    assert_int_equal(ofl_source_bind_part(r.source, "w", 2, 0, OFL_KIND_WEIGHT, &part), -EINVAL);
    assert_int_equal(ofl_source_bind_part(r.source, "v", 0, 1, OFL_KIND_WEIGHT, &part), -ENOENT);
    assert_null(part);
    free(bytes);
    rig_close(&r);
}

static int setup(void **state)
{
    int rc = scratch_setup(state);

    snprintf(path, sizeof path, "%s/w.safetensors", (char *)*state);
    snprintf(other, sizeof other, "%s.other", path);
    return rc;
}

/* ---- what is not of the file ------------------------------------------------ */

static void wait_for(void *sem)
{
    while (sem_wait(sem) < 0)
        ;
}

static void *post_later(void *sem)
{
    usleep(50000); /* the read below waits by then, or is told at once: both must end alike */
    sem_post(sem);
    return NULL;
}

/* The write of one tensor fails with the source's read. Who reads that tensor, which lives on the device, is told;
 * who reads and writes another is not, and writing the first whole makes it good again. */
static void others_do_not_fail(void **state)
{
    struct ofl_config config = {.size = sizeof config, .device_bytes = 16 * MIB, .host_bytes = 4 * MIB};
    struct ofl_tensor_desc desc = {.size = sizeof desc, .dtype = OFL_U8, .elems = PART};
    struct ofl_lease leases[2] = {{.size = sizeof leases[0], .mode = OFL_READ},
                                  {.size = sizeof leases[0], .mode = OFL_UPDATE}};
    static uint8_t bytes[PART], back[PART];
    off_t data = put_file(path, 1);
    struct ofl_tensor *out, *other_one;
    struct ofl_source *source;
    struct ofl_stream *s;
    struct ofl_ctx *ctx;
    pthread_t thread;
    sem_t go;

    (void)state;
    sem_init(&go, 0, 0);
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    assert_int_equal(ofl_source_open(ctx, path, &source), 0);
    assert_int_equal(ofl_source_bind(source, "w", OFL_KIND_WEIGHT, &leases[0].tensor), 0);
    desc.name = "out";
    assert_int_equal(ofl_tensor_create(ctx, &desc, &out), 0);
    desc.name = "other";
    assert_int_equal(ofl_tensor_create(ctx, &desc, &other_one), 0);
    memset(bytes, 7, sizeof bytes);
    assert_int_equal(ofl_tensor_write(out, 0, bytes, PART), 0);
    assert_int_equal(ofl_tensor_write(other_one, 0, bytes, PART), 0);
    usleep(20000); /* or its time may be the same */
    overwrite(data);
    leases[1].tensor = out;
    assert_int_equal(ofl_stream_launch(s, wait_for, &go), 0);
    assert_int_equal(ofl_acquire(ctx, leases, 2, s), 0);
    assert_int_equal(ofl_release(ctx, leases, 2, s), 0);
    assert_int_equal(pthread_create(&thread, NULL, post_later, &go), 0);
    assert_int_equal(ofl_tensor_read(out, 0, back, PART), -OFL_ECHANGED);
    pthread_join(thread, NULL);
    assert_int_equal(ofl_tensor_read(other_one, 0, back, PART), 0);
    assert_memory_equal(back, bytes, PART);
    bytes[5] = 9;
    assert_int_equal(ofl_tensor_write(other_one, 5, bytes + 5, 1), 0);
    assert_int_equal(ofl_tensor_write(out, 0, bytes, PART), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ofl_tensor_read(i ? out : other_one, 0, back, PART), 0);
        assert_memory_equal(back, bytes, PART);
    }
    ofl_stream_destroy(s);
    assert_int_equal(fixture_ctx_close(ctx), 0);
    sem_destroy(&go);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_bytes_or_an_error), cmocka_unit_test(written_at_any_moment),
        cmocka_unit_test(what_failed_rests),     cmocka_unit_test(written_right_after_opening),
        cmocka_unit_test(others_do_not_fail),    cmocka_unit_test(parts_are_tensors),
        cmocka_unit_test(a_block_is_read_once),
    };

    return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
