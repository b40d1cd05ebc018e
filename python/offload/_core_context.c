/*
 * _core_context: contexts: opening and closing, steps, commits, statistics. Calls that may wait let other threads of
 * Python run. The step thread is whichever calls: the caller sees to it that it is one at a time.
 */
#include "python/offload/_core.h"

#include <errno.h>
#include <unistd.h>

/* Directories of the store from a list of (path, bytes). */
static int take_nvme(PyObject *list, struct ofl_nvme *nvme, uint32_t *count)
{
    Py_ssize_t n = PyList_Size(list);

    if (n < 0)
        return -1;
    if (n > OFL_NVME_MAX) {
        PyErr_Format(PyExc_ValueError, "nvme: %zd directories: at most %d", n, OFL_NVME_MAX);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        unsigned long long bytes;

        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "sK", &nvme[i].dir, &bytes))
            return -1;
        nvme[i].bytes = bytes;
    }
    *count = (uint32_t)n;
    return 0;
}

PyObject *core_open(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"device",         "device_bytes", "host_bytes", "nvme",
                            "keep_dir",       "keep_bytes",   "workers",    "tile_bytes",
                            "expected_bytes", "leased_bytes", "flags",      NULL};
    struct ofl_nvme nvme[OFL_NVME_MAX];
    struct ofl_config config = {.size = sizeof config, .nvme = nvme};
    unsigned long long device = 0, host = 0, keep = 0, tile = 0, expected = 0, leased = 0;
    unsigned workers = 0, flags = 0;
    struct ofl_stream *stream = NULL;
    struct ofl_ctx *ctx = NULL;
    struct context *c;
    PyObject *list;
    int err;

    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "sKKO!zKIKKKI", names, &config.device, &device, &host,
                                     &PyList_Type, &list, &config.keep_dir, &keep, &workers, &tile, &expected,
                                     &leased, &flags) ||
        take_nvme(list, nvme, &config.nvme_count) < 0)
        return NULL;
    config.device_bytes = device;
    config.host_bytes = host;
    config.keep_bytes = keep;
    config.workers = workers;
    config.tile_bytes = tile;
    config.expected_bytes = expected;
    config.leased_bytes = leased;
    config.flags = flags;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_open(&config, &ctx);
    if (err == 0)
        err = ofl_stream_create(ctx, &stream);
    Py_END_ALLOW_THREADS;
    if (err < 0) {
        fail(err);
        ofl_close(ctx);
        return NULL;
    }
    c = made(context_type);
    if (!c) {
        ofl_close(ctx);
        return NULL;
    }
    c->ctx = ctx;
    c->stream = stream;
    c->pid = getpid();
    return (PyObject *)c;
}

