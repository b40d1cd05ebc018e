/*
 * _core: what its files share: the objects of Python that stand for the library's, and how its errors become exceptions.
 * Stable ABI of Python 3.9.
 */
#ifndef OFL_PYTHON_CORE_H
#define OFL_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x03090000
#include <Python.h>

#include <stdbool.h>
#include <sys/types.h>

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
    struct reducer *reducer; /* NULL: none */
};

struct lease {
    PyObject_HEAD struct context *context;
    struct ofl_lease *leases; /* NULL: released */
    Py_ssize_t count;
};

extern PyTypeObject *context_type, *tensor_type, *source_type, *optimizer_type, *lease_type;

#define METHOD(type, name, flags)                                                                            \
    {                                                                                                        \
#name, (PyCFunction)(void (*)(void))type##_##name, flags, NULL                                       \
    }

extern PyMethodDef context_methods[], tensor_methods[], source_methods[], optimizer_methods[],
    lease_methods[];
void context_dealloc(struct context *c);
void tensor_dealloc(struct tensor *t);
void source_dealloc(struct source *s);
void optimizer_dealloc(struct optimizer *o);
void lease_dealloc(struct lease *l);

/* _core.c. An exception of offload's with that sentence, or the library's last one; NULL. */
PyObject *fail_with(int code, const char *text);
PyObject *fail(int code);
/* None, or the exception of a negative code. */
PyObject *answer(int err);
/* The context can be used, from this process. */
bool usable(const struct context *c);
/* NULL with an exception: it is destroyed, or its context can't be used. */
struct ofl_tensor *tensor_of(const struct tensor *t);
/* A list's item of that type; borrowed. NULL with an exception. */
void *item_of(PyObject *list, Py_ssize_t i, PyTypeObject *type);
void *made(PyTypeObject *type);
void freed(PyObject *o);
int put(PyObject *dict, const char *name, unsigned long long value);

/* _core_context.c */
PyObject *core_open(PyObject *self, PyObject *args, PyObject *kw);

/* _core_tensor.c */
PyObject *tensor_made(struct context *c, struct ofl_tensor *tensor, bool owned);
PyObject *context_tensor(struct context *c, PyObject *args);
PyObject *context_source(struct context *c, PyObject *args);
PyObject *context_acquire(struct context *c, PyObject *args);
PyObject *context_hint(struct context *c, PyObject *args);

/* _core_plan.c */
PyObject *core_estimate(PyObject *self, PyObject *args);

/* _core_optimizer.c */
PyObject *context_optimizer(struct context *c, PyObject *none);

#endif
