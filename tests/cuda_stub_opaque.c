/*
 * cuda_stub_opaque: the stub's device memory. With OFL_STUB_OPAQUE in the environment it is as
 * far from the processor as a GPU's is: its addresses can't be touched, and the stub itself
 * works on a second mapping of the same pages. See cuda_stub.h. Under the stub's lock, but for
 * stub_reach, which the streams call while the ranges that they work on stay.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/cuda_stub_state.h"

static struct {
    _Atomic uintptr_t device;
    size_t bytes;
    unsigned char *reach;
} opaque[RANGES];

static size_t whole_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (bytes + page - 1) / page * page;
}

static void *map_twice(size_t bytes)
{
    int i = 0, fd = memfd_create("device memory", MFD_CLOEXEC);
    unsigned char *device, *reach;

    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
        abort();
    device = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, fd, 0);
    reach = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    while (i < RANGES && atomic_load(&opaque[i].device))
        i++;
    if (device == MAP_FAILED || reach == MAP_FAILED || i == RANGES)
        abort();
    opaque[i].bytes = bytes;
    opaque[i].reach = reach;
    atomic_store(&opaque[i].device, (uintptr_t)device);
    return device;
}

void *stub_device_alloc(size_t bytes)
{
    void *p = NULL;

    if (getenv("OFL_STUB_OPAQUE"))
        return map_twice(whole_pages(bytes));
    return posix_memalign(&p, 512, (bytes + 511) / 512 * 512) == 0 ? p : NULL;
}

void stub_device_free(void *p)
{
    for (int i = 0; i < RANGES; i++) {
        if (atomic_load(&opaque[i].device) == (uintptr_t)p) {
            munmap(p, opaque[i].bytes);
            munmap(opaque[i].reach, opaque[i].bytes);
            atomic_store(&opaque[i].device, 0);
            return;
        }
    }
    free(p);
}

unsigned char *stub_reach(const void *p)
{
    for (int i = 0; i < RANGES; i++) {
        uintptr_t device = atomic_load(&opaque[i].device);

        if (device && (uintptr_t)p >= device && (uintptr_t)p - device < opaque[i].bytes)
            return opaque[i].reach + ((uintptr_t)p - device);
    }
    return (unsigned char *)(uintptr_t)p;
}
