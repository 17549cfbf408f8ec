/* What the files of CLIP's tokenizer share. */
#ifndef MODELS_CLIP_BPE_PRIVATE_H
#define MODELS_CLIP_BPE_PRIVATE_H

#include "models/clip_bpe.h"

#include <stdbool.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum special_name { SPECIAL_START, SPECIAL_END, SPECIAL_UNKNOWN, SPECIAL_PAD, SPECIAL_NAMES };

/* A token that is recognised where a text spells it out. */
struct special_token {
    char *text; /* owned; as normalised texts have it, if `normalized` */
    size_t bytes;
    int32_t id;
    bool normalized; /* looked for in the normalised text */
};

/* Tokens `left`, `right` beside each other become `made`. */
struct merge {
    int32_t left, right, made;
    int32_t rank; /* the smallest comes first */
};

struct clip_bpe {
    int32_t count;
    int length;                            /* model_max_length */
    int32_t letter[256], last_letter[256]; /* ids of a byte, and of one that ends a word */
    struct merge *merge;                   /* [merges], sorted by clip_bpe_compare_merges; owned */
    int32_t merges;
    struct special_token special[SPECIAL_NAMES]; /* all different */
    int specials;
    int32_t start, end, pad;   /* ids */
    pcre2_code *words, *parts; /* expressions; see clip_bpe.c */
};

/* By left, then right: for qsort and bsearch. */
int clip_bpe_compare_merges(const void *a, const void *b);

/* text[0..bytes) in the form NFC, lowered, as a string that the caller frees; *length without its zero. */
char *clip_bpe_normalise(const char *text, size_t bytes, size_t *length);

/* Compiles the expressions. */
void clip_bpe_compile(struct clip_bpe *tokenizer);

#endif
