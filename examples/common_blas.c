/* common: OpenBLAS's threads, apart, so that a program without products does without OpenBLAS. */
#include <cblas.h>
#include <sched.h>
#include <stdlib.h>

#include "examples/common.h"

void common_blas_threads(void)
{
    cpu_set_t set;
    int cores = 1;

    if (getenv("OPENBLAS_NUM_THREADS"))
        return;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cores = CPU_COUNT(&set);
    openblas_set_num_threads(cores < 64 ? cores : 64);
}

int common_blas_count(void)
{
    return openblas_get_num_threads();
}

bool common_blas_use(int threads)
{
    if (threads == common_blas_count())
        return true;
    if (getenv("OPENBLAS_NUM_THREADS") || threads < 1)
        return false;
    openblas_set_num_threads(threads);
    return threads == common_blas_count();
}
