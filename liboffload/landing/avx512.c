/* avx512: unpacking with AVX-512 (F, BW, DQ, VL). Compiled for them: see the Makefile. */
#ifdef __AVX512BW__
#include "liboffload/landing/avx512.h"

const struct landing_blocks landing_avx512[OFL_DTYPES] = FORMS_TABLE;
const struct landing_runs landing_runs_avx512 = RUNS_TABLE;
#else
#include "liboffload/landing/landing.h"

const struct landing_blocks landing_avx512[OFL_DTYPES];
const struct landing_runs landing_runs_avx512;
#endif
