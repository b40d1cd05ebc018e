/* Of chat templates: statements. See template_impl.h. */
#include "examples/model/template_impl.h"

static struct node *parse_body(struct parser *p, const char *const ends[]);

static bool end_of_tag(struct parser *p)
{
    return p->token == TOKEN_END ||
           template_fail(p->s, -EINVAL, "the end of the tag is expected, and here is %s", lex_what(p).bytes);
}

/* A name, names with commas, or of a namespace an attribute. */
static struct node *parse_target(struct parser *p)
{
    struct node *n = node_make(p, NODE_TUPLE, 0), *name;
    struct node *kids[16];
    bool comma = false;

    do {
        if (comma && !lex_next(p))
            return NULL;
        name = node_make(p, NODE_NAME, 1);
        if (!n || !name || n->count == sizeof kids / sizeof kids[0])
            return NULL;
        name->name = p->name;
        if (!parse_token(p, TOKEN_NAME, "a name"))
            return NULL;
        kids[n->count++] = name;
        comma = true;
    } while (p->token == ',');
    if (n->count > 1) {
        n->kids = template_take(p->s, sizeof kids);
        if (n->kids)
            memcpy(n->kids, kids, n->count * sizeof kids[0]);
        return n->kids ? n : NULL;
    }
    if (p->token != '.')
        return name;
    n->kind = NODE_ATTR;
    n->kids[0] = name; /* room for one is always there */
    if (!lex_next(p))
        return NULL;
    n->name = p->name;
    return parse_token(p, TOKEN_NAME, "a name") ? n : NULL;
}

/* ---- statements ------------------------------------------------------------------ */

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct node *n = node_make(p, NODE_IF, 3);

    if (!n || !(n->kids[0] = parse_without_if(p)) || !end_of_tag(p) || !(n->kids[1] = parse_body(p, ends)))
        return NULL;
    if (lex_is_name(p, "endif"))
        return lex_next(p) && end_of_tag(p) ? n : NULL;
    if (lex_is_name(p, "elif")) {
        if (!lex_next(p) || !template_enter(p->s))
            return NULL;
        n->kids[2] = parse_if(p);
        template_leave(p->s);
        return n->kids[2] ? n : NULL;
    }
    if (!lex_next(p) || !end_of_tag(p) || !(n->kids[2] = parse_body(p, last)))
        return NULL;
    return lex_next(p) && end_of_tag(p) ? n : NULL;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct node *n = node_make(p, NODE_FOR, 5);

    if (!n || !(n->kids[0] = parse_target(p)))
        return NULL;
    if (!lex_is_name(p, "in")) {
        template_fail(p->s, -EINVAL, "'in' is expected, and here is %s", lex_what(p).bytes);
        return NULL;
    }
    if (!lex_next(p) || !(n->kids[1] = parse_without_if(p)))
        return NULL;
    if (lex_is_name(p, "if") && (!lex_next(p) || !(n->kids[2] = parse_expression(p))))
        return NULL;
    if (lex_is_name(p, "recursive")) {
        template_fail(p->s, -ENOTSUP, "'recursive' loops are not supported");
        return NULL;
    }
    p->loops++;
    if (!end_of_tag(p) || !(n->kids[3] = parse_body(p, ends)))
        return NULL;
    p->loops--;
    if (lex_is_name(p, "else") && (!lex_next(p) || !end_of_tag(p) || !(n->kids[4] = parse_body(p, last))))
        return NULL;
    return lex_next(p) && end_of_tag(p) ? n : NULL;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct node *n = node_make(p, NODE_SET, 2);

    if (!n || !(n->kids[0] = parse_target(p)))
        return NULL;
    if (p->token == '=')
        return lex_next(p) && (n->kids[1] = parse_with_commas(p)) && end_of_tag(p) ? n : NULL;
    if (p->token == '|') {
        template_fail(p->s, -ENOTSUP, "'set' of a block with a filter is not supported");
        return NULL;
    }
    n->kind = NODE_SET_BLOCK;
    p->macros++; /* what is written inside has no place in the text yet */
    if (!end_of_tag(p) || !(n->kids[1] = parse_body(p, ends)))
        return NULL;
    p->macros--;
    return lex_next(p) && end_of_tag(p) ? n : NULL;
}

