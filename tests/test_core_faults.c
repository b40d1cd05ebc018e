/*
 * core: what happens when the drive fails. Failed reads fail the acquires that need them and
 * their streams, with a sentence that names the tensor; a lost write-back breaks the context;
 * bytes that come back changed are never used; and nothing ever hangs: every program here
 * ends with ofl_close.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

#define MIB     (1ull << 20)
#define TENSORS 24
#define BYTES   (256u << 10)

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensors[TENSORS];
    int count;
};

static int rig_open(struct rig *r, const char *dir, uint64_t seed, uint32_t errors)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 3 * BYTES,
                                .host_bytes = 2 * MIB,
                                .nvme = fixture_nvme(dir, 16 * MIB),
                                .nvme_count = 1,
                                .test_seed = seed,
                                .test_errors = errors};
    int err;

    memset(r, 0, sizeof *r);
    err = ofl_open(&config, &r->ctx);
    if (err == 0)
        err = ofl_stream_create(r->ctx, &r->stream);
    for (int i = 0; i < TENSORS && err == 0; i++) {
        char name[32];
        struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U8, .elems = BYTES};

        snprintf(name, sizeof name, "tensor-%d", i);
        err = ofl_tensor_create(r->ctx, &d, &r->tensors[i]);
    }
    return err;
}

static void add_one(void *arg)
{
    uint8_t *x = fixture_view(arg);

    for (size_t i = 0; i < BYTES; i++)
        x[i]++;
}

static int touch(struct rig *r, int i)
{
    struct ofl_lease l = {.tensor = r->tensors[i], .mode = OFL_UPDATE};
    int err = ofl_acquire(r->ctx, &l, 1, r->stream);

    if (err == 0) {
        err = fixture_kernel(r->stream, add_one, l.ptr, (struct fixture_range){l.ptr, BYTES, true});
        assert_int_equal(ofl_release(r->ctx, &l, 1, r->stream), 0);
    }
    return err;
}

/* Errors at random: the program must see one, named, and end. */
static void errors_are_seen_and_nothing_hangs(void **state)
{
    unsigned failed = 0, broken = 0, rounds = fixture_rounds(24);

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        struct rig r;
        int err = 0, closed;

        assert_int_equal(rig_open(&r, *state, seed, 5), 0);
        for (int k = 0; k < 400 && err == 0; k++) {
            err = touch(&r, k % TENSORS);
            if (err == 0 && k % 20 == 19)
                err = ofl_stream_sync(r.stream);
        }
        if (err < 0) {
            failed++;
            if (!strstr(ofl_error(), "tensor-"))
                fail_msg("seed %llu: %d: \"%s\" names no tensor", (unsigned long long)seed, err, ofl_error());
        }
        closed = fixture_ctx_close(r.ctx);
        broken += closed < 0;
        /* An error that the program did not see is one that the context reports at the end. */
        if (err == 0 && closed == 0)
            print_message("  seed %llu: no transfer failed\n", (unsigned long long)seed);
    }
    assert_true(failed > rounds / 2);
    assert_true(broken > 0);
}

/* Control: without injected errors the same program ends well. */
static void without_errors_all_is_well(void **state)
{
    struct rig r;
    uint8_t byte;

    assert_int_equal(rig_open(&r, *state, 5, 0), 0);
    for (int k = 0; k < 400; k++)
        assert_int_equal(touch(&r, k % TENSORS), 0);
    assert_int_equal(ofl_stream_sync(r.stream), 0);
    for (int i = 0; i < TENSORS; i++) {
        assert_int_equal(ofl_tensor_read(r.tensors[i], BYTES - 1, &byte, 1), 0);
        assert_int_equal(byte, 400 / TENSORS + (i < 400 % TENSORS));
    }
    assert_int_equal(fixture_ctx_close(r.ctx), 0);
}

/* The descriptor of the nameless store file: the largest deleted file that is open. */
static int store_fd(void)
{
    int best = -1;
    off_t largest = 0;

    for (int fd = 3; fd < 256; fd++) {
        struct stat s;

        if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_nlink == 0 && s.st_size > largest) {
            best = fd;
            largest = s.st_size;
        }
    }
    return best;
}

static void corruption_is_detected(void **state)
{
    struct rig r;
    char path[64];
    uint8_t *garbage = aligned_alloc(4096, MIB), byte;
    struct stat s;
    int fd, err = 0, seen = 0;

    assert_non_null(garbage);
    memset(garbage, 0xA5, MIB);
    assert_int_equal(rig_open(&r, *state, 0, 0), 0);
    for (int k = 0; k < TENSORS; k++)
        assert_int_equal(touch(&r, k), 0);
    assert_int_equal(ofl_stream_sync(r.stream), 0);
    fd = store_fd();
    assert_true(fd >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fd = open(path, O_RDWR | O_DIRECT); /* another description; direct, as the library's writes are */
    if (fd < 0)
        fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &s), 0);
    for (off_t at = 0; at < s.st_size; at += (off_t)MIB)
        assert_true(pwrite(fd, garbage, MIB, at) > 0);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    for (int i = 0; i < TENSORS; i++) {
        err = ofl_tensor_read(r.tensors[i], 0, &byte, 1);
        if (err == 0) {
            assert_int_equal(byte, 1); /* still in memory: right, never the garbage */
            continue;
        }
        assert_int_equal(err, -OFL_ECHECKSUM);
        assert_non_null(strstr(ofl_error(), "tensor-"));
        assert_non_null(strstr(ofl_error(), "checksum mismatch"));
        seen++;
    }
    assert_true(seen > TENSORS / 4);
    /* The same on a stream: the acquire fails, the kernel is skipped. */
    err = 0;
    for (int i = 0; i < TENSORS && err == 0; i++)
        err = touch(&r, i);
    err = ofl_stream_sync(r.stream);
    assert_int_equal(err, -OFL_ECHECKSUM);
    fixture_ctx_close(r.ctx);
    free(garbage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_seen_and_nothing_hangs),
        cmocka_unit_test(without_errors_all_is_well),
        cmocka_unit_test(corruption_is_detected),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
