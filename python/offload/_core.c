/*
 * _core: the public header for Python, as it stands: contexts, tensors, leases, sources, optimizers. What a trainer sees
 * is made of it in Python. Stable ABI of Python 3.9; knows nothing of torch: bytes are addresses and counts.
 *
 * Calls that may wait let other threads of Python run. The step thread is whichever calls: the caller sees to it that
 * it is one at a time.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x03090000
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <offload.h>

#ifndef PyBUF_WRITE /* in the limited API since 3.11; the value is that of all versions */
#define PyBUF_WRITE 0x200
#endif

struct context {
    PyObject_HEAD struct ofl_ctx *ctx; /* NULL: closed */
    struct ofl_stream *stream;
    pid_t pid;
};

struct tensor {
    PyObject_HEAD struct context *context;
    struct ofl_tensor *tensor; /* NULL: destroyed, or closed with its context */
    bool owned;
};

struct source {
    PyObject_HEAD struct context *context;
    struct ofl_source *source;
};

struct optimizer {
    PyObject_HEAD struct context *context;
    struct ofl_optimizer *optimizer;
};

struct lease {
    PyObject_HEAD struct context *context;
    struct ofl_lease *leases; /* NULL: released */
    Py_ssize_t count;
};

static PyObject *error_type, *budget_error_type;
static PyTypeObject *context_type, *tensor_type, *source_type, *optimizer_type, *lease_type;

/* ---- errors ------------------------------------------------------------- */

/* An exception of offload's with the library's sentence, and its code. */
static PyObject *fail_with(int code, const char *text)
{
    PyObject *type = code == -OFL_EBUDGET ? budget_error_type : error_type;
    PyObject *e = PyObject_CallFunction(type, "s", text), *number = PyLong_FromLong(-code);

    if (e && number && PyObject_SetAttrString(e, "code", number) == 0)
        PyErr_SetObject(type, e);
    Py_XDECREF(number);
    Py_XDECREF(e);
    return NULL;
}

static PyObject *fail(int code)
{
    return fail_with(code, ofl_error()[0] ? ofl_error() : ofl_strerror(code));
}

static PyObject *answer(int err)
{
    if (err < 0)
        return fail(err);
    Py_RETURN_NONE;
}

/* The context can be used, from this process. */
static bool usable(const struct context *c)
{
    if (!c->ctx)
        fail_with(-OFL_ESTATE, "the context is closed");
    else if (c->pid != getpid())
        fail_with(-OFL_ESTATE,
                  "the context belongs to the process that opened it, and this one was forked from it: open "
                  "one of its own here");
    else
        return true;
    return false;
}

static struct ofl_tensor *tensor_of(const struct tensor *t)
{
    if (!usable(t->context))
        return NULL;
    if (!t->tensor)
        fail_with(-OFL_ESTATE, "the tensor is destroyed");
    return t->tensor;
}

/* A list's item of that type; borrowed. NULL with an exception. */
static void *item_of(PyObject *list, Py_ssize_t i, PyTypeObject *type)
{
    PyObject *o = PyList_GetItem(list, i);

    if (o && !PyObject_TypeCheck(o, type)) {
        PyErr_SetString(PyExc_TypeError, "not an object of offload._core's");
        return NULL;
    }
    return o;
}

static void *made(PyTypeObject *type)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);

    return alloc(type, 0);
}

static void freed(PyObject *o)
{
    PyTypeObject *type = Py_TYPE(o);
    freefunc free_slot = (freefunc)PyType_GetSlot(type, Py_tp_free);

    free_slot(o);
    Py_DECREF(type);
}

/* ---- contexts ----------------------------------------------------------- */

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

static PyObject *core_open(PyObject *self, PyObject *args, PyObject *kw)
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

static void context_dealloc(struct context *c)
{
    if (c->ctx && c->pid == getpid()) {
        Py_BEGIN_ALLOW_THREADS;
        ofl_close(c->ctx);
        Py_END_ALLOW_THREADS;
    }
    freed((PyObject *)c);
}

