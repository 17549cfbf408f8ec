/* Small text files as one string. */
#ifndef IO_TEXT_FILE_H
#define IO_TEXT_FILE_H

#include "base/fault.h"

#include <stddef.h>

/* Reads a file ("-": standard input) of at most max_bytes without zero bytes into a string that the caller
 * frees. EXIT_CODE_INPUT if it is missing, larger, or not text. */
bool text_file_read(const char *path, size_t max_bytes, char **text, struct fault *fault);

#endif
