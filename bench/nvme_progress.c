/* What `ofl-bench nvme` shows while it runs. See nvme_progress.h. */
#include "bench/nvme_progress.h"

#define TICK_S 0.25

struct nvme_progress nvme_progress;

void nvme_tick(double now)
{
    struct nvme_progress *p = &nvme_progress;

    /* Asking whether to draw is a system call: seldom, since runs are being measured. */
    if (p->quiet || now - p->drawn < TICK_S)
        return;
    p->drawn = now;
    if (p->steps)
        common_progress("%3u %%  %s", 100 * p->step / p->steps, p->what ? p->what : "");
    else
        common_progress("%s", p->what ? p->what : "");
}
