/* BERT's form of the token encoder: transformers' BertModel. */
#ifndef MODELS_BERT_H
#define MODELS_BERT_H

#include "models/token_encoder.h"

/* Reads the root of a config.json. Relative positions are refused. Faults are EXIT_CODE_INPUT. */
bool bert_config_read(struct token_encoder_config *config, struct json root, struct fault *fault);

#endif
