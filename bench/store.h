/* `ofl-bench store`: kept stores, offline. See store.c. */
#ifndef BENCH_STORE_H
#define BENCH_STORE_H

int bench_store_main(int argc, char **argv);

#endif
