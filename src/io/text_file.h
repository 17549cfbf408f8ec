/* Small files as one string. */
#ifndef IO_TEXT_FILE_H
#define IO_TEXT_FILE_H

#include "base/fault.h"

#include <stddef.h>
#include <stdio.h>

/* Reads what is left of a stream, at most max_bytes, into memory that the caller frees; a zero follows the
 * bytes. It grows with what is read, so neither the size that a file claims nor the limit matters. `name`
 * stands in messages. EXIT_CODE_INPUT. */
bool stream_read(FILE *stream, const char *name, size_t max_bytes, char **data, size_t *bytes,
                 struct fault *fault);

/* Reads a file ("-": standard input) of at most max_bytes without zero bytes into a string that the caller
 * frees. EXIT_CODE_INPUT if it is missing, larger, or not text. */
bool text_file_read(const char *path, size_t max_bytes, char **text, struct fault *fault);

#endif
