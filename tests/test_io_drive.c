/*
 * Proves that a path's drive is described from what the kernel says, and from nothing else: trees
 * of sysfs and mountinfo, as recorded on machines with such drives, give their model, link, node
 * and limits; what is missing stays unknown; what is too long, binary or malicious is cut or
 * dropped. And that a key stays the same for the same drive and differs for others.
 *
 * Negative controls: the trees carry numbers that differ from every default; the drive of a
 * partition also has a partition-like neighbour; the keys are compared with those of trees that
 * differ in one fact.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/drive_internal.h"
#include "base/error.h"

static char root[512]; /* of this run; each test makes and removes a tree below it */

/* ---- trees ------------------------------------------------------------- */

/* A file, or a link if the text begins with "->". */
struct entry {
    const char *path, *text;
};

static void make_parents(char *path)
{
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0755) < 0)
            assert_int_equal(errno, EEXIST);
        *slash = '/';
    }
}

static void put_bytes(const char *name, const void *bytes, size_t count)
{
    char path[1024];
    FILE *f;

    snprintf(path, sizeof path, "%s/tree/%s", root, name);
    make_parents(path);
    (void)unlink(path);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    assert_int_equal(fclose(f), 0);
}

static void put(const char *name, const char *text)
{
    char path[1024];

    if (strncmp(text, "->", 2) != 0) {
        put_bytes(name, text, strlen(text));
        return;
    }
    snprintf(path, sizeof path, "%s/tree/%s", root, name);
    make_parents(path);
    assert_int_equal(symlink(text + 2, path), 0);
}

static void put_all(const struct entry *list)
{
    for (; list->path; list++)
        put(list->path, list->text);
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *walk)
{
    (void)s;
    (void)kind;
    (void)walk;
    return remove(path);
}

