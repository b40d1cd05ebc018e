/* See core_fixture.h. */
#include "tests/core_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "liboffload/core/context.h"
#include "liboffload/core/verify.h"

static char scratch[64];

uint64_t random_next(struct random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t random_below(struct random *r, uint64_t n)
{
    return random_next(r) % n;
}

const char *scratch_make(void)
{
    mkdir("build", 0777); /* may be there */
    strcpy(scratch, "build/scratch-XXXXXX");
    if (!mkdtemp(scratch)) {
        perror(scratch);
        exit(1);
    }
    return scratch;
}

void scratch_remove(void)
{
    if (scratch[0] && rmdir(scratch) < 0)
        perror(scratch); /* not empty: something was left in it */
    scratch[0] = '\0';
}

int scratch_setup(void **state)
{
    *state = (void *)(uintptr_t)scratch_make();
    return 0;
}

int scratch_teardown(void **state)
{
    (void)state;
    scratch_remove();
    return 0;
}

const struct ofl_nvme *fixture_nvme(const char *dir, uint64_t bytes)
{
    static struct ofl_nvme nvme;

    nvme = (struct ofl_nvme){dir, bytes};
    return &nvme;
}

void fixture_log(void *arg, enum ofl_log_level level, const char *text)
{
    (void)arg;
    if (level == OFL_LOG_WARNING)
        fprintf(stderr, "log: %s\n", text);
}

void fixture_ok(int code)
{
    if (code < 0)
        fail_msg("%d: %s", code, ofl_error());
}

void fixture_refused(int code, int wanted, const char *text)
{
    if (code != wanted || !strstr(ofl_error(), text))
        fail_msg("%d \"%s\", wanted %d with \"%s\"", code, ofl_error(), wanted, text);
}

struct ofl_ctx *fixture_ctx_open(const char *dir, uint64_t device_bytes)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = device_bytes,
                                .host_bytes = 4 << 20,
                                .nvme = fixture_nvme(dir, 16 << 20),
                                .nvme_count = 1,
                                .flags = OFL_NO_MEASURE,
                                .log = fixture_log};
    struct ofl_ctx *ctx;

    fixture_ok(ofl_open(&config, &ctx));
    return ctx;
}

static int verify_run(struct ofl_ctx *ctx, void *arg)
{
    if (pager_verify(&ctx->engine.pager, arg) < 0)
        return -1;
    return pager_lost_bytes(&ctx->engine.pager) > 0;
}

void fixture_verify(struct ofl_ctx *ctx)
{
    struct base_error why = {0};
    int result = core_call(ctx, verify_run, &why);

    if (result < 0)
        fail_msg("the books do not balance: %s", why.text);
    if (result > 0)
        fail_msg("host memory is neither free nor anybody's");
}

int fixture_ctx_close(struct ofl_ctx *ctx)
{
    fixture_verify(ctx);
    return ofl_close(ctx);
}

unsigned fixture_rounds(unsigned rounds)
{
    return getenv("OFL_TEST_LIGHT") ? (rounds + 3) / 4 : getenv("OFL_TEST_FULL") ? 4 * rounds : rounds;
}
