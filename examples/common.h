/*
 * What the example programs share: numbers and sizes, complaints, signals, progress on stderr, and the
 * JSON report. Command lines are in common_options.h, budgets in common_budget.h.
 *
 * Functions that return an int called status return 0, or the exit status with which the
 * program is to end, after they have said why on stderr.
 */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"

/* How every program ends. 0: done; what a signal ended has 128 and its number. */
enum {
    EXIT_RUNTIME = 1, /* something failed on the way */
    EXIT_INPUT = 2, /* refused before anything was done: files that can't be used, budgets that can't work */
    EXIT_DAMAGED = 3,      /* an input turned out to be damaged, or was changed, while it was used */
    EXIT_FULL = 4,         /* a resource is full: drive, quota, memory, descriptors, size of a file */
    EXIT_WRITTEN = 5,      /* --max-written is used up */
    EXIT_OPTION = 64,      /* a bad option: what is printed ends with a pointer to --help */
    EXIT_INTERRUPTED = 130 /* by a signal, between two steps */
};
/* The same for --help. */
#define COMMON_EXITS                                                                                         \
    "Exit status: 0 done; 1 something failed on the way; 2 refused before anything was done: files that "    \
    "can't be used, budgets that can't work; 3 an input turned out to be damaged, or was changed, while it " \
    "was used; 4 a resource is full: a drive, a quota, memory, descriptors; 5 --max-written is used up; 64 " \
    "a bad option; 128 and the signal's number: ended by one"

#define COMMON_ERROR_BYTES 1024

/* ---- complaints --------------------------------------------------------- */

/* Prints "program: sentence" on a line of its own. Returns status. */
int common_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for a failed call of the library: what, and ofl_error()'s sentence. */
int common_fail_ofl(int status, const char *what);
/* The exit status that suits a library's or system's code during set-up, */
int common_status(int code);
/* and once something has been done. */
int common_status_late(int code);
/* Closes ctx behind a run that ended with status; a failure of later on is told apart by what it came of. */
int common_close(struct ofl_ctx *ctx, int status);

/* What is printed comes from files, too: control characters, those of C1 in UTF-8 among them, become '?'. */
void common_clean(char *text);
/* Prints so: on stderr, with a newline. */
void common_print(const char *format, va_list ap) __attribute__((format(printf, 1, 0)));

/* ---- numbers ------------------------------------------------------------ */

/* "512M", "1.5G", "4096", with K, M, G, T powers of 1024; 0 or -EINVAL, -ERANGE. */
int common_parse_bytes(const char *text, uint64_t *out);
int common_parse_count(const char *text, uint64_t least, uint64_t most, uint64_t *out);
/* A finite number. */
int common_parse_number(const char *text, double least, double most, double *out);

struct common_text {
    char text[32];
};
/* To print: what is not a number has no sign. */
double common_printable(double value);
/* "1.50 GiB" */
struct common_text common_bytes(uint64_t bytes);

/* One OpenBLAS thread per core, unless OPENBLAS_NUM_THREADS says otherwise. Results depend on it. */
void common_blas_threads(void);
int common_blas_count(void);
/* So many, as a run that goes on had. False: OPENBLAS_NUM_THREADS says otherwise. */
bool common_blas_use(int threads);

double common_seconds(void); /* of a clock that never goes back */

/* ---- budgets and the device ---------------------------------------------- */

struct common_budget {
    const char *device;                 /* as given; NULL: not given */
    struct ofl_device_info chosen;      /* by common_device_choose */
    uint64_t device_bytes, host_bytes;  /* 0: not given */
    struct ofl_nvme nvme[OFL_NVME_MAX]; /* as given; the directories are owned */
    uint32_t nvme_count;
    struct ofl_nvme store; /* a kept store; dir owned, NULL: none. It need not be there yet */
    uint64_t max_written;  /* to drives; 0: no limit */
    bool in_memory, quiet;
    const char *report, *timeline;
};

/* Fills chosen: the device that was asked for, else the first GPU, else the host device; says which. */
int common_device_choose(struct common_budget *b);
/* Memory that the chosen device has to give: RAM that can be had, or the GPU's less what its driver
 * needs. */
uint64_t common_device_memory(const struct common_budget *b);

/* ---- signals ------------------------------------------------------------ */

