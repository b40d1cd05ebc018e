/* op: the pager's operations in flight, and its first error. See pager.h. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/pager.h"

struct core_op *pager_op(struct pager *p, enum core_op_type type, struct ofl_tensor *t, uint32_t tile)
{
    struct core_op *op = p->free_ops;

    if (op) {
        p->free_ops = op->next;
    } else if (!(op = malloc(sizeof *op))) {
        p->hungry = true;
        return NULL;
    }
    memset(op, 0, offsetof(struct core_op, io));
    memset(&op->io, 0, offsetof(struct io_request, error));
    op->io.error.code = 0;
    op->io.next = NULL;
    op->io.submit_ns = 0;
    op->io.cookie = op;
    op->type = type;
    op->tensor = t;
    op->tile = tile;
    p->inflight++;
    p->changes++;
    return op;
}

void pager_op_free(struct pager *p, struct core_op *op)
{
    if (op->uses != &op->one)
        free(op->uses);
    op->uses = NULL;
    op->next = p->free_ops;
    p->free_ops = op;
    p->inflight--;
}

void pager_op_cancel(struct pager *p, struct core_op *op)
{
    p->changes--;
    pager_op_free(p, op);
}

static struct base_error unnamed = {-EIO,
                                    "bytes could not be had, and there was no memory to keep the reason"};

struct base_error *pager_error_copy(const struct base_error *error)
{
    struct base_error *own = error ? malloc(sizeof *own) : NULL;

    if (!own)
        return error ? &unnamed : NULL;
    *own = *error;
    return own;
}

void pager_error_free(struct base_error *error)
{
    if (error != &unnamed)
        free(error);
}

int pager_check(const struct pager *p)
{
    if (p->broken.code == 0)
        return 0;
    return base_fail(-OFL_EBROKEN, "%s", p->broken.text);
}

void pager_break(struct pager *p, const struct base_error *error)
{
    if (p->broken.code)
        return; /* the first error wins */
    p->broken = *error;
    p->changes++;
    p->env.log(p->env.arg, OFL_LOG_WARNING, error->text);
}
