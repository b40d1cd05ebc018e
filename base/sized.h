/*
 * sized: structs that begin with their size, as callers of any version fill them. A shorter
 * one is an older caller's: what it lacks is zero. A longer one is a newer caller's: -E2BIG if
 * it asks for what this version lacks, that is, if its tail isn't zero.
 */
#ifndef OFL_BASE_SIZED_H
#define OFL_BASE_SIZED_H

#include <stddef.h>

/* No struct is larger: a size beyond it was never set. */
#define BASE_SIZED_MAX 65536u

/* Reads *from, of size *(size_t *)from, into to, of known bytes. least: the smallest size
 * that makes sense, else -EINVAL, as for NULL and for a size beyond BASE_SIZED_MAX. what names the struct in the sentence. */
int base_sized_read(void *to, size_t known, size_t least, const void *from, const char *what);

/* Writes known bytes of from to *to as far as *(size_t *)to says; a longer tail becomes zero.
 * The size itself stays. -EINVAL if it is smaller than a size, or beyond
 * BASE_SIZED_MAX, and for NULL. */
int base_sized_write(void *to, const void *from, size_t known, const char *what);

#endif
