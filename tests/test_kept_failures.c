/*
 * Kept stores whose writes and flushes fail, each site in turn: that costs the one commit, the last one stays, and the
 * next try succeeds, also where the disk was full meanwhile. A flush of data that failed is remembered, though the
 * kernel would say the next time that all is well; a root that can be neither made nor unmade ends commits, and the
 * rooms of both generations stay.
 *
 * Negative control: without a failure the same program commits.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "tests/kept_fixture.h"

static char dir[96];
static struct kept_program program;

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(base_error_text(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, base_error_text(), code, part);
}

static void commit(void)
{
    if (kept_program_commit(&program) < 0)
        fail_msg("%s", base_error_text());
}

/* A store with so many commits. */
static void begin(unsigned commits)
{
    kept_program_open(&program, dir, 11, false);
    for (unsigned i = 0; i < commits; i++) {
        kept_program_step(&program);
        commit();
    }
}

static void end(void)
{
    kept_program_close(&program);
    kept_remove(dir);
}

/* What the files say now. */
static struct kept_reading look(void)
{
    struct kept_copy copy = {.count = {0}};
    struct kept_reading r;

    kept_close(program.k, false);
    kept_copy_load(&copy, dir);
    r = kept_read_back(&program, dir, copy.bytes[KEPT_DATA], copy.count[KEPT_DATA]);
    kept_copy_free(&copy);
    program.k = NULL;
    return r;
}

/* Of a commit: flush of data; write, flush of the manifest; write, flush of the root. */
#define CALLS 5u

static void failures_cost_one_commit(void **state)
{
    static const int codes[] = {-EIO, -ENOSPC, -EDQUOT};

    (void)state;
    for (unsigned at = 2; at <= CALLS; at++)
        for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
            begin(2);
            kept_record_start();
            kept_program_step(&program);
            kept_record.fail_at = at;
            kept_record.fail_code = codes[i];
            expect_error(kept_program_commit(&program), codes[i], at < 4 ? "write " : KEPT_FILE_ROOTS);
            assert_int_equal(kept_generation(program.k), 2);
            kept_program_step(&program);
            commit();
            assert_int_equal(kept_generation(program.k), 3);
            kept_record_stop();
            assert_int_equal(look().generation, 3);
            end();
        }
}

static void the_last_commit_stays(void **state)
{
    (void)state;
    for (unsigned at = 1; at <= CALLS; at++) {
        struct kept_reading r;

        begin(3);
        kept_record_start();
        kept_program_step(&program);
        kept_record.fail_at = at;
        kept_record.fail_code = -EIO;
        assert_int_equal(kept_program_commit(&program), -EIO);
        kept_program_step(&program);
        kept_record_stop();
        r = look();
        assert_int_equal(r.verdict, KEPT_RIGHT);
        assert_int_equal(r.generation, 3);
        end();
    }
}

static void lost_data_is_not_forgotten(void **state)
{
    (void)state;
    begin(2);
    kept_record_start();
    kept_program_step(&program);
    kept_record.fail_at = 1;
    kept_record.fail_code = -EIO;
    expect_error(kept_program_commit(&program), -EIO, "written since generation 2 may be lost");
    for (int i = 0; i < 3; i++) { /* the kernel would say that all is well */
        expect_error(kept_program_commit(&program), -EIO, "written since generation 2 may be lost");
        assert_int_equal(kept_generation(program.k), 2);
    }
    kept_record_stop();
    end();
}

/* A root that can be neither made nor unmade: both generations' rooms stay. */
static void doubt_ends_commits(void **state)
{
    struct kept_thing *t;
    uint64_t used;

    (void)state;
    begin(2);
    for (int i = 0; i < KEPT_TENSORS; i++)
        if (program.things[i].there)
            kept_program_destroy(&program, &program.things[i]);
    t = kept_program_create(&program, 4096, 4096);
    used = kept_used(program.k);
    kept_record_start();
    kept_record.fail_at = CALLS;
    kept_record.fail_on = true;
    kept_record.fail_code = -EIO;
    expect_error(kept_program_commit(&program), -EIO, "whether generation 2 or 3 is the last one");
    kept_record.fail_at = 0;
    expect_error(kept_program_commit(&program), -EIO, "nothing can be committed any more");
    kept_program_destroy(&program, t);
    assert_int_equal(kept_used(program.k), used);
    kept_record_stop();
    end();
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/store", scratch_make());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_cost_one_commit),
        cmocka_unit_test(the_last_commit_stays),
        cmocka_unit_test(lost_data_is_not_forgotten),
        cmocka_unit_test(doubt_ends_commits),
    };

    return cmocka_run_group_tests_name("kept_failures", tests, setup, teardown);
}