static void clear(void)
{
    char path[600];

    snprintf(path, sizeof path, "%s/tree", root);
    (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void look(const char *path, unsigned major_number, unsigned minor_number, struct io_drive *d)
{
    struct io_drive_place place = {.path = path, .device = makedev(major_number, minor_number)};
    char sys[600], proc[600];

    snprintf(sys, sizeof sys, "%s/tree/sys", root);
    snprintf(proc, sizeof proc, "%s/tree/proc", root);
    memset(d, 0xa5, sizeof *d); /* what isn't set shows */
    io_drive_get_at(sys, proc, &place, d);
}

/* ---- recorded drives ---------------------------------------------------- */

#define NVME "sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/nvme/nvme0"

static const struct entry nvme[] = {
    {"proc/self/mountinfo", "22 28 0:20 / /proc rw,nosuid - proc proc rw\n"
                            "28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n"
                            "40 28 259:3 / /home rw - xfs /dev/nvme0n1p3 rw\n"},
    {"sys/dev/block/259:2",
     "->../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/nvme/nvme0/nvme0n1/nvme0n1p2"},
    {"sys/dev/block/259:3",
     "->../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/nvme/nvme0/nvme0n1/nvme0n1p3"},
    {"sys/dev/block/259:0", "->../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/nvme/nvme0/nvme0n1"},
    {NVME "/nvme0n1/nvme0n1p2/partition", "2\n"},
    {NVME "/nvme0n1/nvme0n1p2/start", "1050624\n"},
    {NVME "/nvme0n1/nvme0n1p2/size", "1000\n"},
    {NVME "/nvme0n1/nvme0n1p2/ro", "0\n"},
    {NVME "/nvme0n1/nvme0n1p3/partition", "3\n"},
    {NVME "/nvme0n1/nvme0n1p3/start", "2050624\n"},
    {NVME "/nvme0n1/device", "->../../nvme0"},
    {NVME "/nvme0n1/size", "3907029168\n"},
    {NVME "/nvme0n1/ro", "0\n"},
    {NVME "/nvme0n1/wwid", "eui.0025384331408197\n"},
    {NVME "/nvme0n1/queue/logical_block_size", "512\n"},
    {NVME "/nvme0n1/queue/physical_block_size", "4096\n"},
    {NVME "/nvme0n1/queue/max_sectors_kb", "128\n"},
    {NVME "/nvme0n1/queue/nr_requests", "1023\n"},
    {NVME "/nvme0n1/queue/rotational", "0\n"},
    {NVME "/nvme0n1/queue/write_cache", "write back\n"},
    {NVME "/nvme0n1/queue/io_poll", "1\n"},
    {NVME "/nvme0n1/queue/scheduler", "[none] mq-deadline kyber \n"},
    {NVME "/model", "Samsung SSD 990 PRO 2TB                 \n"},
    {NVME "/serial", "S7DNNJ0W123456X     \n"},
    {NVME "/transport", "pcie\n"},
    {NVME "/numa_node", "1\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/current_link_speed", "16.0 GT/s PCIe\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/current_link_width", "4\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/max_link_speed", "16.0 GT/s PCIe\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/max_link_width", "4\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/numa_node", "1\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/current_link_speed", "2.5 GT/s PCIe\n"},
    {"sys/devices/pci0000:3a/0000:3a:00.0/current_link_width", "16\n"},
    {0}};

static void nvme_partition(void **state)
{
    struct io_drive d;

    (void)state;
    put_all(nvme);
    look("/var/tmp", 259, 2, &d);
    assert_string_equal(d.name, "nvme0n1");
    assert_string_equal(d.partition, "nvme0n1p2");
    assert_int_equal(d.partition_offset_bytes, 1050624ull * 512);
    assert_string_equal(d.model, "Samsung SSD 990 PRO 2TB");
    assert_string_equal(d.serial, "S7DNNJ0W123456X");
    assert_string_equal(d.id, "eui.0025384331408197");
    assert_string_equal(d.link, "PCIe 4.0 x4 (7.9 GB/s)");
    assert_int_equal(d.numa_node, 1);
    assert_string_equal(d.filesystem, "ext4");
    assert_string_equal(d.source, "/dev/nvme0n1p2");
    assert_string_equal(d.mount, "/");
    assert_int_equal(d.drive_bytes, 3907029168ull * 512);
    assert_int_equal(d.logical_block, 512);
    assert_int_equal(d.physical_block, 4096);
    assert_int_equal(d.max_transfer_bytes, 128 << 10);
    assert_int_equal(d.nr_requests, 1023);
    assert_string_equal(d.scheduler, "none");
    assert_true(d.rotational_known && !d.rotational);
    assert_true(d.write_cache_known && d.write_cache);
    assert_true(d.io_poll && !d.read_only);
    assert_string_equal(d.backing, "");
    assert_string_equal(d.members, "");
    look("/home/me", 259, 3, &d);
    assert_string_equal(d.filesystem, "xfs");
    assert_string_equal(d.mount, "/home");
    assert_string_equal(d.partition, "nvme0n1p3");
}

/* In a slot that is too slow or too narrow for it. */
static void slow_slot(void **state)
{
    const struct {
        const char *speed, *width, *text;
    } cases[] = {
        {"8.0 GT/s PCIe\n", "4\n", "PCIe 3.0 x4 (3.9 GB/s), able to do 4.0 x4"},
        {"16.0 GT/s PCIe\n", "2\n", "PCIe 4.0 x2 (3.9 GB/s), able to do 4.0 x4"},
        {"2.5 GT/s", "1", "PCIe 1.0 x1 (0.3 GB/s), able to do 4.0 x4"},
        {"5 GT/s\n", "4\n", "PCIe 2.0 x4 (2.0 GB/s), able to do 4.0 x4"},
        {"32.0 GT/s PCIe\n", "4\n", "PCIe 5.0 x4 (15.8 GB/s)"},
        {"Unknown\n", "0\n", ""},
        {"16.0 GT/s PCIe\n", "255\n", ""},
        {"7.0 GT/s PCIe\n", "4\n", ""},
    };
    const char *function = "sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0";
    char path[200];
    struct io_drive d;

    (void)state;
    put_all(nvme);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(path, sizeof path, "%s/current_link_speed", function);
        put(path, cases[i].speed);
        snprintf(path, sizeof path, "%s/current_link_width", function);
        put(path, cases[i].width);
        look("/", 259, 2, &d);
        assert_string_equal(d.link, cases[i].text); /* nothing of the bridge above */
    }
}

/* A drive that can have two controllers hangs below a virtual subsystem. */
static void nvme_subsystem(void **state)
{
    static const struct entry tree[] = {
        {"sys/dev/block/259:1", "->../../devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1"},
        {"sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1/size", "8\n"},
        {"sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1/wwid", "uuid.1\n"},
        {"sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1/device", "->../../nvme-subsys3"},
        {"sys/devices/virtual/nvme-subsystem/nvme-subsys3/model", "INTEL SSDPE2KE032T8\n"},
        {"sys/devices/virtual/nvme-subsystem/nvme-subsys3/serial", "PHLN0001\n"},
        {"sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3",
         "->../../../pci0000:80/0000:81:00.0/nvme/nvme3"},
        {"sys/devices/pci0000:80/0000:81:00.0/nvme/nvme3/transport", "pcie\n"},
        {"sys/devices/pci0000:80/0000:81:00.0/numa_node", "2\n"},
        {"sys/devices/pci0000:80/0000:81:00.0/current_link_speed", "8.0 GT/s PCIe\n"},
        {"sys/devices/pci0000:80/0000:81:00.0/current_link_width", "4\n"},
        {0}};
    struct io_drive d;

    (void)state;
    put_all(tree);
    look("/data", 259, 1, &d);
    assert_string_equal(d.name, "nvme3n1");
    assert_string_equal(d.model, "INTEL SSDPE2KE032T8");
    assert_string_equal(d.serial, "PHLN0001");
    assert_string_equal(d.link, "PCIe 3.0 x4 (3.9 GB/s)");
    assert_int_equal(d.numa_node, 2);
    assert_string_equal(d.filesystem, ""); /* no mountinfo here */
}

#define SATA "sys/devices/pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0"

static void sata_drive(void **state)
{
    static const struct entry tree[] = {
        {"proc/self/mountinfo", "30 1 8:1 / /srv ro,relatime - xfs /dev/sda1 rw\n"},
        {"sys/dev/block/8:1",
         "->../../devices/pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0/block/sda/sda1"},
        {SATA "/block/sda/sda1/partition", "1\n"},
        {SATA "/block/sda/sda1/start", "2048\n"},
        {SATA "/block/sda/device", "->../../../2:0:0:0"},
        {SATA "/block/sda/size", "1953525168\n"},
        {SATA "/block/sda/queue/rotational", "0\n"},
        {SATA "/block/sda/queue/write_cache", "write through\n"},
        {SATA "/block/sda/queue/scheduler", "none [mq-deadline] kyber\n"},
        {SATA "/model", "Samsung SSD 870 \n"},
        {SATA "/wwid", "naa.5002538f31234567\n"},
        {"sys/devices/pci0000:00/0000:00:17.0/ata3/link3/ata_link/link3/sata_spd", "6.0 Gbps\n"},
        {"sys/devices/pci0000:00/0000:00:17.0/numa_node", "-1\n"},
        {0}};
    static const char page[] = {0,   (char)0x80, 0,   15,  'S', '6', 'P', 'N', 'N', 'S',
                                '0', 'T',        '1', '2', '3', '4', '5', 'R', ' '};
    struct io_drive d;

    (void)state;
    put_all(tree);
    put_bytes(SATA "/vpd_pg80", page, sizeof page);
    look("/srv/data", 8, 1, &d);
    assert_string_equal(d.name, "sda");
    assert_string_equal(d.partition, "sda1");
    assert_string_equal(d.model, "Samsung SSD 870");
    assert_string_equal(d.serial, "S6PNNS0T12345R");
    assert_string_equal(d.id, "naa.5002538f31234567");
    assert_string_equal(d.link, "SATA 6.0 Gbps");
    assert_string_equal(d.scheduler, "mq-deadline");
    assert_int_equal(d.numa_node, -1);
    assert_true(d.write_cache_known && !d.write_cache);
    assert_true(d.read_only); /* the mount */
    put("sys/devices/pci0000:00/0000:00:17.0/ata3/link3/ata_link/link3/sata_spd", "<unknown>\n");
    look("/srv/data", 8, 1, &d);
    assert_string_equal(d.link, "");
}

static void virtio_drive(void **state)
{
    static const struct entry tree[] = {
        {"proc/self/mountinfo", "30 1 252:0 / / rw - ext4 /dev/vda rw\n"},
        {"sys/dev/block/252:0", "->../../devices/pci0000:00/0000:00:04.0/virtio2/block/vda"},
        {"sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda/size", "41943040\n"},
        {"sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda/serial", "vol-1"},
        {"sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda/device", "->../../../virtio2"},
        {"sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda/queue/rotational", "1\n"},
        {"sys/devices/pci0000:00/0000:00:04.0/current_link_speed", "Unknown\n"},
        {0}};
    struct io_drive d;

    (void)state;
    put_all(tree);
    look("/", 252, 0, &d);
    assert_string_equal(d.name, "vda");
    assert_string_equal(d.partition, "");
    assert_string_equal(d.model, "");
    assert_string_equal(d.serial, "vol-1");
    assert_string_equal(d.link, "virtio");
    assert_string_equal(d.id, "at /pci0000:00/0000:00:04.0/virtio2/block");
    assert_int_equal(d.drive_bytes, 41943040ull * 512);
    assert_true(d.rotational_known && d.rotational);
    assert_false(d.write_cache_known);
}

static void other_links(void **state)
{
    static const struct entry tree[] = {
        {"sys/dev/block/8:16",
         "->../../devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host4/target4:0:0/4:0:0:0/block/sdb"},
        {"sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host4/target4:0:0/4:0:0:0/block/sdb/size",
         "64\n"},
        {"sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/devnum", "5\n"},
        {"sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/speed", "10000\n"},
        {"sys/dev/block/259:9", "->../../devices/virtual/nvme-fabrics/ctl/nvme9/nvme9n1"},
        {"sys/devices/virtual/nvme-fabrics/ctl/nvme9/nvme9n1/size", "64\n"},
        {"sys/devices/virtual/nvme-fabrics/ctl/nvme9/transport", "tcp\n"},
        {0}};
    struct io_drive d;

    (void)state;
    put_all(tree);
    look("/", 8, 16, &d);
    assert_string_equal(d.link, "USB 10000 Mbps");
    look("/", 259, 9, &d);
    assert_string_equal(d.link, "NVMe over tcp");
}

static void loop_device(void **state)
{
    static const struct entry tree[] = {
        {"proc/self/mountinfo", "50 1 7:3 / /mnt/with\\040space\\012line rw - ext4 /dev/loop3 rw\n"},
        {"sys/dev/block/7:3", "->../../devices/virtual/block/loop3"},
        {"sys/devices/virtual/block/loop3/size", "2097152\n"},
        {"sys/devices/virtual/block/loop3/ro", "1\n"},
        {"sys/devices/virtual/block/loop3/loop/backing_file", "/var/images/a.img\n"},
        {"sys/devices/virtual/block/loop3/loop/offset", "4096\n"},
        {0}};
    struct io_drive d, other;
    char key[IO_DRIVE_KEY_BYTES], key_of_other[IO_DRIVE_KEY_BYTES];

    (void)state;
    put_all(tree);
    look("/mnt/with space\nline/x", 7, 3, &d);
    assert_string_equal(d.name, "loop3");
    assert_string_equal(d.backing, "/var/images/a.img");
    assert_string_equal(d.mount, "/mnt/with space?line");
    assert_true(d.read_only); /* the drive */
    put("sys/devices/virtual/block/loop3/loop/backing_file", "/var/images/b.img\n");
    look("/mnt/with space\nline/x", 7, 3, &other);
    io_drive_key(&d, key, sizeof key);
    io_drive_key(&other, key_of_other, sizeof key_of_other);
    assert_string_not_equal(key, key_of_other);
}

/* A loop device without direct I/O passes the page cache; what lies on it, in a partition too, does so as well. */
static void loop_device_and_page_cache(void **state)
{
    static const struct entry tree[] = {
        {"proc/self/mountinfo", "50 1 7:3 / /mnt rw - ext4 /dev/loop3 rw\n"},
        {"sys/dev/block/7:3", "->../../devices/virtual/block/loop3"},
        {"sys/dev/block/259:5", "->../../devices/virtual/block/loop3/loop3p1"},
        {"sys/dev/block/253:0", "->../../devices/virtual/block/dm-0"},
        {"sys/devices/virtual/block/loop3/size", "2097152\n"},
        {"sys/devices/virtual/block/loop3/loop/backing_file", "/nowhere/images/a.img\n"},
        {"sys/devices/virtual/block/loop3/loop3p1/partition", "1\n"},
        {"sys/devices/virtual/block/dm-0/size", "99\n"},
        {"sys/devices/virtual/block/dm-0/slaves/loop3p1", "->../../loop3/loop3p1"},
        {0}};
    static const unsigned places[][2] = {{7, 3}, {259, 5}, {253, 0}};
    char keys[2][IO_DRIVE_KEY_BYTES], text[200];
    struct io_drive d;

    (void)state;
    put_all(tree);
    for (unsigned direct = 0; direct < 2; direct++) {
        put("sys/devices/virtual/block/loop3/loop/dio", direct ? "1\n" : "0\n");
        for (unsigned i = 0; i < 3; i++) {
            look("/mnt", places[i][0], places[i][1], &d);
            assert_string_equal(d.cached, direct ? "" : "loop3");
            assert_string_equal(d.memory, "");
            io_drive_caveat(&d, text, sizeof text);
            assert_int_equal(strstr(text, "page cache") == NULL, direct);
        }
        io_drive_key(&d, keys[direct], IO_DRIVE_KEY_BYTES);
    }
    assert_string_not_equal(keys[0], keys[1]); /* a profile of the one is none of the other */
}

/* Drives that are made of memory, and files in memory that drives are made of. */
static void drives_of_memory(void **state)
{
    static const struct entry tree[] = {{"sys/dev/block/252:0", "->../../devices/virtual/block/zram0"},
                                        {"sys/devices/virtual/block/zram0/size", "2097152\n"},
                                        {"sys/dev/block/1:0", "->../../devices/virtual/block/ram0"},
                                        {"sys/devices/virtual/block/ram0/size", "2097152\n"},
                                        {"sys/dev/block/7:3", "->../../devices/virtual/block/loop3"},
                                        {"sys/devices/virtual/block/loop3/size", "2097152\n"},
                                        {"sys/devices/virtual/block/loop3/loop/dio", "1\n"},
                                        {0}};
    char file[] = "/dev/shm/test_io_drive-XXXXXX", text[200], removed[64];
    struct io_drive shm, d;
    int fd = mkstemp(file);

    (void)state;
    put_all(tree);
    put("proc/self/mountinfo", "25 1 0:23 / /shm rw - tmpfs tmpfs rw\n");
    look("/shm/x", 0, 23, &d);
    assert_string_equal(d.memory, "tmpfs");
    look("/", 252, 0, &d);
    assert_string_equal(d.memory, "zram0");
    look("/", 1, 0, &d);
    assert_string_equal(d.memory, "ram0");
    put("sys/devices/virtual/block/loop3/loop/backing_file", root); /* a drive, or so we hope */
    look("/", 7, 3, &d);
    assert_int_equal(io_drive_get(root, &shm), 0);
    assert_int_equal(d.memory[0] != '\0', shm.memory[0] != '\0');
    if (fd < 0 || io_drive_get(file, &shm) < 0 || strcmp(shm.memory, "tmpfs") != 0) {
        if (fd >= 0)
            (void)unlink(file);
        fprintf(stderr, "skipped: no tmpfs at /dev/shm\n");
        skip();
    }
    close(fd);
    put("sys/devices/virtual/block/loop3/loop/backing_file", file);
    look("/", 7, 3, &d);
    assert_string_equal(d.memory, "loop3 on tmpfs");
    io_drive_caveat(&d, text, sizeof text);
    assert_non_null(strstr(text, "memory"));
    assert_int_equal(unlink(file), 0);
    snprintf(removed, sizeof removed, "%s (deleted)", file); /* as the kernel says it */
    put("sys/devices/virtual/block/loop3/loop/backing_file", removed);
    look("/", 7, 3, &d);
    assert_string_equal(d.memory, "loop3 on tmpfs");
}

static void overlay_names_its_upper_layer(void **state)
{
    struct io_drive d;

    (void)state;
    put("proc/self/mountinfo",
        "50 1 0:50 / / rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/x\\040y/u,workdir=/w\n");
    look("/", 0, 50, &d);
    assert_string_equal(d.upper, "/x y/u");
    assert_string_equal(d.filesystem, "overlay");
    put("proc/self/mountinfo", "50 1 0:50 / / ro - overlay overlay ro,lowerdir=/a:/b\n");
    look("/", 0, 50, &d);
    assert_string_equal(d.upper, "");
}

/* ---- drives on drives ---------------------------------------------------- */

/* The leaf of a RAID or a volume. */
static void put_nvme(unsigned number, unsigned node)
{
    char dir[200], path[300], text[64];
    const struct {
        const char *name, *format;
    } files[] = {
        {"size", "1000%u\n"}, {"wwid", "eui.%u\n"}, {"../model", "Drive %u\n"}, {"../serial", "S%u\n"}};

    snprintf(dir, sizeof dir, "sys/devices/pci0000:00/0000:0%u:00.0/nvme/nvme%u/nvme%un1", number, number,
             number);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
        snprintf(text, sizeof text, files[i].format, number);
        put(path, text);
    }
    snprintf(path, sizeof path, "%s/device", dir);
    snprintf(text, sizeof text, "->../../nvme%u", number);
    put(path, text);
    snprintf(path, sizeof path, "%s/nvme%un1p1/partition", dir, number);
    put(path, "1\n");
    snprintf(path, sizeof path, "%s/../../../numa_node", dir);
    snprintf(text, sizeof text, "%u\n", node);
    put(path, text);
}

