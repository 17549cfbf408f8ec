/* BERT's tokenizer: text to the ids that a BERT model was trained on, as BertTokenizerFast of Hugging Face's
 * transformers makes them (tokenizers' BertNormalizer, BertPreTokenizer and WordPiece).
 *
 * Text is cleaned (control and format characters removed, each blank a space), CJK ideographs become words of
 * their own, accents are stripped, letters lowered, words split at blanks and around each punctuation mark;
 * each word is then cut greedily into the longest pieces of the vocabulary, all but the first marked "##". A
 * word that cannot be cut so, or is longer than WORDPIECE_MAX_WORD characters, is [UNK]. The five special
 * tokens are recognised where a text spells them out.
 *
 * Character classes are utf8proc's. The library in transformers has those of Unicode 8: they differ for
 * some marks and punctuation of scripts encoded since. */
#ifndef MODELS_WORDPIECE_H
#define MODELS_WORDPIECE_H

#include "base/fault.h"

#include <stddef.h>
#include <stdint.h>

enum {
    WORDPIECE_MAX_WORD = 100,              /* characters; a longer word is [UNK] */
    WORDPIECE_MAX_TOKEN = 512,             /* bytes of a vocabulary line */
    WORDPIECE_MAX_VOCABULARY = 1 << 20,    /* lines */
    WORDPIECE_MAX_FILE = 16 * 1024 * 1024, /* bytes of the vocabulary */
};

/* tokenizer_config.json's do_lower_case, strip_accents (there null: as do_lower_case), tokenize_chinese_chars
 */
struct wordpiece_options {
    bool lower_case, strip_accents, split_cjk;
};

struct wordpiece;

/* Makes a tokenizer of a vocab.txt: one token a line, its id the line's number from 0. The vocabulary must
 * have [PAD], [UNK], [CLS] and [SEP], no empty line and no token twice; `name` stands in messages. Free with
 * wordpiece_free. Faults are EXIT_CODE_INPUT. */
bool wordpiece_parse(const char *vocabulary, size_t bytes, const char *name, struct wordpiece_options options,
                     struct wordpiece **tokenizer, struct fault *fault);
/* The same from a file. */
bool wordpiece_read(const char *path, struct wordpiece_options options, struct wordpiece **tokenizer,
                    struct fault *fault);
void wordpiece_free(struct wordpiece *tokenizer); /* NULL allowed */

/* Tokens of the vocabulary: ids are below it. */
int32_t wordpiece_count(const struct wordpiece *tokenizer);

/* ids[capacity] = [CLS], the tokens of text[0..bytes), [SEP], then [PAD] to the end; tokens that do not fit
 * are cut off. Returns the ids before the padding, 2..capacity; capacity >= 2. Bytes that are not UTF-8 are
 * left out, as BERT leaves out the U+FFFD that others put in their place. */
int wordpiece_encode(const struct wordpiece *tokenizer, const char *text, size_t bytes, int capacity,
                     int32_t *ids);

#endif
