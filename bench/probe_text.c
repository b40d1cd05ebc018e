/* Lines of `ofl-bench probe`, and facts from files. See probe_text.h. */
#include "bench/probe_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_WIDTH 16

/* ---- lines ---------------------------------------------------------------- */

void probe_title(const char *title)
{
    static bool later;

    common_progress_clear();
    printf("%s%s\n", later ? "\n" : "", title);
    later = true;
}

void probe_line(unsigned depth, const char *label, const char *format, ...)
{
    va_list ap;

    common_progress_clear();
    printf("%*s%-*s", 2 + 2 * (int)depth, "", LABEL_WIDTH - 2 * (int)depth, label);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

void probe_add(struct probe_list *l, const char *format, ...)
{
    size_t at = strlen(l->text);
    va_list ap;

    if (at && at + 2 < sizeof l->text) {
        memcpy(l->text + at, ", ", 3);
        at += 2;
    }
    va_start(ap, format);
    vsnprintf(l->text + at, sizeof l->text - at, format, ap);
    va_end(ap);
}

/* ---- facts ----------------------------------------------------------------- */

bool probe_read(char *text, size_t bytes, const char *format, ...)
{
    char path[1024];
    va_list ap;
    FILE *f;

    text[0] = '\0';
    va_start(ap, format);
    vsnprintf(path, sizeof path, format, ap);
    va_end(ap);
    f = fopen(path, "re");
    if (!f)
        return false;
    if (!fgets(text, (int)bytes, f))
        text[0] = '\0';
    fclose(f);
    text[strcspn(text, "\n")] = '\0';
    return text[0] != '\0';
}

/* What stands behind the colon if line is that of key, else NULL. */
static char *value_of(char *line, const char *key)
{
    size_t length = strlen(key);

    if (strncmp(line, key, length) != 0)
        return NULL;
    line += length + strspn(line + length, " \t");
    if (*line != ':')
        return NULL;
    line += 1 + strspn(line + 1, " \t");
    line[strcspn(line, "\n")] = '\0';
    return line;
}

bool probe_find(const char *path, const char *key, char *text, size_t bytes)
{
    FILE *f = fopen(path, "re");
    char *line = NULL, *value = NULL;
    size_t room = 0;

    text[0] = '\0';
    if (!f)
        return false;
    while (!value && getline(&line, &room, f) > 0)
        value = value_of(line, key);
    if (value)
        snprintf(text, bytes, "%s", value);
    free(line);
    fclose(f);
    return text[0] != '\0';
}

bool probe_find_bytes(const char *path, const char *key, uint64_t *out)
{
    char text[64];
    ull value;

    *out = 0;
    if (!probe_find(path, key, text, sizeof text) || sscanf(text, "%llu kB", &value) != 1)
        return false;
    *out = value << 10;
    return true;
}

json_t *probe_json_text(const char *text)
{
    return text[0] ? bench_text_json(text) : json_null();
}

json_t *probe_json_number(bool known, uint64_t value)
{
    return known ? json_integer((json_int_t)value) : json_null();
}
