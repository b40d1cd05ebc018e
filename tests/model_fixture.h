/* Files of a model directory, made for tests: safetensors with zeros as data, JSON, anything.
 * Everything fails the running test by itself. */
#ifndef TESTS_MODEL_FIXTURE_H
#define TESTS_MODEL_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* A new directory below parent, and its removal with all that is in it; the string is freed too. */
char *files_dir(const char *parent, const char *prefix);
void files_remove(char *dir);
/* Entries of a directory. */
size_t files_count(const char *dir);

char *files_path(const char *dir, const char *name); /* for free() */
void files_put(const char *dir, const char *name, const void *bytes, size_t count);
void files_put_json(const char *dir, const char *name, json_t *object); /* takes the reference */
unsigned char *files_get(const char *path, size_t *bytes);              /* for free() */

/* {"dtype": ..., "shape": [...]} */
json_t *files_tensor(const char *dtype, uint32_t dims, const uint64_t *shape);
/* Sets the keys of the JSON text in object: "-" removes, ["F32", 2, 3] is a tensor. NULL changes nothing. */
void files_change(json_t *object, const char *text);
/* A safetensors file of these tensors, one after the other in the order of the object. */
void files_put_safetensors(const char *dir, const char *name, json_t *tensors);

/* The largest difference of two vectors, all of whose numbers must be finite. */
float largest_difference(const float *a, const float *b, size_t n);

#endif
