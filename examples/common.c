/* common: numbers, complaints, signals, the device. See common.h. */
#include "examples/common.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "examples/common_memory.h"

/* ---- complaints --------------------------------------------------------- */

void common_clean(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7F)
            *c = '?';
        if (c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0)
            c[0] = c[1] = '?';
    }
}

void common_print(const char *format, va_list ap)
{
    char *text = NULL;

    if (vasprintf(&text, format, ap) < 0)
        return;
    common_clean(text);
    fprintf(stderr, "%s\n", text);
    free(text);
}

int common_fail(int status, const char *format, ...)
{
    va_list ap;

    common_progress_clear();
    fflush(stdout);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(ap, format);
    common_print(format, ap);
    va_end(ap);
    return status;
}

int common_fail_ofl(int status, const char *what)
{
    return common_fail(status, "%s: %s", what, ofl_error());
}

/* What a code says by itself, whenever it comes; 0: nothing. */
static int status_of(int code)
{
    static const struct {
        int code, status;
    } table[] = {{OFL_EFORMAT, EXIT_DAMAGED},
                 {EBADMSG, EXIT_DAMAGED},
                 {EUCLEAN, EXIT_DAMAGED}, /* of file systems, too */
                 {OFL_ECHECKSUM, EXIT_DAMAGED},
                 {OFL_ECHANGED, EXIT_DAMAGED},
                 {OFL_ETORN, EXIT_DAMAGED},
                 {OFL_EWRITTEN, EXIT_WRITTEN},
                 {ENOSPC, EXIT_FULL},
                 {EDQUOT, EXIT_FULL},
                 {EFBIG, EXIT_FULL},
                 {ENOMEM, EXIT_FULL},
                 {EMFILE, EXIT_FULL},
                 {ENFILE, EXIT_FULL},
                 {ECANCELED, EXIT_INTERRUPTED}};

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].code == -code)
            return table[i].status;
    return 0;
}

int common_status(int code)
{
    int status = status_of(code);

    if (code == -OFL_EFORMAT || code == -EBADMSG) /* it never was whole, as far as anybody knows */
        return EXIT_INPUT;
    if (status)
        return status;
    return code == -EIO || code == -OFL_EBROKEN || code == -OFL_EDEADLINE ? EXIT_RUNTIME : EXIT_INPUT;
}

int common_status_late(int code)
{
    int status = status_of(code);

    return status ? status : EXIT_RUNTIME;
}

int common_close(struct ofl_ctx *ctx, int status)
{
    int err = ofl_close(ctx);

    if (err < 0 && status == 0)
        return common_fail_ofl(common_status_late(err), "close");
    /* A broken context had said no more than that. */
    return err < 0 && status == EXIT_RUNTIME ? common_status_late(err) : status;
}

/* ---- numbers ------------------------------------------------------------ */

int common_parse_bytes(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    double value;
    char *end;
    const char *unit;
    uint64_t factor = 1;

    if (*text < '0' || *text > '9' || text[strspn(text, "0123456789.")] == 'x')
        return -EINVAL;
    value = strtod(text, &end);
    unit = *end ? strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
    if (unit) {
        factor = 1ull << 10 * (unit - units + 1);
        end++;
        if (strcmp(end, "iB") == 0)
            end += 2;
    }
    if (strcmp(end, "B") == 0)
        end++;
    if (*end)
        return -EINVAL;
    if (value * (double)factor >= 0x1p62)
        return -ERANGE;
    /* Whole numbers go without double's rounding. */
    *out = memchr(text, '.', strlen(text)) || memchr(text, 'e', strlen(text))
               ? (uint64_t)(value * (double)factor)
               : strtoull(text, NULL, 10) * factor;
    return 0;
}

int common_parse_count(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    char *end;
    unsigned long long value;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (*end)
        return -EINVAL;
    if (errno || value < least || value > most)
        return -ERANGE;
    *out = value;
    return 0;
}

int common_parse_number(const char *text, double least, double most, double *out)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !isfinite(value))
        return -EINVAL;
    if (value < least || value > most)
        return -ERANGE;
    *out = value;
    return 0;
}

double common_printable(double value)
{
    return isnan(value) ? (double)NAN : value;
}

struct common_text common_bytes(uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    struct common_text t;
    double value = (double)bytes / 1024;
    size_t unit = 0;

    if (bytes < 1024) {
        snprintf(t.text, sizeof t.text, "%d B", (int)bytes);
        return t;
    }
    while (value >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(t.text, sizeof t.text,
             value < 10    ? "%.2f %s"
             : value < 100 ? "%.1f %s"
                           : "%.0f %s",
             value, units[unit]);
    return t;
}

double common_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- the device ---------------------------------------------------------- */

/* What the driver, its kernels and cuBLAS take of a GPU's memory beside our budget. */
#define GPU_RESERVE (2ull << 30)

int common_device_choose(struct common_budget *b)
{
    /* streams that wait must not share a queue with those that they wait for: see offload_cuda.h */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    if (b->quiet)
        common_quiet();
    b->chosen = (struct ofl_device_info){.size = sizeof b->chosen};
    if (ofl_device_info_get(b->device, &b->chosen) < 0)
        return common_fail(EXIT_INPUT, "--device %s: %s", b->device ? b->device : "", ofl_error());
    if (b->chosen.gpu)
        common_line("device %s: %s, %s", b->chosen.device, b->chosen.name,
                    common_bytes(b->chosen.memory_bytes).text);
    return 0;
}

uint64_t common_device_memory(const struct common_budget *b)
{
    uint64_t bytes = b->chosen.memory_bytes;
    struct common_room room;

    if (!b->chosen.gpu) {
        common_room(&room);
        return room.bytes;
    }
    return bytes > 8 * GPU_RESERVE ? bytes - GPU_RESERVE : bytes - bytes / 8;
}

/* ---- signals ------------------------------------------------------------ */

static volatile sig_atomic_t stopping;

/* Whole at every moment: a new text is made in the other one. */
static char answers[2][160];
static char *volatile answer;

static void on_signal(int number)
{
    const char *text = answer;
    int before = errno;

    /* The second signal, of either kind, ends at once. */
    if (stopping && number != SIGHUP)
        _exit(128 + number);
    if (!stopping && text && write(STDERR_FILENO, text, strlen(text)) < 0)
        errno = before; /* nobody reads: the terminal has gone */
    errno = before;
    stopping = stopping ? stopping : number;
}

void common_stop_text(const char *text)
{
    char *next = answers[answer == answers[0]];

    if (text)
        snprintf(next, sizeof answers[0], "%s%s: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "",
                 program_invocation_short_name, text);
    answer = text ? next : NULL;
}

void common_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigemptyset(&stop.sa_mask);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

void common_signals_hangup(bool lasting)
{
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, was;

    sigemptyset(&stop.sa_mask);
    if (sigaction(SIGHUP, NULL, &was) == 0 && was.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &stop, NULL);
    if (lasting)
        signal(SIGPIPE, SIG_IGN);
}

static volatile sig_atomic_t asked;

static void on_ask(int number)
{
    (void)number;
    asked = 1;
}

void common_signals_ask(void)
{
    struct sigaction ask = {.sa_handler = on_ask, .sa_flags = SA_RESTART};

    sigemptyset(&ask.sa_mask);
    sigaction(SIGUSR1, &ask, NULL);
}

bool common_asked(void)
{
    bool was = asked;

    asked = 0;
    return was;
}

bool common_stopping(void)
{
    return stopping != 0;
}

int common_end(int status)
{
    return status == EXIT_INTERRUPTED && stopping ? 128 + stopping : status;
}
