/* common: that what is written replaces nothing that is read. See common.h. */
#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "examples/common.h"

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether file is that one, or lies in that directory, by itself or by a link. */
static bool holds(const char *path, const struct stat *file)
{
    struct stat s;
    struct dirent *e;
    bool found = false;
    DIR *d;

    if (stat(path, &s) < 0)
        return false;
    if (!S_ISDIR(s.st_mode))
        return is_same(&s, file);
    d = opendir(path);
    while (d && !found && (e = readdir(d)) != NULL)
        found = fstatat(dirfd(d), e->d_name, &s, 0) == 0 && is_same(&s, file);
    if (d)
        closedir(d);
    return found;
}

/* Whether path lies right in dir. */
static bool lies_in(const char *path, const char *dir)
{
    struct stat above, s;
    char parent[4096];

    return snprintf(parent, sizeof parent, "%s", path) < (int)sizeof parent &&
           stat(dirname(parent), &above) == 0 && stat(dir, &s) == 0 && is_same(&above, &s);
}

static int check_one(const struct common_use *to, const struct common_use *in, size_t in_count)
{
    struct stat file;

    if (stat(to->path, &file) < 0 || !S_ISREG(file.st_mode))
        return 0;
    for (size_t i = 0; i < in_count; i++)
        if (in[i].path && holds(in[i].path, &file))
            return common_fail(EXIT_INPUT, "%s %s: %s %s is read, and would be replaced: give another name",
                               to->option, to->path, in[i].option, in[i].path);
    return 0;
}

/* Two that would be one file. */
static int check_two(const struct common_use *a, const struct common_use *b)
{
    struct stat one, two;

    if (strcmp(a->path, b->path) != 0 && !(stat(a->path, &one) == 0 && stat(b->path, &two) == 0 &&
                                           S_ISREG(one.st_mode) && is_same(&one, &two)))
        return 0;
    return common_fail(EXIT_INPUT, "%s %s: it is the file of %s, too: give another name", b->option, b->path,
                       a->option);
}

int common_outputs_check(const struct common_use *out, size_t out_count, const struct common_use *in,
                         size_t in_count, const char *dir)
{
    int status = 0;

    for (size_t i = 0; i < out_count && status == 0; i++) {
        if (!out[i].path)
            continue;
        status = check_one(&out[i], in, in_count);
        if (status == 0 && dir && lies_in(out[i].path, dir))
            status = common_fail(EXIT_INPUT, "%s %s: --out %s is to be the model's alone: give another place",
                                 out[i].option, out[i].path, dir);
        for (size_t k = 0; k < i && status == 0; k++)
            if (out[k].path)
                status = check_two(&out[k], &out[i]);
    }
    return status;
}