/* Parameters behind "(", up to behind ")". */
static bool parse_parameters(struct parser *p, struct node *n)
{
    struct node *kids[33];
    size_t count = 1;

    while (p->token != ')') {
        struct node *one = node_make(p, NODE_KEYWORD, 1);

        if (!one)
            return false;
        if (count == sizeof kids / sizeof kids[0])
            return template_fail(p->s, -ENOTSUP, "a macro of more than %zu parameters is not supported",
                                 count - 1);
        one->name = p->name;
        if (!parse_token(p, TOKEN_NAME, "a name") ||
            (p->token == '=' && (!lex_next(p) || !(one->kids[0] = parse_expression(p)))))
            return false;
        kids[count++] = one;
        if (p->token != ')' && !parse_token(p, ',', "',' or ')'"))
            return false;
    }
    n->kids = template_take(p->s, sizeof kids);
    if (!n->kids)
        return false;
    memcpy(n->kids + 1, kids + 1, (count - 1) * sizeof kids[0]);
    n->count = count;
    return lex_next(p);
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct node *n = node_make(p, NODE_MACRO, 1);
    unsigned loops = p->loops;

    if (!n)
        return NULL;
    n->name = p->name;
    if (!parse_token(p, TOKEN_NAME, "a name") || !parse_token(p, '(', "'('") || !parse_parameters(p, n) ||
        !end_of_tag(p))
        return NULL;
    p->macros++;
    p->loops = 0;
    n->kids[0] = parse_body(p, ends);
    p->loops = loops;
    p->macros--;
    return n->kids[0] && lex_next(p) && end_of_tag(p) ? n : NULL;
}

/* Where a macro or a block of its own is written, its place in the text is not known. */
static struct node *parse_generation(struct parser *p)
{
    static const char *const ends[] = {"endgeneration", NULL};
    struct node *n = node_make(p, NODE_GENERATION, 1);
    unsigned loops = p->loops;

    if (!n)
        return NULL;
    if (p->macros) {
        template_fail(p->s, -ENOTSUP, "'generation' inside of a macro, a 'set' or another is not supported");
        return NULL;
    }
    p->marks = true;
    p->macros++;
    p->loops = 0;
    if (!end_of_tag(p) || !(n->kids[0] = parse_body(p, ends)))
        return NULL;
    p->loops = loops;
    p->macros--;
    return lex_next(p) && end_of_tag(p) ? n : NULL;
}

static struct node *parse_jump(struct parser *p, enum node_kind kind, const char *name)
{
    struct node *n = node_make(p, kind, 0);

    if (p->loops == 0) {
        template_fail(p->s, -EINVAL, "'%s' outside of a loop", name);
        return NULL;
    }
    return n && end_of_tag(p) ? n : NULL;
}

static struct node *parse_tag(struct parser *p)
{
    static const struct {
        const char *name;
        struct node *(*parse)(struct parser *p);
    } tags[] = {{"if", parse_if},
                {"for", parse_for},
                {"set", parse_set},
                {"macro", parse_macro},
                {"generation", parse_generation}};
    struct str name = p->name;

    if (!parse_token(p, TOKEN_NAME, "the name of a tag"))
        return NULL;
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        if (str_is(name, tags[i].name))
            return tags[i].parse(p);
    if (str_is(name, "break"))
        return parse_jump(p, NODE_BREAK, "break");
    if (str_is(name, "continue"))
        return parse_jump(p, NODE_CONTINUE, "continue");
    if (name.count > 3 && strncmp(name.bytes, "end", 3) == 0)
        template_fail(p->s, -EINVAL, "'%.*s' ends nothing", STR_ARG(name));
    else
        template_fail(p->s, -ENOTSUP, "tag '%.*s' is not supported", STR_ARG(name));
    return NULL;
}

/* ---- blocks ----------------------------------------------------------------------- */

/* The next statement; NULL with *end: the template's end, or a tag with one of the names, still to be read. */
static struct node *parse_statement(struct parser *p, const char *const ends[], bool *end)
{
    enum piece piece;
    struct str text;
    struct node *n;

    *end = false;
    if (!lex_piece(p, &piece, &text))
        return NULL;
    switch (piece) {
    case PIECE_END:
        *end = true;
        if (ends)
            template_fail(p->s, -EINVAL, "the template ends where '%s' is expected", ends[0]);
        return NULL;
    case PIECE_TEXT:
        n = node_make(p, NODE_TEXT, 0);
        if (n)
            n->value = value_str(text);
        return n;
    case PIECE_PRINT:
        n = node_make(p, NODE_PRINT, 1);
        return n && (n->kids[0] = parse_with_commas(p)) && end_of_tag(p) ? n : NULL;
    case PIECE_TAG:
        for (size_t i = 0; ends && ends[i]; i++)
            if (lex_is_name(p, ends[i])) {
                *end = true;
                return NULL;
            }
        return parse_tag(p);
    }
    return NULL;
}

static struct node *parse_body(struct parser *p, const char *const ends[])
{
    struct node *block = node_make(p, NODE_BLOCK, 0), *n;
    size_t room = 0;
    bool end = false;

    if (!block || !template_enter(p->s))
        return NULL;
    while ((n = parse_statement(p, ends, &end)) != NULL) {
        if (block->count == room) {
            struct node **more = template_take(p->s, (2 * room + 4) * sizeof(struct node *));

            if (!more)
                return NULL;
            memcpy(more, block->kids, room * sizeof(struct node *));
            block->kids = more;
            room = 2 * room + 4;
        }
        block->kids[block->count++] = n;
    }
    template_leave(p->s);
    return end && !p->s->code ? block : NULL;
}

struct node *parse_template(struct parser *p)
{
    return parse_body(p, NULL);
}
