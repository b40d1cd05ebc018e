/* See cuda.h. */
#include "bench/cuda.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/drive.h"

#define PCI "/sys/bus/pci/devices"

/* The driver's numbers of attributes (CUdevice_attribute). */
enum { MULTIPROCESSORS = 16, COPY_ENGINES = 40, MAJOR = 75, MINOR = 76 };

int bench_cuda_fail(const struct bench_cuda *c, bench_cuda_result result, const char *call)
{
    const char *name = NULL, *text = NULL;

    if (c->error_name(result, &name) != 0 || !name)
        name = "unknown CUDA error";
    if (c->error_string(result, &text) != 0 || !text)
        text = "no text";
    return common_fail(EXIT_RUNTIME, "%s: %s (%d): %s", call, name, result, text);
}

static int load(struct bench_cuda *c)
{
    const char *other = secure_getenv("OFL_CUDA_DRIVER"), *file = other && other[0] ? other : "libcuda.so.1";
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return common_fail(EXIT_RUNTIME, "no GPU: load the CUDA driver %s: %s", file, dlerror());
#define X(name, symbol, params)                                                                              \
    *(void **)&c->name = dlsym(library, #symbol);                                                            \
    if (!c->name)                                                                                            \
        return common_fail(EXIT_RUNTIME, "CUDA driver %s has no %s", file, #symbol);
    BENCH_CUDA_CALLS(X)
#undef X
    return 0;
}

static int attribute(const struct bench_cuda *c, int number)
{
    int value;

    return c->device_attribute(&value, number, c->device) == 0 ? value : -1;
}

/* The link and the node are the kernel's to tell: the driver has no call for them. */
static void describe_place(struct bench_cuda *c)
{
    char path[128];
    FILE *f;

    for (char *p = c->pci; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    snprintf(path, sizeof path, PCI "/%s", c->pci);
    io_drive_pcie(path, c->link, sizeof c->link);
    snprintf(path, sizeof path, PCI "/%s/numa_node", c->pci);
    f = fopen(path, "re");
    if (!f)
        return;
    if (fscanf(f, "%d", &c->node) != 1)
        c->node = -1;
    fclose(f);
}

static void describe(struct bench_cuda *c)
{
    size_t free_bytes = 0, all_bytes = 0;

    if (c->device_name(c->name, sizeof c->name, c->device) != 0)
        c->name[0] = '\0';
    if (c->device_pci(c->pci, sizeof c->pci, c->device) != 0)
        c->pci[0] = '\0';
    if (c->version(&c->driver_version) != 0)
        c->driver_version = -1;
    c->major = attribute(c, MAJOR);
    c->minor = attribute(c, MINOR);
    c->multiprocessors = attribute(c, MULTIPROCESSORS);
    c->copy_engines = attribute(c, COPY_ENGINES);
    (void)c->mem_info(&free_bytes, &all_bytes); /* zeros: not known */
    c->free_bytes = free_bytes;
    c->memory_bytes = all_bytes;
    if (c->pci[0])
        describe_place(c);
}

int bench_cuda_open(struct bench_cuda *c, unsigned unit)
{
    bench_cuda_result result;
    int count = 0, status;

    *c = (struct bench_cuda){.node = -1};
    status = load(c);
    if (status)
        return status;
    result = c->init(0);
    if (result)
        return bench_cuda_fail(c, result, "no GPU: cuInit");
    result = c->device_count(&count);
    if (result)
        return bench_cuda_fail(c, result, "cuDeviceGetCount");
    if (unit >= (unsigned)count)
        return common_fail(EXIT_RUNTIME, "cuda:%u: there is no such GPU: the driver has %d", unit, count);
    result = c->device_get(&c->device, (int)unit);
    if (result)
        return bench_cuda_fail(c, result, "cuDeviceGet");
    result = c->context_retain(&c->context, c->device);
    if (result) {
        c->context = NULL;
        return bench_cuda_fail(c, result, "cuDevicePrimaryCtxRetain");
    }
    result = c->context_set(c->context);
    if (result)
        return bench_cuda_fail(c, result, "cuCtxSetCurrent");
    describe(c);
    return 0;
}

void bench_cuda_close(struct bench_cuda *c)
{
    if (!c->context)
        return;
    (void)c->context_set(NULL);
    (void)c->context_release(c->device); /* a lost device fails it, and has nothing left */
    c->context = NULL;
}

static json_t *known(int value)
{
    return value >= 0 ? json_integer(value) : json_null();
}

json_t *bench_cuda_json(const struct bench_cuda *c)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "name",
                     bench_text_json(c->name[0] ? c->name : NULL), "pci",
                     bench_text_json(c->pci[0] ? c->pci : NULL), "link",
                     bench_text_json(c->link[0] ? c->link : NULL), "numa_node", known(c->node),
                     "driver_version", known(c->driver_version), "compute_major", known(c->major),
                     "compute_minor", known(c->minor), "multiprocessors", known(c->multiprocessors),
                     "copy_engines", known(c->copy_engines), "memory_bytes", (json_int_t)c->memory_bytes);
}
