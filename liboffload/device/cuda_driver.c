/* cuda_driver: see cuda_driver.h. */
#include "liboffload/device/cuda_driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define DRIVER_FILE "libcuda.so.1"

static int code_of(cuda_result result)
{
    switch (result) {
    case CUDA_INVALID_VALUE:
        return -EINVAL;
    case CUDA_OUT_OF_MEMORY:
        return -ENOMEM;
    case CUDA_NO_DEVICE:
    case CUDA_INVALID_DEVICE:
        return -ENODEV;
    case CUDA_INVALID_IMAGE:
    case CUDA_NO_BINARY:
    case CUDA_INVALID_PTX:
    case CUDA_UNSUPPORTED_PTX:
        return -ENOEXEC;
    case CUDA_NOT_FOUND:
        return -ENOENT;
    case CUDA_ALREADY_REGISTERED:
        return -EEXIST;
    case CUDA_NOT_PERMITTED:
        return -EPERM;
    case CUDA_NOT_SUPPORTED:
        return -ENOTSUP;
    case CUDA_NO_COMPILER:
        return -ENOEXEC;
    default:
        return -EIO;
    }
}

int cuda_driver_fail(struct cuda_driver *d, cuda_result result, const char *fmt, ...)
{
    const char *name = NULL, *text = NULL;
    char what[BASE_ERROR_TEXT];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    /* neither needs a context; an unknown result leaves NULL */
    if (CUDA_CALL(d, error_name, result, &name) != CUDA_OK || !name)
        name = "unknown CUDA error";
    if (CUDA_CALL(d, error_string, result, &text) != CUDA_OK || !text)
        text = "no text";
    return base_fail(code_of(result), "%s: %s (%u): %s", what, name, result, text);
}

/* Looks up all; the name of the first that is missing, or NULL. */
static const char *resolve(void *library, struct cuda_calls *calls)
{
#define X(name, symbol, params)                                                                              \
    *(void **)&calls->name = dlsym(library, #symbol);                                                        \
    if (!calls->name)                                                                                        \
        return #symbol;
    CUDA_CALLS(X)
#undef X
    return NULL;
}

void *cuda_driver_symbol(const struct cuda_driver *d, const char *symbol)
{
    return dlsym(d->library, symbol);
}

int cuda_driver_load(struct cuda_driver *d, const char *what)
{
    const char *other = secure_getenv("OFL_CUDA_DRIVER"), *file = other && other[0] ? other : DRIVER_FILE;
    const char *missing;
    cuda_result result;
    void *library;

    library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return base_fail(-ENODEV, "%s: load the CUDA driver %s: %s", what, file, dlerror());
    missing = resolve(library, &d->calls);
    if (missing) {
        dlclose(library);
        return base_fail(-ENODEV, "%s: CUDA driver %s has no %s: version 12 or later is needed", what, file,
                         missing);
    }
    d->library = library;
    result = CUDA_CALL(d, init, 0);
    if (result != CUDA_OK)
        return cuda_driver_fail(d, result, "%s: cuInit of %s", what, file);
    return 0;
}
