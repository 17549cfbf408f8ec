/* InceptionV3 in the form that the Frechet distance is measured with (FID): the network of 2015-12-05 as
 * pytorch-fid has it, whose mean pooling does not count the padding and whose last block takes the largest
 * value instead. A frozen network without gradients: its pooling has none.
 *
 * A folder has config.json and model.safetensors, both made by postproc/inception_weights.py from the
 * published pickle, with its names: "Mixed_5b.branch1x1.conv.weight", ".bn.weight", ".bn.bias",
 * ".bn.running_mean",
 * ".bn.running_var". The classifier behind the features is left out. */
#ifndef MODELS_INCEPTION_H
#define MODELS_INCEPTION_H

#include "base/fault.h"
#include "io/sha256.h"
#include "nn/layers.h"

enum {
    INCEPTION_FEATURES = 2048, /* of the published network */
    INCEPTION_SIDE = 299,      /* pixels, of the pictures that FID is defined on */
    INCEPTION_LEAST_SIDE = 75, /* smaller ones leave nothing for the last blocks */
    INCEPTION_BATCH = 8,       /* pictures a forward pass, always */
};

struct inception_config {
    int64_t divisor; /* channels_divided_by, 1, 2, 4, 8 or 16: every layer has so many times fewer channels.
                        1 is the published network; narrower ones are for tests */
};

struct inception_block;

struct inception {
    struct inception_config config;
    int64_t features;                /* F = 2048 / divisor */
    struct parameter_set parameters; /* batch norm is folded into weight and bias */
    struct inception_block *block;   /* owned, as is */
    struct tape *tape;
    char id[SHA256_HEX_SIZE]; /* SHA-256 of the weights, batch norm folded in: all that features depend on but
                                 the precision; of an opened folder */
};

/* Reads a folder and readies the network for inference in `dtype`. Faults are EXIT_CODE_INPUT. Free with
 * inception_close. Local to the calling rank. */
bool inception_open(struct backend *backend, const char *folder, enum dtype dtype,
                    struct inception **inception, struct fault *fault);
void inception_close(struct inception *inception); /* NULL allowed */

/* pictures[count, height, width, 3], RGB in 0..255 (fractions allowed), at least INCEPTION_LEAST_SIDE a side
 * -> features[count, F]. A picture's features do not depend on the others: batches have a fixed size. */
void inception_features(struct inception *inception, int64_t count, int64_t height, int64_t width,
                        const float *pictures, float *features);

// ---- parts of the above

/* config.json's text; `name` is for messages. */
bool inception_config_parse(struct inception_config *config, const char *text, const char *name,
                            struct fault *fault);

/* The network without weights: allocate and fill `parameters`, then fold. */
struct inception *inception_new(struct backend *backend, const struct inception_config *config);

/* Folds every batch norm into the convolution before it: weight [O, ..] times s, and bias (the norm's own
 * parameter, "bn.bias") minus s mean, with s = bn.weight / sqrt(running_var + 0.001). To be called once.
 * A negative variance is an EXIT_CODE_INPUT fault that begins with `path`. */
bool inception_fold(struct inception *inception, const char *path, struct fault *fault);

/* pixels [B, H, W, 3] in -1..1 -> [B, 1, 1, F] */
struct tensor *inception_forward(struct tape *tape, const struct inception *inception, struct tensor *pixels);

#endif
