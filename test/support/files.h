/* Files for tests: a scratch folder, bytes in and out, and what a broken file must do to its reader. */
#ifndef SUPPORT_FILES_H
#define SUPPORT_FILES_H

#include "base/fault.h"
#include "io/sha256.h"

#include <stddef.h>
#include <stdint.h>

/* A fresh folder, removed with its files by scratch_remove. The caller frees the name. */
char *scratch_make(void);
void scratch_remove(char *folder);
/* "folder/name"; the caller frees it. */
char *scratch_path(const char *folder, const char *name);

void *file_bytes(const char *path, size_t *size); /* the caller frees it; a zero follows the bytes */
void file_write(const char *path, const void *data, size_t size);
int folder_count(const char *folder); /* files in it */

/* Reads everything that the program reads of a file, into a hash; false with a fault if it is broken. */
typedef bool (*file_reader)(const char *path, struct sha256 *hash, struct fault *fault);

/* What happened to readers of damaged copies. */
struct damage {
    int faults;  /* an error, as it should be */
    int same;    /* everything read was as before */
    int wrong;   /* something else was read */
    int crashes; /* a signal, a failed CHECK, more than 2 GiB of memory or 60 s */
};

/* Flips `count` bits of a copy of the file, one at a time, at random places in [first, last) (last 0: the
 * end), each read by a process of its own. Deterministic in `seed`. */
struct damage damage_flips(const char *path, file_reader reader, size_t first, size_t last, int count,
                           uint64_t seed);
/* The same with copies cut at `count` random lengths. */
struct damage damage_cuts(const char *path, file_reader reader, int count, uint64_t seed);

/* Reader of any HDF5 file of this program: schema, every dataset and root attribute. */
bool read_whole_h5(const char *path, struct sha256 *hash, struct fault *fault);

#endif