static const struct entry raid[] = {{"proc/self/mountinfo", "30 1 9:0 / /raid rw - xfs /dev/md0 rw\n"},
                                    {"sys/dev/block/9:0", "->../../devices/virtual/block/md0"},
                                    {"sys/devices/virtual/block/md0/size", "123456\n"},
                                    {"sys/devices/virtual/block/md0/queue/rotational", "0\n"},
                                    {"sys/devices/virtual/block/md0/slaves/nvme1n1",
                                     "->../../../../pci0000:00/0000:01:00.0/nvme/nvme1/nvme1n1"},
                                    {"sys/devices/virtual/block/md0/slaves/nvme2n1p1",
                                     "->../../../../pci0000:00/0000:02:00.0/nvme/nvme2/nvme2n1/nvme2n1p1"},
                                    {0}};

static void raid_of_two(void **state)
{
    struct io_drive d, other;
    char key[IO_DRIVE_KEY_BYTES], key_of_other[IO_DRIVE_KEY_BYTES];

    (void)state;
    put_nvme(1, 1);
    put_nvme(2, 1);
    put_all(raid);
    look("/raid", 9, 0, &d);
    assert_string_equal(d.name, "md0");
    assert_string_equal(d.members, "nvme1n1 nvme2n1");
    assert_int_equal(d.numa_node, 1);
    assert_string_equal(d.model, ""); /* of which? */
    assert_string_equal(d.link, "");
    assert_int_equal(d.drive_bytes, 123456ull * 512);
    put("sys/devices/pci0000:00/0000:02:00.0/nvme/nvme2/nvme2n1/wwid", "eui.7\n");
    put("sys/devices/pci0000:00/0000:02:00.0/numa_node", "0\n");
    look("/raid", 9, 0, &other);
    assert_int_equal(other.numa_node, -1); /* they differ */
    io_drive_key(&d, key, sizeof key);
    io_drive_key(&other, key_of_other, sizeof key_of_other);
    assert_string_not_equal(key, key_of_other);
}

