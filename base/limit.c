/* base: see limit.h. */
#include "base/limit.h"

#include <stddef.h>

bool base_limit_take(struct base_limit *l, uint64_t n)
{
    uint64_t taken;

    if (!l)
        return true;
    taken = atomic_load(&l->taken);
    do {
        if (l->most && (atomic_load(&l->over) || taken > l->most || n > l->most - taken)) {
            atomic_store(&l->over, true);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&l->taken, &taken, taken + n));
    return true;
}

void base_limit_give(struct base_limit *l, uint64_t n)
{
    if (l)
        atomic_fetch_sub(&l->taken, n);
}

uint64_t base_limit_left(const struct base_limit *l)
{
    uint64_t taken = l ? atomic_load(&l->taken) : 0;

    return !l || !l->most ? UINT64_MAX : l->most > taken ? l->most - taken : 0;
}
