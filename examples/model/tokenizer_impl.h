/*
 * What the rooms of the tokenizer share: the opened tokenizer, its containers and
 * the steps that text passes through. Only tokenizer*.c includes this.
 *
 *     tokenizer.c            open, close, accessors, the byte tokenizer
 *     tokenizer_load.c       reads vocabulary and merges from JSON
 *     tokenizer_added.c      added tokens: their ids, flags, and what finds them
 *     tokenizer_config.c     what tokenizer_config.json changes of these
 *     tokenizer_post.c       what the post-processor puts around a text
 *     tokenizer_steps.c      reads normalizer and decoder from JSON
 *     tokenizer_pre.c        reads the pre-tokenizer
 *     tokenizer_encode.c     cuts text at added tokens, pre-tokenizes
 *     tokenizer_normalize.c  normalizes
 *     tokenizer_bpe.c        merges
 *     tokenizer_decode.c     ids to text
 *     tokenizer_table.c      containers and UTF-8
 *
 * Below them: tokenizer_regex.h, tokenizer_class.h, tokenizer_tables.h.
 */
#ifndef MODEL_TOKENIZER_IMPL_H
#define MODEL_TOKENIZER_IMPL_H

#include <jansson.h>

#include "examples/model/tokenizer.h"
#include "examples/model/tokenizer_class.h"
#include "examples/model/tokenizer_regex.h"

#define TOK_NONE     UINT32_MAX /* no id, no position */
#define TOK_ID_LIMIT (1u << 22) /* ids are below it, so that a hostile id can't claim all memory */
#define TOK_STEPS    32
#define TOK_GROWTH   64 /* how much longer steps may make a text; real ones triple it */

struct tok_text {
    const char *text;
    size_t bytes;
};

/* Growing bytes. limit is the most that it may hold (-E2BIG); 0 is no limit. */
struct tok_buffer {
    char *data;
    size_t used, room, limit;
};

struct tok_ids {
    uint32_t *ids;
    size_t count, room;
};

/* Text of a token -> its index in a list of words, by open addressing. */
struct tok_map {
    uint32_t *slots;
    size_t mask;
};

/* Pair of ids -> value, by open addressing. Key 0 marks an empty slot. */
struct tok_pair {
    uint64_t key;
    uint32_t value;
};

struct tok_pairs {
    struct tok_pair *slots;
    size_t mask, count;
};

struct tok_trie_node {
    uint32_t child, sibling; /* TOK_NONE ends the list */
    uint32_t added;          /* index into tokenizer.added, or TOK_NONE */
    unsigned char byte;
};

/* The contents of added tokens, to find them in text. */
struct tok_trie {
    struct tok_trie_node *nodes;
    size_t count, room;
    uint32_t root[256];
};

struct tok_word {
    char *text;
    uint32_t bytes, id;
};

/* An added token; its text is tokenizer.added_words' of the same index. */
struct tok_added {
    bool lstrip, rstrip, single_word, normalized, special;
    bool skipped;           /* it is, or once was, special */
    struct tok_text normal; /* where a normalizer makes another text of it */
};

enum tok_kind {
    TOK_PREPEND, /* content before a text that is not empty */
    TOK_REPLACE, /* each pattern, or match of re, by content */
    TOK_FORM,    /* to a normalization form */
    TOK_LOWERCASE,
    TOK_REMOVE_ACCENTS, /* what set has */
    TOK_NMT,            /* controls away, and odd spaces to plain ones */
    TOK_STRIP_SPACES,   /* white space off the ends: start and stop say which */
    TOK_PREFIX_SPACE,   /* a space before a piece that has none */
    TOK_SPLIT,          /* cuts at matches of re */
    TOK_CHUNKS,         /* cuts each start characters */
    TOK_BYTE_MAP,       /* each byte by its printable character */
    TOK_MARK_SPACES,    /* spaces by content, and content before the piece by scheme */
    TOK_SPLIT_MARKS,    /* cuts before each content */
    TOK_BYTE_FALLBACK,  /* <0x0A> by its byte */
    TOK_FUSE,           /* all tokens by one */
    TOK_STRIP,          /* up to start and stop contents off the ends of each token */
    TOK_BYTE_UNMAP,     /* back from TOK_BYTE_MAP, over all tokens */
    TOK_UNMARK_SPACES,  /* back from TOK_MARK_SPACES */
    TOK_JOIN,           /* one token, with spaces between */
    TOK_WORD_ENDS,      /* pattern by a space, in the last token by nothing */
};

enum tok_scheme { TOK_ALWAYS, TOK_FIRST, TOK_NEVER };

/* What becomes of the matches that a text is cut at. */
enum tok_behavior { TOK_REMOVED, TOK_ISOLATED, TOK_CONTIGUOUS, TOK_MERGED_PREVIOUS, TOK_MERGED_NEXT };

struct tok_form;

struct tok_step {
    enum tok_kind kind;
    struct tok_text pattern, content;
    enum tok_scheme scheme;
    enum tok_behavior behavior;
    bool invert; /* what is between matches counts as match */
    size_t start, stop;
    struct tok_regex *re;
    struct tok_class *set;
    struct tok_form *form;
};

