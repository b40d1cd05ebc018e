/* Small files of a model directory: see files.h. Knows nothing of models. */
#include "examples/model/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/offload.h"

#define COPY_BYTES (256u << 10)

int llama_fail(int code, char *error, size_t error_bytes, const char *fmt, ...)
{
    va_list ap;

    if (!error || error_bytes == 0)
        return code;
    va_start(ap, fmt);
    vsnprintf(error, error_bytes, fmt, ap);
    va_end(ap);
    for (char *at = error; *at; at++) /* names come from files of others, and sentences go to terminals */
        if ((unsigned char)*at < 0x20 || *at == 0x7F)
            *at = '?';
    return code;
}

struct llama_quoted llama_quote(const char *text)
{
    struct llama_quoted q;
    size_t room = sizeof q.text - 4, n = strnlen(text, room + 1);
    bool cut = n > room;

    if (cut)
        for (n = room; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80;)
            n--;
    for (size_t i = 0; i < n; i++)
        q.text[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
    memcpy(q.text + n, cut ? "..." : "", cut ? 4 : 1);
    return q;
}

char *llama_path(const char *dir, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

/* Opens a regular file; a FIFO in its place must not block us. */
static int open_regular(const char *path, uint64_t *bytes, char *error, size_t error_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), rc = 0;
    struct stat st;

    if (fd < 0)
        return llama_fail(-errno, error, error_bytes, "open %s: %s", path, ofl_strerror(errno));
    if (fstat(fd, &st) != 0)
        rc = llama_fail(-errno, error, error_bytes, "open %s: %s", path, ofl_strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = llama_fail(S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, error, error_bytes,
                        "open %s: not a regular file", path);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    *bytes = (uint64_t)st.st_size;
    return fd;
}

int llama_file_check(const char *path, char *error, size_t error_bytes)
{
    uint64_t bytes;
    int fd = open_regular(path, &bytes, error, error_bytes);

    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

static int read_all(int fd, const char *path, char *buf, uint64_t bytes, char *error, size_t error_bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = read(fd, buf + done, bytes - done);

        if (n > 0)
            done += (uint64_t)n;
        else if (n == 0)
            return llama_fail(-EIO, error, error_bytes,
                              "read %s: offset %" PRIu64 ", %" PRIu64 " bytes: the file has shrunk", path,
                              done, bytes - done);
        else if (errno != EINTR)
            return llama_fail(-errno, error, error_bytes,
                              "read %s: offset %" PRIu64 ", %" PRIu64 " bytes: %s", path, done, bytes - done,
                              ofl_strerror(errno));
    }
    return 0;
}

/* Numbers that JSON does not have become strings of the same length: whoever needs a number there refuses them. */
static void quote_words(char *text, uint64_t bytes)
{
    static const char *const words[][2] = {
        {"-Infinity", "\"-inf   \""}, {"Infinity", "\"inf   \""}, {"NaN", "\"?\""}};
    bool inside = false;

    for (uint64_t i = 0; i < bytes; i++) {
        if (text[i] == '"')
            inside = !inside;
        else if (inside && text[i] == '\\')
            i++;
        for (size_t w = 0; !inside && w < sizeof words / sizeof words[0]; w++) {
            size_t n = strlen(words[w][0]);

            if (bytes - i >= n && memcmp(text + i, words[w][0], n) == 0) {
                memcpy(text + i, words[w][1], n);
                i += n - 1;
                break;
            }
        }
    }
}

static int load_json(const char *path, uint64_t max_bytes, bool loose, json_t **out, char *error,
                     size_t error_bytes)
{
    json_error_t problem;
    uint64_t bytes = 0;
    json_t *root;
    char *text;
    int fd = open_regular(path, &bytes, error, error_bytes), rc;

    if (fd < 0)
        return fd;
    if (bytes > max_bytes) {
        close(fd);
        return llama_fail(-OFL_EFORMAT, error, error_bytes,
                          "read %s: %" PRIu64 " bytes, at most %" PRIu64 " are expected of it", path, bytes,
                          max_bytes);
    }
    text = malloc(bytes + 1);
    rc = text ? read_all(fd, path, text, bytes, error, error_bytes)
              : llama_fail(-ENOMEM, error, error_bytes, "read %s: %" PRIu64 " bytes: no memory", path, bytes);
    close(fd);
    if (rc == 0) {
        if (loose)
            quote_words(text, bytes);
        root = json_loadb(text, bytes, loose ? 0 : JSON_REJECT_DUPLICATES, &problem);
        if (json_is_object(root)) {
            *out = root;
        } else {
            rc = root ? llama_fail(-OFL_EFORMAT, error, error_bytes, "read %s: not a JSON object", path)
                      : llama_fail(-OFL_EFORMAT, error, error_bytes, "read %s: line %d: %s", path,
                                   problem.line < 1 ? 1 : problem.line, llama_quote(problem.text).text);
            json_decref(root);
        }
    }
    free(text);
    return rc;
}

int llama_json_load(const char *path, uint64_t max_bytes, json_t **out, char *error, size_t error_bytes)
{
    return load_json(path, max_bytes, false, out, error, error_bytes);
}

int llama_json_load_loose(const char *path, uint64_t max_bytes, json_t **out, char *error, size_t error_bytes)
{
    return load_json(path, max_bytes, true, out, error, error_bytes);
}

int llama_write_all(int fd, const char *path, const void *buf, uint64_t bytes, char *error,
                    size_t error_bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = write(fd, (const char *)buf + done, bytes - done);

        if (n > 0)
            done += (uint64_t)n;
        else if (n == 0 || errno != EINTR)
            return llama_fail(n < 0 ? -errno : -EIO, error, error_bytes, "write %s: %" PRIu64 " bytes: %s",
                              path, bytes - done, ofl_strerror(n < 0 ? errno : EIO));
    }
    return 0;
}

/* Ends a new file: on disk, every error seen. Takes fd. */
static int finish(int fd, const char *path, int rc, char *error, size_t error_bytes)
{
    if (rc == 0 && fsync(fd) != 0)
        rc = llama_fail(-errno, error, error_bytes, "fsync %s: %s", path, ofl_strerror(errno));
    if (close(fd) != 0 && rc == 0)
        rc = llama_fail(-errno, error, error_bytes, "close %s: %s", path, ofl_strerror(errno));
    return rc;
}

int llama_json_save(const char *path, const json_t *object, char *error, size_t error_bytes)
{
    /* 9 digits carry any float; llama_config_save passes the shortest that do. */
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    int fd, rc;

    if (!text)
        return llama_fail(-ENOMEM, error, error_bytes, "write %s: no memory", path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = llama_fail(-errno, error, error_bytes, "create %s: %s", path, ofl_strerror(errno));
    } else {
        rc = llama_write_all(fd, path, text, strlen(text), error, error_bytes);
        if (rc == 0)
            rc = llama_write_all(fd, path, "\n", 1, error, error_bytes);
        rc = finish(fd, path, rc, error, error_bytes);
    }
    free(text);
    return rc;
}

int llama_file_copy(const char *from, const char *to, char *error, size_t error_bytes)
{
    uint64_t bytes = 0;
    int in = open_regular(from, &bytes, error, error_bytes), out = -1, rc = in;
    char *buf = NULL;

    if (in < 0)
        return rc;
    buf = malloc(COPY_BYTES);
    if (!buf) {
        rc = llama_fail(-ENOMEM, error, error_bytes, "copy %s: no memory", from);
        goto out;
    }
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out < 0) {
        rc = llama_fail(-errno, error, error_bytes, "create %s: %s", to, ofl_strerror(errno));
        goto out;
    }
    rc = 0;
    for (uint64_t done = 0; rc == 0 && done < bytes;) {
        uint64_t n = bytes - done < COPY_BYTES ? bytes - done : COPY_BYTES;

        rc = read_all(in, from, buf, n, error, error_bytes);
        if (rc == 0)
            rc = llama_write_all(out, to, buf, n, error, error_bytes);
        done += n;
    }
    rc = finish(out, to, rc, error, error_bytes);
out:
    close(in);
    free(buf);
    return rc;
}
