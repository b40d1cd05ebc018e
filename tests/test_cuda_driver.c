/*
 * Proves of the driver's table: constants, types and signatures are those of cuda.h, where
 * that is installed (the comparison is made by the compiler); a machine without a driver, a
 * driver that lacks a call, and one without a GPU are refused with a sentence each; results
 * become errno codes.
 */
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/device/cuda_driver.h"
#include "tests/cuda_fixture.h"

#if defined __has_include
#if __has_include(<cuda.h>)
#include <cuda.h>
#endif
#endif

#ifdef CUDA_VERSION

/* The toolkit's macros choose the versions that the table names, or newer ones with the same
 * parameters. */
#define X(name, symbol, params)                                                                              \
    _Static_assert(__builtin_types_compatible_p(__typeof__(symbol), cuda_result params), #symbol);
CUDA_CALLS(X)
#undef X

_Static_assert((int)CUDA_OK == CUDA_SUCCESS, "");
_Static_assert((int)CUDA_INVALID_VALUE == CUDA_ERROR_INVALID_VALUE, "");
_Static_assert((int)CUDA_OUT_OF_MEMORY == CUDA_ERROR_OUT_OF_MEMORY, "");
_Static_assert((int)CUDA_NO_DEVICE == CUDA_ERROR_NO_DEVICE, "");
_Static_assert((int)CUDA_INVALID_DEVICE == CUDA_ERROR_INVALID_DEVICE, "");
_Static_assert((int)CUDA_INVALID_IMAGE == CUDA_ERROR_INVALID_IMAGE, "");
_Static_assert((int)CUDA_NO_BINARY == CUDA_ERROR_NO_BINARY_FOR_GPU, "");
_Static_assert((int)CUDA_INVALID_PTX == CUDA_ERROR_INVALID_PTX, "");
_Static_assert((int)CUDA_UNSUPPORTED_PTX == CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "");
_Static_assert((int)CUDA_NOT_FOUND == CUDA_ERROR_NOT_FOUND, "");
_Static_assert((int)CUDA_NOT_READY == CUDA_ERROR_NOT_READY, "");
_Static_assert((int)CUDA_ALREADY_REGISTERED == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "");
_Static_assert((int)CUDA_NOT_PERMITTED == CUDA_ERROR_NOT_PERMITTED, "");
_Static_assert((int)CUDA_NOT_SUPPORTED == CUDA_ERROR_NOT_SUPPORTED, "");
_Static_assert((int)CUDA_STREAM_NON_BLOCKING == CU_STREAM_NON_BLOCKING, "");
_Static_assert((int)CUDA_EVENT_DEFAULT == CU_EVENT_DEFAULT, "");
_Static_assert(CUDA_REGISTER_PORTABLE == CU_MEMHOSTREGISTER_PORTABLE, "");
_Static_assert(CUDA_REGISTER_DEVICEMAP == CU_MEMHOSTREGISTER_DEVICEMAP, "");
_Static_assert(CUDA_ALLOC_PORTABLE == CU_MEMHOSTALLOC_PORTABLE, "");
_Static_assert(CUDA_ALLOC_DEVICEMAP == CU_MEMHOSTALLOC_DEVICEMAP, "");
_Static_assert((int)CUDA_WAIT_GEQ == CU_STREAM_WAIT_VALUE_GEQ, "");
_Static_assert(sizeof(cuda_result) == sizeof(CUresult), "");
_Static_assert(__builtin_types_compatible_p(cuda_device, CUdevice), "");
_Static_assert(__builtin_types_compatible_p(cuda_pointer, CUdeviceptr), "");
_Static_assert(__builtin_types_compatible_p(cuda_context, CUcontext), "");
_Static_assert(__builtin_types_compatible_p(cuda_stream, CUstream), "");
_Static_assert(__builtin_types_compatible_p(cuda_event, CUevent), "");
_Static_assert(__builtin_types_compatible_p(cuda_module, CUmodule), "");
_Static_assert(__builtin_types_compatible_p(cuda_function, CUfunction), "");

static void declarations_match_the_toolkit(void **state)
{
    (void)state; /* it has been compiled */
}

#else

static void declarations_match_the_toolkit(void **state)
{
    (void)state;
    print_message("there is no cuda.h to compare with\n");
    skip();
}

#endif

static const struct {
    const char *file;
    const char *part; /* of the sentence */
} refused[] = {
    {"/proc/self/absent/driver.so", "load the CUDA driver /proc/self/absent/driver.so: "},
    {"libm.so.6", "CUDA driver libm.so.6 has no cuInit: version 12 or later is needed"},
};

static void drivers_are_refused(void **state)
{
    struct cuda_driver d;

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        memset(&d, 0, sizeof d);
        setenv("OFL_CUDA_DRIVER", refused[i].file, 1);
        assert_int_equal(cuda_driver_load(&d, "open device \"cuda:0\""), -ENODEV);
        if (!strstr(base_error_text(), refused[i].part) ||
            strncmp(base_error_text(), "open device \"cuda:0\": ", 22) != 0)
            fail_msg("%s", base_error_text());
    }
}

static const struct {
    cuda_result result;
    int code;
    const char *part;
} results[] = {
    {CUDA_INVALID_VALUE, -EINVAL, "copy 5: CUDA_ERROR_INVALID_VALUE (1): "},
    {CUDA_OUT_OF_MEMORY, -ENOMEM, "copy 5: CUDA_ERROR_OUT_OF_MEMORY (2): "},
    {CUDA_NO_DEVICE, -ENODEV, "CUDA_ERROR_NO_DEVICE (100)"},
    {CUDA_INVALID_DEVICE, -ENODEV, "(101)"},
    {CUDA_INVALID_IMAGE, -ENOEXEC, "(200)"},
    {CUDA_NO_BINARY, -ENOEXEC, "(209)"},
    {CUDA_INVALID_PTX, -ENOEXEC, "(218)"},
    {CUDA_UNSUPPORTED_PTX, -ENOEXEC, "(222)"},
    {CUDA_NOT_FOUND, -ENOENT, "(500)"},
    {CUDA_ALREADY_REGISTERED, -EEXIST, "(712)"},
    {CUDA_NOT_PERMITTED, -EPERM, "(800)"},
    {CUDA_NOT_SUPPORTED, -ENOTSUP, "(801)"},
    {719, -EIO, "CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure"},
    {123456, -EIO, "copy 5: unknown CUDA error (123456): "},
};

static void results_become_codes(void **state)
{
    struct cuda_driver d = {0};

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){0});
    assert_int_equal(cuda_driver_load(&d, "load"), 0);
    for (size_t i = 0; i < sizeof results / sizeof results[0]; i++) {
        assert_int_equal(cuda_driver_fail(&d, results[i].result, "copy %d", 5), results[i].code);
        if (!strstr(base_error_text(), results[i].part))
            fail_msg("%s", base_error_text());
    }
    assert_int_equal(atomic_load(&d.counts.init), 1);
    assert_int_equal(cuda_fixture()->calls("cuInit"), 1);
}

static void a_driver_without_a_gpu(void **state)
{
    struct cuda_driver d = {0};

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){.no_device = true});
    assert_int_equal(cuda_driver_load(&d, "open device \"cuda:0\""), -ENODEV);
    assert_non_null(strstr(base_error_text(), "CUDA_ERROR_NO_DEVICE (100)"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(declarations_match_the_toolkit),
        cmocka_unit_test(drivers_are_refused),
        cmocka_unit_test(results_become_codes),
        cmocka_unit_test(a_driver_without_a_gpu),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
