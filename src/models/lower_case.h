/* Lower case, character by character. */
#ifndef MODELS_LOWER_CASE_H
#define MODELS_LOWER_CASE_H

#include <stdint.h>

/* Writes the lower case of a character, 1 or 2 characters; returns their number. No heed is taken of what
 * stands around it: a sigma at the end of a word is as any other. */
int lower_case(int32_t character, int32_t out[2]);

#endif
