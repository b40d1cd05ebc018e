/*
 * The command lines of all programs: tables of options, of which --help, the defaults, the parsing and the
 * complaints come. Knows no program's options.
 *
 * A complaint names the option, what was given, and what would do: "--steps 0: not a whole number from 1 to
 * 10000".
 */
#ifndef EXAMPLES_COMMON_OPTIONS_H
#define EXAMPLES_COMMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an option's value is, and the type of its field. */
enum common_kind {
    COMMON_END,
    COMMON_GROUP,  /* no option: those that follow stand under this text in --help; least: its place */
    COMMON_FLAG,   /* no value; bool */
    COMMON_SWITCH, /* 0 or 1; bool */
    COMMON_TEXT,   /* const char * */
    COMMON_TEXTS,  /* struct common_texts: may be repeated, most times at most (0: any) */
    COMMON_BYTES,  /* 512M, 1.5G; uint64_t */
    COMMON_COUNT,  /* uint64_t */
    COMMON_NUMBER, /* finite; double */
    COMMON_WORD,   /* one of words; int or enum */
    COMMON_WORDS,  /* words with commas, may be repeated; bool[], by value */
    COMMON_BITS,   /* the same; uint32_t, of values added up */
    COMMON_CALL,   /* what else: set */
};

struct common_word {
    const char *name; /* NULL after the last */
    int value;
};

/* Of --optimizer: the methods of offload.h. */
#define COMMON_METHODS "adamw|adam|sgd|lion"
extern const struct common_word common_methods[];
const char *common_method_name(int method);

struct common_texts {
    const char **texts; /* owned; what they point to is not */
    size_t count;
};

/* The rest of a complaint, behind "--name text: ". */
struct common_complaint {
    char text[512];
};
/* False: it can't be used, and c says why. */
typedef bool common_set_fn(void *field, const char *text, struct common_complaint *c);
bool common_complain(struct common_complaint *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

struct common_option {
    enum common_kind kind;
    const char *name, *value; /* value: what --help calls it */
    const char *text;         /* of --help; the default is added to it */
    size_t field;             /* offsetof in the table's struct */
    const char *initial;      /* default, as on the command line; NULL: the field is left as it is */
    uint64_t least, most;     /* of bytes and counts; most 0: no limit */
    double low, high;         /* of numbers */
    const struct common_word *words;
    common_set_fn *set;
    bool hidden; /* from --help */
};

/* A table, and where its struct lies in the program's. */
struct common_table {
    const struct common_option *options;
    size_t at;
};

#define COMMON_TABLES 5

struct common_command {
    const char *title;       /* "ofl-bench nvme": the program's name is its first word */
    const char *before;      /* what it does, and what follows the options in --help */
    const char *after;       /* with examples and exit statuses */
    const char *arguments;   /* "FILE..."; NULL: there are none */
    const char *hint;        /* behind a complaint about an argument where there are none */
    common_set_fn *argument; /* field: the program's struct */
    struct common_table tables[COMMON_TABLES];
    /* After all options; text of the complaint is a whole sentence. */
    bool (*check)(void *options, struct common_complaint *c);
};

/* Fills *options with the defaults, then from the command line. Ends the program with EXIT_INPUT on what
 * can't be used, and with 0 after --help, --usage and --version. Returns a status. */
int common_options_parse(const struct common_command *command, int argc, char **argv, void *options);
/* Frees what the tables' texts own. */
void common_options_free(const struct common_command *command, void *options);

/* Calls set for each word of a list with commas. */
bool common_each_word(void *field, const char *text, common_set_fn *set, struct common_complaint *c);

/* after with the list of presets before it; to be freed. NULL: no memory. */
char *common_with_presets(const char *after);

#endif
