/*
 * io: what a drive can do and how it wants to be driven: measured once, in a few
 * seconds, and kept in a small file. Owns the measurement and the file.
 *
 * The file is $XDG_CACHE_HOME/liboffload/KEY.json (~/.cache without the variable; the
 * directory is named by OFL_PROFILE_DIR if that is set). A profile that can't be read, is
 * of another version or of another drive counts as absent. One that can't be kept is
 * measured again next time, and its note says so.
 */
#ifndef OFL_IO_PROFILE_H
#define OFL_IO_PROFILE_H

#include "io/drive.h"
#include "io/io.h"

enum io_profile_origin {
    IO_PROFILE_DEFAULT, /* neither known nor measured: the queue's defaults */
    IO_PROFILE_CACHED,
    IO_PROFILE_MEASURED,
};

struct io_profile {
    enum io_profile_origin origin;
    struct io_drive drive;
    struct io_tuning tuning;
    uint32_t flags;             /* of a queue: IO_QUEUE_ where measured better */
    double read_bps, write_bps; /* bytes per second, sequential, alone; 0: not measured */
    double mixed_bps;           /* both at once, summed */
    double first_write_ratio;   /* speed of the first write of reserved space over a rewrite's */
    double unwritten_ratio;     /* the same in blocks that the drive has seen written before: what the
                                   file system alone costs; 0: not known, as where it takes other blocks
                                   for what is to be forgotten (XFS, btrfs) */
    uint64_t read_latency_ns;   /* median of one 4 KiB read at a time */
    double measure_s;           /* how long it took */
    uint64_t measured_at;       /* seconds since 1970 */
    char note[200];             /* what stood in the way, or what the figures are of; "" */
};

enum {
    IO_PROFILE_MEASURE = 1u << 0, /* where none is kept: takes about 3 s, and writes during one of them */
    IO_PROFILE_ANEW = 1u << 1,    /* even if one is kept */
};

/*
 * For the drive that directory dir lies on. progress may be NULL; it is called between the
 * measurements with a share from 0 to 1, and ends them if it returns false (-ECANCELED). 0, with
 * origin DEFAULT and a note, where it can't be measured: no direct I/O, less than 64 MiB to write
 * in, a failed transfer. -errno if dir can't be looked at.
 */
int io_profile_get(const char *dir, unsigned flags, bool (*progress)(void *arg, double share), void *arg,
                   struct io_profile *out);
/* A quick look, about 0.2 s each: bytes per second of reading and writing in dir right now. For
 * shares between paths, where what was kept may be stale. -errno where io_profile_get would not
 * measure either. */
int io_profile_measure_rates(const char *dir, double *read_bps, double *write_bps);

#endif
