/*
 * Small files of a model directory: JSON in and out, copies, and the sentence of a failure.
 *
 * Functions that fail return a negative code, an errno value or one of enum ofl_code, and
 * write a sentence into the caller's error: "what failed: object, numbers with units: cause".
 */
#ifndef LLAMA_FILES_H
#define LLAMA_FILES_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* Writes the sentence; returns code. error may be NULL. */
int llama_fail(int code, char *error, size_t error_bytes, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Text out of a file, made fit for a sentence: short, and without control characters. */
struct llama_quoted {
    char text[132];
};
struct llama_quoted llama_quote(const char *text);

/* "dir/name", for free(); NULL without memory. */
char *llama_path(const char *dir, const char *name);

/* 0 if path exists and is a regular file (or a link to one), -ENOENT if it does not exist,
 * another code with its sentence. -ENOENT has one too. */
int llama_file_check(const char *path, char *error, size_t error_bytes);

/* Reads a file that must hold one JSON object, without duplicate keys, of at most max_bytes. */
int llama_json_load(const char *path, uint64_t max_bytes, json_t **out, char *error, size_t error_bytes);

/* As Python reads JSON: of a key that is there twice the last counts, and NaN and infinities are taken, as strings. */
int llama_json_load_loose(const char *path, uint64_t max_bytes, json_t **out, char *error,
                          size_t error_bytes);

/* Creates path, which must not exist, with object as its text; on disk when it returns. */
int llama_json_save(const char *path, const json_t *object, char *error, size_t error_bytes);

/* Writes all bytes at the file's position; path is for the sentence. */
int llama_write_all(int fd, const char *path, const void *buf, uint64_t bytes, char *error,
                    size_t error_bytes);

/* Copies a regular file to a path that must not exist; on disk when it returns. */
int llama_file_copy(const char *from, const char *to, char *error, size_t error_bytes);

#endif
