/* Files of a model directory, made for tests: see model_fixture.h. */
#include "tests/model_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

char *files_path(const char *dir, const char *name)
{
    char *path = NULL;

    assert_true(asprintf(&path, "%s/%s", dir, name) > 0);
    return path;
}

char *files_dir(const char *parent, const char *prefix)
{
    char *dir = NULL;

    assert_true(asprintf(&dir, "%s/%s-XXXXXX", parent, prefix) > 0);
    assert_non_null(mkdtemp(dir));
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void files_remove(char *dir)
{
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    free(dir);
}

size_t files_count(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    size_t count = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return count;
}

static int create(const char *dir, const char *name)
{
    char *path = files_path(dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    free(path);
    return fd;
}

void files_put(const char *dir, const char *name, const void *bytes, size_t count)
{
    int fd = create(dir, name);

    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

void files_put_json(const char *dir, const char *name, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);

    assert_non_null(text);
    files_put(dir, name, text, strlen(text));
    free(text);
    json_decref(object);
}

unsigned char *files_get(const char *path, size_t *bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char *all;
    struct stat st;

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    *bytes = (size_t)st.st_size;
    all = malloc(*bytes + 1);
    assert_non_null(all);
    assert_int_equal(read(fd, all, *bytes), st.st_size);
    close(fd);
    return all;
}

json_t *files_tensor(const char *dtype, uint32_t dims, const uint64_t *shape)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < dims; i++)
        json_array_append_new(list, json_integer((json_int_t)shape[i]));
    return json_pack("{s:s, s:o}", "dtype", dtype, "shape", list);
}

void files_change(json_t *object, const char *text)
{
    json_t *changes = text ? json_loads(text, 0, NULL) : json_object(), *value;
    const char *key;

    assert_non_null(changes);
    json_object_foreach(changes, key, value)
    {
        uint64_t shape[16] = {0};
        size_t items = json_array_size(value);

        if (json_is_string(value) && strcmp(json_string_value(value), "-") == 0) {
            json_object_del(object, key);
        } else if (items > 0) {
            for (size_t i = 1; i < items; i++)
                shape[i - 1] = (uint64_t)json_integer_value(json_array_get(value, i));
            json_object_set_new(
                object, key,
                files_tensor(json_string_value(json_array_get(value, 0)), (uint32_t)items - 1, shape));
        } else {
            json_object_set(object, key, value);
        }
    }
    json_decref(changes);
}

static uint64_t bytes_of(const json_t *tensor)
{
    const char *dtype = json_string_value(json_object_get(tensor, "dtype"));
    uint64_t bytes = strstr(dtype, "64") ? 8 : strstr(dtype, "32") ? 4 : strchr(dtype, '8') ? 1 : 2;
    const json_t *dim;
    size_t i;

    json_array_foreach(json_object_get(tensor, "shape"), i, dim) bytes *= (uint64_t)json_integer_value(dim);
    return bytes;
}

void files_put_safetensors(const char *dir, const char *name, json_t *tensors)
{
    unsigned char length[8];
    uint64_t offset = 0;
    const char *key;
    json_t *value;
    char *text;
    int fd;

    json_object_foreach(tensors, key, value)
    {
        uint64_t end = offset + bytes_of(value);

        json_object_set_new(value, "data_offsets", json_pack("[I, I]", (json_int_t)offset, (json_int_t)end));
        offset = end;
    }
    text = json_dumps(tensors, JSON_COMPACT);
    assert_non_null(text);
    for (unsigned i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)strlen(text) >> (8 * i));
    fd = create(dir, name);
    assert_int_equal(write(fd, length, 8), 8);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(ftruncate(fd, (off_t)(8 + strlen(text) + offset)), 0);
    close(fd);
    free(text);
}

float largest_difference(const float *a, const float *b, size_t n)
{
    float most = 0;

    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(a[i]) && isfinite(b[i]));
        most = fmaxf(most, fabsf(a[i] - b[i]));
    }
    return most;
}
