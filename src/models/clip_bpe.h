/* CLIP's tokenizer: text to the ids that CLIP's text encoder was trained on, as CLIPTokenizer of Hugging
 * Face's transformers 5 makes them, which is what diffusers' pipelines of Stable Diffusion call. (It is the
 * tokenizers library's; transformers 4 also had one in Python, which cleaned texts further, by ftfy or BERT's
 * rules. Its ids differ where a text has accents, ideographs or control characters.)
 *
 * Text is brought into Unicode's form NFC and lowered, character by character, and split into words: letters,
 * single digits, runs of anything else, the English contractions; blanks only separate. The UTF-8 bytes of a
 * word, the last one marked "</w>", are merged in the order of the merges' ranks until none applies.
 *
 * The special tokens (start, end, unknown, padding) are recognised where a text spells them out, before or
 * after it is normalised, as the folder says. So with Stable Diffusion 2's padding token "!" each "!" of a
 * text is that token, id 0, a word of its own.
 *
 * Character classes are those of PCRE2 and utf8proc: for letters encoded since Unicode 14 the tokenizers
 * library may differ. */
#ifndef MODELS_CLIP_BPE_H
#define MODELS_CLIP_BPE_H

#include "base/fault.h"
#include "io/sha256.h"

#include <stddef.h>
#include <stdint.h>

enum {
    CLIP_BPE_MAX_TOKEN = 512,             /* bytes of a token */
    CLIP_BPE_MAX_VOCABULARY = 1 << 20,    /* tokens, and merges */
    CLIP_BPE_MAX_FILE = 32 * 1024 * 1024, /* bytes of each file */
    CLIP_BPE_MAX_LENGTH = 4096,           /* tokens a text: model_max_length */
};

struct clip_bpe;

/* The texts of a tokenizer's files; NULL: there is none. */
struct clip_bpe_files {
    const char *name;       /* stands in messages: the folder */
    const char *config;     /* tokenizer_config.json; must be there */
    const char *special;    /* special_tokens_map.json */
    const char *vocabulary; /* vocab.json */
    const char *merges;     /* merges.txt */
    const char *tokenizer;  /* tokenizer.json, which transformers 5 writes in the place of the three above and
                               which has precedence; then vocabulary and merges are not looked at */
};

/* Makes a tokenizer. What is refused (EXIT_CODE_INPUT, by name): ids that are not 0..count-1, a vocabulary
 * without one of the 256 bytes (alone and with "</w>") or a special token, no merges, one of or into an
 * unknown token, two into the same one, added tokens that are not the special ones, unknown keys. Free with
 * clip_bpe_free. */
bool clip_bpe_parse(const struct clip_bpe_files *files, struct clip_bpe **tokenizer, struct fault *fault);
/* The same from the files of a folder. */
bool clip_bpe_read(const char *folder, struct clip_bpe **tokenizer, struct fault *fault);
void clip_bpe_free(struct clip_bpe *tokenizer); /* NULL allowed */

/* Tokens of the vocabulary: ids are below it. */
int32_t clip_bpe_count(const struct clip_bpe *tokenizer);
/* The folder's model_max_length: 77. */
int clip_bpe_length(const struct clip_bpe *tokenizer);
/* Adds to a hash all that ids depend on. */
void clip_bpe_identify(const struct clip_bpe *tokenizer, struct sha256 *hash);

/* ids[capacity] = start, the tokens of text[0..bytes), end, then padding; capacity >= 2. Returns how many
 * tokens of the text did not fit and were cut off. length (NULL allowed): ids before the
 * padding, 2..capacity. A byte that is not part of UTF-8 counts as U+FFFD. */
int64_t clip_bpe_encode(const struct clip_bpe *tokenizer, const char *text, size_t bytes, int capacity,
                        int32_t *ids, int *length);

#endif
