/* The folder of a published text-to-image model: diffusers' StableDiffusionPipeline, a folder for each of its
 * networks beside model_index.json. Local to the calling rank. Faults are EXIT_CODE_INPUT. */
#ifndef MODELS_PIPELINE_FOLDER_H
#define MODELS_PIPELINE_FOLDER_H

#include "base/fault.h"

/* Checks model_index.json: a StableDiffusionPipeline of UNet2DConditionModel, AutoencoderKL, CLIPTextModel
 * and CLIPTokenizer with some scheduler. Safety checker and feature extractor are of no meaning here; any
 * other component (a second text encoder, an image encoder) is refused by name. */
bool pipeline_check_index(const char *folder, struct fault *fault);

#endif
