/* The networks that pictures are measured with (METHOD section 8): published ones, InceptionV3 for the
 * Frechet distance and CLIPs for CMMD and CLIP score, or the small CLIP that pretrain made, which stands in
 * for each. Local to the calling rank. */
#ifndef PHASES_METRIC_NETWORK_H
#define PHASES_METRIC_NETWORK_H

#include "models/inception.h"
#include "models/published_clip.h"
#include "phases/clip_file.h"

enum metric_network_kind { METRIC_NETWORK_TRAINED, METRIC_NETWORK_INCEPTION, METRIC_NETWORK_CLIP };

struct metric_network {
    enum metric_network_kind kind;
    const char *path; /* clip.h5, or the folder; borrowed */
    int64_t width;    /* F: of the features */
    enum dtype dtype; /* of the computation; published ones: fp32, as others measure with them */
    char
        id[SHA256_HEX_SIZE]; /* of all that features depend on but the precision; of clip.h5 its content id */

    struct clip_file trained; /* of the kind alone, each; owned */
    struct tape *tape;        /* of trained; borrowed */
    struct inception *inception;
    struct published_clip clip;
};

const char *metric_network_kind_name(enum metric_network_kind kind); /* "trained", "inception", "clip" */

/* Open clip.h5, in the dtype of `tape`; a folder made by postproc/inception_weights.py; a transformers
 * folder, with `texts` a whole CLIPModel and its tokenizer. Faults are EXIT_CODE_INPUT. Close with
 * metric_network_close. */
bool metric_network_open_trained(struct metric_network *network, struct backend *backend, struct tape *tape,
                                 const char *path, struct fault *fault);
bool metric_network_open_inception(struct metric_network *network, struct backend *backend,
                                   const char *folder, struct fault *fault);
bool metric_network_open_clip(struct metric_network *network, struct backend *backend, const char *folder,
                              bool texts, struct fault *fault);
void metric_network_close(struct metric_network *network); /* nothing, if zero or not opened */

/* The one size that pictures must have, pixels a side; 0: the network brings any to its own. */
int64_t metric_network_size(const struct metric_network *network);

/* features[count, width], NOT of length 1, of pictures of any sizes (trained: of its size, else
 * EXIT_CODE_INPUT). InceptionV3's are those of clean-fid's mode legacy_pytorch, which takes pictures to 299 x
 * 299. A picture's features do not depend on the others, bit for bit. */
bool metric_network_picture_features(struct metric_network *network, int64_t count,
                                     const struct image *picture, float *features, struct fault *fault);

/* features[count, width] of captions: trained reads the sentence embeddings z[count, embedding width], a
 * published CLIP, opened with `texts`, the text. */
void metric_network_caption_features(struct metric_network *network, int64_t count, const char *const *text,
                                     const float *z, float *features);

#endif
