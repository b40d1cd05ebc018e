/* Learning rates: see schedule.h. */
#include "examples/model/schedule.h"

#include <math.h>

#define PI 3.14159265358979323846

double schedule_rate(const struct schedule *s, uint64_t step)
{
    uint64_t length = s->kind == SCHEDULE_WSD ? s->decay : s->steps > s->warmup ? s->steps - s->warmup : 0;
    uint64_t begin = s->steps - length; /* steps before the decay */
    double way;

    if (step < s->warmup)
        return s->rate * (double)step / (double)s->warmup;
    if (s->kind == SCHEDULE_CONSTANT || step <= begin || length == 0)
        return s->rate;
    way = (double)(step - 1 - begin) / (double)length;
    if (s->kind == SCHEDULE_COSINE)
        return s->end + (s->rate - s->end) * 0.5 * (1 + cos(PI * way));
    return s->rate + (s->end - s->rate) * way;
}
