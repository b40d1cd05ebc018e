/* entry: see entry.h. */
#include "base/entry.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"

unsigned base_forks;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int watch_code;

/* In the child, while it has one thread. */
static void count_fork(void)
{
    base_forks++;
}

static void watch(void)
{
    watch_code = -pthread_atfork(NULL, NULL, count_fork);
}

int base_forks_watch(void)
{
    pthread_once(&once, watch);
    return watch_code < 0 ? base_fail_errno(watch_code, "have forks counted") : 0;
}

int base_null(const char *call, const char *names, size_t index)
{
    for (; index > 0 && strchr(names, ','); index--)
        names = strchr(names, ',') + 1;
    names += strspn(names, " ");
    return base_fail(-EINVAL, "%s: %.*s is NULL", call, (int)strcspn(names, ","), names);
}
