/* avx512bf16: unpacking with AVX-512 that rounds to BF16 itself. Compiled for it: see the Makefile. */
#ifdef __AVX512BF16__
#include "liboffload/landing/avx512.h"

const struct landing_blocks landing_avx512bf16[OFL_DTYPES] = FORMS_TABLE;
const struct landing_runs landing_runs_avx512bf16 = RUNS_TABLE;
#else
#include "liboffload/landing/landing.h"

const struct landing_blocks landing_avx512bf16[OFL_DTYPES];
const struct landing_runs landing_runs_avx512bf16;
#endif