struct tok_steps {
    struct tok_step step[TOK_STEPS];
    size_t count;
};

/* What normalizing needs beside the text, zeroed before its first use. */
struct tok_codes {
    uint32_t *code;
    uint8_t *rank;
    size_t count, room;
};

struct tok_work {
    struct tok_buffer text[2];
    struct tok_matcher matcher;
    struct tok_codes codes, sorted;
};

/* Text of one id, NULL where no token has it; and its bytes as decoded, at
 * piece_bytes: within a text, and where they differ at its start. */
struct tok_piece {
    const char *text;
    uint32_t text_bytes;
    bool special;
    size_t added; /* which added token has it, if one has */
    size_t offset, first_offset;
    uint32_t bytes, first_bytes;
};

struct tokenizer {
    /* The model. Words are in the order of the file, and two may share an id. */
    struct tok_word *words;
    uint32_t word_count;
    struct tok_map map;
    uint32_t *char_ids; /* code point -> id of the word that is just it; chars of them */
    uint32_t chars;
    uint32_t byte_ids[256]; /* of <0x00> to <0xFF>; TOK_NONE without byte fallback */
    uint32_t unk;
    bool fuse_unk, ignore_merges, unk_missing;
    struct tok_pairs merges; /* (left, right) -> rank */
    uint32_t *merged;        /* rank -> id */
    struct tok_pairs joins;  /* (last character, first character) of every merge */
    bool cuttable;           /* whether joins tells where text can be cut */

    struct tok_added *added;
    struct tok_word *added_words;
    size_t added_count, added_room;
    struct tok_map added_map;
    bool split_special;              /* special tokens are not sought */
    struct tok_trie raw, normalized; /* added tokens sought before and behind the normalizer */
    struct tok_class *letters;       /* what single_word doesn't stand beside; NULL: no token asks */
    struct tok_steps normalizer, pre, decoder;
    bool any_bytes; /* no step looks at characters */

    uint32_t vocab;           /* the highest id, plus 1 */
    struct tok_piece *pieces; /* vocab of them, by id */
    struct tok_buffer piece_bytes;
    uint32_t *before, *after; /* what the post-processor puts around a text */
    size_t before_count, after_count;
};

/* What loading a file needs to complain. */
struct tok_load {
    struct tokenizer *t;
    const char *path;
    bool alone;   /* there is no file, and so none beside it */
    uint32_t nul; /* the character that stands for \u0000 in the parsed file, 0 for none */
    char *error;
    size_t error_bytes;
};

/* tokenizer_table.c. Growing containers give -ENOMEM, and stay as they were. */
int tok_buffer_add(struct tok_buffer *buffer, const void *bytes, size_t count);
int tok_buffer_add_char(struct tok_buffer *buffer, uint32_t code);
void tok_buffer_free(struct tok_buffer *buffer);
int tok_ids_add(struct tok_ids *ids, uint32_t id);
int tok_map_init(struct tok_map *map, size_t entries);
/* Adds the word of an index; where its text is there, the index is the new one. */
void tok_map_set(struct tok_map *map, const struct tok_word *words, uint32_t index);
/* The index of a text, or TOK_NONE. */
uint32_t tok_map_index(const struct tok_map *map, const struct tok_word *words, const char *text,
                       size_t bytes);
/* The id of a text, or TOK_NONE. */
uint32_t tok_map_find(const struct tok_map *map, const struct tok_word *words, const char *text,
                      size_t bytes);
int tok_pairs_init(struct tok_pairs *pairs, size_t entries);
void tok_pairs_set(struct tok_pairs *pairs, uint32_t left, uint32_t right, uint32_t value);
uint32_t tok_pairs_find(const struct tok_pairs *pairs, uint32_t left, uint32_t right);
int tok_text_copy(struct tok_text *out, const char *text, size_t bytes);
/* Where a pattern, which is not empty, first is; or NULL. */
const char *tok_find(const char *text, size_t bytes, const struct tok_text *pattern);
/* Appends text to out, with each pattern replaced. */
int tok_replace(struct tok_buffer *out, const char *text, size_t bytes, const struct tok_text *pattern,
                const struct tok_text *content);

/* Reads one character. Returns its length, or minus the length of the ill-formed
 * part that ends where another character could begin; count is at least 1. */
int tok_utf8_next(const char *text, size_t count, uint32_t *code);
bool tok_utf8_valid(const char *text, size_t count);
int tok_utf8_repair(struct tok_buffer *out, const char *text, size_t count);
/* The character that byte-level vocabularies write for a byte, and back; -1: none. */
uint32_t tok_byte_to_char(unsigned char byte);
int tok_char_to_byte(uint32_t code);

