/* Ids of published models: what a file of ours says it belongs to when its makers read a folder of theirs.
 * Local to the calling rank. Faults are EXIT_CODE_INPUT. */
#ifndef MODELS_PUBLISHED_ID_H
#define MODELS_PUBLISHED_ID_H

#include "base/fault.h"
#include "io/sha256.h"

/* SHA-256 over the weights of a folder (safetensors_open_folder): of each tensor of floats, in the order of
 * the names (strcmp), the name with its closing zero, the rank and the shape as 64-bit integers, the values
 * as 32-bit floats, all little-endian. One file or many parts, F32 or a 16-bit type that has the same values:
 * the id is the same. Tensors of integers (buffers such as position_ids) do not count. Values that are not
 * finite are refused. Reads all of the weights, one tensor at a time. */
bool published_weights_id(const char *folder, const char *stem, char id[SHA256_HEX_SIZE],
                          struct fault *fault);

/* What a CLIP text encoder's token states are a function of: the id of its weights (of the caller's reading),
 * and vocab.json and merges.txt of its tokenizer's folder, byte by byte. */
bool published_text_id(const char weights_id[SHA256_HEX_SIZE], const char *tokenizer,
                       char id[SHA256_HEX_SIZE], struct fault *fault);

#endif
