/* A published CLIP as a metric network: features of pictures of any size, for CMMD and CLIP score, and of
 * texts, for CLIP score. Local to the calling rank. */
#ifndef MODELS_PUBLISHED_CLIP_H
#define MODELS_PUBLISHED_CLIP_H

#include "io/sha256.h"
#include "models/clip_bpe.h"
#include "models/clip_preprocessor.h"
#include "models/clip_text.h"
#include "models/clip_vision.h"

struct published_clip {
    struct parameter_set parameters; /* owned, as are the next two */
    struct clip_vision *vision;      /* frozen */
    struct tape *tape;
    struct clip_preprocessor preprocessor;

    struct parameter_set text_parameters; /* owned, as are the next two; of the image tower alone, nothing */
    struct clip_text *text;               /* frozen; NULL: of the image tower alone */
    struct clip_bpe *tokenizer;
    int tokens; /* T: of a text, the tokenizer's model_max_length, 77 */

    int64_t width;            /* P: of the features */
    char id[SHA256_HEX_SIZE]; /* SHA-256 of all that features depend on but the precision: weights,
                                 configuration, preprocessing, tokenizer; of the towers that are open */
};

enum published_clip_towers { PUBLISHED_CLIP_IMAGE, PUBLISHED_CLIP_IMAGE_AND_TEXT };

/* Reads a transformers folder (clip_vision_open, clip_preprocessor_open; with the text tower also
 * clip_text_open and clip_bpe_read, all of the one folder) for inference in `dtype`. Close with
 * published_clip_close. Faults are EXIT_CODE_INPUT; so are towers whose features have different widths, and a
 * tokenizer with more tokens, or for longer texts, than the text tower. */
bool published_clip_open(struct published_clip *clip, struct backend *backend, const char *folder,
                         enum published_clip_towers towers, enum dtype dtype, struct fault *fault);
void published_clip_close(struct published_clip *clip); /* nothing, if zero or not opened */

/* image_embeds, features[count, width]; NOT of length 1. Pictures may differ in size; count >= 0. Batches
 * inside have a fixed size, so that a picture's features do not depend on the others, bit for bit. */
void published_clip_image_features(struct published_clip *clip, int64_t count, const struct image *picture,
                                   float *features);

/* text_embeds, features[count, width], of texts (UTF-8), as CLIPModel.get_text_features makes them of what
 * CLIPTokenizer makes with padding to, and truncation at, T tokens; NOT of length 1. cut[count]: tokens of
 * each that did not fit and were cut off; or NULL. count >= 0. Batches inside have a fixed size. The text
 * tower must be open. */
void published_clip_text_features(struct published_clip *clip, int64_t count, const char *const *text,
                                  float *features, int64_t *cut);

#endif
