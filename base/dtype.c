/* Element types: see dtype.h. Owns the table, and the public questions about it. */
#include "base/dtype.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/sized.h"

static const struct base_dtype table[OFL_DTYPES] = {
    [OFL_U8] = {"u8", "U8", 1, 1},       [OFL_I8] = {"i8", "I8", 1, 1},
    [OFL_BOOL] = {"bool", "BOOL", 1, 1}, [OFL_I16] = {"i16", "I16", 1, 2},
    [OFL_U16] = {"u16", "U16", 1, 2},    [OFL_F16] = {"f16", "F16", 1, 2},
    [OFL_BF16] = {"bf16", "BF16", 1, 2}, [OFL_I32] = {"i32", "I32", 1, 4},
    [OFL_U32] = {"u32", "U32", 1, 4},    [OFL_F32] = {"f32", "F32", 1, 4},
    [OFL_I64] = {"i64", "I64", 1, 8},    [OFL_U64] = {"u64", "U64", 1, 8},
    [OFL_F64] = {"f64", "F64", 1, 8},
};

const struct base_dtype *base_dtype(enum ofl_dtype dtype)
{
    return (unsigned)dtype < OFL_DTYPES ? &table[dtype] : NULL;
}

int base_dtype_of_safetensors(const char *name, enum ofl_dtype *out)
{
    for (unsigned i = 0; i < OFL_DTYPES; i++)
        if (table[i].safetensors && strcmp(table[i].safetensors, name) == 0) {
            *out = (enum ofl_dtype)i;
            return 0;
        }
    return -ENOENT;
}

int base_dtype_bytes(const struct base_dtype *d, uint64_t elems, uint64_t *bytes)
{
    uint64_t blocks = elems / d->block_elems;

    if (elems % d->block_elems)
        return -EINVAL;
    if (blocks > (uint64_t)INT64_MAX / d->block_bytes)
        return -EOVERFLOW;
    *bytes = blocks * d->block_bytes;
    return 0;
}

const char *ofl_dtype_name(enum ofl_dtype dtype)
{
    const struct base_dtype *d = base_dtype(dtype);

    return d ? d->name : NULL;
}

uint64_t ofl_dtype_bytes(enum ofl_dtype dtype)
{
    const struct base_dtype *d = base_dtype(dtype);

    return d && d->block_elems == 1 ? d->block_bytes : 0;
}

int ofl_dtype_info(enum ofl_dtype dtype, struct ofl_dtype_info *out)
{
    const struct base_dtype *d = base_dtype(dtype);
    struct ofl_dtype_info info;

    if (!d)
        return base_fail(-EINVAL, "get info of dtype %d: there are %d", (int)dtype, (int)OFL_DTYPES);
    info = (struct ofl_dtype_info){.name = d->name,
                                   .safetensors = d->safetensors,
                                   .block_elems = d->block_elems,
                                   .block_bytes = d->block_bytes};
    return base_sized_write(out, &info, sizeof info, "get info of a dtype: info");
}
