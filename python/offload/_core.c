/*
 * _core: the public header for Python, as it stands: contexts, tensors, leases, sources, optimizers. What a trainer sees
 * is made of it in Python. Knows nothing of torch. Here: the module, its types, and errors.
 */
#include "python/offload/_core.h"

#include <offload_estimate.h>
#include <unistd.h>

PyTypeObject *context_type, *tensor_type, *source_type, *optimizer_type, *lease_type;
static PyObject *error_type, *budget_error_type;

/* ---- errors ------------------------------------------------------------- */

/* An exception of offload's with the library's sentence, and its code. */
PyObject *fail_with(int code, const char *text)
{
    PyObject *type = code == -OFL_EBUDGET ? budget_error_type : error_type;
    PyObject *e = PyObject_CallFunction(type, "s", text), *number = PyLong_FromLong(-code);

    if (e && number && PyObject_SetAttrString(e, "code", number) == 0)
        PyErr_SetObject(type, e);
    Py_XDECREF(number);
    Py_XDECREF(e);
    return NULL;
}

PyObject *fail(int code)
{
    return fail_with(code, ofl_error()[0] ? ofl_error() : ofl_strerror(code));
}

PyObject *answer(int err)
{
    if (err < 0)
        return fail(err);
    Py_RETURN_NONE;
}

/* The context can be used, from this process. */
bool usable(const struct context *c)
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

struct ofl_tensor *tensor_of(const struct tensor *t)
{
    if (!usable(t->context))
        return NULL;
    if (!t->tensor)
        fail_with(-OFL_ESTATE, "the tensor is destroyed");
    return t->tensor;
}

/* A list's item of that type; borrowed. NULL with an exception. */
void *item_of(PyObject *list, Py_ssize_t i, PyTypeObject *type)
{
    PyObject *o = PyList_GetItem(list, i);

    if (o && !PyObject_TypeCheck(o, type)) {
        PyErr_SetString(PyExc_TypeError, "not an object of offload._core's");
        return NULL;
    }
    return o;
}

void *made(PyTypeObject *type)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);

    return alloc(type, 0);
}

void freed(PyObject *o)
{
    PyTypeObject *type = Py_TYPE(o);
    freefunc free_slot = (freefunc)PyType_GetSlot(type, Py_tp_free);

    free_slot(o);
    Py_DECREF(type);
}

int put(PyObject *dict, const char *name, unsigned long long value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int err = number ? PyDict_SetItemString(dict, name, number) : -1;

    Py_XDECREF(number);
    return err;
}

/* ---- the module --------------------------------------------------------- */

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
               {"TRAIN", OFL_TRAIN},
               {"DECODE", OFL_DECODE},
               {"VECTORS_QKV_BIAS", OFL_VECTORS_QKV_BIAS},
               {"VECTORS_O_BIAS", OFL_VECTORS_O_BIAS},
               {"VECTORS_MLP_BIAS", OFL_VECTORS_MLP_BIAS},
               {"VECTORS_QK_NORM_HEAD", OFL_VECTORS_QK_NORM_HEAD},
               {"VECTORS_QK_NORM_ALL", OFL_VECTORS_QK_NORM_ALL},
               {"VECTORS_POST_NORMS", OFL_VECTORS_POST_NORMS},
               {"VECTORS_NO_PRE_NORMS", OFL_VECTORS_NO_PRE_NORMS},
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
    METHOD(core, estimate, METH_VARARGS),
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
