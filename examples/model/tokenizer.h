/*
 * Text to token ids and back, for the example programs.
 *
 * Reads a Hugging Face tokenizer.json whose model is BPE, byte-level or with marks for
 * spaces, and gives the ids and texts of tokenizers 0.23.3, down to its versions of
 * Unicode: normalizers, pre-tokenizers, regular expressions, added tokens with all
 * their flags, decoders. Of the files beside it, tokenizer_config.json and the older
 * special_tokens_map.json and added_tokens.json are read for flags of added tokens, as
 * transformers 5.24 does (tokenizer_config.c).
 *
 * What is not supported is refused when the file is opened, with a sentence that names
 * the file, the field and its value, since ids that are subtly wrong cost more than an
 * error: other models than BPE, prefixes and suffixes of subwords, dropout, the
 * normalizers Precompiled and BertNormalizer, the pre-tokenizer UnicodeScripts, the
 * decoders WordPiece and CTC, and of regular expressions what tokenizer_regex.h names.
 *
 * Conventions
 *  - Functions return 0 or -errno. Only tokenizer_open has more to say, in error.
 *  - A tokenizer never changes once open: any number of threads may use it.
 *  - Arrays handed out through ** are the caller's, to free(). On failure they are
 *    NULL, and counts are 0.
 *
 * Text that isn't UTF-8
 *  - Each maximal ill-formed part is encoded as one U+FFFD, which is what reading
 *    the file with errors="replace" gives in Python.
 *  - Except where nothing looks at characters (a byte-level tokenizer without a
 *    regular expression and without a normalizer, as tokenizer_bytes makes): there
 *    all bytes are taken as they are, and come back from tokenizer_decode_piece.
 *
 * Deliberately not applied: truncation, padding, and the post-processor, whose tokens
 * tokenizer_before and tokenizer_after give.
 */
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

struct tokenizer;

/* Opens a tokenizer.json. On failure *out is NULL and error, if error_bytes is not
 * 0, has the sentence: -ENOTSUP for what is well-formed and not supported, -EINVAL
 * for what makes no sense, -ENOMEM, or the errno of the file. */
int tokenizer_open(const char *path, struct tokenizer **out, char *error, size_t error_bytes);

/* The same for what a tokenizer.json would have, with no files beside it. path is for sentences. */
int tokenizer_open_json(const char *path, const json_t *root, struct tokenizer **out, char *error,
                        size_t error_bytes);

/* The tokenizer of models without a checkpoint: ids 0 to 255 are the bytes, 256 is
 * the special token <|begin|> and 257 is <|end|>. */
int tokenizer_bytes(struct tokenizer **out);

/* Writes the tokenizer of tokenizer_bytes as a tokenizer.json, which Hugging Face
 * loads with the same ids. The file must not exist yet (-EEXIST); a failed write
 * leaves none. */
int tokenizer_save_bytes(const char *path);

/* NULL is accepted. */
void tokenizer_close(struct tokenizer *t);

/* The highest id, plus 1. There may be ids below it that no token has. */
uint32_t tokenizer_vocab(const struct tokenizer *t);

/* What the file's post-processor puts before and behind a text, such as a start token:
 * count ids, which belong to t and may be beyond its vocabulary; NULL for none. Nothing
 * else decides on start and end tokens, no bos_token_id and no add_bos_token. */
const uint32_t *tokenizer_before(const struct tokenizer *t, size_t *count);
const uint32_t *tokenizer_after(const struct tokenizer *t, size_t *count);

/* Whether id is a token that the file calls special; false for unknown ids. */
bool tokenizer_special(const struct tokenizer *t, uint32_t id);

/* Ids of a text, which may hold NUL bytes. Added and special tokens are recognised
 * in it, leftmost first and then longest. No text gives no ids, and *ids may then
 * be NULL. Besides the ids it takes about 40 bytes per byte of text at worst, usually
 * less than 4. -EOVERFLOW: a stretch of 2^32 characters that can't be cut anywhere.
 * -E2BIG: a normalizer made the text 64 times as long. -ELOOP: a regular expression of
 * the file backtracks without end. -EILSEQ: a character that the vocabulary can't
 * write, and its unk_token isn't in it. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, uint32_t **ids,
                     size_t *count);

/* The bytes of one token, for printing tokens as they come; they belong to t. They
 * may end within a UTF-8 character. first says that the token begins a text, where
 * some tokenizers drop a space. Special tokens are given like others. Pieces one
 * after another are tokenizer_decode's text, as far as that is valid UTF-8 and the
 * file has no decoder that looks across tokens for more than the leading space.
 * -EINVAL: no token has that id. */
int tokenizer_decode_piece(const struct tokenizer *t, uint32_t id, bool first, const char **bytes,
                           size_t *count);

/* The text of ids, as Hugging Face's decode gives it: valid UTF-8, with U+FFFD for
 * bytes that make no character; unknown ids are skipped. A NUL byte follows the
 * text; *bytes, which may be NULL, doesn't count it. */
int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                     char **text, size_t *bytes);

#endif
