/* Of chat templates: statements at work. See template_impl.h. */
#include "examples/model/template_impl.h"

#include <stdlib.h>

/* ---- names ---------------------------------------------------------------------- */

bool scope_set(struct run *r, struct str name, struct value v)
{
    return dict_set(r->s, &r->scope->names, value_str(name), v);
}

static bool scope_open(struct run *r, struct scope *above)
{
    struct scope *scope = template_take(r->s, sizeof *scope);

    if (!scope)
        return false;
    scope->above = above;
    r->scope = scope;
    return true;
}

static bool set_attr(struct run *r, const struct node *target, struct value v)
{
    struct value of;

    if (!eval(r, target->kids[0], &of))
        return false;
    if (of.kind != VALUE_NAMESPACE)
        return template_fail(r->s, -EINVAL, "'%.*s' is set in %s: only a namespace's can be",
                             STR_ARG(target->name), value_kind(of));
    return dict_set(r->s, of.dict, value_str(target->name), v);
}

static bool set_target(struct run *r, const struct node *target, struct value v)
{
    struct list items;

    if (target->kind == NODE_NAME)
        return scope_set(r, target->name, v);
    if (target->kind == NODE_ATTR)
        return set_attr(r, target, v);
    if (!value_items(r->s, v, &items))
        return false;
    if (items.count != target->count)
        return template_fail(r->s, -EINVAL, "%zu values for %zu names", items.count, target->count);
    for (size_t i = 0; i < items.count; i++)
        if (!scope_set(r, target->kids[i]->name, items.items[i]))
            return false;
    return true;
}

/* ---- text ------------------------------------------------------------------------ */

/* What a node writes, as a value. */
static bool capture(struct run *r, const struct node *n, struct value *out)
{
    struct buffer text = {0}, *before = r->out;
    bool good;

    r->out = &text;
    good = run_node(r, n);
    r->out = before;
    *out = value_str(buffer_str(&text));
    return good;
}

static bool run_print(struct run *r, const struct node *n)
{
    struct value v;
    struct str text;

    return eval(r, n->kids[0], &v) && value_text(r->s, v, &text) &&
           buffer_add(r->s, r->out, text.bytes, text.count);
}

static bool run_generation(struct run *r, const struct node *n)
{
    struct scope *above = r->scope;
    size_t from = r->out->count;
    bool good = scope_open(r, above) && run_node(r, n->kids[0]);

    r->scope = above;
    if (!good)
        return false;
    if (r->span_count == r->span_room) {
        size_t room = 2 * r->span_room + 4;
        struct template_span *more = template_take(r->s, room * sizeof *more);

        if (!more)
            return false;
        if (r->span_count)
            memcpy(more, r->spans, r->span_count * sizeof *more);
        r->spans = more;
        r->span_room = room;
    }
    r->spans[r->span_count++] = (struct template_span){from, r->out->count};
    return true;
}

/* ---- loops ------------------------------------------------------------------------ */

static bool cycle(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    if (a->count == 0)
        return template_fail(r->s, -EINVAL, "cycle without arguments");
    *out = a->values[(size_t)self->i % a->count];
    return true;
}

static bool changed(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    (void)self;
    (void)a;
    (void)out;
    return template_fail(r->s, -ENOTSUP, "loop.changed is not supported");
}

static bool loop_function(struct run *r, struct dict *loop, const struct function *f, size_t i)
{
    struct value *self = template_take(r->s, sizeof *self);

    if (!self)
        return false;
    *self = value_int((int64_t)i);
    return dict_set(r->s, loop, value_str(str_of(f->name)),
                    (struct value){.kind = VALUE_FUNCTION, .call = {f, self}});
}

static bool set_loop(struct run *r, const struct list *items, size_t i)
{
    static const struct function functions[] = {{"cycle", cycle, 32, ""}, {"changed", changed, 32, ""}};
    int64_t at = (int64_t)i, count = (int64_t)items->count;
    const struct {
        const char *name;
        struct value value;
    } fields[] = {
        {"index", value_int(at + 1)},
        {"index0", value_int(at)},
        {"first", value_bool(i == 0)},
        {"last", value_bool(at + 1 == count)},
        {"length", value_int(count)},
        {"revindex", value_int(count - at)},
        {"revindex0", value_int(count - at - 1)},
        {"depth", value_int(1)},
        {"depth0", value_int(0)},
        {"previtem", i > 0 ? items->items[i - 1] : value_undefined(str_of("loop.previtem"))},
        {"nextitem", at + 1 < count ? items->items[i + 1] : value_undefined(str_of("loop.nextitem"))},
    };
    struct value loop;

    if (!value_dict(r->s, &loop))
        return false;
    loop.kind = VALUE_NAMESPACE;
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++)
        if (!list_add(r->s, &loop.dict->keys, value_str(str_of(fields[f].name))) ||
            !list_add(r->s, &loop.dict->values, fields[f].value))
            return false;
    return loop_function(r, loop.dict, &functions[0], i) && loop_function(r, loop.dict, &functions[1], i) &&
           scope_set(r, str_of("loop"), loop);
}

