/* device_info: what a device's name stands for, before a context is opened. */
#include <errno.h>
#include <stdio.h>

#include "base/sized.h"
#include "liboffload/core/context.h"

int ofl_device_info_get(const char *device, struct ofl_device_info *out)
{
    struct ofl_device_info info = {.size = sizeof info};
    struct mem_machine machine;
    struct dev_info dev;
    int err = base_need(out);

    if (err == 0)
        err = dev_info_get(device ? device : "cuda", &dev);
    if (err == -ENODEV && !device)
        err = dev_info_get("host", &dev);
    if (err < 0)
        return err;
    mem_machine_get(&machine);
    snprintf(info.device, sizeof info.device, "%s", dev.device);
    snprintf(info.name, sizeof info.name, "%s", dev.name);
    info.gpu = dev.memory_bytes != 0;
    info.memory_bytes = info.gpu ? dev.memory_bytes : machine.memory_bytes;
    return base_sized_write(out, &info, sizeof info, "device information");
}
