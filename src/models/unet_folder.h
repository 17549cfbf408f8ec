/* A published UNet: the folder `unet` of a diffusers model, with config.json and
 * diffusion_pytorch_model.safetensors (or parts, or variant fp16). Local to the calling rank. */
#ifndef MODELS_UNET_FOLDER_H
#define MODELS_UNET_FOLDER_H

#include "models/unet.h"

/* Reads the folder's config.json; ff_entries as in unet_config_parse. */
bool unet_folder_config(const char *folder, int ff_entries, struct unet_config *config, struct fault *fault);

/* Allocates the parameters of the whole UNet and fills them from the folder's weights; nothing is allocated
 * when these do not fit the network. */
bool unet_folder_load(const char *folder, struct unet *unet, bool trainable, struct fault *fault);

#endif
