/*
 * cuda_stub_info: what a GPU of the stub driver is, for programs that print it, and the one
 * setting that programs need, which can't reset the stub: with OFL_STUB_PAGEABLE in the
 * environment it copies from and to memory that is not registered. See cuda_stub.h.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda_stub_state.h"

static void __attribute__((constructor)) from_environment(void)
{
    stub.config.pageable = getenv("OFL_STUB_PAGEABLE") != NULL;
}

API cuda_result cuDriverGetVersion(int *version)
{
    ENTER(NOTHING);
    *version = 12000;
    return leave(CUDA_OK);
}

API cuda_result cuDeviceGetName(char *name, int bytes, cuda_device device)
{
    ENTER(INIT);
    snprintf(name, (size_t)bytes, "stub GPU %d", device);
    return leave(CUDA_OK);
}

API cuda_result cuDeviceTotalMem_v2(size_t *bytes, cuda_device device)
{
    ENTER(INIT);
    (void)device;
    *bytes = stub.config.memory_bytes ? stub.config.memory_bytes : 1u << 30;
    return leave(CUDA_OK);
}

/* An address that no machine has: what is read from it is not known. */
API cuda_result cuDeviceGetPCIBusId(char *text, int bytes, cuda_device device)
{
    ENTER(INIT);
    snprintf(text, (size_t)bytes, "FFFF:FF:%02X.0", device);
    return leave(CUDA_OK);
}
