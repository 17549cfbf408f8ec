/* The training side of data.h5: latents, token states and embeddings of one split, read ahead on a thread.
 * Of a file that has token ids in the place of states (data.text_states = "computed") the states are computed
 * when a batch is taken, and rounded to IEEE half as stored ones are.
 *
 * Local to the rank. Not more than two batches are in memory. */
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include "models/text_encoder.h"

#include <stdbool.h>
#include <stdint.h>

/* What is known of a split before anything is read. */
struct dataset_info {
    int64_t items; /* N */
    int64_t views; /* of a picture: crops, each plain and then mirrored where both are stored */
    int64_t height, width, channels; /* of latents */
    int64_t tokens, text_width;      /* T, D of the token states */
    int64_t embedding_width;         /* of z */
};

/* Host arrays of `count` samples; owned by the data set, valid until the next dataset_take. */
struct batch {
    int64_t count;
    float *latents;     /* [B, H, W, C] */
    float *deviations;  /* [B, H, W, C] of latents that a VAE makes: one is drawn as latents + deviations x
                           standard normal noise (METHOD section 9); NULL: the latents are what they are */
    int32_t *text_ids;  /* [B, T] where the file has ids, else NULL */
    float *text_states; /* [B, T, D] */
    float *text_mask;   /* [B, T], 0 = padding */
    float *embeddings;  /* [B, embedding_width] */
};

struct dataset;

/* Opens the group `split` ("train", "validation") of a data file and checks the shapes of all that is read.
 * `encoder`, borrowed, makes the states of a file with token ids; NULL or not opened: such a file is refused.
 * Close with dataset_close. */
bool dataset_open(const char *path, const char *split, struct text_encoder *encoder, struct dataset **dataset,
                  struct fault *fault);
void dataset_close(struct dataset *dataset); /* NULL allowed */
const struct dataset_info *dataset_info(const struct dataset *dataset);

/* Starts reading `count` items: view[i] of item[i], and the empty prompt in the
 * place of its own where drop_prompt[i] (NULL: nowhere). The arrays are copied. One request at a time: ask
 * again after dataset_take. */
void dataset_ask(struct dataset *dataset, int64_t count, const int64_t *item, const int *view,
                 const bool *drop_prompt);

/* Waits for the batch that was asked for. A fault is a file that broke while it was read, or a token state
 * that does not fit into IEEE half. */
bool dataset_take(struct dataset *dataset, struct batch *batch, struct fault *fault);

#endif
