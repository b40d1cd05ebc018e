/* common: a file that takes another's place, whole. See common.h. Knows nothing of what is in it. */
#include "examples/common.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_TRIES 100
#define LOOK_MS    50 /* from one look for a reader, or a signal, to the next */

/* As the file that it will replace: who could not read that must not read this. Another's owner and
 * group stay where the system lets us; without the group, its rights go too. */
static int take_over(int fd, const struct stat *old)
{
    mode_t mode = old->st_mode & 07777;

    if (fchown(fd, (uid_t)-1, old->st_gid) < 0)
        mode &= ~(mode_t)(S_ISGID | S_IRWXG);
    if (fchown(fd, old->st_uid, (gid_t)-1) < 0)
        mode &= ~(mode_t)S_ISUID;
    return fchmod(fd, mode) < 0 ? -errno : 0;
}

int common_file_begin(const char *path, char **temporary)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
    unsigned char random[6];
    struct stat old;
    bool replaces = stat(path, &old) == 0;
    int fd, err = -EEXIST;

    if (asprintf(temporary, "%s.XXXXXX", path) < 0) {
        *temporary = NULL;
        return -ENOMEM;
    }
    for (int i = 0; i < NAME_TRIES && err == -EEXIST; i++) {
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
            break;
        for (size_t j = 0; j < sizeof random; j++)
            (*temporary)[strlen(path) + 1 + j] = letters[random[j] % 32];
        /* open, unlike mkstemp, gives a new file the mode that the user's umask asks for. */
        fd = open(*temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, replaces ? 0600 : 0666);
        err = fd < 0 ? -errno : replaces ? take_over(fd, &old) : 0;
        if (err == 0)
            return fd;
        if (fd >= 0) {
            unlink(*temporary);
            close(fd);
        }
    }
    free(*temporary);
    *temporary = NULL;
    return err;
}

int common_file_end(const char *path, char *temporary, int err)
{
    if (err == 0 && rename(temporary, path) < 0)
        err = -errno;
    if (err < 0)
        unlink(temporary);
    free(temporary);
    return err;
}

int common_open_to_write(const char *path, int flags)
{
    /* One that is a FIFO would block in a call that a signal starts anew. */
    for (bool told = false;; told = true) {
        int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags, 0666);
        struct stat st;

        if (fd >= 0)
            return fd;
        if (errno != ENXIO || stat(path, &st) < 0 || !S_ISFIFO(st.st_mode))
            return -errno;
        if (common_stopping())
            return -ECANCELED;
        if (!told)
            common_line("waiting for a reader of %s", path);
        poll(NULL, 0, LOOK_MS);
    }
}

int common_write_all(int fd, const void *bytes, size_t count)
{
    const char *at = bytes;

    while (count) {
        ssize_t n = write(fd, at, count);

        if (n > 0) {
            at += n;
            count -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};

            if (common_stopping())
                return -ECANCELED;
            poll(&p, 1, LOOK_MS);
        } else if (n < 0 && errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}
