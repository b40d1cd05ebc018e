/*
 * Drives in sysfs: see drive.h. Owns the way from a device number to the whole drive,
 * its queue, the controllers above it and the drives below it. Believes nothing: every
 * file may be missing, too long or no text.
 */
#include "io/drive_internal.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <xxhash.h>

#define SECTOR_BYTES  512u /* of sysfs, whatever the drive's are */
#define MEMBERS_MAX   64u
#define MEMBERS_DEPTH 8u /* volumes on volumes */

/* ---- files ------------------------------------------------------------- */

/* Bytes read, 0 if there is nothing. */
static size_t read_bytes(const char *directory, const char *name, char *to, size_t bytes)
{
    char path[PATH_MAX];
    ssize_t got = -1;
    int fd;

    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return 0;
    /* without waiting: a test's tree, or a strange mount, may have a FIFO there */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return 0;
    got = read(fd, to, bytes);
    close(fd);
    return got > 0 ? (size_t)got : 0;
}

static void tidy(char *text)
{
    size_t from = strspn(text, " \t"), length = strcspn(text + from, "\n");

    while (length && (text[from + length - 1] == ' ' || text[from + length - 1] == '\t'))
        length--;
    memmove(text, text + from, length);
    text[length] = '\0';
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

bool io_drive_read_text(const char *directory, const char *name, char *text, unsigned bytes)
{
    char raw[1024];
    size_t got = read_bytes(directory, name, raw, sizeof raw - 1);

    raw[got] = '\0';
    tidy(raw);
    io_drive_copy(text, bytes, raw);
    return text[0] != '\0';
}

/* A whole number; 0 if it is none, or too large. */
static uint64_t read_number(const char *directory, const char *name)
{
    char text[32];

    if (!io_drive_read_text(directory, name, text, sizeof text) || strlen(text) > 19 ||
        text[strspn(text, "0123456789")])
        return 0;
    return strtoull(text, NULL, 10);
}

static uint32_t read_number32(const char *directory, const char *name, uint64_t unit)
{
    uint64_t value = read_number(directory, name);

    return value <= UINT32_MAX / unit ? (uint32_t)(value * unit) : 0;
}

static bool resolve(char real[PATH_MAX], const char *format, ...)
{
    char path[PATH_MAX];
    va_list ap;
    int length;

    va_start(ap, format);
    length = vsnprintf(path, sizeof path, format, ap);
    va_end(ap);
    return length < (int)sizeof path && realpath(path, real) != NULL;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* ---- controllers ------------------------------------------------------- */

/* Whether text is the prefix and then digits only. */
static bool is_numbered(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);

    return strncmp(text, prefix, length) == 0 && text[length] &&
           text[length + strspn(text + length, "0123456789")] == '\0';
}

/* "0000:3b:00.0" */
static bool is_pci_function(const char *text)
{
    static const char form[] = "xxxx:xx:xx.x";

    if (strlen(text) != sizeof form - 1)
        return false;
    for (size_t i = 0; i < sizeof form - 1; i++)
        if (form[i] == 'x' ? !isxdigit((unsigned char)text[i]) : form[i] != text[i])
            return false;
    return true;
}

/* A link's speed in GT/s, as sysfs words it; Mb/s of payload per lane, after 8b/10b or 128b/130b
 * coding (the sixth generation's frames are close to 242/256). */
static const struct pcie_generation {
    unsigned transfers, lane_mbps;
    const char *name;
} pcie_generations[] = {{2, 2000, "1.0"},   {5, 4000, "2.0"},   {8, 7877, "3.0"},
                        {16, 15754, "4.0"}, {32, 31508, "5.0"}, {64, 60500, "6.0"}};

static const struct pcie_generation *read_generation(const char *directory, const char *name)
{
    char text[64];
    unsigned long transfers;

    if (!io_drive_read_text(directory, name, text, sizeof text))
        return NULL;
    transfers = strtoul(text, NULL, 10);
    for (size_t i = 0; i < sizeof pcie_generations / sizeof pcie_generations[0]; i++)
        if (pcie_generations[i].transfers == transfers)
            return &pcie_generations[i];
    return NULL;
}

void io_drive_pcie(const char *directory, char *text, unsigned bytes)
{
    const struct pcie_generation *now = read_generation(directory, "current_link_speed"),
                                 *most = read_generation(directory, "max_link_speed");
    uint64_t lanes = read_number(directory, "current_link_width"),
             lanes_most = read_number(directory, "max_link_width"), tenths;
    int length;

    text[0] = '\0';
    if (!now || lanes == 0 || lanes > 32)
        return;
    tenths = (now->lane_mbps * lanes + 400) / 800;
    length = snprintf(text, bytes, "PCIe %s x%" PRIu64 " (%" PRIu64 ".%" PRIu64 " GB/s)", now->name, lanes,
                      tenths / 10, tenths % 10);
    /* the one thing that people should know about a slot; idle links of GPUs also show it */
    if (most && lanes_most <= 32 && (most->transfers > now->transfers || lanes_most > lanes) && length > 0 &&
        (unsigned)length < bytes)
        snprintf(text + length, bytes - (unsigned)length, ", able to do %s x%" PRIu64, most->name,
                 lanes_most);
}

/* One directory of the way from the drive up to the root of devices. function: the PCI function
 * of the drive was passed; those above it are bridges. */
static void look_at(const char *directory, struct io_drive *d, bool *function)
{
    const char *name = base_name(directory);
    char text[64], file[64];

    if (d->numa_node < 0 && io_drive_read_text(directory, "numa_node", text, sizeof text) &&
        isdigit((unsigned char)text[0]))
        d->numa_node = (int)read_number32(directory, "numa_node", 1);
    if (d->link[0])
        return;
    if (is_numbered(name, "virtio")) {
        snprintf(d->link, sizeof d->link, "virtio");
    } else if (is_numbered(name, "ata")) {
        snprintf(file, sizeof file, "link%.16s/ata_link/link%.16s/sata_spd", name + 3, name + 3);
        if (io_drive_read_text(directory, file, text, sizeof text) && isdigit((unsigned char)text[0]))
            snprintf(d->link, sizeof d->link, "SATA %s", text);
    } else if (is_numbered(name, "nvme")) {
        if (io_drive_read_text(directory, "transport", text, sizeof text) && strcmp(text, "pcie") != 0)
            snprintf(d->link, sizeof d->link, "NVMe over %s", text);
    } else if (is_pci_function(name)) {
        if (!*function && strncmp(d->name, "nvme", 4) == 0)
            io_drive_pcie(directory, d->link, sizeof d->link);
        *function = true;
    } else if (isdigit((unsigned char)name[0]) && strchr(name, '-') && read_number(directory, "devnum")) {
        if (io_drive_read_text(directory, "speed", text, sizeof text))
            snprintf(d->link, sizeof d->link, "USB %s Mbps", text);
    }
}

static void look_upwards(const char *root, const char *directory, struct io_drive *d)
{
    char path[PATH_MAX], *slash;
    bool function = false;

    io_drive_copy(path, sizeof path, directory);
    while (strlen(path) > strlen(root) && (slash = strrchr(path, '/'))) {
        look_at(path, d, &function);
        *slash = '\0';
    }
}

static int is_controller(const struct dirent *e)
{
    return is_numbered(e->d_name, "nvme");
}

/* NVMe drives that can have several controllers hang below a virtual subsystem, which has links to
 * them. */
static void look_through_subsystem(const char *root, const char *dir, struct io_drive *d)
{
    char parent[PATH_MAX], real[PATH_MAX];
    struct dirent **entries;
    int count;

    if (!resolve(parent, "%s/..", dir) || !is_numbered(base_name(parent), "nvme-subsys"))
        return;
    count = scandir(parent, &entries, is_controller, versionsort);
    for (int i = 0; i < count; i++) {
        if (i == 0 && resolve(real, "%s/%s", parent, entries[i]->d_name))
            look_upwards(root, real, d);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

/* ---- one drive --------------------------------------------------------- */

static void read_queue(const char *dir, struct io_drive *d)
{
    char text[256], *open_bracket, *end;

    d->logical_block = read_number32(dir, "queue/logical_block_size", 1);
    d->physical_block = read_number32(dir, "queue/physical_block_size", 1);
    d->max_transfer_bytes = read_number32(dir, "queue/max_sectors_kb", 1024);
    d->nr_requests = read_number32(dir, "queue/nr_requests", 1);
    d->io_poll = read_number(dir, "queue/io_poll") == 1;
    d->rotational_known = io_drive_read_text(dir, "queue/rotational", text, sizeof text);
    d->rotational = d->rotational_known && strcmp(text, "1") == 0;
    d->write_cache_known = io_drive_read_text(dir, "queue/write_cache", text, sizeof text);
    d->write_cache = d->write_cache_known && strcmp(text, "write back") == 0;
    if (!io_drive_read_text(dir, "queue/scheduler", text, sizeof text))
        return;
    /* "mq-deadline [none]"; with only one, some kernels leave the brackets out */
    open_bracket = strchr(text, '[');
    end = open_bracket ? strchr(open_bracket, ']') : NULL;
    if (end)
        *end = '\0';
    io_drive_copy(d->scheduler, sizeof d->scheduler, end ? open_bracket + 1 : text);
}

/* The serial number that SCSI keeps in a binary page: four bytes of header, then the text. */
static void read_scsi_serial(const char *dir, struct io_drive *d)
{
    char page[260];
    size_t got = read_bytes(dir, "device/vpd_pg80", page, sizeof page - 1), length;

    if (got <= 4 || (unsigned char)page[1] != 0x80)
        return;
    length = (size_t)((unsigned char)page[2] << 8 | (unsigned char)page[3]);
    page[length < got - 4 ? 4 + length : got] = '\0';
    tidy(page + 4);
    io_drive_copy(d->serial, sizeof d->serial, page + 4);
}

/* The first that tells something; each says the same after a reboot. */
static void read_id(const char *root, const char *dir, struct io_drive *d)
{
    static const char *const files[] = {"wwid", "device/wwid", "dm/uuid", "md/uuid", "device/cid"};
    const char *place = dir + strlen(root);

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (io_drive_read_text(dir, files[i], d->id, sizeof d->id))
            return;
    /* Serial numbers alone repeat: hypervisors give all machines the same. */
    if (d->backing[0])
        snprintf(d->id, sizeof d->id, "file %016" PRIx64 "+%" PRIu64,
                 (uint64_t)XXH3_64bits(d->backing, strlen(d->backing)), read_number(dir, "loop/offset"));
    else if (strncmp(place, "/virtual/", 9) == 0)
        snprintf(d->id, sizeof d->id, "at %s", d->name);
    else /* without "/vda" */
        snprintf(d->id, sizeof d->id, "at %.*s", (int)(strlen(place) - strlen(d->name) - 1), place);
}

/* Drives that are made of memory. */
static bool is_memory(const struct io_drive *d)
{
    return is_numbered(d->name, "zram") || is_numbered(d->name, "ram") || is_numbered(d->name, "nullb") ||
           strcmp(d->model, "scsi_debug") == 0;
}

/* btrfs takes direct writes of a file that has checksums to the page cache. */
static bool has_checksums(const char *file)
{
    int flags = 0, fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool told = fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;

    if (fd >= 0)
        close(fd);
    return told && !(flags & FS_NOCOW_FL);
}

/* Where the file lies that a loop device is made of. One that was removed lay in its directory. */
static void look_behind(const char *dir, struct io_drive *d)
{
    char file[PATH_MAX], *slash;
    struct io_drive below;

    if (read_number(dir, "loop/dio") == 0)
        io_drive_copy(d->cached, sizeof d->cached, d->name);
    io_drive_copy(file, sizeof file, d->backing);
    if (d->depth >= IO_DRIVE_DEPTH || file[0] != '/')
        return;
    if (access(file, F_OK) != 0 && (slash = strrchr(file, '/')))
        slash[slash == file] = '\0';
    if (io_drive_get_below(file, d->depth + 1, &below) < 0)
        return;
    if (below.memory[0])
        snprintf(d->memory, sizeof d->memory, "%.40s on %.40s", d->name, below.memory);
    if (!d->cached[0] && strcmp(below.filesystem, "btrfs") == 0 && has_checksums(file))
        io_drive_copy(d->cached, sizeof d->cached, d->name);
    if (!d->cached[0])
        io_drive_copy(d->cached, sizeof d->cached, below.cached);
}

/* dir is the real directory of a whole drive, root that of all devices. */
static void read_drive(const char *root, const char *dir, struct io_drive *d)
{
    uint64_t sectors = read_number(dir, "size");

    io_drive_copy(d->name, sizeof d->name, base_name(dir));
    d->drive_bytes = sectors <= UINT64_MAX / SECTOR_BYTES ? sectors * SECTOR_BYTES : 0;
    d->read_only |= read_number(dir, "ro") == 1;
    if (!io_drive_read_text(dir, "device/model", d->model, sizeof d->model))
        io_drive_read_text(dir, "device/name", d->model, sizeof d->model);
    if (!io_drive_read_text(dir, "device/serial", d->serial, sizeof d->serial) &&
        !io_drive_read_text(dir, "serial", d->serial, sizeof d->serial))
        read_scsi_serial(dir, d);
    io_drive_read_text(dir, "loop/backing_file", d->backing, sizeof d->backing);
    if (is_memory(d))
        io_drive_copy(d->memory, sizeof d->memory, d->name);
    if (d->backing[0])
        look_behind(dir, d);
    read_queue(dir, d);
    read_id(root, dir, d);
    look_upwards(root, dir, d);
    look_through_subsystem(root, dir, d);
}

/* dir: the real directory of a drive or of a partition, which lies in the drive's. Cuts it to the
 * drive's. */
static void cut_to_drive(char *dir, struct io_drive *d)
{
    uint64_t start = read_number(dir, "start");

    if (read_number(dir, "partition") == 0)
        return;
    io_drive_copy(d->partition, sizeof d->partition, base_name(dir));
    d->partition_offset_bytes = start <= UINT64_MAX / SECTOR_BYTES ? start * SECTOR_BYTES : 0;
    d->read_only |= read_number(dir, "ro") == 1;
    *strrchr(dir, '/') = '\0';
}

/* ---- drives below ------------------------------------------------------ */

/* The drives at the bottom, each once. */
struct members {
    unsigned count;
    char *dir[MEMBERS_MAX]; /* real */
};

static int is_entry(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void collect(struct members *m, const char *list, unsigned depth);

static void add_member(struct members *m, char *dir, unsigned depth)
{
    struct io_drive unused = {0};
    char slaves[PATH_MAX];
    unsigned before = m->count;

    cut_to_drive(dir, &unused);
    if (depth < MEMBERS_DEPTH && resolve(slaves, "%s/slaves", dir))
        collect(m, slaves, depth + 1);
    if (m->count > before || m->count == MEMBERS_MAX)
        return;
    for (unsigned i = 0; i < m->count; i++)
        if (strcmp(m->dir[i], dir) == 0)
            return;
    m->dir[m->count] = strdup(dir);
    m->count += m->dir[m->count] != NULL;
}

/* list is a directory of links to drives and partitions. */
static void collect(struct members *m, const char *list, unsigned depth)
{
    struct dirent **entries;
    char dir[PATH_MAX];
    int count = scandir(list, &entries, is_entry, versionsort);

    for (int i = 0; i < count; i++) {
        if (resolve(dir, "%s/%s", list, entries[i]->d_name))
            add_member(m, dir, depth);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

/* What d doesn't tell itself, from the only drive below it. */
static void adopt(struct io_drive *d, const struct io_drive *below)
{
    if (!d->model[0])
        io_drive_copy(d->model, sizeof d->model, below->model);
    if (!d->serial[0])
        io_drive_copy(d->serial, sizeof d->serial, below->serial);
    if (!d->link[0])
        io_drive_copy(d->link, sizeof d->link, below->link);
    if (!d->scheduler[0])
        io_drive_copy(d->scheduler, sizeof d->scheduler, below->scheduler);
    if (!d->drive_bytes)
        d->drive_bytes = below->drive_bytes;
    if (!d->logical_block)
        d->logical_block = below->logical_block;
    if (!d->physical_block)
        d->physical_block = below->physical_block;
    if (!d->max_transfer_bytes)
        d->max_transfer_bytes = below->max_transfer_bytes;
    if (!d->nr_requests)
        d->nr_requests = below->nr_requests;
    if (!d->rotational_known) {
        d->rotational_known = below->rotational_known;
        d->rotational = below->rotational;
    }
    if (!d->write_cache_known) {
        d->write_cache_known = below->write_cache_known;
        d->write_cache = below->write_cache;
    }
}

/* Fills members, and what follows from them; frees m's. */
static void take_members(const char *root, struct members *m, struct io_drive *d)
{
    struct io_drive below = {0};
    uint64_t ids = 0;
    size_t at = 0, more;
    int node = -1;

    for (unsigned i = 0; i < m->count; i++) {
        below = (struct io_drive){.numa_node = -1, .depth = d->depth};
        read_drive(root, m->dir[i], &below);
        free(m->dir[i]);
        if (!d->memory[0])
            io_drive_copy(d->memory, sizeof d->memory, below.memory);
        if (!d->cached[0])
            io_drive_copy(d->cached, sizeof d->cached, below.cached);
        node = i == 0 || node == below.numa_node ? below.numa_node : -1;
        ids += XXH3_64bits(below.id, strlen(below.id)); /* in any order: names change */
        more = strlen(below.name) + (i > 0);
        if (at + more < sizeof d->members)
            at += (size_t)snprintf(d->members + at, sizeof d->members - at, "%s%s", i ? " " : "", below.name);
    }
    if (m->count == 1)
        adopt(d, &below);
    if (d->numa_node < 0)
        d->numa_node = node;
    if (!d->id[0] || strncmp(d->id, "at ", 3) == 0)
        snprintf(d->id, sizeof d->id, "on %016" PRIx64, ids);
}

/* ---- from the outside -------------------------------------------------- */

void io_drive_read_block(const char *sys, struct io_drive *d)
{
    char root[PATH_MAX], dir[PATH_MAX], slaves[PATH_MAX];
    struct members m = {0};

    if (!resolve(root, "%s/devices", sys) ||
        !resolve(dir, "%s/dev/block/%u:%u", sys, major(d->device), minor(d->device)) ||
        strncmp(dir, root, strlen(root)) != 0)
        return;
    cut_to_drive(dir, d);
    read_drive(root, dir, d);
    if (resolve(slaves, "%s/slaves", dir))
        collect(&m, slaves, 0);
    if (m.count)
        take_members(root, &m, d);
}

/* Whether a directory of a file system's devices has the one that is called name, here or below
 * /dev/mapper. */
static bool has_device(const char *devices, const char *name)
{
    struct dirent **entries;
    char dir[PATH_MAX], text[128];
    int count = scandir(devices, &entries, is_entry, NULL);
    bool found = false;

    for (int i = 0; i < count; i++) {
        found |= strcmp(entries[i]->d_name, name) == 0 ||
                 (resolve(dir, "%s/%s", devices, entries[i]->d_name) &&
                  io_drive_read_text(dir, "dm/name", text, sizeof text) && strcmp(text, name) == 0);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return found;
}

void io_drive_read_btrfs(const char *sys, const char *uuid, struct io_drive *d)
{
    char root[PATH_MAX], list[PATH_MAX], devices[PATH_MAX];
    struct dirent **entries;
    struct members m = {0};
    int count;

    if (!resolve(root, "%s/devices", sys) || !resolve(list, "%s/fs/btrfs", sys))
        return;
    count = scandir(list, &entries, is_entry, alphasort);
    for (int i = 0; i < count; i++) {
        if (m.count == 0 && resolve(devices, "%s/%s/devices", list, entries[i]->d_name) &&
            (uuid ? strcmp(uuid, entries[i]->d_name) == 0 : has_device(devices, base_name(d->source)))) {
            snprintf(d->id, sizeof d->id, "btrfs %.100s", entries[i]->d_name);
            collect(&m, devices, 0);
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    if (m.count)
        take_members(root, &m, d);
}
