/*
 * _core_optimizer: the library's optimizer.
 */
#include "python/offload/_core.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* What gradients pass through, and the exception that it failed with. */
struct reducer {
    PyObject *call, *failure;
};

PyObject *context_optimizer(struct context *c, PyObject *none)
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

/* Settings of a step behind what `type` says, of a step alone (NULL), or of a weight (no step, no clip). */
static bool take_rates(PyObject *args, struct ofl_update_settings *a, PyObject **what, PyTypeObject *type)
{
    unsigned long long step = 1;
    bool fine = !type ? PyArg_ParseTuple(args, "ddddddK", &a->lr, &a->beta1, &a->beta2, &a->eps,
                                         &a->weight_decay, &a->clip, &step)
                : type == &PyList_Type
                    ? PyArg_ParseTuple(args, "O!ddddddK", type, what, &a->lr, &a->beta1, &a->beta2, &a->eps,
                                       &a->weight_decay, &a->clip, &step)
                    : PyArg_ParseTuple(args, "O!ddddd", type, what, &a->lr, &a->beta1, &a->beta2, &a->eps,
                                       &a->weight_decay);

    a->size = sizeof *a;
    a->step = step;
    return fine;
}

static PyObject *optimizer_rates(struct optimizer *o, PyObject *args)
{
    struct ofl_update_settings a = {0};
    PyObject *w;

    if (!take_rates(args, &a, &w, tensor_type) || !tensor_of((struct tensor *)w))
        return NULL;
    return answer(ofl_optimizer_rates(o->optimizer, ((struct tensor *)w)->tensor, &a));
}

/* Where the caller's function failed: its exception is the cause. */
static PyObject *fail_reduced(struct optimizer *o, int err)
{
    PyObject *type, *value, *trace;

    fail(err);
    if (err != -ECANCELED || !o->reducer || !o->reducer->failure)
        return NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyException_SetCause(value, o->reducer->failure); /* takes it */
    o->reducer->failure = NULL;
    PyErr_Restore(type, value, trace);
    return NULL;
}

/* The caller frees them. */
static struct ofl_tensor **weights_of(PyObject *list, Py_ssize_t *count)
{
    Py_ssize_t n = PyList_Size(list);
    struct ofl_tensor **weights = calloc((size_t)n + 1, sizeof *weights);

    if (!weights)
        return (struct ofl_tensor **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++) {
        struct tensor *w = item_of(list, i, tensor_type);

        weights[i] = w ? tensor_of(w) : NULL;
        if (!weights[i]) {
            free(weights);
            return NULL;
        }
    }
    *count = n;
    return weights;
}

/* A whole step over a list of weights. In one call: an interrupt comes before or behind it. */
static PyObject *optimizer_step(struct optimizer *o, PyObject *args)
{
    struct ofl_update_settings a = {0};
    struct ofl_tensor **weights;
    PyObject *list;
    Py_ssize_t n;
    int err;

    if (!take_rates(args, &a, &list, &PyList_Type) || !usable(o->context))
        return NULL;
    weights = weights_of(list, &n);
    if (!weights)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_begin(o->optimizer, &a);
    for (Py_ssize_t i = 0; i < n && err == 0; i++)
        err = ofl_optimizer_apply(o->optimizer, weights[i]);
    if (err == 0)
        err = ofl_optimizer_end(o->optimizer);
    Py_END_ALLOW_THREADS;
    free(weights);
    return err < 0 ? fail_reduced(o, err) : answer(0);
}

/* The same in parts, for updates under backward. */
static PyObject *optimizer_begin(struct optimizer *o, PyObject *args)
{
    struct ofl_update_settings a = {0};
    int err;

    if (!take_rates(args, &a, NULL, NULL) || !usable(o->context))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_begin(o->optimizer, &a);
    Py_END_ALLOW_THREADS;
    return answer(err);
}

static PyObject *optimizer_apply(struct optimizer *o, PyObject *args)
{
    struct ofl_tensor **weights;
    PyObject *list;
    Py_ssize_t n;
    int err = 0;

    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &list) || !usable(o->context))
        return NULL;
    weights = weights_of(list, &n);
    if (!weights)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    for (Py_ssize_t i = 0; i < n && err == 0; i++)
        err = ofl_optimizer_apply(o->optimizer, weights[i]);
    Py_END_ALLOW_THREADS;
    free(weights);
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
    return err < 0 ? fail_reduced(o, err) : answer(0);
}

/* ---- several processes ---------------------------------------------------- */

/* On the thread of the optimizer's stream. */
static int reduce_piece(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg)
{
    struct reducer *r = arg;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *memory = PyMemoryView_FromMemory(buf, (Py_ssize_t)bytes, PyBUF_WRITE);
    PyObject *result = memory ? PyObject_CallFunction(r->call, "Os", memory, ofl_dtype_name(dtype)) : NULL;
    int failed = result == NULL;

    if (failed) {
        PyObject *type, *trace;

        Py_CLEAR(r->failure);
        PyErr_Fetch(&type, &r->failure, &trace);
        PyErr_NormalizeException(&type, &r->failure, &trace);
        if (trace)
            PyException_SetTraceback(r->failure, trace);
        Py_XDECREF(type);
        Py_XDECREF(trace);
    }
    Py_XDECREF(result);
    Py_XDECREF(memory);
    PyGILState_Release(state);
    return failed;
}

/* What a step that never ended may still call is left. */
static int reducer_drop(struct optimizer *o)
{
    struct reducer *r = o->reducer;
    int err = 0;

    if (!r)
        return 0;
    if (o->context->ctx && o->context->pid == getpid()) {
        Py_BEGIN_ALLOW_THREADS;
        err = ofl_optimizer_reduce(o->optimizer, NULL, NULL);
        Py_END_ALLOW_THREADS;
    }
    if (err < 0)
        return err;
    o->reducer = NULL;
    Py_XDECREF(r->call);
    Py_XDECREF(r->failure);
    free(r);
    return 0;
}

/* reduce(f): f(memoryview, name of the dtype), or None. */
static PyObject *optimizer_reduce(struct optimizer *o, PyObject *args)
{
    struct reducer *r;
    PyObject *call;
    int err;

    if (!PyArg_ParseTuple(args, "O", &call) || !usable(o->context))
        return NULL;
    err = reducer_drop(o);
    if (err < 0 || call == Py_None)
        return answer(err);
    r = calloc(1, sizeof *r);
    if (!r)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_optimizer_reduce(o->optimizer, reduce_piece, r);
    Py_END_ALLOW_THREADS;
    if (err < 0) {
        free(r);
        return fail(err);
    }
    Py_INCREF(call);
    r->call = call;
    o->reducer = r;
    Py_RETURN_NONE;
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

void optimizer_dealloc(struct optimizer *o)
{
    reducer_drop(o);
    Py_XDECREF(o->context); /* it goes with the context */
    freed((PyObject *)o);
}

PyMethodDef optimizer_methods[] = {METHOD(optimizer, bind, METH_VARARGS),
                                   METHOD(optimizer, state, METH_VARARGS),
                                   METHOD(optimizer, decay, METH_VARARGS),
                                   METHOD(optimizer, rates, METH_VARARGS),
                                   METHOD(optimizer, step, METH_VARARGS),
                                   METHOD(optimizer, begin, METH_VARARGS),
                                   METHOD(optimizer, apply, METH_VARARGS),
                                   METHOD(optimizer, end, METH_NOARGS),
                                   METHOD(optimizer, reduce, METH_VARARGS),
                                   METHOD(optimizer, norm, METH_NOARGS),
                                   {NULL, NULL, 0, NULL}};
