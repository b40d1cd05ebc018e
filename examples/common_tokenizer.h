/* A model's tokenizer, opened where memory is short. */
#ifndef EXAMPLES_COMMON_TOKENIZER_H
#define EXAMPLES_COMMON_TOKENIZER_H

#include "examples/model/tokenizer.h"

/* That of a model's directory. Returns a status. */
int common_tokenizer_open(const char *dir, struct tokenizer **out);

#endif
