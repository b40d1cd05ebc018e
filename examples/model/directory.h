/*
 * What a path is that is given for a model: a Hugging Face directory, or something else that has a name. Nothing is
 * loaded here.
 */
#ifndef LLAMA_DIRECTORY_H
#define LLAMA_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>

/* 0: a directory with a config.json, whose small files are no pointers of git-lfs; or, if gguf, a GGUF file. Else a negative code, with a
 * sentence that says what it is, and what would do. */
int llama_directory_check(const char *path, bool gguf, char *error, size_t error_bytes);

#endif
