/* See text.h. */
#include "bench/text.h"

#include <stdio.h>

struct common_text bench_time_text(double ns)
{
    struct common_text t;

    if (ns < 1e5)
        snprintf(t.text, sizeof t.text, "%.1f us", ns / 1e3);
    else if (ns < 1e6)
        snprintf(t.text, sizeof t.text, "%.0f us", ns / 1e3);
    else if (ns < 1e9)
        snprintf(t.text, sizeof t.text, ns < 1e7 ? "%.2f ms" : ns < 1e8 ? "%.1f ms" : "%.0f ms", ns / 1e6);
    else
        snprintf(t.text, sizeof t.text, "%.2f s", ns / 1e9);
    return t;
}

struct common_text bench_block_text(uint64_t bytes)
{
    struct common_text t;

    if (bytes % MIB == 0)
        snprintf(t.text, sizeof t.text, "%lluM", (ull)(bytes / MIB));
    else if (bytes % 1024 == 0)
        snprintf(t.text, sizeof t.text, "%lluK", (ull)(bytes / 1024));
    else
        snprintf(t.text, sizeof t.text, "%llu", (ull)bytes);
    return t;
}
