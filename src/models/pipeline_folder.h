/* The folder of a published text-to-image model: diffusers' StableDiffusionPipeline, a folder for each of its
 * networks beside model_index.json. What is read here is what the networks must know of each other. Local to
 * the calling rank. Faults are EXIT_CODE_INPUT. */
#ifndef MODELS_PIPELINE_FOLDER_H
#define MODELS_PIPELINE_FOLDER_H

#include "base/fault.h"

#include <stdint.h>

/* Checks model_index.json: a StableDiffusionPipeline of UNet2DConditionModel, AutoencoderKL, CLIPTextModel
 * and CLIPTokenizer with some scheduler. Safety checker and feature extractor are of no meaning here; any
 * other component (a second text encoder, an image encoder) is refused by name. */
bool pipeline_check_index(const char *folder, struct fault *fault);

/* Of vae/config.json. The VAE must make latents [H/8, W/8, 4], which its factor alone brings to the UNet's
 * range: no shift, no means. */
bool pipeline_read_vae(const char *folder, double *scaling_factor, struct fault *fault);

/* Of text_encoder/config.json: width D of the token states, and how many of them (77). */
bool pipeline_read_text(const char *folder, int64_t *width, int64_t *tokens, struct fault *fault);

#endif
