/* See nvme_health.h. */
#include "bench/nvme_health.h"

#include <stdio.h>

#define KELVIN 273.15
/* Below that a whole percent says too little of the rating. */
#define USED_LEAST 3

void nvme_health_get(const struct io_drive *d, struct nvme_health *out)
{
    *out = (struct nvme_health){0};
    if (!io_smart_controller(d->name, out->controller, sizeof out->controller)) {
        snprintf(out->note, sizeof out->note, "%s is no NVMe drive",
                 d->name[0] ? d->name : "it has no drive of its own, which");
        return;
    }
    out->known = io_smart_read(out->controller, &out->page) == 0;
    if (!out->known)
        snprintf(out->note, sizeof out->note, "%s", ofl_error());
    out->warm = out->known && out->page.temperature_k;
    out->celsius = out->page.temperature_k - KELVIN;
    if (!out->warm)
        out->warm = io_smart_hwmon("/sys", out->controller, &out->celsius);
}

/* ---- wear ----------------------------------------------------------------------------- */

struct nvme_wear nvme_wear_of(const struct io_smart *page, double given_bytes, double bytes_per_day)
{
    struct nvme_wear w = {.rated_bytes = given_bytes,
                          .written_bytes = (double)page->units_written * IO_SMART_UNIT_BYTES};
    double left;

    if (w.rated_bytes <= 0 && page->used >= USED_LEAST && page->used < 255 && page->units_written) {
        w.rated_bytes = w.written_bytes * 100 / page->used;
        w.by_drive = true;
    }
    if (w.rated_bytes <= 0)
        return w;
    w.share = w.written_bytes / w.rated_bytes;
    left = w.rated_bytes - w.written_bytes;
    if (bytes_per_day > 0 && left > 0)
        w.days_left = left / bytes_per_day;
    return w;
}

/* ---- words ------------------------------------------------------------------------------ */

static void print_warnings(const struct io_smart *s)
{
    static const char *const words[] = {
        "spare below its threshold",      "temperature", "unreliable", "read only", "its backup failed",
        "persistent memory is unreliable"};

    for (unsigned i = 0; i < ARRAY_COUNT(words); i++)
        if (s->warnings & 1u << i)
            printf("; WARNS: %s", words[i]);
}

/* Seconds that its thermal management held it back, of both kinds. */
static double throttled(const struct io_smart *s)
{
    return (double)s->throttle_s[0] + (double)s->throttle_s[1];
}

static void print_wear(const struct io_smart *s, double given_bytes, double bytes_per_day)
{
    struct nvme_wear w = nvme_wear_of(s, given_bytes, bytes_per_day);

    printf("wear      %.2f TB written in its life", w.written_bytes / 1e12);
    if (w.rated_bytes > 0)
        printf(", %.2f %% of %.0f TB %s", 100 * w.share, w.rated_bytes / 1e12,
               w.by_drive ? "that its percentage used stands for, roughly" : "rated");
    if (w.days_left > 0)
        printf("; at this benchmark's rate %.1f days are left", w.days_left);
    else if (w.rated_bytes <= 0)
        printf("; its rated endurance is not known: --endurance gives it");
    putchar('\n');
}

void nvme_health_print(const char *dir, const struct nvme_health *before, const struct nvme_health *after,
                       double given_bytes, double bytes_per_day)
{
    const struct io_smart *a = &before->page, *b = &after->page;

    printf("health    %s: ", dir);
    if (before->warm && after->warm)
        printf("%.0f C before, %.0f C after%s", before->celsius, after->celsius, after->known ? "; " : "");
    if (!before->known || !after->known) {
        printf("%s%s\n", before->warm && after->warm ? "; no more is known: " : "not known: ",
               before->note[0] ? before->note : after->note);
        return;
    }
    printf("throttled %.0f s in this run, %u min above its limits; %u %% used, spare %u %% (at least %u %%); "
           "%.3f GB written, as it "
           "counts",
           throttled(b) - throttled(a), b->warm_minutes - a->warm_minutes + b->hot_minutes - a->hot_minutes,
           b->used, b->spare, b->spare_threshold,
           (double)(b->units_written - a->units_written) * IO_SMART_UNIT_BYTES / 1e9);
    if (b->media_errors > a->media_errors)
        printf("; %.0f MEDIA ERRORS in this run", (double)(b->media_errors - a->media_errors));
    print_warnings(b);
    putchar('\n');
    print_wear(b, given_bytes, bytes_per_day);
}

/* ---- JSON --------------------------------------------------------------------------------- */

/* Counters as text: they have 128 bits. */
static json_t *count_json(io_smart_count n)
{
    char text[IO_SMART_TEXT];

    io_smart_text(n, text);
    return json_string(text);
}

static json_t *page_json(const struct io_smart *s)
{
    json_t *sensors = json_array(), *j;

    for (unsigned i = 0; i < IO_SMART_SENSORS; i++)
        if (s->sensor_k[i])
            json_array_append_new(sensors, json_real(s->sensor_k[i] - KELVIN));
    j = json_pack("{s:i, s:i, s:i, s:i, s:o}", "warnings", s->warnings, "used_percent", s->used,
                  "spare_percent", s->spare, "spare_threshold_percent", s->spare_threshold, "sensors_c",
                  sensors);
    if (!j)
        return NULL;
    json_object_set_new(j, "units_read", count_json(s->units_read));
    json_object_set_new(j, "units_written", count_json(s->units_written));
    json_object_set_new(j, "read_commands", count_json(s->read_commands));
    json_object_set_new(j, "write_commands", count_json(s->write_commands));
    json_object_set_new(j, "busy_minutes", count_json(s->busy_minutes));
    json_object_set_new(j, "power_cycles", count_json(s->power_cycles));
    json_object_set_new(j, "power_on_hours", count_json(s->power_on_hours));
    json_object_set_new(j, "unsafe_shutdowns", count_json(s->unsafe_shutdowns));
    json_object_set_new(j, "media_errors", count_json(s->media_errors));
    json_object_set_new(j, "error_entries", count_json(s->error_entries));
    json_object_set_new(j, "warm_minutes", json_integer(s->warm_minutes));
    json_object_set_new(j, "hot_minutes", json_integer(s->hot_minutes));
    json_object_set_new(
        j, "throttle_counts",
        json_pack("[I, I]", (json_int_t)s->throttle_count[0], (json_int_t)s->throttle_count[1]));
    json_object_set_new(j, "throttle_s",
                        json_pack("[I, I]", (json_int_t)s->throttle_s[0], (json_int_t)s->throttle_s[1]));
    return j;
}

static json_t *side_json(const struct nvme_health *h)
{
    return json_pack("{s:o, s:o, s:o}", "celsius", h->warm ? json_real(h->celsius) : json_null(), "page",
                     h->known ? page_json(&h->page) : json_null(), "note",
                     h->note[0] ? bench_text_json(h->note) : json_null());
}

json_t *nvme_health_json(const char *dir, const struct nvme_health *before, const struct nvme_health *after,
                         double given_bytes, double bytes_per_day)
{
    struct nvme_wear w = nvme_wear_of(&after->page, given_bytes, bytes_per_day);

    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "dir", bench_text_json(dir), "controller",
                     before->controller[0] ? json_string(before->controller) : json_null(), "before",
                     side_json(before), "after", side_json(after), "rated_bytes",
                     after->known && w.rated_bytes > 0 ? json_real(w.rated_bytes) : json_null(), "days_left",
                     after->known && w.days_left > 0 ? json_real(w.days_left) : json_null());
}
