/* The pictures of the phase sample as files: a PNG each, which is there whole or not at all and says what it
 * was made from, and when all are there, samples.h5 and a contact sheet from them.
 *
 * A PNG keeps every pixel, so it is also the record of what is done: one that says that it was made from what
 * this run would make it from is not made again. All functions are local. */
#ifndef PHASES_SAMPLE_PICTURES_H
#define PHASES_SAMPLE_PICTURES_H

#include "phases/sample_prompts.h"

struct sample_pictures {
    const struct sample_cfg *cfg;         /* borrowed */
    const struct sample_prompts *prompts; /* borrowed */
    int64_t count;  /* prompts x cfg->images; picture i is index i % images of prompt i / images */
    int *expert;    /* [prompts] owned; -1: the teacher */
    char **network; /* [networks] owned: what network expert + 1 is, by the content ids of its
                       files; NULL where no prompt needs it */
    int networks;
    int64_t latents[2]; /* height and width */
    int height, width;  /* pixels */
    enum dtype dtype;   /* that the networks compute in */
    char *pipeline;     /* VAE and text encoder, by their ids; NULL: no VAE. Owned */
};
void sample_pictures_clear(struct sample_pictures *pictures);

int sample_picture_expert(const struct sample_pictures *pictures, int64_t picture);

/* The initial noise of a picture: a function of run.seed, the prompt's text and the picture's index. */
struct random_key sample_picture_noise(const struct sample_pictures *pictures, int64_t picture);

/* Folder of the PNGs, and the file of one: samples/00012_0_expert2.png. The caller frees it. */
char *sample_pictures_folder(const struct sample_pictures *pictures);
char *sample_picture_path(const struct sample_pictures *pictures, int64_t picture);

bool sample_picture_is_done(const struct sample_pictures *pictures, int64_t picture);
/* rgb [height, width, 3] */
bool sample_picture_write(const struct sample_pictures *pictures, int64_t picture, const uint8_t *rgb,
                          struct fault *fault);

/* Reads all PNGs and writes samples.h5, and the first of them as a sheet beside it, named like it:
 * samples.png.
 */
bool sample_pictures_collect(const struct sample_pictures *pictures, const struct h5_provenance *provenance,
                             struct fault *fault);

#endif
