/* See temporary.h. */
#include "tests/temporary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int temporary_dir(const char *name, char *path, size_t room)
{
    const char *base = getenv("OFL_TEST_DIR");

    if (!base) {
        base = "build/tmp";
        mkdir("build", 0777); /* they may be there */
        mkdir(base, 0777);
    }
    if (snprintf(path, room, "%s/%s-XXXXXX", base, name) < (int)room && mkdtemp(path))
        return 0;
    fprintf(stderr, "no folder for test files under %s: %s\n", base, strerror(errno));
    return -1;
}
