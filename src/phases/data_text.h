/* The text encoder of a data file that has token ids in the place of token states: what a phase hands to
 * dataset_open. */
#ifndef PHASES_DATA_TEXT_H
#define PHASES_DATA_TEXT_H

#include "models/text_encoder.h"
#include "phases/phase.h"

/* Opens the text encoder of `pipeline` (a published folder) if data_file has token ids, else leaves *encoder
 * zero. Refused (EXIT_CODE_INPUT): no pipeline where there are ids, and another encoder than the file's.
 * Under
 * --check its memory is told. Close with text_encoder_close, before the backend. Local. */
bool data_text_open(const struct run *run, const char *data_file, const char *pipeline,
                    struct backend *backend, enum dtype dtype, struct text_encoder *encoder,
                    struct fault *fault);

#endif
