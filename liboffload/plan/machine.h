/* machine: the machines that estimates are made for: the table of known ones, and those that a file describes. */
#ifndef OFL_PLAN_MACHINE_H
#define OFL_PLAN_MACHINE_H

#include "include/offload_estimate.h"

/* Copies what the caller has filled in, and fills in what is left to us. -EINVAL names what can't be. */
int plan_machine_read(const struct ofl_machine *from, struct ofl_machine *m);

#endif