/* LUKS on a partition, and a link that leads in a circle. */
static void volume_on_one_drive(void **state)
{
    static const struct entry tree[] = {
        {"proc/self/mountinfo", "30 1 253:1 / / rw - ext4 /dev/mapper/root rw\n"},
        {"sys/dev/block/253:1", "->../../devices/virtual/block/dm-1"},
        {"sys/devices/virtual/block/dm-1/size", "99\n"},
        {"sys/devices/virtual/block/dm-1/dm/uuid", "LVM-abc\n"},
        {"sys/devices/virtual/block/dm-1/slaves/dm-0", "->../../dm-0"},
        {"sys/devices/virtual/block/dm-0/size", "100\n"},
        {"sys/devices/virtual/block/dm-0/slaves/nvme1n1p1",
         "->../../../../pci0000:00/0000:01:00.0/nvme/nvme1/nvme1n1/nvme1n1p1"},
        {0}};
    struct io_drive d;

    (void)state;
    put_nvme(1, 1);
    put_all(tree);
    look("/", 253, 1, &d);
    assert_string_equal(d.name, "dm-1");
    assert_string_equal(d.members, "nvme1n1");
    assert_string_equal(d.model, "Drive 1");
    assert_string_equal(d.serial, "S1");
    assert_string_equal(d.id, "LVM-abc");
    assert_int_equal(d.numa_node, 1);
    put("sys/devices/virtual/block/dm-0/slaves/dm-1", "->../../dm-1");
    look("/", 253, 1, &d); /* comes to an end */
    assert_string_equal(d.name, "dm-1");
}

