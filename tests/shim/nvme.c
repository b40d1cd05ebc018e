/*
 * For tests/smart.sh: preloaded into nvme-cli, which decodes a page only from a device. It is given a device that can be read
 * without harm; its admin command is answered with the page in the file that OFL_SMART_PAGE names.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...)
{
    const char *path = getenv("OFL_SMART_PAGE");
    void *arg;
    va_list ap;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (path && (request == NVME_IOCTL_ADMIN_CMD || request == NVME_IOCTL_ADMIN64_CMD)) {
        /* Both structs begin alike. */
        struct nvme_admin_cmd *cmd = arg;
        uint8_t page[512] = {0};
        int from = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = from < 0 ? -1 : read(from, page, sizeof page);

        if (from >= 0)
            close(from);
        if (cmd->opcode != 2 || (cmd->cdw10 & 0xff) != 2 || got != sizeof page ||
            cmd->data_len != sizeof page) {
            errno = EINVAL;
            return -1;
        }
        memcpy((void *)(uintptr_t)cmd->addr, page, sizeof page);
        return 0;
    }
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, arg);
}