/* SIGINT and SIGTERM ask for an end, and the second one ends at once; a file that grows
 * past a limit gives an error. */
void common_signals(void);
/* SIGHUP asks for an end, too, unless it is ignored (nohup). It never ends at once: a terminal that goes sends it twice.
 * lasting: the end has still work to do, so what is written to nobody gives an error, and no signal. */
void common_signals_hangup(bool lasting);
/* SIGUSR1 asks for something between two steps; whether it came since the last call. */
void common_signals_ask(void);
bool common_asked(void);
/* What the first signal is answered with, at once, on stderr; NULL: nothing. */
void common_stop_text(const char *text);
bool common_stopping(void);
/* What the program ends with: status, and of an interruption the signal's own. */
int common_end(int status);

/* ---- progress ----------------------------------------------------------- */

/* On a terminal: one line, drawn again at most 6 times a second; text is dropped when it comes
 * sooner. Elsewhere nothing. */
void common_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether common_progress would draw now: for texts that cost something. */
bool common_progress_due(void);
/* Only complaints and warnings, from now on. */
void common_quiet(void);
/* A line that stays, on stderr. */
void common_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same above what is drawn, which is drawn again. */
void common_line_above(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "1:02:03" */
struct common_text common_clock(double seconds);
/* Removes the drawn line. */
void common_progress_clear(void);
/* "loading 1.2 of 3.4 GiB": drawn on a terminal, and a line every 10 seconds elsewhere. */
void common_progress_bytes(const char *what, uint64_t done, uint64_t total);

/* Prints the library's warnings; the ofl_log_fn of both programs. */
void common_log(void *arg, enum ofl_log_level level, const char *text);

/* ---- files -------------------------------------------------------------- */

/* A file to be filled, beside path: its descriptor, or -errno. It has the mode and the owner of the file at
 * path if there is one, else the mode that umask asks for. */
int common_file_begin(const char *path, char **temporary);
/* With err 0 it takes the place of path, else it is removed; frees temporary. err, or -errno. */
int common_file_end(const char *path, char *temporary, int err);

/* What an option names; path NULL: it is not given. */
struct common_use {
    const char *option, *path;
};
/* That no file of out is one of in, which are files or directories of them, or another of out, or lies in dir (NULL: none).
 * Returns a status. */
int common_outputs_check(const struct common_use *out, size_t out_count, const struct common_use *in,
                         size_t in_count, const char *dir);

/* Opens for writing. Of a FIFO a reader is waited for, until a signal: -ECANCELED. Else a descriptor, or -errno. */
int common_open_to_write(const char *path, int flags);
/* All of it; a reader that is slow is waited for, until a signal: -ECANCELED. 0 or -errno. */
int common_write_all(int fd, const void *bytes, size_t count);

/* ---- report ------------------------------------------------------------- */

/* A timeline of what ctx does from now on; path NULL: none. Returns a status. */
int common_timeline_open(struct ofl_ctx *ctx, const char *path);
/* Ends it, however the run went, and says how large it is. Returns a status. */
int common_timeline_close(struct ofl_ctx *ctx, const char *path);

#define COMMON_STALLS 3 /* that reports name */
struct common_stall {
    char text[256]; /* "stall     1.234 s for NAME: drive busy (12 times, longest 0.200 s)" */
};
/* The worst ones, the first of them first. Returns how many there are. */
unsigned common_stalls(struct ofl_ctx *ctx, struct common_stall out[COMMON_STALLS]);
/* The same for reports; NULL: no memory. */
json_t *common_stalls_json(struct ofl_ctx *ctx);
/* What each drive has done so far, for common_report_stats, which takes it; NULL: no memory. */
json_t *common_drives_json(struct ofl_ctx *ctx);
/* Adds budget, peak, moved, the counters, stalls (of common_stalls_json, which it takes) and io to a report. */
int common_report_stats(json_t *report, const struct ofl_stats *stats, json_t *drives, json_t *stalls);
/* Whether it could be written there: 0 or -errno. Writes nothing. */
int common_report_check(const char *path);
/* A regular file is replaced whole, at the end of links if path is one; anything else that is
 * there already (a FIFO, a device, an open descriptor) is written to and stays what it is. */
int common_report_write(const char *path, json_t *report);

#endif