static void btrfs(void **state)
{
    static const struct entry tree[] = {
        {"proc/self/mountinfo", "30 1 0:31 /@home /home rw - btrfs /dev/nvme1n1p1 rw,subvol=/@home\n"},
        {"sys/fs/btrfs/features/raid56", "0\n"},
        {"sys/fs/btrfs/1111-22/devices/sdz", "->../../../../devices/none"},
        {"sys/fs/btrfs/3333-44/devices/nvme1n1p1",
         "->../../../../devices/pci0000:00/0000:01:00.0/nvme/nvme1/nvme1n1/nvme1n1p1"},
        {0}};
    struct io_drive d;

    (void)state;
    put_nvme(1, 1);
    put_all(tree);
    look("/home/me", 0, 44, &d);
    assert_string_equal(d.name, "");
    assert_string_equal(d.filesystem, "btrfs");
    assert_string_equal(d.members, "nvme1n1");
    assert_string_equal(d.model, "Drive 1");
    assert_string_equal(d.id, "btrfs 3333-44");
    assert_int_equal(d.numa_node, 1);
}

static void no_drive(void **state)
{
    static const struct {
        const char *mountinfo, *path, *type, *mount;
    } cases[] = {
        {"25 1 0:23 / /dev/shm rw - tmpfs tmpfs rw\n", "/dev/shm/x", "tmpfs", "/dev/shm"},
        {"25 1 0:50 / / rw - overlay overlay rw,lowerdir=/a\n", "/x", "overlay", "/"},
        {"25 1 0:60 / /n rw - nfs4 server:/export rw\n", "/n/x", "nfs4", "/n"},
        /* the later of two on one point; no part of a name */
        {"25 1 0:1 / /n rw - ext2 a rw\n26 1 0:2 / /n rw - tmpfs b rw\n27 1 0:2 / /no rw - nfs c rw\n",
         "/n/o", "tmpfs", "/n"},
    };
    struct io_drive d;

    (void)state;
    put_all(nvme);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("proc/self/mountinfo", cases[i].mountinfo);
        look(cases[i].path, 0, 23, &d);
        assert_string_equal(d.name, "");
        assert_string_equal(d.filesystem, cases[i].type);
        assert_string_equal(d.mount, cases[i].mount);
        assert_int_equal(d.numa_node, -1);
        assert_int_equal(d.drive_bytes, 0);
    }
}

