/*
 * io: what a path lies on. Read from the kernel (statvfs, mountinfo, sysfs); asks
 * nothing of the drive itself, needs no privileges, and never fails for want of a fact.
 */
#ifndef OFL_IO_DRIVE_H
#define OFL_IO_DRIVE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Unknown strings are "", unknown numbers 0 (numa_node: -1), unknown booleans false.
 *
 * Facts of the drive are those of the drive itself, not of the partition. On top of exactly one
 * other drive (a volume of LVM or LUKS, btrfs on one drive), what the upper one doesn't tell is
 * the lower one's. Of overlayfs they are those of its upper layer, where that is seen from here.
 * memory and cached tell of any drive below, also of those that files with drives in them lie on.
 */
struct io_drive {
    uint64_t device;    /* st_dev of the path */
    char name[64];      /* of the whole drive: nvme0n1, sda, loop0, md0; "" if none (tmpfs, network, btrfs) */
    char partition[64]; /* nvme0n1p2; "": the file system lies on the whole drive */
    char model[64], serial[64];
    char id[160];  /* what tells the drive from others for good: WWID, UUID, or its place */
    char link[96]; /* "PCIe 4.0 x4 (7.9 GB/s)", "SATA 6.0 Gbps", "USB 5000 Mbps", "virtio", "NVMe over tcp" */
    char backing[256];   /* loop devices: the file behind */
    char filesystem[32]; /* ext4, xfs, tmpfs, overlay, ... */
    char source[256];    /* what is mounted, as mountinfo says: /dev/nvme0n1p2, server:/export */
    char mount[256];     /* mount point */
    uint64_t drive_bytes, free_bytes, total_bytes; /* of the drive; of the file system */
    uint64_t partition_offset_bytes;               /* in the drive */
    uint32_t logical_block, physical_block, max_transfer_bytes, nr_requests;
    int numa_node;
    bool rotational, write_cache, io_poll;
    bool rotational_known, write_cache_known;
    bool read_only; /* the mount, or the drive */
    char scheduler[32];
    char members[256]; /* RAID, device mapper, btrfs: the drives below, with spaces between */
    char upper[256];   /* overlayfs: its upper layer's directory, as the mount names it */
    char memory[96];   /* what makes its bytes memory of this machine: "tmpfs", "zram0", "loop3 on tmpfs" */
    char cached[96];   /* what passes this machine's page cache below the file system: "loop3" */
    unsigned depth;    /* the look-up's own: files with drives in them that lie above this */
};

/* 0, or -errno with the sentence if path can't be looked at. */
int io_drive_get(const char *path, struct io_drive *out);
/* A sentence on what a program should know before it believes figures of d: its bytes are memory, or pass the
 * page cache. "" if there is nothing. */
void io_drive_caveat(const struct io_drive *d, char *text, unsigned bytes);
/* Names the drive and the file system in such a way that the same pair has the same key after a
 * reboot, and another one does not: letters, digits, '-' and '_' only. */
void io_drive_key(const struct io_drive *d, char *key, unsigned bytes);
#define IO_DRIVE_KEY_BYTES 80 /* enough for any key */

/* The link of a PCI function, whose directory in sysfs this is: "PCIe 4.0 x4 (7.9 GB/s)", and what
 * it could be if that is more; "" if the kernel doesn't say. */
void io_drive_pcie(const char *directory, char *text, unsigned bytes);

#endif
