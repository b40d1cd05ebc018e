/*
 * Lines of `ofl-bench probe`, and facts from files of the kernel. A fact that is not known is printed as
 * "unknown" and is null in the report.
 */
#ifndef BENCH_PROBE_TEXT_H
#define BENCH_PROBE_TEXT_H

#include "bench/bench.h"

/* ---- lines ---------------------------------------------------------------- */

void probe_title(const char *title);
/* "  label         text"; depth 1 is indented further. */
void probe_line(unsigned depth, const char *label, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A text that is put together from pieces, with ", " between them. */
struct probe_list {
    char text[600];
};
void probe_add(struct probe_list *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- facts ----------------------------------------------------------------- */

/* First line of a file; false, and "", if there is none. */
bool probe_read(char *text, size_t bytes, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* What stands behind "key:" (or "key  :") in a file of such lines. */
bool probe_find(const char *path, const char *key, char *text, size_t bytes);
/* "1234 kB" in such a file, in bytes; false if it isn't there. */
bool probe_find_bytes(const char *path, const char *key, uint64_t *out);

/* Null if it is not known. */
json_t *probe_json_text(const char *text);
json_t *probe_json_number(bool known, uint64_t value);

#endif
