/* The tokenizer of a folder as transformers publishes it: tokenizer_config.json, and the vocabulary either in
 * tokenizer.json, which is taken where there is one, or in vocab.txt (older folders). */
#ifndef MODELS_WORDPIECE_FOLDER_H
#define MODELS_WORDPIECE_FOLDER_H

#include "models/wordpiece.h"

/* Opens the tokenizer; free it with wordpiece_free. most_tokens: model_max_length, 0 where there is none.
 * Faults are EXIT_CODE_INPUT: another class than BertTokenizer or MPNetTokenizer (or these with "Fast"),
 * special tokens that are not the class's, steps of a tokenizer.json that are not WordPiece's, and a
 * tokenizer.json that contradicts tokenizer_config.json. */
bool wordpiece_folder_open(const char *folder, struct wordpiece **tokenizer, int64_t *most_tokens,
                           struct fault *fault);

#endif
