/* The pictures that data.h5 was made of, from their files: latents give them back only roughly (a VAE), or
 * not at all. They are found by name: what prepare wrote as SPLIT/image. Local to the calling rank. */
#ifndef PHASES_REAL_PICTURES_H
#define PHASES_REAL_PICTURES_H

#include "io/hdf5_file.h"
#include "io/image_resample.h"
#include "io/sha256.h"

struct real_pictures;

/* `path`: what prepare was given (io/index.h), or a folder without an index.csv, .tsv or .jsonl, whose .png,
 * .jpg and .jpeg files are the pictures (not those of folders in it). All names are in memory. `size`: pixels
 * a side of what is read; a file of more than `max_pixels` is broken. Faults are EXIT_CODE_INPUT. Close with
 * real_pictures_close. */
bool real_pictures_open(const char *path, int size, int64_t max_pixels, struct real_pictures **pictures,
                        struct fault *fault);
void real_pictures_close(struct real_pictures *pictures); /* NULL allowed */

/* number[items]: the place in the source of each item of a split of data.h5, -1: it is not there. */
bool real_pictures_find(const struct real_pictures *pictures, struct h5_reader *data, const char *split,
                        int64_t items, int64_t *number, struct fault *fault);

/* Adds to a hash what tells whether pictures number[count] are still those that were read before: names,
 * sizes and times of change. */
bool real_pictures_identify(const struct real_pictures *pictures, int64_t count, const int64_t *number,
                            struct sha256 *hash, struct fault *fault);

/* The picture of a place, brought to [size, size] as prepare does. A fault concerns this picture alone; a
 * place of -1 is one. Several threads may call it. */
bool real_pictures_read(const struct real_pictures *pictures, int64_t number, struct image *picture,
                        struct fault *fault);

#endif
