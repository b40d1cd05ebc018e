/* update_avx512: the loops with AVX-512. Compiled for it: see the Makefile. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define OPTIM_FORM optim_form_avx512
#include "liboffload/optim/update_loops.h"
#else
#include "liboffload/optim/update.h"

const struct optim_form optim_form_avx512;
#endif
