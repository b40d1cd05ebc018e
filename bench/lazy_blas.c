/*
 * OpenBLAS, loaded when something is first multiplied: it starts a thread for each core as it is loaded, which would stand
 * beside what `ofl-bench nvme` measures. Owns the three calls of it that ofl-bench makes, under their own names, and is linked
 * in its place.
 */
#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/common.h"

#define LIBRARY "libopenblas.so.0"

static struct {
    void (*sgemm)(CBLAS_LAYOUT, CBLAS_TRANSPOSE, CBLAS_TRANSPOSE, blasint, blasint, blasint, float,
                  const float *, blasint, const float *, blasint, float, float *, blasint);
    int (*get_threads)(void);
    void (*set_threads)(int);
} blas;

static void load(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (library) {
        *(void **)&blas.sgemm = dlsym(library, "cblas_sgemm");
        *(void **)&blas.get_threads = dlsym(library, "openblas_get_num_threads");
        *(void **)&blas.set_threads = dlsym(library, "openblas_set_num_threads");
    }
    if (blas.sgemm && blas.get_threads && blas.set_threads)
        return;
    /* As a program that is linked with it does not start without it. */
    exit(common_fail(EXIT_INPUT, "load " LIBRARY ": %s; on Debian: apt-get install libopenblas0-pthread",
                     dlerror()));
}

static void need(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, load);
}

void cblas_sgemm(CBLAS_LAYOUT layout, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n, blasint k,
                 float alpha, const float *a, blasint lda, const float *b, blasint ldb, float beta, float *c,
                 blasint ldc)
{
    need();
    blas.sgemm(layout, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

int openblas_get_num_threads(void)
{
    need();
    return blas.get_threads();
}

void openblas_set_num_threads(int threads)
{
    need();
    blas.set_threads(threads);
}
