/* Files that appear whole or not at all: written under PATH.partial in the same folder, then flushed to the
 * disk and renamed. A kill at any moment leaves the last good file; a partial one is overwritten by the next
 * attempt. All functions are local to the calling rank. */
#ifndef IO_ATOMIC_FILE_H
#define IO_ATOMIC_FILE_H

#include "base/fault.h"

#include <stddef.h>

struct atomic_file;

/* Makes a write over the system's limit on file sizes fail with EFBIG, like any other failure, where it would
 * end the process by SIGXFSZ. Process-wide; a handler that is set already stays. */
void file_size_signal_ignore(void);

/* Creates PATH.partial, empty. EXIT_CODE_OUTPUT if that is not possible, or if another process is writing the
 * same file now. Calls file_size_signal_ignore. */
bool atomic_file_create(const char *path, struct atomic_file **file, struct fault *fault);

int atomic_file_descriptor(const struct atomic_file *file); /* to write to; stays with the file */
const char *atomic_file_path(const struct atomic_file *file);

/* fsync, rename to PATH, fsync of the folder; frees `file` in any case. On failure PATH is as it was before
 * and no partial file is left. */
bool atomic_file_commit(struct atomic_file *file, struct fault *fault);

/* Removes the partial file; frees. NULL allowed. */
void atomic_file_abandon(struct atomic_file *file);

/* A whole file at once. */
bool atomic_file_write(const char *path, const void *data, size_t bytes, struct fault *fault);

/* Writes all bytes to a descriptor; false with errno on failure. */
bool write_all(int descriptor, const void *data, size_t bytes);

#endif
