/* Errors: see error.h. Owns the thread-local sentence; knows the text of every code. */
#include "base/error.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "include/offload.h"

static _Thread_local char slot[BASE_ERROR_TEXT];

static const struct {
    int code;
    const char *text;
} own_codes[] = {
    {OFL_EBUDGET, "does not fit the budget"},
    {OFL_EFORMAT, "malformed file"},
    {OFL_ECHECKSUM, "checksum mismatch"},
    {OFL_EBROKEN, "context is broken by an earlier error"},
    {OFL_EDEADLINE, "no completion before the deadline"},
    {OFL_EPINNED, "memory could not be pinned"},
    {OFL_EDIRECT, "direct I/O is not available"},
    {OFL_EURING, "io_uring is not available"},
    {OFL_ESTATE, "call is out of order"},
    {OFL_ECHANGED, "file was written while it was open"},
    {OFL_ETORN, "no generation of the kept store is whole"},
    {OFL_EWRITTEN, "the limit of bytes written to drives is reached"},
};

const char *base_strerror(int code)
{
    int positive = code == INT_MIN ? INT_MAX : code < 0 ? -code : code; /* INT_MIN has no negative */
    const char *text;

    for (size_t i = 0; i < sizeof own_codes / sizeof own_codes[0]; i++)
        if (own_codes[i].code == positive)
            return own_codes[i].text;
    if (positive == 0)
        return "success";
    text = strerrordesc_np(positive);
    return text ? text : "unknown error";
}

/* Names come from files of others, and sentences go to terminals. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            *text = '?';
}

int base_fail(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(slot, sizeof slot, fmt, ap);
    va_end(ap);
    make_printable(slot);
    return code;
}

int base_fail_errno(int code, const char *fmt, ...)
{
    va_list ap;
    int used;

    va_start(ap, fmt);
    used = vsnprintf(slot, sizeof slot, fmt, ap);
    va_end(ap);
    if (used >= 0 && (size_t)used < sizeof slot)
        snprintf(slot + used, sizeof slot - (size_t)used, ": %s", base_strerror(code));
    make_printable(slot);
    return code;
}

void base_error_set(struct base_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    make_printable(err->text);
}

void base_error_save(struct base_error *err, int code)
{
    err->code = code;
    memcpy(err->text, slot, sizeof slot);
}

int base_error_restore(const struct base_error *err)
{
    memcpy(slot, err->text, sizeof slot);
    return err->code;
}

const char *base_error_text(void)
{
    return slot;
}
