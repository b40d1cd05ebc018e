/* update_avx2: the loops with AVX2. Compiled for it: see the Makefile. */
#ifdef __AVX2__
#define OPTIM_FORM optim_form_avx2
#include "liboffload/optim/update_loops.h"
#else
#include "liboffload/optim/update.h"

const struct optim_form optim_form_avx2;
#endif
