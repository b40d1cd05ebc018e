/* blame: see blame.h. */
#include "liboffload/core/blame.h"

void blame_acquired(struct core_copy *c, bool made, int predicted)
{
    if (made) {
        c->planned = predicted == 1;
        c->crowded |= c->tensor->denied;
    }
    c->tensor->denied = false;
}

void blame_stuck(const struct pager *p, struct core_copy *c)
{
    uint64_t more = c->tensor->tile_bytes + CORE_HOST_ALIGN;

    /* Reads in flight have a part of the stage, those ahead of an acquire what the plan keeps for them: where
     * that is used up it is the drive that is waited for, or the plan's own turn. */
    if (p->arriving_bytes && p->arriving_bytes + more > p->stage_bytes / (p->store ? 4 : 2))
        return;
    if (p->planned && !c->waiting && p->fetched_bytes && p->fetched_bytes + more > p->fetched_max)
        return;
    c->crowded = true;
}

/* The first tile that c still needs and that is not in host memory decides. */
static enum ofl_stall_reason of_tiles(const struct core_copy *c)
{
    const struct ofl_tensor *t = c->tensor;

    for (uint32_t i = c->fill_next; i < c->end; i++) {
        if (t->tiles[i].state == TILE_ARRIVING)
            return OFL_STALL_DRIVE_BUSY;
        if (t->tiles[i].state == TILE_NONE && t->tiles[i].stored)
            return OFL_STALL_LATE_START;
    }
    return c->fetched ? OFL_STALL_LINK_BUSY : OFL_STALL_LATE_START;
}

enum ofl_stall_reason blame_bytes(const struct core_copy *c)
{
    if (!c->fill) /* the range alone is waited for */
        return c->blockers ? OFL_STALL_NO_ROOM : OFL_STALL_LINK_BUSY;
    if (c->tensor->host_done < c->after_host)
        return OFL_STALL_HOST_WORK;
    if (!c->fetched && !c->planned)
        return OFL_STALL_OFF_PLAN;
    if (c->blockers)
        return OFL_STALL_NO_ROOM;
    return of_tiles(c);
}

enum ofl_stall_reason blame_settled(const struct core_copy *c, enum ofl_stall_reason why)
{
    const struct core_keep *k = c->tensor->keep;
    bool begun = why == OFL_STALL_LATE_START || why == OFL_STALL_DRIVE_BUSY || why == OFL_STALL_LINK_BUSY;

    if (why == OFL_STALL_HOST_WORK && k && k->barred && k->barred == c->after_host)
        return OFL_STALL_COMMIT;
    return begun && c->crowded ? OFL_STALL_NO_ROOM : why;
}
