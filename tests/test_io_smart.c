/*
 * io: the parser of NVMe health pages, and the way from a drive's name to its controller and its temperature. Each field is
 * read from its own bytes and from no others, whole, little endian, counters over 128 bits. tests/smart.sh compares with
 * nvme-cli.
 *
 *     OFL_SMART_PAGE=FILE test_io_smart       prints the page in FILE as JSON, as nvme-cli does
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "io/smart.h"
#include "tests/io_fixture.h"

/* ---- as nvme-cli prints it ------------------------------------------------------ */

static void print_count(const char *name, io_smart_count n)
{
    char text[IO_SMART_TEXT];

    io_smart_text(n, text);
    printf("  \"%s\":\"%s\",\n", name, text);
}

static int print_page(const char *path)
{
    uint8_t page[IO_SMART_PAGE];
    FILE *f = fopen(path, "rb");
    struct io_smart s;

    if (!f || fread(page, 1, sizeof page, f) != sizeof page)
        return 1;
    fclose(f);
    io_smart_parse(page, &s);
    printf("{\n  \"critical_warning\":%u,\n  \"temperature\":%u,\n  \"avail_spare\":%u,\n  "
           "\"spare_thresh\":%u,\n"
           "  \"percent_used\":%u,\n  \"endurance_grp_critical_warning_summary\":%u,\n",
           s.warnings, s.temperature_k, s.spare, s.spare_threshold, s.used, s.group_warnings);
    print_count("data_units_read", s.units_read);
    print_count("data_units_written", s.units_written);
    print_count("host_read_commands", s.read_commands);
    print_count("host_write_commands", s.write_commands);
    print_count("controller_busy_time", s.busy_minutes);
    print_count("power_cycles", s.power_cycles);
    print_count("power_on_hours", s.power_on_hours);
    print_count("unsafe_shutdowns", s.unsafe_shutdowns);
    print_count("media_errors", s.media_errors);
    print_count("num_err_log_entries", s.error_entries);
    printf("  \"warning_temp_time\":%u,\n  \"critical_comp_time\":%u,\n", s.warm_minutes, s.hot_minutes);
    for (unsigned i = 0; i < IO_SMART_SENSORS; i++)
        if (s.sensor_k[i])
            printf("  \"temperature_sensor_%u\":%u,\n", i + 1, s.sensor_k[i]);
    printf(
        "  \"thm_temp1_trans_count\":%u,\n  \"thm_temp2_trans_count\":%u,\n  \"thm_temp1_total_time\":%u,\n"
        "  \"thm_temp2_total_time\":%u\n}\n",
        s.throttle_count[0], s.throttle_count[1], s.throttle_s[0], s.throttle_s[1]);
    return 0;
}

/* ---- fields ------------------------------------------------------------------------ */

#define AT(field) offsetof(struct io_smart, field)

static const struct {
    unsigned offset, bytes; /* in the page */
    size_t at, size;        /* in the struct */
} fields[] = {
    {0, 1, AT(warnings), 1},
    {1, 2, AT(temperature_k), 2},
    {3, 1, AT(spare), 1},
    {4, 1, AT(spare_threshold), 1},
    {5, 1, AT(used), 1},
    {6, 1, AT(group_warnings), 1},
    {32, 16, AT(units_read), 16},
    {48, 16, AT(units_written), 16},
    {64, 16, AT(read_commands), 16},
    {80, 16, AT(write_commands), 16},
    {96, 16, AT(busy_minutes), 16},
    {112, 16, AT(power_cycles), 16},
    {128, 16, AT(power_on_hours), 16},
    {144, 16, AT(unsafe_shutdowns), 16},
    {160, 16, AT(media_errors), 16},
    {176, 16, AT(error_entries), 16},
    {192, 4, AT(warm_minutes), 4},
    {196, 4, AT(hot_minutes), 4},
    {200, 2, AT(sensor_k[0]), 2},
    {202, 2, AT(sensor_k[1]), 2},
    {204, 2, AT(sensor_k[2]), 2},
    {206, 2, AT(sensor_k[3]), 2},
    {208, 2, AT(sensor_k[4]), 2},
    {210, 2, AT(sensor_k[5]), 2},
    {212, 2, AT(sensor_k[6]), 2},
    {214, 2, AT(sensor_k[7]), 2},
    {216, 4, AT(throttle_count[0]), 4},
    {220, 4, AT(throttle_count[1]), 4},
    {224, 4, AT(throttle_s[0]), 4},
    {228, 4, AT(throttle_s[1]), 4},
};

#define FIELDS (sizeof fields / sizeof fields[0])

