/*
 * `ofl-bench probe`: probe_machine.c, probe_limits.c, probe_drives.c and probe_gpu.c each find facts, print
 * them, and add the same facts to the report; probe_text.c owns the look of lines.
 */
#ifndef BENCH_PROBE_H
#define BENCH_PROBE_H

/* Arguments as main gets them; argv[0] is "ofl-bench probe". Returns the exit status. */
int bench_probe_main(int argc, char **argv);

#endif