/* By the number of the mount, one that lies hidden below another is found too. */
static void by_mount_id(void **state)
{
    struct io_drive_place place = {.path = "/a/b", .device = makedev(0, 5), .mount_id_known = true};
    char sys[600], proc[600];
    struct io_drive d;

    (void)state;
    put("proc/self/mountinfo", "7 1 0:5 / /a rw - tmpfs x rw\n8 1 0:6 / /a/b rw - nfs y rw\n");
    snprintf(sys, sizeof sys, "%s/tree/sys", root);
    snprintf(proc, sizeof proc, "%s/tree/proc", root);
    place.mount_id = 7;
    io_drive_get_at(sys, proc, &place, &d);
    assert_string_equal(d.filesystem, "tmpfs");
    place.mount_id = 9;
    io_drive_get_at(sys, proc, &place, &d);
    assert_string_equal(d.filesystem, "");
}

/* ---- what is missing, and what is wrong ----------------------------------- */

static void missing_facts(void **state)
{
    static const struct entry tree[] = {
        {"sys/dev/block/259:0", "->../../devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1"},
        {"sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/stat", "\n"},
        {0}};
    struct io_drive d;

    (void)state;
    put_all(tree);
    look("/", 259, 0, &d);
    assert_string_equal(d.name, "nvme0n1");
    assert_string_equal(d.model, "");
    assert_string_equal(d.serial, "");
    assert_string_equal(d.link, "");
    assert_string_equal(d.scheduler, "");
    assert_int_equal(d.numa_node, -1);
    assert_int_equal(d.drive_bytes, 0);
    assert_int_equal(d.logical_block, 0);
    assert_int_equal(d.max_transfer_bytes, 0);
    assert_false(d.rotational_known || d.write_cache_known || d.io_poll || d.read_only);
}

