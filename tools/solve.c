/*
 * solve: what solving a plan costs: CPU seconds for steps of so many uses. tools/scale.sh compiles and runs it.
 * Tensors of 64 MiB are used up and down, as forward and backward do, some of them by the host, under budgets that
 * hold a quarter on the device and a third in host memory.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "scheduler/solve.h"

#define MIB (1ull << 20)

static double cpu_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int solve(uint32_t count, uint32_t ids)
{
    struct sched_use *uses = calloc(count, sizeof *uses);
    struct sched_item *items = calloc(ids, sizeof *items);
    struct sched_rest *rest = calloc(count, sizeof *rest);
    struct sched_room room = {.device_bytes = ids * 16 * MIB, .host_bytes = ids * 21 * MIB};
    struct sched_moved moved;
    double start;

    if (!uses || !items || !rest)
        return 1;
    for (uint32_t i = 0; i < ids; i++)
        items[i] = (struct sched_item){.device_bytes = 64 * MIB, .bytes = 64 * MIB, .tile_bytes = 8 * MIB};
    for (uint32_t i = 0; i < count; i++)
        uses[i] = (struct sched_use){.event = {.id = i / ids % 2 ? ids - 1 - i % ids : i % ids,
                                               .where = i % 5 == 4 ? SCHED_ON_HOST : SCHED_ON_DEVICE,
                                               .writes = i % 3 == 0},
                                     .until = i + 1};
    start = cpu_seconds();
    if (sched_solve(uses, count, items, ids, &room, rest, &moved) < 0)
        return 1;
    printf("%10u uses of %7u tensors  %6.2f s\n", count, ids, cpu_seconds() - start);
    free(uses);
    free(items);
    free(rest);
    return 0;
}

int main(void)
{
    return solve(3000, 1000) || solve(10000, 2500) || solve(100000, 20000) || solve(1000000, 200000);
}
