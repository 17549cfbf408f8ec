/* WordPiece, the tokenizer of BERT and MPNet: text to the ids that a model was trained on, as BertTokenizer
 * and MPNetTokenizer of Hugging Face's transformers make them (tokenizers' BertNormalizer, BertPreTokenizer
 * and WordPiece).
 *
 * Text is cleaned (control and format characters removed, each blank a space), CJK ideographs become words of
 * their own, accents are stripped, letters lowered, words split at blanks and around each punctuation mark;
 * each word is then cut greedily into the longest pieces of the vocabulary, all but the first marked "##". A
 * word that cannot be cut so, or is longer than WORDPIECE_MAX_WORD characters, is [UNK]. Special tokens are
 * recognised where a text spells them out, before or after it is cleaned.
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

/* How the tokens with a role are written:
 *   BERT   [PAD], [UNK], [CLS], [SEP], [MASK]
 *   MPNet  <pad>, [UNK], <s>,   </s>,  <mask> */
enum wordpiece_kind { WORDPIECE_BERT, WORDPIECE_MPNET };
enum wordpiece_role {
    WORDPIECE_PADDING,
    WORDPIECE_UNKNOWN,
    WORDPIECE_FIRST, /* before a sentence */
    WORDPIECE_LAST,  /* behind it */
    WORDPIECE_MASK,
    WORDPIECE_ROLES,
};
const char *wordpiece_role_text(enum wordpiece_kind kind, enum wordpiece_role role);

/* A token that is recognised where a text spells it out: in the text as it is, or in the cleaned one. */
struct wordpiece_special {
    const char *text;
    bool cleaned; /* tokenizer.json's "normalized" */
};

struct wordpiece_options {
    enum wordpiece_kind kind;
    /* tokenizer_config.json's do_lower_case, strip_accents (there null: as do_lower_case),
     * tokenize_chinese_chars */
    bool lower_case, strip_accents, split_cjk;
    /* special tokens beside those with a role, which are looked for in the text as it is if they are not here
     * too; [special_count], borrowed until the tokenizer is made */
    const struct wordpiece_special *special;
    int special_count;
};

struct wordpiece;

/* Makes a tokenizer of a vocab.txt: one token a line, its id the line's number from 0. The vocabulary must
 * have the special tokens (the mask's may be missing), no empty line and no token twice; `name` stands in
 * messages. Free with wordpiece_free. Faults are EXIT_CODE_INPUT. */
bool wordpiece_parse(const char *vocabulary, size_t bytes, const char *name, struct wordpiece_options options,
                     struct wordpiece **tokenizer, struct fault *fault);
/* The same from a file. */
bool wordpiece_read(const char *path, struct wordpiece_options options, struct wordpiece **tokenizer,
                    struct fault *fault);
void wordpiece_free(struct wordpiece *tokenizer); /* NULL allowed */

/* Tokens of the vocabulary: ids are below it. */
int32_t wordpiece_count(const struct wordpiece *tokenizer);

/* All that ids depend on, as text; the caller frees it. */
char *wordpiece_describe(const struct wordpiece *tokenizer);

/* ids[capacity] = the first token, the tokens of text[0..bytes), the last one, then padding to the end;
 * tokens that do not fit are cut off. Returns the ids before the padding, 2..capacity; capacity >= 2. Bytes
 * that are not UTF-8 are left out, as BERT leaves out the U+FFFD that others put in their place. */
int wordpiece_encode(const struct wordpiece *tokenizer, const char *text, size_t bytes, int capacity,
                     int32_t *ids);

#endif
