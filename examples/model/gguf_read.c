/* Single values of GGUF metadata: see gguf_impl.h. */
#include "examples/model/gguf_impl.h"

#include <inttypes.h>
#include <math.h>

int gguf_open(struct gguf_reader *r)
{
    const struct ofl_config small = {
        .size = sizeof small, .device_bytes = 4096, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    int err = ofl_open(&small, &r->ctx);

    if (err < 0)
        return llama_fail(err, r->error, r->error_bytes, "%s", ofl_error());
    err = ofl_source_open(r->ctx, r->path, &r->source);
    if (err < 0) {
        llama_fail(err, r->error, r->error_bytes, "%s", ofl_error());
        ofl_close(r->ctx);
    }
    return err;
}

void gguf_close(struct gguf_reader *r)
{
    ofl_close(r->ctx);
}

bool gguf_find(const struct gguf_reader *r, const char *key, struct ofl_metadata *out)
{
    *out = (struct ofl_metadata){.size = sizeof *out};
    return ofl_source_metadata_find(r->source, key, out) == 0;
}

int gguf_get_u32(const struct gguf_reader *r, const char *key, int64_t fallback, uint32_t *out)
{
    struct ofl_metadata m;
    int64_t number = fallback;
    bool there = gguf_find(r, key, &m);

    if (!there && fallback < 0)
        return GGUF_REFUSE(r, "read %s: %s is missing", r->path, key);
    if (there && (m.array || (!m.uints && !m.ints)))
        return GGUF_REFUSE(r, "read %s: %s is not an integer", r->path, key);
    if (there)
        number = m.ints ? m.ints[0] : m.uints[0] > INT64_MAX ? INT64_MAX : (int64_t)m.uints[0];
    if (number < 0 || number > UINT32_MAX)
        return GGUF_REFUSE(r, "read %s: %s is %" PRId64 ": outside 0 to %" PRIu32, r->path, key, number,
                           UINT32_MAX);
    *out = (uint32_t)number;
    return 0;
}

int gguf_get_float(const struct gguf_reader *r, const char *key, double fallback, double least, double most,
                   float *out)
{
    struct ofl_metadata m;
    bool there = gguf_find(r, key, &m);
    double number = there && m.reals && !m.array ? m.reals[0] : fallback;

    if (!there && isnan(fallback))
        return GGUF_REFUSE(r, "read %s: %s is missing", r->path, key);
    if (there && (m.array || !m.reals))
        return GGUF_REFUSE(r, "read %s: %s is not a number", r->path, key);
    if (!(number >= least && number <= most))
        return GGUF_REFUSE(r, "read %s: %s is %g: outside %g to %g", r->path, key, number, least, most);
    *out = (float)number;
    return 0;
}

bool gguf_get_bool(const struct gguf_reader *r, const char *key, bool fallback)
{
    struct ofl_metadata m;

    return gguf_find(r, key, &m) && m.type == OFL_METADATA_BOOL && !m.array ? m.uints[0] != 0 : fallback;
}

const char *gguf_get_text(const struct gguf_reader *r, const char *key)
{
    struct ofl_metadata m;

    return gguf_find(r, key, &m) && m.texts && !m.array ? m.texts[0].bytes : NULL;
}
