/*
 * A directory that appears whole: it is written under a name of its own, beside the wanted one, brought to disk, and
 * renamed. What can't be renamed over (a mount point, a directory in one that we may not change) is written inside,
 * and its files are moved up, config.json last.
 *
 * The wanted name is taken when it is opened, so that a second run with the same name is refused before its work,
 * not after. A failure or a cancel before all is written removes what was made; after that nothing is removed any
 * more, and the sentence says where it lies. A killed process leaves "<dir>.partial-XXXXXX".
 *
 * Functions return 0 or a negative code, with the sentence in error.
 */
#ifndef MODEL_OUTPUT_H
#define MODEL_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct llama_output;

/* Whether dir could be opened: for asking before hours of work. Creates nothing. replace: what an earlier run has written
 * there may be replaced, once the new one is whole; anything else is refused. */
int llama_output_check(const char *dir, bool replace, char *error, size_t error_bytes);
/* dir must not exist, or be empty (or, with replace, a result). -EEXIST; -EBUSY: another run writes there. */
int llama_output_open(const char *dir, bool replace, struct llama_output **out, char *error,
                      size_t error_bytes);
/* Where its files are to be made; flat. */
const char *llama_output_dir(const struct llama_output *o);
/* All files are there: from now on they stay. Brings them to disk, and gives them their name. */
int llama_output_publish(struct llama_output *o, char *error, size_t error_bytes);
/* Removes what is not whole; the sentence in error is kept, and says what could not be removed. NULL accepted. */
void llama_output_close(struct llama_output *o, char *error, size_t error_bytes);

#endif
