/* What ofl-generate prints: tokens may be parts of characters, which are kept until they are whole. */
#include "examples/generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/text.h"

static int append(struct text *t, const char *bytes, size_t count)
{
    if (t->used + count > t->room) {
        size_t room = 2 * (t->used + count) + 256;
        char *more = realloc(t->bytes, room);

        if (!more)
            return common_fail(EXIT_FULL, "generate: out of memory");
        t->bytes = more;
        t->room = room;
    }
    memcpy(t->bytes + t->used, bytes, count);
    t->used += count;
    return 0;
}

static int show(struct text *t, size_t end)
{
    if (fwrite(t->bytes + t->shown, 1, end - t->shown, stdout) < end - t->shown || fflush(stdout) == EOF)
        return common_fail(common_status_late(-errno), "write the text: %s", strerror(errno));
    t->shown = end;
    return 0;
}

int text_put(struct text *t, const char *bytes, size_t count)
{
    int status = count ? append(t, bytes, count) : 0;
    size_t end;

    if (status || count == 0)
        return status;
    end = t->shown + text_whole(t->bytes + t->shown, t->used - t->shown);
    return end > t->shown ? show(t, end) : 0;
}

int text_finish(struct text *t)
{
    int status = t->shown < t->used ? show(t, t->used) : 0;

    if (t->used && (putchar('\n') == EOF || fflush(stdout) == EOF) && status == 0)
        status = common_fail(common_status_late(-errno), "write the text: %s", strerror(errno));
    return status;
}

json_t *text_json(const struct text *t)
{
    struct text clean = {0};
    json_t *value;
    bool cut;

    for (size_t i = 0; i < t->used;) {
        size_t width = text_character(t->bytes + i, t->used - i, &cut);

        if (append(&clean, width ? t->bytes + i : "\xEF\xBF\xBD", width ? width : 3)) {
            text_free(&clean);
            return NULL;
        }
        i += width ? width : 1;
    }
    value = json_stringn(clean.used ? clean.bytes : "", clean.used);
    text_free(&clean);
    return value;
}

void text_free(struct text *t)
{
    free(t->bytes);
    *t = (struct text){0};
}
