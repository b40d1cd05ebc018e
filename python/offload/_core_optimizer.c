/*
 * _core_optimizer: the library's optimizer.
 */
#include "python/offload/_core.h"

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
    err = ofl_optimizer_state(o->optimizer, w->tensor, (enum ofl_optimizer_state)which, &state);
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

void optimizer_dealloc(struct optimizer *o)
{
    Py_XDECREF(o->context); /* it goes with the context */
    freed((PyObject *)o);
}

PyMethodDef optimizer_methods[] = {
    METHOD(optimizer, bind, METH_VARARGS),  METHOD(optimizer, state, METH_VARARGS),
    METHOD(optimizer, decay, METH_VARARGS), METHOD(optimizer, begin, METH_VARARGS),
    METHOD(optimizer, apply, METH_VARARGS), METHOD(optimizer, end, METH_NOARGS),
    METHOD(optimizer, norm, METH_NOARGS),   {NULL, NULL, 0, NULL}};
