/*
 * ofl-bench probe: accelerators: what hangs on the PCI bus, what NVIDIA's driver calls it, and
 * what CUDA sees. The CUDA driver is opened at run time, if it is there: nothing is built
 * against it.
 */
#include "bench/probe_gpu.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bench/probe_text.h"
#include "io/drive.h"

#define PCI    "/sys/bus/pci/devices"
#define NVIDIA "/proc/driver/nvidia/gpus"

/* ---- the PCI bus ---------------------------------------------------------------- */

static const char *vendor_name(unsigned vendor)
{
    switch (vendor) {
    case 0x10de:
        return "NVIDIA";
    case 0x1002:
        return "AMD";
    case 0x8086:
        return "Intel";
    default:
        return "";
    }
}

/* Base class 03: display and 3D controllers; 12: processing accelerators. */
static bool is_accelerator(const char *address)
{
    char text[32];
    unsigned long class;

    if (!probe_read(text, sizeof text, PCI "/%s/class", address))
        return false;
    class = strtoul(text, NULL, 16) >> 16;
    return class == 0x03 || class == 0x12;
}

static void probe_function(const char *address, json_t *list)
{
    char text[32], path[400], link[96], model[200], vendor_text[32];
    unsigned vendor = 0, device = 0;
    struct probe_list l = {0};
    int node = -1;

    if (probe_read(text, sizeof text, PCI "/%s/vendor", address))
        vendor = (unsigned)strtoul(text, NULL, 16);
    if (probe_read(text, sizeof text, PCI "/%s/device", address))
        device = (unsigned)strtoul(text, NULL, 16);
    if (probe_read(text, sizeof text, PCI "/%s/numa_node", address))
        node = atoi(text);
    snprintf(path, sizeof path, PCI "/%s", address);
    io_drive_pcie(path, link, sizeof link);
    snprintf(path, sizeof path, NVIDIA "/%s/information", address);
    probe_find(path, "Model", model, sizeof model);
    snprintf(vendor_text, sizeof vendor_text, "%s", vendor_name(vendor));
    if (!vendor_text[0])
        snprintf(vendor_text, sizeof vendor_text, "vendor %04x", vendor);
    if (model[0])
        probe_add(&l, "%s", model);
    else
        probe_add(&l, "%s %04x", vendor_text, device);
    probe_add(&l, "%s", link[0] ? link : "link unknown");
    if (node >= 0)
        probe_add(&l, "node %d", node);
    else
        probe_add(&l, "node unknown");
    probe_line(0, address, "%s", l.text);
    json_array_append_new(
        list, json_pack("{s:o, s:o, s:i, s:i, s:o, s:o, s:o}", "pci", bench_text_json(address), "vendor",
                        probe_json_text(vendor_name(vendor)), "vendor_id", (int)vendor, "device_id",
                        (int)device, "model", probe_json_text(model), "link", probe_json_text(link),
                        "numa_node", probe_json_number(node >= 0, (uint64_t)node)));
}

