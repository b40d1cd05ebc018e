/* Fixture of the io room's tests: see io_fixture.h. */
#include "tests/io_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct io_test io_test = {.seed = 20240607};

void *io_test_aligned(size_t bytes)
{
    void *p = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);

    assert_non_null(p);
    return p;
}

unsigned io_test_wait_reap(struct io_queue *q, struct io_request **done, unsigned max)
{
    struct pollfd p = {.fd = io_queue_fd(q), .events = POLLIN};

    (void)poll(&p, 1, 1000);
    return io_reap(q, done, max);
}

int io_test_transfer(struct io_queue *q, struct io_request *r)
{
    struct io_request *done;

    io_submit(q, r);
    io_flush(q);
    while (io_test_wait_reap(q, &done, 1) == 0)
        ;
    return r->error.code;
}

const char *io_test_make_source(const char *name, uint64_t bytes)
{
    static char path[600];
    FILE *out;

    snprintf(path, sizeof path, "%s/%s", io_test.dir, name);
    out = fopen(path, "w");
    assert_non_null(out);
    for (uint64_t i = 0; i < bytes; i++)
        putc((int)((i * 131 + (i >> 8)) & 0xff), out);
    assert_int_equal(fclose(out), 0);
    return path;
}

bool io_test_is_pattern(const unsigned char *p, uint64_t offset, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (p[i] != (((offset + i) * 131 + ((offset + i) >> 8)) & 0xff))
            return false;
    return true;
}

unsigned io_test_entries_in(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

int io_test_in_child(int (*fn)(void *), void *arg)
{
    pid_t pid;
    int status;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(fn(arg));
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return status;
}

void io_test_judge_child(int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == IO_TEST_SKIPPED)
        skip();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("child: wait status 0x%x", (unsigned)status);
}

void io_test_child_passes(int (*fn)(void *), void *arg)
{
    io_test_judge_child(io_test_in_child(fn, arg));
}

bool io_test_may_mount(void)
{
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
        return true;
    fprintf(stderr, "skipped: may not mount a small file system: %s\n", strerror(errno));
    return false;
}

bool io_test_mount_ext4(const char *image, const char *where)
{
    char command[1400];

    if (!io_test_may_mount())
        return false;
    /* mount detaches the loop device with the mount */
    snprintf(command, sizeof command,
             "PATH=$PATH:/usr/sbin:/sbin; exec >/dev/null 2>&1; "
             "mkfs.ext4 -q -F -O ^has_journal '%s' && mount -o loop '%s' '%s'",
             image, image, where);
    if (system(command) == 0)
        return true;
    fprintf(stderr, "skipped: may not mount a small ext4\n");
    return false;
}

int io_test_forbid(const struct io_test_filter *f)
{
    const uint32_t argument = (uint32_t)offsetof(struct seccomp_data, args) + f->arg * 8;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)f->nr, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, f->mask),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, f->mask, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)f->code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
        return 0;
    fprintf(stderr, "skipped: no seccomp filters here: %s\n", strerror(errno));
    return IO_TEST_SKIPPED;
}

const struct io_test_engine io_test_engines[2] = {{"io_uring", IO_ENGINE_URING},
                                                  {"threads", IO_ENGINE_THREADS}};

bool io_test_is_missing(const struct io_test_engine *e)
{
    static bool said;

    if (e->engine != IO_ENGINE_URING || io_test.uring)
        return false;
    if (!said)
        fprintf(stderr, "skipped: io_uring: not on this machine\n");
    said = true;
    return true;
}

struct io_file *io_test_scratch(unsigned flags, uint64_t bytes)
{
    struct io_file *f;

    assert_int_equal(io_file_open_scratch(io_test.dir, flags, &f), 0);
    assert_int_equal(io_file_reserve(f, bytes), 0);
    return f;
}

int io_test_set_up(void **state)
{
    const char *base = getenv("OFL_TEST_DIR"), *text = getenv("OFL_TEST_SEED");
    struct io_queue_config config = {.engine = IO_ENGINE_URING};
    struct io_queue *q;
    struct io_file *f;

    (void)state;
    if (text)
        io_test.seed = strtoull(text, NULL, 0) | 1;
    if (!base) {
        base = "build/tmp";
        mkdir("build", 0777);
        mkdir(base, 0777);
    }
    snprintf(io_test.dir, sizeof io_test.dir, "%s/test_io-XXXXXX", base);
    if (!mkdtemp(io_test.dir)) {
        fprintf(stderr, "no directory for test files under %s: %s\n", base, strerror(errno));
        return -1;
    }
    io_test.uring = io_queue_open(&config, &q) == 0;
    if (io_test.uring)
        io_queue_close(q);
    io_test.direct = io_file_open_scratch(io_test.dir, IO_FILE_REQUIRE_DIRECT, &f) == 0;
    if (io_test.direct)
        io_file_close(f);
    return 0;
}

int io_test_tear_down(void **state)
{
    (void)state;
    return rmdir(io_test.dir); /* fails if a test, or a scratch file, left anything */
}
