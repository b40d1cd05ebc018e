/* Element types: see dtype.h. Owns the table, and the public questions about it. */
#include "base/dtype.h"

#include <errno.h>
#include <string.h>

#include "base/entry.h"
#include "base/error.h"
#include "base/sized.h"

static const struct base_dtype table[OFL_DTYPES] = {
    [OFL_U8] = {"u8", "U8", 1, 1},
    [OFL_I8] = {"i8", "I8", 1, 1},
    [OFL_BOOL] = {"bool", "BOOL", 1, 1},
    [OFL_I16] = {"i16", "I16", 1, 2},
    [OFL_U16] = {"u16", "U16", 1, 2},
    [OFL_F16] = {"f16", "F16", 1, 2},
    [OFL_BF16] = {"bf16", "BF16", 1, 2},
    [OFL_I32] = {"i32", "I32", 1, 4},
    [OFL_U32] = {"u32", "U32", 1, 4},
    [OFL_F32] = {"f32", "F32", 1, 4},
    [OFL_I64] = {"i64", "I64", 1, 8},
    [OFL_U64] = {"u64", "U64", 1, 8},
    [OFL_F64] = {"f64", "F64", 1, 8},
    [OFL_C64] = {"c64", "C64", 1, 8},
    [OFL_F8_E4M3] = {"f8_e4m3", "F8_E4M3", 1, 1},
    [OFL_F8_E5M2] = {"f8_e5m2", "F8_E5M2", 1, 1},
    [OFL_F8_E4M3FNUZ] = {"f8_e4m3fnuz", "F8_E4M3FNUZ", 1, 1},
    [OFL_F8_E5M2FNUZ] = {"f8_e5m2fnuz", "F8_E5M2FNUZ", 1, 1},
    [OFL_F8_E8M0] = {"f8_e8m0", "F8_E8M0", 1, 1},
    /* the smallest number of them that is whole bytes */
    [OFL_F6_E2M3] = {"f6_e2m3", "F6_E2M3", 4, 3},
    [OFL_F6_E3M2] = {"f6_e3m2", "F6_E3M2", 4, 3},
    [OFL_F4] = {"f4", "F4", 2, 1},
    [OFL_Q4_0] = {"q4_0", NULL, 32, 2 + 16},
    [OFL_Q4_1] = {"q4_1", NULL, 32, 2 + 2 + 16},
    [OFL_Q5_0] = {"q5_0", NULL, 32, 2 + 4 + 16},
    [OFL_Q5_1] = {"q5_1", NULL, 32, 2 + 2 + 4 + 16},
    [OFL_Q8_0] = {"q8_0", NULL, 32, 2 + 32},
    [OFL_Q2_K] = {"q2_k", NULL, 256, 16 + 64 + 2 + 2},
    [OFL_Q3_K] = {"q3_k", NULL, 256, 32 + 64 + 12 + 2},
    [OFL_Q4_K] = {"q4_k", NULL, 256, 2 + 2 + 12 + 128},
    [OFL_Q5_K] = {"q5_k", NULL, 256, 2 + 2 + 12 + 32 + 128},
    [OFL_Q6_K] = {"q6_k", NULL, 256, 128 + 64 + 16 + 2},
    [OFL_IQ4_NL] = {"iq4_nl", NULL, 32, 2 + 16},
    [OFL_IQ4_XS] = {"iq4_xs", NULL, 256, 2 + 2 + 4 + 128},
    [OFL_MXFP4] = {"mxfp4", NULL, 32, 1 + 16},
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

int ofl_dtype_info_get(enum ofl_dtype dtype, struct ofl_dtype_info *out)
{
    const struct base_dtype *d = base_dtype(dtype);
    struct ofl_dtype_info info;

    if (!out)
        return base_null(__func__, "out", 0);
    if (!d)
        return base_fail(-EINVAL, "get info of dtype %d: there are %d", (int)dtype, (int)OFL_DTYPES);
    info = (struct ofl_dtype_info){.name = d->name,
                                   .safetensors = d->safetensors,
                                   .block_elems = d->block_elems,
                                   .block_bytes = d->block_bytes};
    return base_sized_write(out, &info, sizeof info, "get info of a dtype: info");
}
