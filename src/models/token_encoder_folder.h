/* Opens the folder of a BERT or an MPNet as transformers publishes it: config.json, whose model_type says
 * which of the two it is, and model.safetensors. */
#ifndef MODELS_TOKEN_ENCODER_FOLDER_H
#define MODELS_TOKEN_ENCODER_FOLDER_H

#include "models/token_encoder.h"

/* folder/config.json. Faults are EXIT_CODE_INPUT; a model_type other than bert and mpnet is one. */
bool token_encoder_folder_config(const char *folder, struct token_encoder_config *config,
                                 struct fault *fault);

/* Builds the encoder, fills it with the folder's weights, and freezes it for computation in `dtype`. Free
 * with token_encoder_delete. */
bool token_encoder_folder_open(struct backend *backend, const char *folder,
                               const struct token_encoder_config *config, enum dtype dtype,
                               struct token_encoder **encoder, struct fault *fault);

#endif
