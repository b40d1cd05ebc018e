/*
 * Errors: the one place where a failure becomes a code and a sentence.
 *
 * A function that fails returns a negative code (an errno value, or one of
 * enum ofl_code, which lies outside errno) and leaves a sentence in this
 * thread's slot, worded "what failed: object, numbers with units: cause".
 * Control characters in it, which names may have, become question marks.
 * Asynchronous work carries its own struct base_error, and hands it to the
 * slot of the thread that collects the result.
 */
#ifndef OFL_BASE_ERROR_H
#define OFL_BASE_ERROR_H

#define BASE_ERROR_TEXT 1024

struct base_error {
    int code; /* 0, or negative */
    char text[BASE_ERROR_TEXT];
};

/* Sets this thread's sentence and returns code, so that callers can write
 * `return base_fail(-EINVAL, "create %s: ...", name);`. */
int base_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same, with ": <text of code>" added: for causes that errno knows. */
int base_fail_errno(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Copies this thread's sentence into err, under the given code. */
void base_error_save(struct base_error *err, int code);

/* Makes err this thread's sentence; returns err->code. */
int base_error_restore(const struct base_error *err);

/* Fills err without touching this thread's slot. */
void base_error_set(struct base_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

const char *base_error_text(void);   /* this thread's sentence, "" if none */
const char *base_strerror(int code); /* any thread; static text, errno or ours */

#endif
