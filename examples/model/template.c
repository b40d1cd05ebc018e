/* Chat templates: see template.h. */
#include "examples/model/template_impl.h"

#include <stdio.h>
#include <stdlib.h>

#include "examples/model/files.h"

struct template
{
    struct template_state s; /* owns what the tree is made of */
    struct node *tree;
    bool marks;
};

/* With one kind of line ends, and without the last. */
static bool take_source(struct template_state *s, const char *source, size_t bytes, struct str *out)
{
    char *text = template_take(s, bytes + 1);
    size_t used = 0;

    if (!text)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        if (source[i] == '\r' && i + 1 < bytes && source[i + 1] == '\n')
            continue;
        text[used++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (used > 0 && text[used - 1] == '\n')
        used--;
    *out = (struct str){text, used};
    return true;
}

static bool is_utf8(const char *text, size_t bytes)
{
    json_t *s = json_stringn(text, bytes); /* takes nothing else */

    json_decref(s);
    return s != NULL;
}

int template_compile(const char *source, size_t bytes, const char *name, struct template **out, char *error,
                     size_t error_bytes)
{
    struct template *t = calloc(1, sizeof *t);
    struct parser p = {.line_start = true};
    size_t name_bytes = strlen(name) + 1;
    char *copy;

    *out = NULL;
    if (!t)
        return llama_fail(-ENOMEM, error, error_bytes, "%s: out of memory", name);
    if (!is_utf8(source, bytes)) {
        free(t);
        return llama_fail(-EINVAL, error, error_bytes, "%s: the template is no UTF-8", name);
    }
    if (bytes > TEMPLATE_SOURCE_MAX) {
        free(t);
        return llama_fail(-E2BIG, error, error_bytes, "%s: %zu bytes: a template has at most %u", name, bytes,
                          TEMPLATE_SOURCE_MAX);
    }
    t->s = (struct template_state){.name = name, .line = 1, .error = error, .error_bytes = error_bytes};
    p.s = &t->s;
    copy = template_take(&t->s, name_bytes);
    if (copy && take_source(&t->s, source, bytes, &p.source))
        t->tree = parse_template(&p);
    if (t->s.code || !t->tree) {
        int code = t->s.code ? t->s.code : -EINVAL;

        template_free(t);
        return code;
    }
    memcpy(copy, name, name_bytes);
    t->s.name = copy;
    t->marks = p.marks;
    *out = t;
    return 0;
}

void template_free(struct template *t)
{
    if (t)
        template_release(&t->s);
    free(t);
}

bool template_marks(const struct template *t)
{
    return t->marks;
}

static int take_text(const struct run *r, struct template_text *out)
{
    out->bytes = malloc(r->text.count + 1);
    out->spans = malloc((r->span_count + 1) * sizeof *out->spans);
    if (!out->bytes || !out->spans) {
        template_text_free(out);
        return -ENOMEM;
    }
    if (r->text.count)
        memcpy(out->bytes, r->text.bytes, r->text.count);
    out->bytes[r->text.count] = '\0';
    out->count = r->text.count;
    if (r->span_count)
        memcpy(out->spans, r->spans, r->span_count * sizeof *out->spans);
    out->span_count = r->span_count;
    return 0;
}

int template_render(const struct template *t, const json_t *variables, struct template_text *out, char *error,
                    size_t error_bytes)
{
    struct template_state s = {.name = t->s.name, .line = 1, .error = error, .error_bytes = error_bytes};
    struct scope globals = {0}, scope = {.above = &globals};
    struct run r = {.s = &s, .scope = &scope, .out = &r.text};
    struct value given;
    int code;

    *out = (struct template_text){0};
    if (value_from_json(&s, variables, &given)) {
        globals.names = *given.dict;
        run_node(&r, t->tree);
    }
    code = s.code ? s.code : take_text(&r, out);
    if (code == -ENOMEM && !s.code)
        llama_fail(code, error, error_bytes, "%s: out of memory", s.name);
    template_release(&s);
    return code;
}

void template_text_free(struct template_text *text)
{
    free(text->bytes);
    free(text->spans);
    *text = (struct template_text){0};
}
