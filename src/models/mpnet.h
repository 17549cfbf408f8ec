/* MPNet's form of the token encoder: transformers' MPNetModel. No token types; all layers share an attention
 * bias by distance; position 0 belongs to nobody, 1 to padding tokens, the others count from 2. */
#ifndef MODELS_MPNET_H
#define MODELS_MPNET_H

#include "models/token_encoder.h"

/* Reads the root of a config.json. Faults are EXIT_CODE_INPUT. */
bool mpnet_config_read(struct token_encoder_config *config, struct json root, struct fault *fault);

#endif
