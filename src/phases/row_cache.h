/* Rows of numbers that are computed once and kept in a file: features of pictures, losses of items.
 *
 * The file holds a key, a text that names everything the rows are a function of (content ids, settings). Rows
 * of another key are never used: they are computed anew. The file grows while rows are computed, so that an
 * interrupted run loses at most the rows of half a minute. */
#ifndef PHASES_ROW_CACHE_H
#define PHASES_ROW_CACHE_H

#include "phases/phase.h"

enum { ROW_CACHE_MAX_KEY = 1 << 16 };

struct row_cache {
    const char *path;
    const char *what;    /* of messages: "real pictures" */
    const char *key;     /* less than ROW_CACHE_MAX_KEY bytes */
    int64_t rows, width; /* of the whole */
    int64_t batch;       /* rows computed at a time, >= 1; a part of the results' rounding, so of the key */

    /* Computes rows [first, first + count), values[count, width]: a batch, or less at the end. Local: each
     * rank gets others, with one batch each in a round. */
    bool (*compute)(void *context, int64_t first, int64_t count, float *values, struct fault *fault);
    void *context;
};

/* values[rows, width]: from the file, what is there; the rest is computed by all ranks, each batch by one of
 * them, and is the same on all. Asked to stop (base/stop.h) it writes what it has and gives a fault of
 * EXIT_CODE_STOPPED. A file that cannot be read is a fault too. Collective; all ranks pass the same. */
bool row_cache_fill(struct run *run, const struct run_cfg *cfg, const struct row_cache *cache, float *values,
                    struct fault *fault);

#endif
