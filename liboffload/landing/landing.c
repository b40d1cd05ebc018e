/* The public calls on landing transforms, and the choice of a form. See landing.h. */
#include "liboffload/landing/landing.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/dtype.h"
#include "base/error.h"
#include "base/sized.h"
#include "liboffload/core/core.h"

static const char *const form_names[OFL_LANDING_FORMS] = {"any", "plain", "avx2", "avx512", "avx512bf16"};

/* Whether the processor has what the form was compiled for. Slow where a hypervisor answers. */
static bool ask_machine(enum ofl_landing_form form)
{
#if defined(__x86_64__)
    unsigned a, b, c = 0, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);

    if (form == OFL_LANDING_AVX2)
        return f16c && __builtin_cpu_supports("avx2");
    if (form == OFL_LANDING_AVX512 || form == OFL_LANDING_AVX512BF16)
        return f16c && (form == OFL_LANDING_AVX512 || __builtin_cpu_supports("avx512bf16")) &&
               __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return form == OFL_LANDING_PLAIN;
}

bool landing_machine_has(enum ofl_landing_form form)
{
    static atomic_uint known; /* a bit for each form; bit 0: they are known */
    unsigned bits = atomic_load_explicit(&known, memory_order_relaxed);

    if (!bits) {
        bits = 1;
        for (int f = OFL_LANDING_PLAIN; f < OFL_LANDING_FORMS; f++)
            bits |= (unsigned)ask_machine((enum ofl_landing_form)f) << f;
        atomic_store_explicit(&known, bits, memory_order_relaxed);
    }
    return bits >> form & 1;
}

/* NULL: there is none. */
static const struct landing_blocks *find(enum ofl_dtype dtype, enum ofl_landing_form form)
{
    static const struct landing_blocks *const tables[OFL_LANDING_FORMS] = {
        [OFL_LANDING_PLAIN] = landing_plain,
        [OFL_LANDING_AVX2] = landing_avx2,
        [OFL_LANDING_AVX512] = landing_avx512,
        [OFL_LANDING_AVX512BF16] = landing_avx512bf16,
    };

    for (int f = OFL_LANDING_FORMS - 1; f > OFL_LANDING_BEST; f--)
        if ((form == OFL_LANDING_BEST || form == (enum ofl_landing_form)f) && tables[f][dtype].to[0] &&
            landing_machine_has((enum ofl_landing_form)f))
            return &tables[f][dtype];
    return NULL;
}

const struct landing_runs *landing_find_runs(enum ofl_landing_form form)
{
    static const struct landing_runs *const runs[OFL_LANDING_FORMS] = {
        [OFL_LANDING_AVX2] = &landing_runs_avx2,
        [OFL_LANDING_AVX512] = &landing_runs_avx512,
        [OFL_LANDING_AVX512BF16] = &landing_runs_avx512bf16,
    };

    for (int f = OFL_LANDING_FORMS - 1; f > OFL_LANDING_PLAIN; f--)
        if ((form == OFL_LANDING_BEST || form == (enum ofl_landing_form)f) && runs[f]->to[0] &&
            landing_machine_has((enum ofl_landing_form)f))
            return runs[f];
    return NULL;
}

int ofl_landing_find(enum ofl_dtype dtype, enum ofl_landing_form form)
{
    if (!base_dtype(dtype) || (unsigned)form >= OFL_LANDING_FORMS)
        return base_fail(-EINVAL, "find a landing of dtype %d, form %d: there are %d dtypes, %d forms",
                         (int)dtype, (int)form, (int)OFL_DTYPES, (int)OFL_LANDING_FORMS);
    if (find(dtype, form))
        return 0;
    if (form != OFL_LANDING_BEST && find(dtype, OFL_LANDING_BEST))
        return base_fail(-ENOTSUP, "unpack %s: form %s: not on this machine", ofl_dtype_name(dtype),
                         form_names[form]);
    return base_fail(-ENOTSUP, "unpack %s: there is no landing transform for it", ofl_dtype_name(dtype));
}

static int landing_to_of(enum ofl_dtype to)
{
    return to == OFL_F32 ? LANDING_F32 : to == OFL_F16 ? LANDING_F16 : to == OFL_BF16 ? LANDING_BF16 : -1;
}

static int check(const struct ofl_landing *from, struct ofl_landing *l)
{
    uint64_t bytes;
    int err = base_sized_read(l, sizeof *l, sizeof *l, from, "unpack: landing");

    if (err == 0)
        err = ofl_landing_find(l->dtype, l->form);
    if (err < 0)
        return err;
    if (landing_to_of(l->to) < 0)
        return base_fail(-EINVAL, "unpack %s to %s: only to f32, f16 and bf16", ofl_dtype_name(l->dtype),
                         ofl_dtype_name(l->to) ? ofl_dtype_name(l->to) : "an unknown dtype");
    if (base_dtype_bytes(base_dtype(l->dtype), l->elems, &bytes) != 0)
        return base_fail(-EINVAL, "unpack %" PRIu64 " elements of %s: not whole blocks of %" PRIu32, l->elems,
                         ofl_dtype_name(l->dtype), base_dtype(l->dtype)->block_elems);
    if (l->elems && (!l->packed || !l->out))
        return base_fail(-EINVAL, "unpack %" PRIu64 " elements of %s: no memory is named", l->elems,
                         ofl_dtype_name(l->dtype));
    return 0;
}

/* Checked. */
static void run(void *arg)
{
    const struct ofl_landing *l = arg;

    find(l->dtype, l->form)
        ->to[landing_to_of(l->to)](l->packed, l->elems / base_dtype(l->dtype)->block_elems, l->out);
}

int ofl_landing_run(const struct ofl_landing *from)
{
    struct ofl_landing l;
    int err = check(from, &l);

    if (err == 0)
        run(&l);
    return err;
}

int ofl_landing_launch(struct ofl_stream *s, const struct ofl_landing *from)
{
    struct ofl_landing l;
    int err;

    if (core_refused(core_stream_ctx(s), s, from))
        return -EINVAL;
    err = check(from, &l);
    if (err < 0)
        return err;
    if (landing_on_gpu(s))
        return landing_cuda_launch(s, &l);
    return ofl_stream_launch(s, run, (void *)(uintptr_t)from);
}