static void hostile_content(void **state)
{
    static const char binary[] = "\x00\x01\xff\xfe\x1b[31m\n\0\0", escape[] = "Mod\x1b[2Jel\xff";
    const struct {
        const char *name;
        uint32_t expected;
    } numbers[] = {{"-1", 0},
                   {"4294967296", 0},
                   {"99999999999999999999999999", 0},
                   {"0x200", 0},
                   {"512", 512},
                   {" 512 \n", 512},
                   {"512\n4096\n", 512},
                   {"five", 0},
                   {"", 0}};
    char *large = malloc(100000);
    struct io_drive d;

    (void)state;
    assert_non_null(large);
    memset(large, 'x', 99999);
    large[99999] = '\0';
    put_all(nvme);
    put_bytes(NVME "/model", escape, sizeof escape - 1);
    put(NVME "/serial", large);
    put(NVME "/nvme0n1/wwid", large);
    put_bytes(NVME "/nvme0n1/queue/scheduler", binary, sizeof binary);
    put(NVME "/nvme0n1/queue/rotational", large);
    put_bytes("proc/self/mountinfo", binary, sizeof binary);
    look("/", 259, 2, &d);
    assert_string_equal(d.model, "Mod?[2Jel?");
    assert_int_equal(strlen(d.serial), sizeof d.serial - 1);
    assert_int_equal(strlen(d.id), sizeof d.id - 1);
    assert_string_equal(d.scheduler, "");
    assert_false(d.rotational);
    assert_string_equal(d.filesystem, "");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        put(NVME "/nvme0n1/queue/logical_block_size", numbers[i].name);
        look("/", 259, 2, &d);
        assert_int_equal(d.logical_block, numbers[i].expected);
    }
    free(large);
}

static void hostile_mountinfo(void **state)
{
    static const char *const lines[] = {
        "",
        "\n\n\n",
        "-",
        " - ",
        "1 2 3",
        "1 2 3:4 / / rw",
        "1 2 x:y / / rw - ext4 a rw\n",
        "1 2 3:4 / / rw - ext4\n",
        "1 2 3:4 / / rw - ",
        "1 2 3:4 / /\\9 rw - ext4 \\04",
        " - - - - - - - - - ",
    };
    char *large = malloc(300000);
    struct io_drive d;

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        put("proc/self/mountinfo", lines[i]);
        look("/", 259, 2, &d);
        assert_string_equal(d.filesystem, "");
    }
    assert_non_null(large);
    memcpy(large, "1 2 3:4 / / rw - ", 17);
    memset(large + 17, 'f', 100000);
    large[100017] = ' ';
    memset(large + 100018, 's', 100000);
    large[200018] = '\0'; /* no newline */
    put("proc/self/mountinfo", large);
    look("/", 259, 2, &d);
    assert_int_equal(strlen(d.filesystem), sizeof d.filesystem - 1);
    assert_int_equal(strlen(d.source), sizeof d.source - 1);
    assert_string_equal(d.mount, "/");
    free(large);
}

/* A link out of the tree of devices is not followed. */
static void link_that_leads_elsewhere(void **state)
{
    struct io_drive d;

    (void)state;
    put_all(nvme);
    put("sys/dev/block/259:7", "->/etc");
    look("/", 259, 7, &d);
    assert_string_equal(d.name, "");
    put("sys/dev/block/259:8", "->259:8");
    look("/", 259, 8, &d);
    assert_string_equal(d.name, "");
}

/* ---- keys ----------------------------------------------------------------- */

