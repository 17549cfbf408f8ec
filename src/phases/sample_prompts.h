/* The prompts that the phase sample makes pictures of: those of a split of data.h5, with the token states and
 * embeddings stored there, or text (a file, standard input, the deck), which the text encoder of a published
 * pipeline and a sentence encoder encode (models/prompt_encoder.h). */
#ifndef PHASES_SAMPLE_PROMPTS_H
#define PHASES_SAMPLE_PROMPTS_H

#include "phases/lineage.h"
#include "phases/phase.h"
#include "phases/text_list.h"

enum {
    PROMPT_MAX_BYTES = 8192,     /* of one that is given as text */
    PROMPTS_MAX_BYTES = 1 << 26, /* of a file of them */
    PROMPTS_MAX_COUNT = 10000000,
};

struct sample_prompts {
    struct text_list text;  /* [count] the prompts */
    struct text_list group; /* [count] labels of their pictures; empty: they have none */
    int64_t *item;          /* [count] row of the split, or line of the text, from 0; owned */
    int64_t count;
    int64_t tokens, text_width, embedding_width; /* T, D of the token states; D of z, 0: none */
    int64_t height, width;                       /* latents of the split; 0: not known */
    char data_id[SHA256_HEX_SIZE];               /* content id of data.h5, "" if none is read */
    struct prompt_reader *reader;                /* owned */
};

/* Rank 0 reads the list of a file or of standard input and gives it to all; every rank opens the data and the
 * encoder for itself. Collective; the verdict is shared. Free with sample_prompts_close. */
bool sample_prompts_open(const struct run *run, const struct sample_cfg *cfg, enum dtype dtype,
                         struct sample_prompts *prompts, struct fault *fault);
void sample_prompts_close(struct sample_prompts *prompts);

/* Refuses (EXIT_CODE_INPUT) a network or router that belongs to another encoder or other latents. Local, as
 * are the next two. */
bool sample_prompts_check(const struct sample_prompts *prompts, const struct lineage *other,
                          const char *other_name, struct fault *fault);

/* Bytes that the encoder needs. */
void sample_prompts_memory(const struct sample_prompts *prompts, size_t *weights, size_t *activations);

/* z [rows, embedding_width] of prompts [first, first + rows). */
bool sample_prompts_embed(const struct sample_prompts *prompts, int64_t first, int64_t rows, double *z,
                          struct fault *fault);

/* Of prompts prompt[0..rows), and before them, `rows` times, of what guidance leads away from:
 * states [2 rows, T, D] and mask [2 rows, T], 0 = hidden. */
bool sample_prompts_encode(const struct sample_prompts *prompts, int64_t rows, const int64_t *prompt,
                           float *states, float *mask, struct fault *fault);

#endif
