/* The published all-MiniLM-L6-v2, which is not kept in the repository. */
#ifndef SUPPORT_PUBLISHED_ENCODER_H
#define SUPPORT_PUBLISHED_ENCODER_H

#include <stddef.h>

/* Writes its folder: what APTP_SENTENCE_ENCODER names, else what postproc/sentence_encoder_path.py finds with
 * the Python of build/venv (`make venv`). Fails the running test if there is none. */
void published_encoder_folder(char *folder, size_t size);

#endif
