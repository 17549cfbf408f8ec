/* Published CLIP: a transformers folder of one encoder (CLIPVisionModelWithProjection, CLIPTextModel,
 * CLIPTextModelWithProjection), or of a whole CLIPModel, of which one encoder is read. The weights are in
 * model.safetensors, its parts, or its fp16 variant, as any version of transformers wrote them. All functions
 * initialise `set`, and clear it on failure; NULL comes with a fault of EXIT_CODE_INPUT. Local to the calling
 * rank. */
#ifndef MODELS_CLIP_FOLDER_H
#define MODELS_CLIP_FOLDER_H

#include "models/clip_text.h"
#include "models/clip_vision.h"

struct clip_vision *clip_vision_open(struct parameter_set *set, struct backend *backend, const char *folder,
                                     bool trainable, struct fault *fault);

/* That of a whole CLIPModel has its projection. */
struct clip_text *clip_text_open(struct parameter_set *set, struct backend *backend, const char *folder,
                                 bool trainable, struct fault *fault);

#endif
