/*
 * What the rooms of the tokenizer share: the opened tokenizer, its containers and
 * the steps that text passes through. Only tokenizer*.c includes this.
 *
 *     tokenizer.c         open, close, accessors, the byte tokenizer
 *     tokenizer_load.c    reads vocabulary, merges and added tokens from JSON
 *     tokenizer_steps.c   reads normalizer, pre_tokenizer and decoder from JSON
 *     tokenizer_encode.c  cuts text at added tokens, normalizes, pre-tokenizes
 *     tokenizer_bpe.c     merges
 *     tokenizer_decode.c  ids to text
 *     tokenizer_table.c   containers and UTF-8
 */
#ifndef LLAMA_TOKENIZER_IMPL_H
#define LLAMA_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "examples/model/tokenizer.h"

#define TOK_NONE     UINT32_MAX /* no id, no position */
#define TOK_ID_LIMIT (1u << 22) /* ids are below it, so that a hostile id can't claim all memory */
#define TOK_STEPS    16
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

/* Text of a token -> id, by open addressing; the texts lie in tokenizer.words. */
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
    char *text; /* NULL: no token has this id */
    uint32_t bytes;
    bool special;
};

struct tok_added {
    uint32_t id;
    bool lstrip, rstrip, normalized;
};

enum tok_kind {
    TOK_PREPEND,       /* content before a text that is not empty */
    TOK_REPLACE,       /* each pattern by content */
    TOK_PREFIX_SPACE,  /* a space before a piece that has none */
    TOK_REGEX,         /* cuts at matches, and keeps them */
    TOK_BYTE_MAP,      /* each byte by its printable character */
    TOK_MARK_SPACES,   /* spaces by content, and content before the piece by scheme */
    TOK_SPLIT_MARKS,   /* cuts before each content */
    TOK_BYTE_FALLBACK, /* <0x0A> by its byte */
    TOK_FUSE,          /* all tokens by one */
    TOK_STRIP,         /* up to start and stop contents off the ends of each token */
    TOK_BYTE_UNMAP,    /* back from TOK_BYTE_MAP, over all tokens */
    TOK_UNMARK_SPACES, /* back from TOK_MARK_SPACES */
    TOK_JOIN,          /* one token, with spaces between */
};

enum tok_scheme { TOK_ALWAYS, TOK_FIRST, TOK_NEVER };

struct tok_step {
    enum tok_kind kind;
    struct tok_text pattern, content;
    enum tok_scheme scheme;
    size_t start, stop;
    pcre2_code *code;
};

struct tok_steps {
    struct tok_step step[TOK_STEPS];
    size_t count;
};

/* Bytes of one id at pieces.data: within a text, and where they differ at its start. */
struct tok_piece {
    size_t offset, first_offset;
    uint32_t bytes, first_bytes;
};

struct tokenizer {
    struct tok_word *words; /* vocab of them, by id */
    uint32_t vocab;
    struct tok_map map; /* of the model's words; added tokens may be missing */

    /* The model. */
    uint32_t *char_ids; /* code point -> id of the word that is just it; chars of them */
    uint32_t chars;
    uint32_t byte_ids[256]; /* of <0x00> to <0xFF>; TOK_NONE without byte fallback */
    uint32_t unk;
    bool fuse_unk, ignore_merges;
    struct tok_pairs merges; /* (left, right) -> rank */
    uint32_t *merged;        /* rank -> id */
    struct tok_pairs joins;  /* (last character, first character) of every merge */
    bool cuttable;           /* whether joins tells where text can be cut */

    struct tok_added *added;
    size_t added_count;
    struct tok_trie raw, normalized; /* added tokens sought before and behind the normalizer */
    struct tok_steps normalizer, pre, decoder;
    bool any_bytes; /* no step looks at characters */

    struct tok_piece *pieces; /* vocab of them, by id */
    struct tok_buffer piece_bytes;
    int64_t bos, eos;
};

/* What loading a file needs to complain. */
struct tok_load {
    struct tokenizer *t;
    const char *path;
    char *error;
    size_t error_bytes;
};

/* tokenizer_table.c. Growing containers give -ENOMEM, and stay as they were. */
int tok_buffer_add(struct tok_buffer *buffer, const void *bytes, size_t count);
int tok_buffer_add_char(struct tok_buffer *buffer, uint32_t code);
void tok_buffer_free(struct tok_buffer *buffer);
int tok_ids_add(struct tok_ids *ids, uint32_t id);
int tok_map_init(struct tok_map *map, size_t entries);
void tok_map_add(struct tok_map *map, const struct tok_word *words, uint32_t id);
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
int tok_load_bool(struct tok_load *l, const json_t *object, const char *where, const char *key, int otherwise,
                  bool *out);

/* tokenizer_steps.c */
int tok_load_normalizer(struct tok_load *l, const json_t *root);
int tok_load_pre_tokenizer(struct tok_load *l, const json_t *root);
int tok_load_decoder(struct tok_load *l, const json_t *root);
void tok_steps_free(struct tok_steps *steps);

/* tokenizer_encode.c */
int tok_normalize(const struct tok_steps *steps, const char *text, size_t bytes, struct tok_buffer out[2],
                  const char **result, size_t *result_bytes);
int tok_trie_add(struct tok_trie *trie, const char *text, size_t bytes, uint32_t added);
void tok_trie_init(struct tok_trie *trie);

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
