/* record: see record.h. */
#include "liboffload/plan/record.h"

static const char *const names[PLAN_RECORD_TYPES] = {
    [PLAN_RECORD_OPEN] = "open",
    [PLAN_RECORD_CREATE] = "create",
    [PLAN_RECORD_DESTROY] = "destroy",
    [PLAN_RECORD_STEP] = "step",
    [PLAN_RECORD_STEP_END] = "step end",
    [PLAN_RECORD_ACQUIRE] = "acquire",
    [PLAN_RECORD_RELEASE] = "release",
    [PLAN_RECORD_PASSED] = "passed",
    [PLAN_RECORD_LAUNCH] = "launch",
    [PLAN_RECORD_USE] = "use",
    [PLAN_RECORD_RUN] = "run",
    [PLAN_RECORD_RUN_END] = "run end",
    [PLAN_RECORD_UPDATE] = "update",
    [PLAN_RECORD_REST] = "rest",
    [PLAN_RECORD_READ] = "read",
    [PLAN_RECORD_READ_END] = "read end",
    [PLAN_RECORD_SEAL] = "seal",
    [PLAN_RECORD_SEAL_END] = "seal end",
    [PLAN_RECORD_WRITE] = "write",
    [PLAN_RECORD_WRITE_END] = "write end",
    [PLAN_RECORD_IN] = "in",
    [PLAN_RECORD_IN_END] = "in end",
    [PLAN_RECORD_OUT] = "out",
    [PLAN_RECORD_OUT_END] = "out end",
    [PLAN_RECORD_FILL] = "fill",
    [PLAN_RECORD_FILL_END] = "fill end",
    [PLAN_RECORD_WORK] = "work",
    [PLAN_RECORD_WORK_END] = "work end",
};

const char *plan_record_name(uint32_t type)
{
    return type < PLAN_RECORD_TYPES ? names[type] : "?";
}
