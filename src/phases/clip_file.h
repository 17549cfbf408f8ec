/* clip.h5: the metric network, written by pretrain (pretrain.model = "clip"). Its image features are those of
 * Frechet distance and CMMD, the cosine of image and text features is the CLIP score. All functions are
 * local. */
#ifndef PHASES_CLIP_FILE_H
#define PHASES_CLIP_FILE_H

#include "io/hdf5_file.h"
#include "models/clip.h"

struct clip_file {
    char *path;                       /* owned */
    char *config_text;                /* the image encoder's config.json; owned */
    struct clip *clip;                /* frozen when read by clip_file_read; owned */
    char *sentence_encoder;           /* id of the encoder of z: as lineage.sentence_encoder; owned */
    char content_id[SHA256_HEX_SIZE]; /* of the file */
    float *text_weight;               /* [P, D]: the text projection in host memory; owned */
    int64_t image_size;               /* pixels a side */
    int64_t width;                    /* P: of the features */
    int64_t embedding_width;          /* D: of z */
};

/* Reads a finished file for inference in `dtype` (fp32 or bf16); a checkpoint is refused. Faults are
 * EXIT_CODE_INPUT. Free with clip_file_clear. Whether z belongs to it is for the caller to say:
 * clip_file_check_encoder. */
bool clip_file_read(const char *path, struct backend *backend, enum dtype dtype, struct clip_file *file,
                    struct fault *fault);
void clip_file_clear(struct clip_file *file); /* nothing, if zero or not read */

/* Refuses (EXIT_CODE_INPUT) embeddings of another sentence encoder: `id` and `path` of the file that has them
 * (struct lineage). */
bool clip_file_check_encoder(const struct clip_file *file, const char *id, const char *path,
                             struct fault *fault);

/* image_embeds, features[count, width], of pictures rgb[count, height, width, 3]; NOT of length 1: Frechet
 * distance and CMMD take them so or normalised (CMMD as published: normalised), the CLIP score normalises.
 * height and width must be image_size (else EXIT_CODE_INPUT, nothing is written); count >= 0, any size:
 * batches inside have a fixed size, so that a picture's features do not depend on the others, bit for bit.
 * `tape` (of the backend and dtype given to clip_file_read) is reset. */
bool clip_file_image_features(struct tape *tape, const struct clip_file *file, int64_t count, int64_t height,
                              int64_t width, const uint8_t *rgb, float *features, struct fault *fault);

/* text_embeds, features[count, width], of sentence embeddings z[count, embedding_width], in host code (fp64
 * sums); NOT of length 1. */
void clip_file_text_features(const struct clip_file *file, int64_t count, const float *z, float *features);

#endif
