/* common: the budget of a kept store. See common_budget.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "examples/common_budget.h"
#include "examples/model/trainer.h"

typedef unsigned long long ull;

const char *common_keep_place(const struct common_budget *b, char place[4096])
{
    if (snprintf(place, 4096, "%s", b->store.dir) >= 4096)
        return b->store.dir;
    return access(b->store.dir, F_OK) == 0 ? b->store.dir : dirname(place);
}

/* What the files of a run that is there already take of the drive: a run that goes on needs it no more. */
static uint64_t held_bytes(const char *dir)
{
    DIR *d = opendir(dir);
    uint64_t bytes = 0;
    struct dirent *e;
    struct stat st;

    while (d && (e = readdir(d)))
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_blocks * 512;
    if (d)
        closedir(d);
    return bytes;
}

int common_budget_keep(const struct common_budget *b, const struct llama_trainer_need *need,
                       uint64_t scratch_bytes)
{
    uint64_t twice = 2 * need->kept_bytes, there, held;
    char place[4096];
    struct statvfs fs;

    if (b->store.bytes && b->store.bytes < twice)
        return common_fail(
            EXIT_INPUT,
            "--store %s: %llu bytes to use: what is kept takes %llu bytes, and room for that twice; "
            "the smallest workable SIZE is %llu (%s)",
            b->store.dir, (ull)b->store.bytes, (ull)need->kept_bytes, (ull)twice, common_bytes(twice).text);
    if (statvfs(common_keep_place(b, place), &fs) < 0)
        return common_fail(EXIT_INPUT, "--store %s: %s", b->store.dir, strerror(errno));
    there = (uint64_t)fs.f_bavail * fs.f_frsize;
    held = held_bytes(b->store.dir);
    if (there + held >= twice + scratch_bytes)
        return 0;
    return common_fail(
        EXIT_INPUT,
        "--store %s: %llu bytes (%s) free there%s: what is kept takes %llu bytes, and room for that twice%s: "
        "%llu bytes (%s) in all%s",
        b->store.dir, (ull)(there + held), common_bytes(there + held).text,
        held ? ", the run's own with them" : "", (ull)need->kept_bytes,
        scratch_bytes ? ", and all else beside it" : "", (ull)(twice + scratch_bytes),
        common_bytes(twice + scratch_bytes).text,
        scratch_bytes ? "; or give --nvme DIR for what is not kept" : "");
}
