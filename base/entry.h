/*
 * entry: what public calls look at before anything else, so that a caller's mistake becomes a sentence: pointers
 * that must not be NULL, and whether this is still the process that opened a context. A fork copies memory, but none
 * of the threads that work on it.
 */
#ifndef OFL_BASE_ENTRY_H
#define OFL_BASE_ENTRY_H

#include <stddef.h>

/* Forks between the process that first called base_forks_watch and this one. */
extern unsigned base_forks;

/* Any thread. Has forks counted from now on. */
int base_forks_watch(void);

/* -EINVAL, with the name of the one at index among names, a list with commas. */
int base_null(const char *call, const char *names, size_t index);

static inline int base_need_all(const char *call, const char *names, const void *const *pointers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!pointers[i])
            return base_null(call, names, i);
    return 0;
}

#define BASE_POINTERS(...) ((const void *const[]){__VA_ARGS__})
/* 0, or -EINVAL if one of these pointers, named as they stand here, is NULL. */
#define base_need(...)                                                                                       \
    base_need_all(__func__, #__VA_ARGS__, BASE_POINTERS(__VA_ARGS__),                                        \
                  sizeof BASE_POINTERS(__VA_ARGS__) / sizeof(void *))

#endif
