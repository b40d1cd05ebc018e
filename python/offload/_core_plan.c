/*
 * _core_plan: estimates: what a step will take of a machine. Structs go in and out as dicts, by the names of the header.
 */
#include "python/offload/_core.h"

#include <offload_estimate.h>
#include <stddef.h>
#include <string.h>

enum form { NUMBER_32, NUMBER_64, REAL };

struct field {
    const char *name;
    size_t at;
    enum form form;
};

#define F32(type, name)                                                                                      \
    {                                                                                                        \
#name, offsetof(struct type, name), NUMBER_32                                                        \
    }
#define F64(type, name)                                                                                      \
    {                                                                                                        \
#name, offsetof(struct type, name), NUMBER_64                                                        \
    }
#define REAL(type, name)                                                                                     \
    {                                                                                                        \
#name, offsetof(struct type, name), REAL                                                             \
    }

static const struct field workload_fields[] = {
    F32(ofl_workload, work),
    F32(ofl_workload, layers),
    F32(ofl_workload, hidden),
    F32(ofl_workload, heads),
    F32(ofl_workload, kv_heads),
    F32(ofl_workload, vocab),
    F32(ofl_workload, head_dim),
    F32(ofl_workload, intermediate),
    F32(ofl_workload, tied),
    F32(ofl_workload, dtype),
    F64(ofl_workload, batch),
    F64(ofl_workload, seq),
    F64(ofl_workload, accum),
    F64(ofl_workload, positions),
    F32(ofl_workload, clip),
    F32(ofl_workload, source),
    F32(ofl_workload, cache_elem_bytes),
    F32(ofl_workload, inner_elem_bytes),
    F32(ofl_workload, vectors),
    F64(ofl_workload, workspace_bytes),
    {NULL, 0, NUMBER_32},
};
static const struct field budget_fields[] = {F64(ofl_budgets, device_bytes),
                                             F64(ofl_budgets, host_bytes),
                                             F64(ofl_budgets, nvme_bytes),
                                             {NULL, 0, NUMBER_32}};
static const struct field estimate_fields[] = {
    F32(ofl_estimate, fits),
    F32(ofl_estimate, home),
    F64(ofl_estimate, parameters),
    F64(ofl_estimate, tokens),
    F64(ofl_estimate, tensor_bytes),
    F64(ofl_estimate, held_bytes),
    F64(ofl_estimate, device_in_bytes),
    F64(ofl_estimate, device_out_bytes),
    F64(ofl_estimate, drive_read_bytes),
    F64(ofl_estimate, drive_write_bytes),
    REAL(ofl_estimate, exposed_s),
    REAL(ofl_estimate, step_s),
    F32(ofl_estimate, binds),
    REAL(ofl_estimate, tokens_per_s),
    REAL(ofl_estimate, flops_per_s),
    REAL(ofl_estimate, peak_share),
    REAL(ofl_estimate, wear_bytes_per_day),
    REAL(ofl_estimate, life_days),
    {NULL, 0, NUMBER_32},
};

/* Members of the dict that the struct does not have are refused by name. */
static int take_fields(PyObject *dict, const struct field *fields, void *to)
{
    Py_ssize_t known = 0;

    for (const struct field *f = fields; f->name; f++) {
        PyObject *value = PyDict_GetItemString(dict, f->name);
        unsigned long long number;

        if (!value)
            continue;
        known++;
        number = PyLong_AsUnsignedLongLong(value);
        if (PyErr_Occurred())
            return -1;
        if (f->form == NUMBER_32 && number > UINT32_MAX) {
            PyErr_Format(PyExc_OverflowError, "%s: %llu is too large", f->name, number);
            return -1;
        }
        if (f->form == NUMBER_32)
            memcpy((char *)to + f->at, &(uint32_t){(uint32_t)number}, sizeof(uint32_t));
        else
            memcpy((char *)to + f->at, &(uint64_t){number}, sizeof(uint64_t));
    }
    if (known == PyDict_Size(dict))
        return 0;
    PyErr_Format(PyExc_TypeError, "unknown members in %R", dict);
    return -1;
}

static int give(PyObject *dict, const char *name, PyObject *value)
{
    int err = value ? PyDict_SetItemString(dict, name, value) : -1;

    Py_XDECREF(value);
    return err;
}