static PyObject *context_close(struct context *c, PyObject *none)
{
    struct ofl_ctx *ctx = c->ctx;
    int err;

    (void)none;
    c->ctx = NULL;
    if (!ctx || c->pid != getpid())
        Py_RETURN_NONE;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_close(ctx);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

void context_dealloc(struct context *c)
{
    if (c->ctx && c->pid == getpid()) {
        Py_BEGIN_ALLOW_THREADS;
        ofl_close(c->ctx);
        Py_END_ALLOW_THREADS;
    }
    freed((PyObject *)c);
}

static PyObject *context_step_begin(struct context *c, PyObject *args)
{
    const char *name;

    if (!PyArg_ParseTuple(args, "s", &name) || !usable(c))
        return NULL;
    return answer(ofl_step_begin(c->ctx, name));
}

static PyObject *context_step_end(struct context *c, PyObject *none)
{
    int err;

    (void)none;
    if (!usable(c))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_step_end(c->ctx);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *context_commit(struct context *c, PyObject *args)
{
    const char *note;
    Py_ssize_t bytes;
    int err;

    if (!PyArg_ParseTuple(args, "y#", &note, &bytes) || !usable(c))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_commit(c->ctx, note, (uint64_t)bytes);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *context_commit_wait(struct context *c, PyObject *none)
{
    uint64_t generation = 0;
    int err;

    (void)none;
    if (!usable(c))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_commit_wait(c->ctx, &generation);
    Py_END_ALLOW_THREADS;
    return err < 0 ? fail(err) : PyLong_FromUnsignedLongLong(generation);
}

/* (generation, note), or None where nothing was committed. */
static PyObject *context_resume(struct context *c, PyObject *none)
{
    struct ofl_resumed was = {.size = sizeof was};
    int err;

    (void)none;
    if (!usable(c))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_resume(c->ctx, &was);
    Py_END_ALLOW_THREADS;
    if (err == -ENOENT)
        Py_RETURN_NONE;
    if (err < 0)
        return fail(err);
    return Py_BuildValue("(Ky#)", (unsigned long long)was.generation, was.note ? was.note : "",
                         (Py_ssize_t)was.note_bytes);
}

static PyObject *context_stats(struct context *c, PyObject *none)
{
    struct ofl_stats s = {.size = sizeof s};
    PyObject *d;
    int err;

    (void)none;
    if (!usable(c))
        return NULL;
    err = ofl_stats_get(c->ctx, &s);
    if (err < 0)
        return fail(err);
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {
        {"device_budget_bytes", s.budget_bytes[OFL_DEVICE]},
        {"host_budget_bytes", s.budget_bytes[OFL_HOST]},
        {"nvme_budget_bytes", s.budget_bytes[OFL_NVME]},
        {"device_used_bytes", s.used_bytes[OFL_DEVICE]},
        {"host_used_bytes", s.used_bytes[OFL_HOST]},
        {"nvme_used_bytes", s.used_bytes[OFL_NVME]},
        {"device_peak_bytes", s.peak_bytes[OFL_DEVICE]},
        {"host_peak_bytes", s.peak_bytes[OFL_HOST]},
        {"nvme_peak_bytes", s.peak_bytes[OFL_NVME]},
        {"source_read_bytes", s.source_read_bytes},
        {"nvme_read_bytes", s.nvme_read_bytes},
        {"nvme_write_bytes", s.nvme_write_bytes},
        {"device_in_bytes", s.device_in_bytes},
        {"device_out_bytes", s.device_out_bytes},
        {"hits", s.hits},
        {"misses", s.misses},
        {"evictions", s.evictions},
        {"prefetches", s.prefetches},
        {"off_plan", s.off_plan},
        {"updates", s.updates},
        {"stall_ns", s.stall_ns},
        {"steps", s.steps},
        {"commits", s.commits},
        {"commit_bytes", s.commit_bytes},
    };
    d = PyDict_New();
    for (size_t i = 0; d && i < sizeof all / sizeof all[0]; i++)
        if (put(d, all[i].name, all[i].value) < 0)
            Py_CLEAR(d);
    return d;
}

/* The tensors that streams waited for longest: (name, reason, count, ns) each. */
static PyObject *context_stalls(struct context *c, PyObject *none)
{
    struct ofl_stall s = {.size = sizeof s};
    PyObject *list = PyList_New(0);

    (void)none;
    if (!usable(c))
        Py_CLEAR(list);
    for (uint32_t i = 0; list && ofl_stall_get(c->ctx, i, &s) == 0; i++) {
        PyObject *row = Py_BuildValue("(ssKK)", s.tensor, s.text, (unsigned long long)s.count,
                                      (unsigned long long)s.total_ns);

        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *context_timeline_open(struct context *c, PyObject *args)
{
    const char *path;

    if (!PyArg_ParseTuple(args, "s", &path) || !usable(c))
        return NULL;
    return answer(ofl_timeline_open(c->ctx, path));
}

static PyObject *context_timeline_close(struct context *c, PyObject *none)
{
    uint64_t events = 0, dropped = 0;
    int err;

    (void)none;
    if (!usable(c))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_timeline_close(c->ctx, &events, &dropped);
    Py_END_ALLOW_THREADS;
    if (err < 0)
        return fail(err);
    return Py_BuildValue("(KK)", (unsigned long long)events, (unsigned long long)dropped);
}

PyMethodDef context_methods[] = {
    METHOD(context, close, METH_NOARGS),          METHOD(context, tensor, METH_VARARGS),
    METHOD(context, source, METH_VARARGS),        METHOD(context, optimizer, METH_NOARGS),
    METHOD(context, acquire, METH_VARARGS),       METHOD(context, hint, METH_VARARGS),
    METHOD(context, step_begin, METH_VARARGS),    METHOD(context, step_end, METH_NOARGS),
    METHOD(context, commit, METH_VARARGS),        METHOD(context, commit_wait, METH_NOARGS),
    METHOD(context, resume, METH_NOARGS),         METHOD(context, stats, METH_NOARGS),
    METHOD(context, stalls, METH_NOARGS),         METHOD(context, timeline_open, METH_VARARGS),
    METHOD(context, timeline_close, METH_NOARGS), {NULL, NULL, 0, NULL}};