static int is_entry(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static json_t *probe_bus(void)
{
    json_t *list = json_array();
    struct dirent **entries;
    int count = scandir(PCI, &entries, is_entry, alphasort);

    for (int i = 0; i < count; i++) {
        if (is_accelerator(entries[i]->d_name))
            probe_function(entries[i]->d_name, list);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    if (count < 0)
        probe_line(0, "PCI bus", "unknown: this kernel shows none");
    else if (json_array_size(list) == 0)
        probe_line(0, "PCI bus", "no display, 3D or accelerator controller");
    return list;
}

/* ---- CUDA ------------------------------------------------------------------------- */

/* The part of the CUDA driver interface that is used here; a result of 0 is success. */
struct cuda {
    void *library;
    int (*init)(unsigned flags);
    int (*version)(int *version);
    int (*count)(int *count);
    int (*get)(int *device, int index);
    int (*name)(char *name, int bytes, int device);
    int (*total)(size_t *bytes, int device);
    int (*pci)(char *address, int bytes, int device);
    int (*error)(int result, const char **text);
};

/* A data pointer becomes one to a function, which POSIX allows and C doesn't. */
static bool find_function(const struct cuda *c, const char *name, void *function)
{
    void *found = dlsym(c->library, name);

    memcpy(function, &found, sizeof found);
    return found != NULL;
}

/* Why not, or NULL. */
static const char *cuda_open(struct cuda *c, char *reason, size_t bytes)
{
    const struct {
        const char *name;
        void *function;
    } functions[] = {{"cuInit", &c->init},
                     {"cuDriverGetVersion", &c->version},
                     {"cuDeviceGetCount", &c->count},
                     {"cuDeviceGet", &c->get},
                     {"cuDeviceGetName", &c->name},
                     {"cuDeviceTotalMem_v2", &c->total},
                     {"cuDeviceGetPCIBusId", &c->pci},
                     {"cuGetErrorString", &c->error}};

    c->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!c->library) {
        snprintf(reason, bytes, "%s", dlerror());
        return reason;
    }
    for (size_t i = 0; i < ARRAY_COUNT(functions); i++) {
        if (!find_function(c, functions[i].name, functions[i].function)) {
            snprintf(reason, bytes, "libcuda.so.1 has no %s", functions[i].name);
            return reason;
        }
    }
    return NULL;
}

static const char *cuda_sentence(const struct cuda *c, const char *what, int result, char *reason,
                                 size_t bytes)
{
    const char *text = NULL;

    if (c->error(result, &text) != 0 || !text)
        text = "unknown error";
    snprintf(reason, bytes, "%s: %s (%d)", what, text, result);
    return reason;
}

static void probe_device(const struct cuda *c, int index, json_t *list)
{
    char label[24], name[200] = "", address[32] = "";
    struct probe_list l = {0};
    size_t bytes = 0;
    int device = 0;

    if (c->get(&device, index) != 0)
        return;
    if (c->name(name, sizeof name, device) != 0)
        name[0] = '\0';
    if (c->pci(address, sizeof address, device) != 0)
        address[0] = '\0';
    if (c->total(&bytes, device) != 0)
        bytes = 0;
    snprintf(label, sizeof label, "device %d", index);
    probe_add(&l, "%s", name[0] ? name : "name unknown");
    probe_add(&l, "%s", bytes ? common_bytes(bytes).text : "memory unknown");
    probe_add(&l, "%s", address[0] ? address : "PCI address unknown");
    probe_line(1, label, "%s", l.text);
    json_array_append_new(
        list, json_pack("{s:i, s:o, s:o, s:o}", "index", index, "name", probe_json_text(name), "memory_bytes",
                        probe_json_number(bytes > 0, bytes), "pci", probe_json_text(address)));
}

static json_t *probe_cuda(void)
{
    char reason[512] = "";
    json_t *devices = json_array();
    struct cuda c = {0};
    int version = 0, count = 0, result;
    const char *why = cuda_open(&c, reason, sizeof reason);

    if (!why && (result = c.init(0)) != 0)
        why = cuda_sentence(&c, "cuInit", result, reason, sizeof reason);
    if (!why && (result = c.count(&count)) != 0)
        why = cuda_sentence(&c, "cuDeviceGetCount", result, reason, sizeof reason);
    if (!why && c.version(&version) != 0)
        version = 0;
    if (why)
        probe_line(0, "CUDA", "not usable: %s", why);
    else
        probe_line(0, "CUDA", "driver interface %d.%d, %d device%s", version / 1000, version % 1000 / 10,
                   count, count == 1 ? "" : "s");
    for (int i = 0; !why && i < count; i++)
        probe_device(&c, i, devices);
    /* The library stays open: the driver's threads live in it. */
    return json_pack("{s:b, s:o, s:o, s:o}", "works", why == NULL, "reason", probe_json_text(reason),
                     "driver_version", probe_json_number(version > 0, (uint64_t)version), "devices", devices);
}

void probe_gpus(json_t *report)
{
    probe_title("Accelerators");
    json_object_set_new(report, "accelerators", probe_bus());
    json_object_set_new(report, "cuda", probe_cuda());
}
