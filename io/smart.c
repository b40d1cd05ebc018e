/* io: see smart.h. */
#include "io/smart.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"

#define GET_LOG_PAGE   0x02u
#define PAGE_HEALTH    0x02u
#define ALL_NAMESPACES 0xffffffffu
#define ASK_TIMEOUT_MS 5000u

/* ---- the page ---------------------------------------------------------------------- */

static io_smart_count number(const uint8_t *at, unsigned bytes)
{
    io_smart_count n = 0;

    while (bytes--)
        n = n << 8 | at[bytes];
    return n;
}

/* Offsets are the specification's. */
void io_smart_parse(const uint8_t page[IO_SMART_PAGE], struct io_smart *out)
{
    io_smart_count *const counts[] = {&out->units_read,     &out->units_written,    &out->read_commands,
                                      &out->write_commands, &out->busy_minutes,     &out->power_cycles,
                                      &out->power_on_hours, &out->unsafe_shutdowns, &out->media_errors,
                                      &out->error_entries};

    *out = (struct io_smart){.warnings = page[0],
                             .temperature_k = (uint16_t)number(page + 1, 2),
                             .spare = page[3],
                             .spare_threshold = page[4],
                             .used = page[5],
                             .group_warnings = page[6],
                             .warm_minutes = (uint32_t)number(page + 192, 4),
                             .hot_minutes = (uint32_t)number(page + 196, 4)};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        *counts[i] = number(page + 32 + 16 * i, 16);
    for (unsigned i = 0; i < IO_SMART_SENSORS; i++)
        out->sensor_k[i] = (uint16_t)number(page + 200 + 2 * i, 2);
    for (unsigned i = 0; i < 2; i++) {
        out->throttle_count[i] = (uint32_t)number(page + 216 + 4 * i, 4);
        out->throttle_s[i] = (uint32_t)number(page + 224 + 4 * i, 4);
    }
}

void io_smart_text(io_smart_count n, char text[IO_SMART_TEXT])
{
    char digits[IO_SMART_TEXT];
    unsigned count = 0, at = 0;

    do {
        digits[count++] = (char)('0' + (unsigned)(n % 10));
        n /= 10;
    } while (n);
    while (count)
        text[at++] = digits[--count];
    text[at] = '\0';
}

/* ---- the drive ------------------------------------------------------------------------ */

bool io_smart_controller(const char *drive, char *name, unsigned bytes)
{
    size_t length = 4;

    if (strncmp(drive, "nvme", 4) != 0)
        return false;
    while (isdigit((unsigned char)drive[length]))
        length++;
    if (length == 4 || length >= bytes || (drive[length] && drive[length] != 'n' && drive[length] != 'c'))
        return false;
    memcpy(name, drive, length);
    name[length] = '\0';
    return true;
}

/* The character device: it is there without a namespace, too. */
static int open_controller(const char *controller)
{
    char path[64];
    int fd, err;

    snprintf(path, sizeof path, "/dev/%s", controller);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    err = -errno;
    return base_fail(err, "ask %s: %s%s", path, strerror(-err),
                     err == -EACCES || err == -EPERM ? ": it answers to root, or who may read its device"
                                                     : "");
}

int io_smart_read(const char *controller, struct io_smart *out)
{
    uint8_t page[IO_SMART_PAGE] = {0};
    struct nvme_admin_cmd cmd = {.opcode = GET_LOG_PAGE,
                                 .nsid = ALL_NAMESPACES,
                                 .addr = (uintptr_t)page,
                                 .data_len = sizeof page,
                                 .cdw10 = PAGE_HEALTH | (sizeof page / 4 - 1) << 16,
                                 .timeout_ms = ASK_TIMEOUT_MS};
    int fd = open_controller(controller), rc, err;

    if (fd < 0)
        return fd;
    rc = ioctl(fd, NVME_IOCTL_ADMIN_CMD, &cmd);
    err = rc < 0 ? -errno : 0;
    close(fd);
    if (rc < 0)
        return base_fail(err, "ask /dev/%s for its health: %s%s", controller, strerror(-err),
                         err == -EACCES || err == -EPERM ? ": the kernel wants CAP_SYS_ADMIN" : "");
    if (rc > 0)
        return base_fail(-EIO, "ask /dev/%s for its health: the drive refuses with status 0x%x", controller,
                         (unsigned)rc);
    io_smart_parse(page, out);
    return 0;
}

/* ---- sysfs ------------------------------------------------------------------------------ */

static bool read_celsius(const char *directory, double *celsius)
{
    char path[512], text[32] = "";
    FILE *f;

    if (snprintf(path, sizeof path, "%s/temp1_input", directory) >= (int)sizeof path)
        return false;
    f = fopen(path, "re");
    if (!f)
        return false;
    if (fgets(text, sizeof text, f))
        *celsius = strtod(text, NULL) / 1000;
    fclose(f);
    return isdigit((unsigned char)text[0]) || (text[0] == '-' && isdigit((unsigned char)text[1]));
}

/* Of "hwmon3", below the controller or, in older kernels, below a directory "hwmon" there. */
static bool find_hwmon(const char *directory, double *celsius)
{
    DIR *d = opendir(directory);
    bool found = false;
    struct dirent *e;

    while (d && !found && (e = readdir(d))) {
        char path[400];

        if (strncmp(e->d_name, "hwmon", 5) != 0 ||
            snprintf(path, sizeof path, "%s/%.100s", directory, e->d_name) >= (int)sizeof path)
            continue;
        found = read_celsius(path, celsius) || (!e->d_name[5] && find_hwmon(path, celsius));
    }
    if (d)
        closedir(d);
    return found;
}

bool io_smart_hwmon(const char *sys, const char *controller, double *celsius)
{
    char path[256], device[300];

    if (snprintf(path, sizeof path, "%s/class/nvme/%s", sys, controller) >= (int)sizeof path)
        return false;
    snprintf(device, sizeof device, "%s/device", path);
    return find_hwmon(path, celsius) || find_hwmon(device, celsius);
}