static int give_fields(PyObject *dict, const struct field *fields, const void *from)
{
    for (const struct field *f = fields; f->name; f++) {
        const char *at = (const char *)from + f->at;
        uint64_t large;
        uint32_t small;
        double real;

        memcpy(&large, at, f->form == NUMBER_32 ? 0 : sizeof large);
        memcpy(&real, at, f->form == REAL ? sizeof real : 0);
        memcpy(&small, at, sizeof small);
        if (give(dict, f->name,
                 f->form == REAL ? PyFloat_FromDouble(real)
                                 : PyLong_FromUnsignedLongLong(f->form == NUMBER_32 ? small : large)) < 0)
            return -1;
    }
    return 0;
}

/* By tier: where what kind rests; the budgets; the least ones. */
static int give_tiers(PyObject *dict, const struct ofl_estimate *e)
{
    static const char *const kinds[OFL_KINDS] = {"other",      "weight",    "gradient", "optimizer",
                                                 "activation", "workspace", "cache"};
    static const char *const tiers[OFL_TIERS] = {"device", "host", "nvme"};

    for (int t = 0; t < OFL_TIERS; t++) {
        PyObject *tier = PyDict_New();
        int err = tier ? 0 : -1;

        if (err == 0)
            err = put(tier, "budget", e->budget_bytes[t]);
        if (err == 0)
            err = give(tier, "least",
                       e->least_bytes[t] == UINT64_MAX ? Py_BuildValue("")
                                                       : PyLong_FromUnsignedLongLong(e->least_bytes[t]));
        for (int k = 0; k < OFL_KINDS && err == 0; k++)
            if (e->placed_bytes[t][k])
                err = put(tier, kinds[k], e->placed_bytes[t][k]);
        if (err == 0)
            err = PyDict_SetItemString(dict, tiers[t], tier);
        Py_XDECREF(tier);
        if (err < 0)
            return err;
    }
    return 0;
}

static PyObject *estimate_dict(const struct ofl_estimate *e, const char *machine)
{
    static const char *const resources[OFL_RESOURCES] = {"compute", "link", "drive", "host"};
    PyObject *dict = PyDict_New(), *busy = PyDict_New();
    int err = dict && busy ? 0 : -1;

    for (int r = 0; r < OFL_RESOURCES && err == 0; r++)
        err = give(busy, resources[r], PyFloat_FromDouble(e->busy_s[r]));
    if (err == 0)
        err = PyDict_SetItemString(dict, "busy_s", busy);
    if (err == 0)
        err = give_fields(dict, estimate_fields, e);
    if (err == 0)
        err = give(dict, "missing", PyUnicode_FromString(e->missing));
    if (err == 0)
        err = give(dict, "machine", PyUnicode_FromString(machine));
    if (err == 0)
        err = give(dict, "binds", PyUnicode_FromString(resources[e->binds]));
    if (err == 0)
        err = give_tiers(dict, e);
    Py_XDECREF(busy);
    if (err < 0)
        Py_CLEAR(dict);
    return dict;
}

/* estimate(machine, whether that is a file, workload, budgets) */
PyObject *core_estimate(PyObject *self, PyObject *args)
{
    struct ofl_estimate e = {.size = sizeof e};
    struct ofl_workload w = {.size = sizeof w};
    struct ofl_machine m = {.size = sizeof m};
    struct ofl_budgets b = {.size = sizeof b};
    PyObject *workload, *budgets;
    const char *machine;
    int file, err;

    (void)self;
    if (!PyArg_ParseTuple(args, "spO!O!", &machine, &file, &PyDict_Type, &workload, &PyDict_Type, &budgets) ||
        take_fields(workload, workload_fields, &w) < 0 || take_fields(budgets, budget_fields, &b) < 0)
        return NULL;
    err = file ? ofl_machine_load(machine, &m) : ofl_machine_find(machine, &m);
    if (err < 0)
        return fail(err);
    Py_BEGIN_ALLOW_THREADS;
    err = ofl_estimate_get(&m, &w, &b, &e);
    Py_END_ALLOW_THREADS;
    return err < 0 ? fail(err) : estimate_dict(&e, m.name);
}
