/*
 * _core_tensor: tensors, leases of them, and sources. Bytes are addresses and counts: it knows nothing of torch.
 */
#include "python/offload/_core.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- tensors ------------------------------------------------------------ */

PyObject *tensor_made(struct context *c, struct ofl_tensor *tensor, bool owned)
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

PyObject *context_tensor(struct context *c, PyObject *args)
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

void tensor_dealloc(struct tensor *t)
{
    Py_XDECREF(t->context); /* the library's tensor stays: it goes with the context, or by destroy() */
    freed((PyObject *)t);
}

PyMethodDef tensor_methods[] = {METHOD(tensor, write, METH_VARARGS),
                                METHOD(tensor, read, METH_VARARGS),
                                METHOD(tensor, resumed, METH_NOARGS),
                                METHOD(tensor, destroy, METH_NOARGS),
                                {NULL, NULL, 0, NULL}};

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
PyObject *context_acquire(struct context *c, PyObject *args)
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

PyObject *context_hint(struct context *c, PyObject *args)
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

void lease_dealloc(struct lease *l)
{
    let_go(l);
    Py_XDECREF(l->context);
    freed((PyObject *)l);
}

PyMethodDef lease_methods[] = {METHOD(lease, memory, METH_VARARGS),
                               METHOD(lease, addresses, METH_NOARGS),
                               METHOD(lease, release, METH_NOARGS),
                               {NULL, NULL, 0, NULL}};

/* ---- sources ------------------------------------------------------------ */

PyObject *context_source(struct context *c, PyObject *args)
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

void source_dealloc(struct source *s)
{
    Py_XDECREF(s->context); /* it is closed with the context */
    freed((PyObject *)s);
}

PyMethodDef source_methods[] = {METHOD(source, entries, METH_NOARGS),
                                METHOD(source, bind, METH_VARARGS),
                                METHOD(source, check, METH_NOARGS),
                                {NULL, NULL, 0, NULL}};
