/*
 * A folder of a test program's own, below OFL_TEST_DIR or else build/tmp: not below /tmp, which may be
 * small, in memory, or full of what others left. What is to be absent is named in it, since any fixed path may
 * be there on somebody's machine.
 */
#ifndef TESTS_TEMPORARY_H
#define TESTS_TEMPORARY_H

#include <stddef.h>

/* Makes it and writes its path; 0, or -1 after a sentence on stderr. */
int temporary_dir(const char *name, char *path, size_t room);

#endif