static void keys(void **state)
{
    struct io_drive d, other;
    char key[IO_DRIVE_KEY_BYTES], again[IO_DRIVE_KEY_BYTES], small[17];

    (void)state;
    put_all(nvme);
    look("/", 259, 2, &d);
    io_drive_key(&d, key, sizeof key);
    assert_int_equal(strncmp(key, "Samsung_SSD_990_PRO_2TB-ext4-", 29), 0);

    /* What a reboot, or a fuller disk, may change. */
    other = d;
    strcpy(other.name, "nvme5n1");
    strcpy(other.partition, "nvme5n1p2");
    strcpy(other.mount, "/elsewhere");
    strcpy(other.source, "/dev/nvme5n1p2");
    strcpy(other.link, "PCIe 3.0 x4 (3.9 GB/s)");
    other.device++;
    other.free_bytes += 4096;
    io_drive_key(&other, again, sizeof again);
    assert_string_equal(key, again);

#define DIFFERS(change)                                                                                      \
    do {                                                                                                     \
        other = d;                                                                                           \
        change;                                                                                              \
        io_drive_key(&other, again, sizeof again);                                                           \
        assert_string_not_equal(key, again);                                                                 \
    } while (0)
    DIFFERS(strcpy(other.id, "eui.1"));
    DIFFERS(strcpy(other.serial, "S"));
    DIFFERS(strcpy(other.model, "M"));
    DIFFERS(strcpy(other.filesystem, "xfs"));
    DIFFERS(other.drive_bytes++);
    DIFFERS(other.partition_offset_bytes += 4096);
    d.id[0] = '\0';
    io_drive_key(&d, key, sizeof key);
    DIFFERS(strcpy(other.source, "server:/export"));
    DIFFERS(strcpy(other.mount, "/elsewhere"));

    memset(d.model, '\xff', sizeof d.model - 1);
    strcpy(d.filesystem, "../../x y\n");
    io_drive_key(&d, key, sizeof key);
    assert_int_equal(strspn(key, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"),
                     strlen(key));
    assert_true(strlen(key) < IO_DRIVE_KEY_BYTES);
    io_drive_key(&d, small, sizeof small); /* the part that tells drives apart stays */
    assert_string_equal(small, key + strlen(key) - 16);
}

/* ---- this machine ---------------------------------------------------------- */

static void real_paths(void **state)
{
    struct io_drive d;

    (void)state;
    assert_int_equal(io_drive_get(root, &d), 0);
    assert_true(d.total_bytes > 0);
    assert_string_not_equal(d.filesystem, "");
    assert_string_not_equal(d.mount, "");
    assert_int_equal(io_drive_get("/proc/self/absent", &d), -ENOENT);
    assert_non_null(strstr(base_error_text(), "/proc/self/absent"));
    assert_string_equal(d.filesystem, "");
    if (access("/proc/self", F_OK) == 0) { /* some chroots lack it */
        assert_int_equal(io_drive_get("/proc/self", &d), 0);
        assert_string_equal(d.filesystem, "proc");
        assert_string_equal(d.name, "");
    }
}

/* In a chroot mountinfo doesn't have the mount that its root lies on, or there is no /proc at all. */
static void root_without_mount(void **state)
{
    struct io_drive d, outside;
    int status, at[2];
    ssize_t got;
    pid_t child;

    (void)state;
    if (geteuid() != 0) {
        fprintf(stderr, "skipped: only root may chroot\n");
        skip();
    }
    assert_int_equal(io_drive_get(root, &outside), 0);
    assert_int_equal(pipe(at), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (chroot(root) < 0 || chdir("/") < 0 || io_drive_get("/", &d) < 0)
            _exit(1);
        _exit(write(at[1], &d, sizeof d) == sizeof d ? 0 : 1);
    }
    close(at[1]);
    got = read(at[0], &d, sizeof d);
    close(at[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(got, sizeof d);
    assert_string_equal(d.mount, "/");
    assert_string_not_equal(d.filesystem, "");
    assert_int_equal(d.device, outside.device);
    assert_int_equal(d.total_bytes, outside.total_bytes);
    if (strcmp(outside.filesystem, "ext4") == 0)
        assert_non_null(strstr(d.filesystem, "ext4"));
}

/* ---- frame ------------------------------------------------------------------ */

static int set_up(void **state)
{
    const char *base = getenv("OFL_TEST_DIR");
    char path[480], *real;

    (void)state;
    if (!base) {
        base = "build/tmp";
        mkdir("build", 0777);
        mkdir(base, 0777);
    }
    snprintf(path, sizeof path, "%s/test_io_drive-XXXXXX", base);
    real = mkdtemp(path) ? realpath(path, NULL) : NULL;
    if (!real) {
        fprintf(stderr, "no directory for test files under %s: %s\n", base, strerror(errno));
        return -1;
    }
    snprintf(root, sizeof root, "%s", real);
    free(real);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return rmdir(root);
}

static int clear_tree(void **state)
{
    (void)state;
    clear();
    return 0;
}

#define WITH_TREE(test) cmocka_unit_test_teardown(test, clear_tree)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_TREE(nvme_partition),
        WITH_TREE(slow_slot),
        WITH_TREE(nvme_subsystem),
        WITH_TREE(sata_drive),
        WITH_TREE(virtio_drive),
        WITH_TREE(other_links),
        WITH_TREE(loop_device),
        WITH_TREE(loop_device_and_page_cache),
        WITH_TREE(drives_of_memory),
        WITH_TREE(overlay_names_its_upper_layer),
        WITH_TREE(raid_of_two),
        WITH_TREE(volume_on_one_drive),
        WITH_TREE(btrfs),
        WITH_TREE(no_drive),
        WITH_TREE(by_mount_id),
        WITH_TREE(missing_facts),
        WITH_TREE(hostile_content),
        WITH_TREE(hostile_mountinfo),
        WITH_TREE(link_that_leads_elsewhere),
        WITH_TREE(keys),
        WITH_TREE(real_paths),
        WITH_TREE(root_without_mount),
    };

    return cmocka_run_group_tests_name("io drive", tests, set_up, tear_down);
}