static void each_bit_has_its_place(void **state)
{
    uint8_t page[IO_SMART_PAGE];
    struct io_smart s, zero;

    (void)state;
    memset(page, 0, sizeof page);
    io_smart_parse(page, &zero);
    for (unsigned bit = 0; bit < 8 * IO_SMART_PAGE; bit++) {
        unsigned changed = 0;

        memset(page, 0, sizeof page);
        page[bit / 8] = (uint8_t)(1u << bit % 8);
        io_smart_parse(page, &s);
        for (size_t i = 0; i < FIELDS; i++) {
            bool is_its = bit / 8 >= fields[i].offset && bit / 8 < fields[i].offset + fields[i].bytes;
            io_smart_count got = 0, wanted = is_its ? (io_smart_count)1 << (bit - 8 * fields[i].offset) : 0;

            memcpy(&got, (const char *)&s + fields[i].at,
                   fields[i].size); /* little endian, as all that it runs on */
            if (got != wanted)
                fail_msg("bit %u of the page: field %zu is wrong", bit, i);
            changed += got != 0;
        }
        assert_true(changed <= 1);
        if (changed == 0)
            assert_memory_equal(&s, &zero, sizeof s); /* reserved */
    }
}

static void counters_are_printed_whole(void **state)
{
    char text[IO_SMART_TEXT];

    (void)state;
    io_smart_text(0, text);
    assert_string_equal(text, "0");
    io_smart_text(~(io_smart_count)0, text);
    assert_string_equal(text, "340282366920938463463374607431768211455");
    io_smart_text((io_smart_count)UINT64_MAX + 1, text);
    assert_string_equal(text, "18446744073709551616");
}

/* ---- names, and what the kernel shows ------------------------------------------------- */

static void drives_have_controllers(void **state)
{
    static const struct {
        const char *drive, *controller;
    } cases[] = {{"nvme0n1", "nvme0"},
                 {"nvme12n3", "nvme12"},
                 {"nvme1c2n1", "nvme1"},
                 {"nvme7", "nvme7"},
                 {"sda", NULL},
                 {"nvme", NULL},
                 {"nvmen1", NULL},
                 {"vda", NULL},
                 {"", NULL},
                 {"nvme0x1", NULL},
                 {"nvme12345678901234567890n1", NULL}};
    char name[16];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool found = io_smart_controller(cases[i].drive, name, sizeof name);

        assert_int_equal(found, cases[i].controller != NULL);
        if (found)
            assert_string_equal(name, cases[i].controller);
    }
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[900];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (char *at = strchr(path + strlen(dir) + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        (void)mkdir(path, 0700);
        *at = '/';
    }
    f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void sysfs_has_the_temperature(void **state)
{
    static const char *const files[] = {"class/nvme/nvme0/hwmon2/temp1_input",
                                        "class/nvme/nvme1/device/hwmon/hwmon4/temp1_input",
                                        "class/nvme/nvme2/hwmon3/temp1_input", "class/nvme/nvme4/model"};
    char sys[600], path[700];
    double celsius = 0;

    (void)state;
    snprintf(sys, sizeof sys, "%s/smart", io_test.dir);
    assert_int_equal(mkdir(sys, 0700), 0);
    put(sys, files[0], "38850\n");
    put(sys, files[1], "-2000\n");
    put(sys, files[2], "warm\n");
    put(sys, files[3], "ONE\n");
    assert_true(io_smart_hwmon(sys, "nvme0", &celsius));
    assert_true(celsius > 38.84 && celsius < 38.86);
    assert_true(io_smart_hwmon(sys, "nvme1", &celsius));
    assert_true(celsius < -1.99 && celsius > -2.01);
    assert_false(io_smart_hwmon(sys, "nvme2", &celsius));
    assert_false(io_smart_hwmon(sys, "nvme3", &celsius));
    assert_false(io_smart_hwmon(sys, "nvme4", &celsius));
    snprintf(path, sizeof path, "rm -rf '%s'", sys);
    assert_int_equal(system(path), 0);
}

static void what_is_not_there_is_named(void **state)
{
    struct io_smart s;

    (void)state;
    assert_int_equal(io_smart_read("nvme-none", &s), -ENOENT);
    assert_non_null(strstr(ofl_error(), "ask /dev/nvme-none: No such file"));
    assert_int_equal(io_smart_read("null", &s), -ENOTTY); /* a device that knows no such command */
    assert_non_null(strstr(ofl_error(), "ask /dev/null for its health"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_bit_has_its_place),     cmocka_unit_test(counters_are_printed_whole),
        cmocka_unit_test(drives_have_controllers),    cmocka_unit_test(sysfs_has_the_temperature),
        cmocka_unit_test(what_is_not_there_is_named),
    };
    const char *page = getenv("OFL_SMART_PAGE");

    if (page)
        return print_page(page);
    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
