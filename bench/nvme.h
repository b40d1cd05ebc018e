/*
 * `ofl-bench nvme`: nvme.c decides what is run in which order. Below it, each with a header of its own:
 * nvme_json.c and nvme_report.c; nvme_figures.c; nvme_syscalls.c, nvme_tensors.c, nvme_demand.c and
 * nvme_fio.c, which measure; nvme_run.c, one run; nvme_target.c, the test file and the buffers;
 * nvme_options.c, the command line; nvme_progress.c. None includes what is above it: tools/circles.sh.
 */
#ifndef BENCH_NVME_H
#define BENCH_NVME_H

/* Arguments as main gets them; argv[0] is "ofl-bench nvme". Returns the exit status. */
int bench_nvme_main(int argc, char **argv);

#endif