static PyObject *tensor_made(struct context *c, struct ofl_tensor *tensor, bool owned)
{
    struct tensor *t = made(tensor_type);

    if (!t)
        return NULL;
    Py_INCREF(c);
    t->context = c;
    t->tensor = tensor;
    t->owned = owned;
    return (PyObject *)t;
}

static PyObject *context_tensor(struct context *c, PyObject *args)
{
    struct ofl_tensor_desc d = {.size = sizeof d};
    unsigned long long elems;
    int kind, dtype, err;
    struct ofl_tensor *t;

    if (!PyArg_ParseTuple(args, "siiKI", &d.name, &kind, &dtype, &elems, &d.flags) || !usable(c))
        return NULL;
    d.kind = (enum ofl_kind)kind;
    d.dtype = (enum ofl_dtype)dtype;
    d.elems = elems;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_tensor_create(c->ctx, &d, &t);
    Py_END_ALLOW_THREADS;
    return err < 0 ? fail(err) : tensor_made(c, t, true);
}

static PyObject *context_source(struct context *c, PyObject *args)
{
    struct ofl_source *source;
    struct source *s;
    const char *path;
    int err;

    if (!PyArg_ParseTuple(args, "s", &path) || !usable(c))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_source_open(c->ctx, path, &source);
    Py_END_ALLOW_THREADS;
    if (err < 0)
        return fail(err);
    s = made(source_type);
    if (!s)
        return NULL;
    Py_INCREF(c);
    s->context = c;
    s->source = source;
    return (PyObject *)s;
}

