/* --log: a line for each step and each evaluation, written as it ends. See finetune.h. A run that goes on from a commit takes out the lines of
 * steps that come again, and what a killed process has left of one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/finetune.h"

static const char header[] = "step,steps,loss,grad_norm,lr,tokens,step_s,tokens_per_s,stall_s,eval_loss\n";
static const char jsonl[] = "{\"step\": ";

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), e = strlen(end);

    return n > e && strcmp(text + n - e, end) == 0;
}

bool log_check(const struct options *o, struct common_complaint *c)
{
    if (o->log && !ends_with(o->log, ".jsonl") && !ends_with(o->log, ".csv"))
        return common_complain(c, "--log %s: FILE ends in .jsonl, for a JSON object a line, or .csv", o->log);
    return true;
}

static bool is_csv(const struct log *l)
{
    return ends_with(l->path, ".csv");
}

static int failed(const struct log *l, int err)
{
    return common_fail(common_status_late(err), "--log %s: %s", l->path, strerror(-err));
}

/* What a line of ours begins with, up to the step's number. */
static const char *begin_of(const struct log *l)
{
    return is_csv(l) ? "" : jsonl;
}

/* Up to which byte the file has whole lines of steps up to that one. -1: it is no log. */
static off_t whole_until(const struct log *l, FILE *f, uint64_t step)
{
    const char *begin = begin_of(l);
    char line[512];
    off_t until = 0;
    bool first = is_csv(l);

    while (fgets(line, sizeof line, f)) {
        size_t n = strlen(line);
        char *end;
        unsigned long long number;

        if (first && strncmp(line, header, n) != 0)
            return -1;
        if (line[n - 1] != '\n' && n == sizeof line - 1)
            return -1;
        if (!first) {
            if (strncmp(line, begin, strlen(begin) < n ? strlen(begin) : n) != 0)
                return -1;
            number = n > strlen(begin) ? strtoull(line + strlen(begin), &end, 10) : 0;
            if (n > strlen(begin) && (end == line + strlen(begin) || (*end != ',' && *end)))
                return -1;
            if (number > step || line[n - 1] != '\n')
                break;
        }
        if (line[n - 1] != '\n')
            break;
        first = false;
        until += (off_t)n;
    }
    return until;
}

/* A file that is no log is never cut. */
static int cut(const struct log *l, uint64_t step)
{
    FILE *f = fopen(l->path, "re");
    off_t until;

    if (!f)
        return failed(l, -errno);
    until = whole_until(l, f, step);
    fclose(f);
    if (until < 0)
        return common_fail(EXIT_INPUT, "--log %s: what is there is no log of ofl-finetune: give another name",
                           l->path);
    return ftruncate(l->fd, until) < 0 ? failed(l, -errno) : 0;
}

int log_open(struct log *l, const struct options *o, uint64_t step)
{
    struct stat st;
    int status = 0;

    *l = (struct log){.path = o->log, .fd = -1};
    if (!o->log)
        return 0;
    l->fd = common_open_to_write(o->log, O_CREAT | O_APPEND);
    if (l->fd == -ECANCELED)
        return EXIT_INTERRUPTED;
    if (l->fd < 0)
        return failed(l, l->fd);
    if (fstat(l->fd, &st) < 0)
        return failed(l, -errno);
    if (S_ISREG(st.st_mode) && st.st_size)
        status = cut(l, step);
    if (status == 0 && is_csv(l) && (!S_ISREG(st.st_mode) || lseek(l->fd, 0, SEEK_END) == 0)) {
        int err = common_write_all(l->fd, header, strlen(header));

        status = err < 0 ? failed(l, err) : 0;
    }
    return status;
}

static int put(const struct log *l, const char *line, size_t n)
{
    int err = common_write_all(l->fd, line, n);

    return err < 0 && err != -ECANCELED ? failed(l, err) : 0;
}

int log_step(struct log *l, const struct log_line *s)
{
    unsigned long long step = s->step, steps = s->steps, tokens = s->tokens;
    double rate = (double)tokens / s->seconds;
    char line[512];
    int n;

    if (l->fd < 0)
        return 0;
    if (is_csv(l))
        n = snprintf(line, sizeof line, "%llu,%llu,%.17g,%.17g,%.17g,%llu,%.6f,%.3f,%.6f,\n", step, steps,
                     s->loss, s->norm, s->lr, tokens, s->seconds, rate, s->stall_s);
    else
        n = snprintf(line, sizeof line,
                     "%s%llu, \"steps\": %llu, \"loss\": %.17g, \"grad_norm\": %.17g, \"lr\": %.17g, "
                     "\"tokens\": %llu, \"step_s\": %.6f, \"tokens_per_s\": %.3f, \"stall_s\": %.6f}\n",
                     jsonl, step, steps, s->loss, s->norm, s->lr, tokens, s->seconds, rate, s->stall_s);
    return put(l, line, (size_t)n);
}

int log_eval(struct log *l, uint64_t step, uint64_t steps, double loss)
{
    char line[512];
    int n;

    if (l->fd < 0)
        return 0;
    n = snprintf(line, sizeof line,
                 is_csv(l) ? "%s%llu,%llu,,,,,,,,%.17g\n"
                           : "%s%llu, \"steps\": %llu, \"eval_loss\": %.17g}\n",
                 begin_of(l), (unsigned long long)step, (unsigned long long)steps, loss);
    return put(l, line, (size_t)n);
}

int log_close(struct log *l)
{
    int err = l->fd >= 0 && close(l->fd) < 0 ? -errno : 0;

    l->fd = -1;
    return err < 0 ? failed(l, err) : 0;
}
