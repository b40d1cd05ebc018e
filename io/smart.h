/*
 * io: what an NVMe drive says of itself: its SMART / health information (log page 02h of the NVM Express base
 * specification). The page's parser is arithmetic over 512 bytes; reading it asks the drive, which takes rights that an
 * ordinary user seldom has. The temperature that the kernel shows in sysfs takes none.
 */
#ifndef OFL_IO_SMART_H
#define OFL_IO_SMART_H

#include <stdbool.h>
#include <stdint.h>

#define IO_SMART_PAGE    512u
#define IO_SMART_SENSORS 8u
/* A data unit is a thousand blocks of 512 bytes, whatever the drive's own blocks are. */
#define IO_SMART_UNIT_BYTES 512000u

typedef unsigned __int128 io_smart_count;

enum { /* of warnings */
       IO_SMART_SPARE = 1u << 0,
       IO_SMART_TEMPERATURE = 1u << 1,
       IO_SMART_RELIABILITY = 1u << 2,
       IO_SMART_READ_ONLY = 1u << 3,
       IO_SMART_BACKUP = 1u << 4,
       IO_SMART_PMR = 1u << 5,
};

/* In the page's order and units. */
struct io_smart {
    uint8_t warnings;                     /* IO_SMART_ */
    uint16_t temperature_k;               /* kelvin; 0: not told */
    uint8_t spare, spare_threshold, used; /* percent; used may pass 100 */
    uint8_t group_warnings;
    io_smart_count units_read, units_written, read_commands, write_commands;
    io_smart_count busy_minutes, power_cycles, power_on_hours, unsafe_shutdowns, media_errors, error_entries;
    uint32_t warm_minutes, hot_minutes;        /* above the warning and the critical temperature */
    uint16_t sensor_k[IO_SMART_SENSORS];       /* 0: there is none */
    uint32_t throttle_count[2], throttle_s[2]; /* thermal management, light and heavy */
};

void io_smart_parse(const uint8_t page[IO_SMART_PAGE], struct io_smart *out);
/* Decimal; at most 39 digits. */
#define IO_SMART_TEXT 40u
void io_smart_text(io_smart_count n, char text[IO_SMART_TEXT]);

/* The controller of a drive, "nvme0" of "nvme0n1" and of "nvme0c1n1"; false: it is no NVMe drive. */
bool io_smart_controller(const char *drive, char *name, unsigned bytes);
/* Asks the controller of that name. -errno with the sentence: what the device, or the rights, do not allow. */
int io_smart_read(const char *controller, struct io_smart *out);
/* Degrees Celsius, as sysfs shows them; false: it doesn't. sys: "/sys", or a tree of a test. */
bool io_smart_hwmon(const char *sys, const char *controller, double *celsius);

#endif
