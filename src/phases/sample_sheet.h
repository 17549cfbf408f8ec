/* A sheet of samples, to look at while a UNet is trained: a row a prompt, first the picture of the data set,
 * then samples. */
#ifndef PHASES_SAMPLE_SHEET_H
#define PHASES_SAMPLE_SHEET_H

#include "diffusion/guided_sampling.h"
#include "diffusion/latent.h"
#include "models/text_encoder.h"
#include "phases/keys.h"

struct sample_sheet_settings {
    struct string_list prompts; /* captions of the data set; borrowed */
    int steps;
    double guidance;
    uint64_t seed;
    struct text_encoder *text_encoder; /* as of dataset_open; borrowed */
};

struct sample_sheet;

/* Finds the prompts among the captions of both splits (a fault if one is not there) and reads their token
 * states. Local. Free with sample_sheet_delete. */
bool sample_sheet_open(const char *data_file, const struct latent_form *form,
                       const struct sample_sheet_settings *settings, struct sample_sheet **sheet,
                       struct fault *fault);
void sample_sheet_delete(struct sample_sheet *sheet); /* NULL allowed */

/* Samples every prompt and writes the PNG at `path`. The noise is a function of the seed and the place on the
 * sheet, so that sheets of one run can be compared. Computes in `dtype`. Local: rank 0 alone calls it. */
bool sample_sheet_draw(struct sample_sheet *sheet, enum dtype dtype, const struct unet *unet,
                       const struct noise_schedule *schedule, const char *path, struct fault *fault);

#endif
