/* A published CLIP image encoder: a transformers folder of CLIPVisionModelWithProjection, or one of a whole
 * CLIPModel, of which the image encoder alone is read. Local to the calling rank. */
#ifndef MODELS_CLIP_VISION_FOLDER_H
#define MODELS_CLIP_VISION_FOLDER_H

#include "models/clip_vision.h"

/* Reads folder/config.json, and makes the model with the weights of folder/model.safetensors (or its parts,
 * or its fp16 variant). `set` is initialised, on failure cleared. NULL with a fault of EXIT_CODE_INPUT. */
struct clip_vision *clip_vision_open(struct parameter_set *set, struct backend *backend, const char *folder,
                                     bool trainable, struct fault *fault);

#endif
