/* record: see record.h. */
#include "liboffload/core/record.h"

#include <string.h>

/* Found once, by whoever comes first: several get the same number. */
static uint32_t label_of(struct timeline *t, struct ofl_tensor *tensor)
{
    uint32_t label = tensor ? atomic_load_explicit(&tensor->label, memory_order_acquire) : 0;

    if (label == 0 && tensor) {
        label = timeline_name(t, tensor->name);
        atomic_store_explicit(&tensor->label, label, memory_order_release);
    }
    return label;
}

#define NOTE_BITS 32

uint64_t record_note(struct timeline *t, struct ofl_tensor *tensor, enum ofl_stall_reason why)
{
    return (uint64_t)why << NOTE_BITS | label_of(t, tensor);
}

void record_span(struct timeline *t, const struct dev_span *span)
{
    static const enum timeline_kind kinds[] = {[DEV_SPAN_IN] = TIMELINE_LINK_IN,
                                               [DEV_SPAN_OUT] = TIMELINE_LINK_OUT,
                                               [DEV_SPAN_FILL] = TIMELINE_LINK_IN,
                                               [DEV_SPAN_STALL] = TIMELINE_STALL,
                                               [DEV_SPAN_WORK] = TIMELINE_WORK};
    struct timeline_event e = {.start_ns = span->start_ns,
                               .end_ns = span->end_ns,
                               .bytes =
                                   span->kind == DEV_SPAN_FILL ? 0 : span->bytes, /* none cross the link */
                               .name = (uint32_t)span->note,
                               .place = (uint32_t)span->stream,
                               .kind = (uint8_t)kinds[span->kind],
                               .reason = (uint8_t)(span->note >> NOTE_BITS)};

    if (span->kind == DEV_SPAN_STALL)
        timeline_count_stall(t, e.name, e.reason, e.end_ns - e.start_ns);
    if (!timeline_on(t))
        return;
    if (span->cookie)
        e.name = label_of(t, ((const struct core_op *)span->cookie)->tensor);
    timeline_add(t, &e);
}

void record_transfer(void *timeline, const struct io_span *span)
{
    struct timeline *t = timeline;
    const struct core_op *op = span->request->cookie;

    timeline_add(
        t, &(struct timeline_event){.start_ns = span->start_ns,
                                    .end_ns = span->end_ns,
                                    .bytes = span->bytes,
                                    .name = label_of(t, op->tensor),
                                    .place = timeline_name(t, span->drive),
                                    .kind = span->request->op == IO_READ ? TIMELINE_READ : TIMELINE_WRITE});
}

void record_levels(struct timeline *t, struct record_levels *last, const uint64_t now[OFL_TIERS])
{
    uint64_t ns = base_now_ns();

    for (uint32_t tier = 0; tier < OFL_TIERS; tier++)
        if (!last->known || now[tier] != last->bytes[tier])
            timeline_add(
                t,
                &(struct timeline_event){
                    .start_ns = ns, .end_ns = ns, .bytes = now[tier], .place = tier, .kind = TIMELINE_HELD});
    memcpy(last->bytes, now, sizeof last->bytes);
    last->known = true;
}

void record_job(struct timeline *t, enum timeline_kind kind, struct ofl_tensor *tensor, uint64_t start_ns,
                uint64_t bytes)
{
    if (start_ns)
        timeline_add(t, &(struct timeline_event){.start_ns = start_ns,
                                                 .end_ns = base_now_ns(),
                                                 .bytes = bytes,
                                                 .name = label_of(t, tensor),
                                                 .kind = (uint8_t)kind});
}
