/* home_check: whether tensors would find homes, as the public header shows it. */
#include <errno.h>
#include <stdlib.h>

#include "base/entry.h"
#include "base/sized.h"
#include "io/io.h"
#include "liboffload/core/home.h"
#include "liboffload/core/shape.h"

/* As the store counts them. Without a number: whatever it takes. */
static uint64_t store_bytes(const struct ofl_config *c)
{
    uint64_t unit = c->nvme_count > 1 ? IO_STRIPE_BYTES : CORE_HOST_ALIGN, sum = 0;

    if (c->keep_dir && c->nvme_count == 0)
        return UINT64_MAX / 4;
    for (uint32_t i = 0; i < c->nvme_count; i++) {
        if (c->nvme[i].bytes == 0)
            return UINT64_MAX / 4;
        sum += c->nvme[i].bytes / unit * unit;
    }
    return sum;
}

/* Tensors are made, tried and freed at once. */
static int try_all(struct pager *p, const struct ofl_tensor_desc *tensors, size_t stride, size_t n)
{
    int err = 0;

    for (size_t i = 0; i < n && err == 0; i++) {
        struct ofl_tensor_desc d;
        struct ofl_tensor *t;

        err = base_sized_read(&d, sizeof d, offsetof(struct ofl_tensor_desc, flags),
                              (const char *)tensors + i * stride, "check homes: desc");
        if (err == 0 && !d.name)
            err = base_fail(-EINVAL, "check homes: tensor %zu has no name", i);
        if (err == 0)
            err = pager_tensor_make(p->tile_bytes, &d, NULL, &t);
        if (err == 0) {
            err = home_try(p, t);
            pager_tensor_free(t);
        }
    }
    return err;
}

int ofl_homes_check(const struct ofl_config *config, const struct ofl_tensor_desc *tensors, size_t n)
{
    struct ofl_config c;
    struct pager *p;
    int err = n && !tensors ? base_null(__func__, "tensors", 0) : 0;

    if (err == 0)
        err = base_sized_read(&c, sizeof c, offsetof(struct ofl_config, host_bytes), config,
                              "check homes: config");
    if (err < 0)
        return err;
    if (c.device_bytes == 0 || c.leased_bytes > c.device_bytes || c.nvme_count > OFL_NVME_MAX ||
        (c.nvme_count && !c.nvme))
        return base_fail(-EINVAL, "check homes: device %llu bytes, leased %llu, %u directories: not a config",
                         (ull)c.device_bytes, (ull)c.leased_bytes, c.nvme_count);
    if (c.host_bytes < OFL_HOST_MIN_BYTES && (c.host_bytes || c.nvme_count || c.keep_dir))
        return base_fail(-OFL_EBUDGET,
                         "check homes: the host budget is %llu bytes: the smallest workable is %u",
                         (ull)c.host_bytes, OFL_HOST_MIN_BYTES);
    p = calloc(1, sizeof *p);
    if (!p)
        return base_fail(-ENOMEM, "check homes: out of memory");
    err = home_try_open(p, &c, store_bytes(&c));
    if (err == 0)
        err = try_all(p, tensors, n && tensors->size ? tensors->size : sizeof *tensors, n);
    home_close(p);
    free(p);
    return err;
}