static PyObject *context_optimizer(struct context *c, PyObject *none)
{
    struct ofl_optimizer *o;
    struct optimizer *made_one;
    int err;

    (void)none;
    if (!usable(c))
        return NULL;
    err = ofl_optimizer_create(c->ctx, &o);
    if (err < 0)
        return fail(err);
    made_one = made(optimizer_type);
    if (!made_one)
        return NULL;
    Py_INCREF(c);
    made_one->context = c;
    made_one->optimizer = o;
    return (PyObject *)made_one;
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

static int put(PyObject *dict, const char *name, unsigned long long value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int err = number ? PyDict_SetItemString(dict, name, number) : -1;

    Py_XDECREF(number);
    return err;
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

/* ---- leases ------------------------------------------------------------- */

/* The leases that a list of tensors stands for; the caller frees them. */
static struct ofl_lease *leases_of(PyObject *list, int mode, unsigned flags, Py_ssize_t *count)
{
    Py_ssize_t n = PyList_Size(list);
    struct ofl_lease *leases = n < 0 ? NULL : calloc((size_t)n + 1, sizeof *leases);

    if (!leases)
        return n < 0 ? NULL : (struct ofl_lease *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++) {
        struct tensor *t = item_of(list, i, tensor_type);

        leases[i] = (struct ofl_lease){.size = sizeof *leases, .mode = (enum ofl_mode)mode, .flags = flags};
        leases[i].tensor = t ? tensor_of(t) : NULL;
        if (!leases[i].tensor) {
            free(leases);
            return NULL;
        }
    }
    *count = n;
    return leases;
}

/* Waits until the bytes are there: on the host device torch computes on the calling thread. */
static PyObject *context_acquire(struct context *c, PyObject *args)
{
    struct ofl_lease *leases;
    struct lease *l;
    PyObject *list;
    Py_ssize_t n;
    unsigned flags;
    int mode, err;

    if (!PyArg_ParseTuple(args, "O!iI", &PyList_Type, &list, &mode, &flags) || !usable(c))
        return NULL;
    leases = leases_of(list, mode, flags, &n);
    if (!leases)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_acquire(c->ctx, leases, (size_t)n, c->stream);
    if (err == 0) {
        err = ofl_stream_sync(c->stream);
        if (err < 0)
            ofl_release(c->ctx, leases, (size_t)n, c->stream);
    }
    Py_END_ALLOW_THREADS;
    l = err < 0 ? (struct lease *)fail(err) : made(lease_type);
    if (!l) {
        if (err == 0)
            ofl_release(c->ctx, leases, (size_t)n, c->stream);
        free(leases);
        return NULL;
    }
    Py_INCREF(c);
    l->context = c;
    l->leases = leases;
    l->count = n;
    return (PyObject *)l;
}

static PyObject *context_hint(struct context *c, PyObject *args)
{
    struct ofl_lease *leases;
    PyObject *list;
    Py_ssize_t n;
    int hint, err;

    if (!PyArg_ParseTuple(args, "O!i", &PyList_Type, &list, &hint) || !usable(c))
        return NULL;
    leases = leases_of(list, OFL_READ, 0, &n);
    if (!leases)
        return NULL;
    err = ofl_hint(c->ctx, leases, (size_t)n, (enum ofl_hint_kind)hint);
    free(leases);
    return answer(err);
}

/* Memory of the tensor at that index, as a memoryview that may be written to. Not to be touched after release. */
static PyObject *lease_memory(struct lease *l, PyObject *args)
{
    struct ofl_tensor_info info = {.size = sizeof info};
    Py_ssize_t i;
    int err;

    if (!PyArg_ParseTuple(args, "n", &i) || !usable(l->context))
        return NULL;
    if (!l->leases || i < 0 || i >= l->count)
        return fail_with(-OFL_ESTATE, "the lease is released, or has no such tensor");
    err = ofl_tensor_info_get(l->leases[i].tensor, &info);
    if (err < 0)
        return fail(err);
    return PyMemoryView_FromMemory(l->leases[i].ptr, (Py_ssize_t)info.bytes, PyBUF_WRITE);
}

static PyObject *lease_addresses(struct lease *l, PyObject *none)
{
    PyObject *list = PyList_New(l->leases ? l->count : 0);

    (void)none;
    for (Py_ssize_t i = 0; list && l->leases && i < l->count; i++) {
        PyObject *address = PyLong_FromVoidPtr(l->leases[i].ptr);

        if (!address || PyList_SetItem(list, i, address) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static int let_go(struct lease *l)
{
    struct ofl_lease *leases = l->leases;
    int err = 0;

    l->leases = NULL;
    if (leases && l->context->ctx && l->context->pid == getpid())
        err = ofl_release(l->context->ctx, leases, (size_t)l->count, l->context->stream);
    free(leases);
    return err;
}

static PyObject *lease_release(struct lease *l, PyObject *none)
{
    (void)none;
    return answer(let_go(l));
}

static void lease_dealloc(struct lease *l)
{
    let_go(l);
    Py_XDECREF(l->context);
    freed((PyObject *)l);
}

/* ---- tensors ------------------------------------------------------------ */

static PyObject *tensor_move(struct tensor *t, PyObject *args, bool write)
{
    unsigned long long offset, address, bytes;
    struct ofl_tensor *tensor;
    int err;

    if (!PyArg_ParseTuple(args, "KKK", &offset, &address, &bytes))
        return NULL;
    tensor = tensor_of(t);
    if (!tensor)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    if (write)
        err = ofl_tensor_write(tensor, offset, (const void *)(uintptr_t)address, bytes);
    else
        err = ofl_tensor_read(tensor, offset, (void *)(uintptr_t)address, bytes);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *tensor_write(struct tensor *t, PyObject *args)
{
    return tensor_move(t, args, true);
}

static PyObject *tensor_read(struct tensor *t, PyObject *args)
{
    return tensor_move(t, args, false);
}

static PyObject *tensor_resumed(struct tensor *t, PyObject *none)
{
    struct ofl_tensor *tensor = tensor_of(t);

    (void)none;
    return tensor ? PyBool_FromLong(ofl_tensor_resumed(tensor)) : NULL;
}

static PyObject *tensor_destroy(struct tensor *t, PyObject *none)
{
    struct ofl_tensor *tensor = tensor_of(t);
    int err;

    (void)none;
    if (!tensor)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = t->owned ? ofl_tensor_destroy(tensor) : 0;
    Py_END_ALLOW_THREADS;
    if (err == 0)
        t->tensor = NULL;
    return answer(err);
}

static void tensor_dealloc(struct tensor *t)
{
    Py_XDECREF(t->context); /* the library's tensor stays: it goes with the context, or by destroy() */
    freed((PyObject *)t);
}

/* ---- sources ------------------------------------------------------------ */

/* (name, dtype's name, shape, bytes) of each tensor of the file. */
static PyObject *source_entries(struct source *s, PyObject *none)
{
    size_t n = usable(s->context) ? ofl_source_count(s->source) : 0;
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);

    (void)none;
    for (size_t i = 0; list && i < n; i++) {
        struct ofl_source_entry e;
        int err = ofl_source_entry_get(s->source, i, &e);
        PyObject *shape = err < 0 ? fail(err) : PyTuple_New((Py_ssize_t)e.dims), *row;

        for (uint32_t d = 0; shape && d < e.dims; d++)
            PyTuple_SetItem(shape, (Py_ssize_t)d, PyLong_FromUnsignedLongLong(e.shape[d]));
        row = shape ? Py_BuildValue("(ssNK)", e.name, ofl_dtype_name(e.dtype), shape,
                                    (unsigned long long)e.bytes)
                    : NULL;
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *source_bind(struct source *s, PyObject *args)
{
    struct ofl_tensor *t;
    const char *name;
    int kind, err;

    if (!PyArg_ParseTuple(args, "si", &name, &kind) || !usable(s->context))
        return NULL;
    err = ofl_source_bind(s->source, name, (enum ofl_kind)kind, &t);
    return err < 0 ? fail(err) : tensor_made(s->context, t, true);
}

static PyObject *source_check(struct source *s, PyObject *none)
{
    (void)none;
    return usable(s->context) ? answer(ofl_source_check(s->source)) : NULL;
}

static void source_dealloc(struct source *s)
{
    Py_XDECREF(s->context); /* it is closed with the context */
    freed((PyObject *)s);
}

/* ---- optimizers --------------------------------------------------------- */

static PyObject *optimizer_bind(struct optimizer *o, PyObject *args)
{
    struct tensor *w, *g;
    int err;

    if (!PyArg_ParseTuple(args, "O!O!", tensor_type, &w, tensor_type, &g) || !tensor_of(w) || !tensor_of(g))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_bind(o->optimizer, w->tensor, g->tensor);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *optimizer_state(struct optimizer *o, PyObject *args)
{
    struct ofl_tensor *state;
    struct tensor *w;
    int which, err;

    if (!PyArg_ParseTuple(args, "O!i", tensor_type, &w, &which) || !tensor_of(w))
        return NULL;
    err = ofl_optimizer_state(o->optimizer, w->tensor, (enum ofl_state)which, &state);
    return err < 0 ? fail(err) : tensor_made(o->context, state, false);
}

static PyObject *optimizer_decay(struct optimizer *o, PyObject *args)
{
    struct tensor *w;
    double factor;

    if (!PyArg_ParseTuple(args, "O!d", tensor_type, &w, &factor) || !tensor_of(w))
        return NULL;
    return answer(ofl_optimizer_decay(o->optimizer, w->tensor, factor));
}

static PyObject *optimizer_begin(struct optimizer *o, PyObject *args)
{
    struct ofl_adamw a = {.size = sizeof a};
    unsigned long long step;

    if (!PyArg_ParseTuple(args, "ddddddK", &a.lr, &a.beta1, &a.beta2, &a.eps, &a.weight_decay, &a.clip,
                          &step) ||
        !usable(o->context))
        return NULL;
    a.step = step;
    return answer(ofl_optimizer_begin(o->optimizer, &a));
}

static PyObject *optimizer_apply(struct optimizer *o, PyObject *args)
{
    struct tensor *w;
    int err;

    if (!PyArg_ParseTuple(args, "O!", tensor_type, &w) || !tensor_of(w))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_apply(o->optimizer, w->tensor);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *optimizer_end(struct optimizer *o, PyObject *none)
{
    int err;

    (void)none;
    if (!usable(o->context))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_end(o->optimizer);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *optimizer_norm(struct optimizer *o, PyObject *none)
{
    double norm = 0;
    int err;

    (void)none;
    if (!usable(o->context))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_norm(o->optimizer, &norm);
    Py_END_ALLOW_THREADS;
    return err < 0 ? fail(err) : PyFloat_FromDouble(norm);
}

static void optimizer_dealloc(struct optimizer *o)
{
    Py_XDECREF(o->context); /* it goes with the context */
    freed((PyObject *)o);
}

/* ---- the module --------------------------------------------------------- */

#define METHOD(type, name, flags)                                                                            \
    {                                                                                                        \
#name, (PyCFunction)(void (*)(void))type##_##name, flags, NULL                                       \
    }

static PyMethodDef context_methods[] = {
    METHOD(context, close, METH_NOARGS),          METHOD(context, tensor, METH_VARARGS),
    METHOD(context, source, METH_VARARGS),        METHOD(context, optimizer, METH_NOARGS),
    METHOD(context, acquire, METH_VARARGS),       METHOD(context, hint, METH_VARARGS),
    METHOD(context, step_begin, METH_VARARGS),    METHOD(context, step_end, METH_NOARGS),
    METHOD(context, commit, METH_VARARGS),        METHOD(context, commit_wait, METH_NOARGS),
    METHOD(context, resume, METH_NOARGS),         METHOD(context, stats, METH_NOARGS),
    METHOD(context, stalls, METH_NOARGS),         METHOD(context, timeline_open, METH_VARARGS),
    METHOD(context, timeline_close, METH_NOARGS), {NULL, NULL, 0, NULL}};
static PyMethodDef tensor_methods[] = {METHOD(tensor, write, METH_VARARGS),
                                       METHOD(tensor, read, METH_VARARGS),
                                       METHOD(tensor, resumed, METH_NOARGS),
                                       METHOD(tensor, destroy, METH_NOARGS),
                                       {NULL, NULL, 0, NULL}};
static PyMethodDef source_methods[] = {METHOD(source, entries, METH_NOARGS),
                                       METHOD(source, bind, METH_VARARGS),
                                       METHOD(source, check, METH_NOARGS),
                                       {NULL, NULL, 0, NULL}};
static PyMethodDef optimizer_methods[] = {
    METHOD(optimizer, bind, METH_VARARGS),  METHOD(optimizer, state, METH_VARARGS),
    METHOD(optimizer, decay, METH_VARARGS), METHOD(optimizer, begin, METH_VARARGS),
    METHOD(optimizer, apply, METH_VARARGS), METHOD(optimizer, end, METH_NOARGS),
    METHOD(optimizer, norm, METH_NOARGS),   {NULL, NULL, 0, NULL}};
static PyMethodDef lease_methods[] = {METHOD(lease, memory, METH_VARARGS),
                                      METHOD(lease, addresses, METH_NOARGS),
                                      METHOD(lease, release, METH_NOARGS),
                                      {NULL, NULL, 0, NULL}};

static PyObject *refuse_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    (void)type, (void)args, (void)kw;
    PyErr_SetString(PyExc_TypeError, "made by offload's functions alone");
    return NULL;
}

static PyTypeObject *type_of(const char *name, size_t bytes, PyMethodDef *methods, void *dealloc)
{
    PyType_Slot slots[] = {
        {Py_tp_methods, methods}, {Py_tp_dealloc, dealloc}, {Py_tp_new, (void *)refuse_new}, {0, NULL}};
    PyType_Spec spec = {name, (int)bytes, 0, Py_TPFLAGS_DEFAULT, slots};

    return (PyTypeObject *)PyType_FromSpec(&spec);
}

static PyObject *dtypes(void)
{
    PyObject *d = PyDict_New();

    for (int i = 0; d && i < OFL_DTYPES; i++)
        if (put(d, ofl_dtype_name((enum ofl_dtype)i), (unsigned long long)i) < 0)
            Py_CLEAR(d);
    return d;
}

static int numbers(PyObject *m)
{
    static const struct {
        const char *name;
        long value;
    } all[] = {{"KIND_WEIGHT", OFL_KIND_WEIGHT},
               {"KIND_GRADIENT", OFL_KIND_GRADIENT},
               {"KIND_ACTIVATION", OFL_KIND_ACTIVATION},
               {"READ", OFL_READ},
               {"UPDATE", OFL_UPDATE},
               {"OVERWRITE", OFL_OVERWRITE},
               {"LEASE_DROP", OFL_LEASE_DROP},
               {"LEASE_UNPLANNED", OFL_LEASE_UNPLANNED},
               {"TENSOR_KEPT", OFL_TENSOR_KEPT},
               {"HINT_NEXT", OFL_HINT_NEXT},
               {"STATE_MASTER", OFL_STATE_MASTER},
               {"STATE_EXP_AVG", OFL_STATE_EXP_AVG},
               {"STATE_EXP_AVG_SQ", OFL_STATE_EXP_AVG_SQ},
               {"HOST_MIN_BYTES", OFL_HOST_MIN_BYTES}};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (PyModule_AddIntConstant(m, all[i].name, all[i].value) < 0)
            return -1;
    return 0;
}

static PyObject *core_footprint(PyObject *self, PyObject *args)
{
    unsigned long long bytes;

    (void)self;
    if (!PyArg_ParseTuple(args, "K", &bytes))
        return NULL;
    return PyLong_FromUnsignedLongLong(ofl_device_footprint(bytes));
}

static PyMethodDef functions[] = {
    METHOD(core, footprint, METH_VARARGS),
    {"open", (PyCFunction)(void (*)(void))core_open, METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_core", "liboffload's C functions.", -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *m = PyModule_Create(&module);

    if (!m)
        return NULL;
    error_type = PyErr_NewExceptionWithDoc("offload.Error", "What the library says, and its code.",
                                           PyExc_RuntimeError, NULL);
    budget_error_type =
        error_type
            ? PyErr_NewExceptionWithDoc(
                  "offload.BudgetError",
                  "A budget that does not fit what is asked of it; it names the numbers.", error_type, NULL)
            : NULL;
    context_type =
        type_of("offload._core.Context", sizeof(struct context), context_methods, (void *)context_dealloc);
    tensor_type =
        type_of("offload._core.Tensor", sizeof(struct tensor), tensor_methods, (void *)tensor_dealloc);
    source_type =
        type_of("offload._core.Source", sizeof(struct source), source_methods, (void *)source_dealloc);
    optimizer_type = type_of("offload._core.Optimizer", sizeof(struct optimizer), optimizer_methods,
                             (void *)optimizer_dealloc);
    lease_type = type_of("offload._core.Lease", sizeof(struct lease), lease_methods, (void *)lease_dealloc);
    if (!budget_error_type || !context_type || !tensor_type || !source_type || !optimizer_type ||
        !lease_type || PyModule_AddObject(m, "Error", error_type) < 0 ||
        PyModule_AddObject(m, "BudgetError", budget_error_type) < 0 ||
        PyModule_AddObject(m, "DTYPES", dtypes()) < 0 ||
        PyModule_AddStringConstant(m, "version", ofl_version()) < 0 || numbers(m) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    return m;
}