/* tokenizer_load.c: fills l->t from a parsed file. */
int tok_load_all(struct tok_load *l, const json_t *root);
/* Sets the error and returns code. value NULL reads "absent". */
int tok_load_fail(struct tok_load *l, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int tok_load_fail_field(struct tok_load *l, int code, const char *field, const json_t *value,
                        const char *cause);
int tok_load_memory(struct tok_load *l);
int tok_load_bool(struct tok_load *l, const json_t *object, const char *where, const char *key, int otherwise,
                  bool *out);
bool tok_load_id(const json_t *value, uint32_t *out);
/* A copy of a string of the file, with the NULs that JSON's \u0000 stands for. */
int tok_load_string(struct tok_load *l, const char *string, size_t bytes, struct tok_text *out);

/* tokenizer_added.c. Text and flags of one token: the text is the caller's. A flag
 * that is absent is refused, or, where that is allowed, as Hugging Face has it. */
int tok_added_read(struct tok_load *l, const json_t *token, const char *where, bool absent,
                   struct tok_text *text, struct tok_added *out);
/* The id of the first new token of a list that is added. */
uint32_t tok_added_next(const struct tokenizer *t);
/* Adds a token, or gives the one with its text these flags: Hugging Face's add_tokens.
 * The text is copied. */
int tok_added_put(struct tok_load *l, const struct tok_text *text, const struct tok_added *flags,
                  uint32_t *next);
/* Its index, or TOK_NONE. */
uint32_t tok_added_find(const struct tokenizer *t, const char *text, size_t bytes);
int tok_added_load(struct tok_load *l, const json_t *list);
/* Once all are there: what finds them in texts, and the texts of all ids. */
int tok_added_finish(struct tok_load *l);

/* tokenizer_config.c: the tokenizer_config.json beside the file, if there is one. */
int tok_config_load(struct tok_load *l, const json_t *root);

/* tokenizer_post.c */
int tok_post_load(struct tok_load *l, const json_t *root);

/* tokenizer_steps.c */
#define WHERE_MAX 160 /* bytes of the name of a field, such as decoder.decoders[3] */
/* Reads a member of a chain. -ENOTSUP without a sentence: its type isn't known. */
typedef int tok_member_fn(struct tok_load *l, const json_t *object, const char *where, const char *type,
                          struct tok_steps *steps);
int tok_load_chain(struct tok_load *l, const json_t *object, const char *where, const char *members,
                   tok_member_fn *member, struct tok_steps *steps);
int tok_fail_at(struct tok_load *l, int code, const char *where, const char *key, const json_t *value,
                const char *cause);
/* The next step of a chain, or NULL with a sentence: -ENOTSUP. */
struct tok_step *tok_add_step(struct tok_load *l, struct tok_steps *steps, const char *where,
                              enum tok_kind kind);
int tok_load_char(struct tok_load *l, const json_t *object, const char *where, const char *key,
                  struct tok_text *out);
int tok_load_count(struct tok_load *l, const json_t *object, const char *where, const char *key, size_t *out);
/* prepend_scheme, or the add_prefix_space that older files have in its place. */
int tok_load_scheme(struct tok_load *l, const json_t *object, const char *where, enum tok_scheme *out);
int tok_load_regex(struct tok_load *l, const char *where, const char *pattern, size_t bytes, bool literal,
                   struct tok_regex **out);
int tok_load_normalizer(struct tok_load *l, const json_t *root);
int tok_load_decoder(struct tok_load *l, const json_t *root);
void tok_steps_free(struct tok_steps *steps);

/* tokenizer_pre.c */
int tok_load_pre_tokenizer(struct tok_load *l, const json_t *root);

/* tokenizer_normalize.c */
int tok_normalize(const struct tok_steps *steps, const char *text, size_t bytes, struct tok_work *work,
                  const char **result, size_t *result_bytes);
void tok_work_free(struct tok_work *work);
/* A form by its name, NFC to NFKD; NULL: no memory. */
struct tok_form *tok_form_make(const char *name);
void tok_form_free(struct tok_form *form);
/* Appends text to out, with each match replaced. */
int tok_replace_regex(struct tok_buffer *out, const char *text, size_t bytes, const struct tok_regex *re,
                      const struct tok_text *content, struct tok_matcher *matcher);

/* tokenizer_encode.c */
int tok_trie_add(struct tok_trie *trie, const char *text, size_t bytes, uint32_t added);
void tok_trie_init(struct tok_trie *trie);
int tok_map_bytes(struct tok_buffer *out, const char *text, size_t bytes);
/* Unicode's White_Space. */
bool tok_is_space(uint32_t code);

/* tokenizer_bpe.c: scratch memory of one encoding, zeroed before the first piece. */
struct tok_symbol {
    uint32_t id, previous, next;
};

struct tok_bpe {
    struct tok_symbol *symbols;
    size_t count, room;
    uint64_t *heap; /* rank << 32 | position of the left symbol: smallest first */
    size_t heap_count, heap_room;
};

int tok_bpe_encode(const struct tokenizer *t, struct tok_bpe *bpe, const char *text, size_t bytes,
                   struct tok_ids *out);
void tok_bpe_free(struct tok_bpe *bpe);

/* tokenizer_decode.c: computes the bytes of every id, once the decoder is known. */
int tok_decode_prepare(struct tokenizer *t);

#endif
