/*
 * What the drives themselves say, before and after a run of `ofl-bench nvme`: temperature, throttling, wear.
 */
#ifndef BENCH_NVME_HEALTH_H
#define BENCH_NVME_HEALTH_H

#include "bench/bench.h"
#include "io/drive.h"
#include "io/smart.h"

struct nvme_health {
    char controller[32]; /* "nvme0"; "": there is none that could be asked */
    bool known;          /* page is what it answered */
    struct io_smart page;
    bool warm; /* celsius is known, from the page or from sysfs */
    double celsius;
    char note[160]; /* why it is not known */
};

/* Asks the drive of that name. Never fails: what can't be known has a note. */
void nvme_health_get(const struct io_drive *d, struct nvme_health *out);

/* Wear, as far as it can be told. */
struct nvme_wear {
    double rated_bytes;   /* 0: not known */
    bool by_drive;        /* guessed from the share that the drive says is used; else it was given */
    double written_bytes; /* in its life */
    double share;         /* of the rating */
    double days_left;     /* at bytes_per_day; 0: not known */
};

/* given_bytes: the rated endurance; 0: not known. Arithmetic. */
struct nvme_wear nvme_wear_of(const struct io_smart *page, double given_bytes, double bytes_per_day);

/* Lines for one drive. */
void nvme_health_print(const char *dir, const struct nvme_health *before, const struct nvme_health *after,
                       double given_bytes, double bytes_per_day);
json_t *nvme_health_json(const char *dir, const struct nvme_health *before, const struct nvme_health *after,
                         double given_bytes, double bytes_per_day);

#endif