/* Of the items those for which the loop's "if" holds. */
static bool filter_items(struct run *r, const struct node *n, struct scope *above, struct list *items)
{
    struct list kept = {0};
    struct value when;

    for (size_t i = 0; i < items->count; i++) {
        if (!scope_open(r, above) || !set_target(r, n->kids[0], items->items[i]) ||
            !eval(r, n->kids[2], &when))
            return false;
        if (value_true(when) && !list_add(r->s, &kept, items->items[i]))
            return false;
    }
    *items = kept;
    return true;
}

static bool run_items(struct run *r, const struct node *n, struct scope *above, struct list *items)
{
    bool good = !n->kids[2] || filter_items(r, n, above, items);

    for (size_t i = 0; i < items->count && good; i++) {
        good = scope_open(r, above) && set_loop(r, items, i) && set_target(r, n->kids[0], items->items[i]) &&
               run_node(r, n->kids[3]);
        if (r->flow == BREAKS)
            i = items->count - 1;
        r->flow = GOES_ON;
    }
    return good;
}

static bool run_for(struct run *r, const struct node *n)
{
    struct scope *above = r->scope;
    struct value of;
    struct list items;
    bool good;

    if (!eval(r, n->kids[1], &of) || !value_items(r->s, of, &items))
        return false;
    good = run_items(r, n, above, &items);
    if (good && items.count == 0 && n->kids[4])
        good = scope_open(r, above) && run_node(r, n->kids[4]);
    r->scope = above;
    return good;
}

/* ---- macros ----------------------------------------------------------------------- */

static const struct value *given(const struct args *a, struct str name, size_t index)
{
    if (index < a->count)
        return &a->values[index];
    for (size_t i = 0; i < a->named; i++)
        if (str_equal(a->names[i], name))
            return &a->values[a->count + i];
    return NULL;
}

static bool set_parameters(struct run *r, const struct node *macro, const struct args *a)
{
    size_t used = 0, all = macro->count - 1;

    for (size_t i = 0; i < all; i++) {
        const struct node *one = macro->kids[i + 1];
        const struct value *v = given(a, one->name, i);
        struct value initial = value_undefined(one->name);

        used += v != NULL;
        if (!v && one->kids[0] && !eval(r, one->kids[0], &initial))
            return false;
        if (!scope_set(r, one->name, v ? *v : initial))
            return false;
    }
    return used == a->count + a->named ||
           template_fail(r->s, -ENOTSUP,
                         "macro '%.*s' is called with arguments that it has no parameters for",
                         STR_ARG(macro->name));
}

bool run_macro(struct run *r, const struct node *macro, struct scope *scope, const struct args *a,
               struct value *out)
{
    struct scope *before = r->scope;
    bool good = scope_open(r, scope) && set_parameters(r, macro, a) && capture(r, macro->kids[0], out);

    r->scope = before;
    return good;
}

/* ---- statements -------------------------------------------------------------------- */

static bool run_block(struct run *r, const struct node *n)
{
    for (size_t i = 0; i < n->count && r->flow == GOES_ON; i++)
        if (!run_node(r, n->kids[i]))
            return false;
    return true;
}

static bool run_kind(struct run *r, const struct node *n)
{
    struct value v;

    switch (n->kind) {
    case NODE_TEXT:
        return buffer_add(r->s, r->out, n->value.s.bytes, n->value.s.count);
    case NODE_PRINT:
        return run_print(r, n);
    case NODE_BLOCK:
        return run_block(r, n);
    case NODE_IF:
        if (!eval(r, n->kids[0], &v))
            return false;
        return value_true(v) ? run_node(r, n->kids[1]) : !n->kids[2] || run_node(r, n->kids[2]);
    case NODE_FOR:
        return run_for(r, n);
    case NODE_SET:
        return eval(r, n->kids[1], &v) && set_target(r, n->kids[0], v);
    case NODE_SET_BLOCK:
        return capture(r, n->kids[1], &v) && set_target(r, n->kids[0], v);
    case NODE_MACRO:
        return scope_set(r, n->name, (struct value){.kind = VALUE_MACRO, .macro = {n, r->scope}});
    case NODE_GENERATION:
        return run_generation(r, n);
    case NODE_BREAK:
    case NODE_CONTINUE:
        r->flow = n->kind == NODE_BREAK ? BREAKS : CONTINUES;
        return true;
    default:
        return template_fail(r->s, -EINVAL, "a value where a statement is expected");
    }
}

bool run_node(struct run *r, const struct node *n)
{
    bool good;

    if (!template_work(r->s, 1) || !template_enter(r->s))
        return false;
    r->s->line = n->line;
    good = run_kind(r, n);
    template_leave(r->s);
    return good;
}
