/* The numbers that data.h5 and its shards have of each item: one table, by which they are created, checked,
 * read and written.
 *
 * A file of kind pixel or haar has latents, its shards the pictures instead; of kind vae both have the mean
 * and the deviation of the latents. Token states, or with data.text_states = "computed" token ids. */
#ifndef PHASES_DATA_COLUMNS_H
#define PHASES_DATA_COLUMNS_H

#include "phases/shard.h"

/* In the order in which a file has them. */
enum data_column_id {
    DATA_PIXELS,  /* [crops, H, W, 3] */
    DATA_LATENTS, /* [V, C, h, w], as the next; V: crops x flips */
    DATA_DEVIATION,
    DATA_STATES,    /* [T, D] */
    DATA_IDS,       /* [T] */
    DATA_LENGTH,    /* [] */
    DATA_EMBEDDING, /* [width of z] */
    DATA_COLUMNS,
};

struct data_column {
    const char *name;  /* in the group of the split; NULL: the file does not have it */
    enum h5_type type; /* as stored; in memory float, int32_t or uint8_t */
    int rank;
    int64_t shape[5]; /* shape[0] = 0: the items */
    int64_t row;      /* elements of one item */
};

/* The table of a split of a shard, or of data.h5. */
void data_columns_of_shard(const struct shard_maker *maker, int split,
                           struct data_column column[DATA_COLUMNS]);
void data_columns_of_file(const struct shard_maker *maker, int split,
                          struct data_column column[DATA_COLUMNS]);

/* Bytes of an item in memory, and in a file. */
size_t data_column_bytes(const struct data_column *column);
size_t data_column_stored_bytes(const struct data_column *column);

/* rows[] of all columns that are there, NULL of others. chunk_bytes: as many rows a chunk as fill it, at
 * least one; 0: the writer's choice. */
bool data_columns_create(const struct data_column column[DATA_COLUMNS], struct h5_writer *file, int split,
                         int64_t chunk_bytes, struct h5_rows *rows[DATA_COLUMNS], struct fault *fault);

/* Checks that all columns of a split have their shapes, with one number of items. */
bool data_columns_expect(const struct data_column column[DATA_COLUMNS], struct h5_reader *file, int split,
                         int64_t *items, struct fault *fault);

/* Items [first, first + count) of a column that is there, to and from memory. */
bool data_column_read(const struct data_column *column, struct h5_reader *file, int split, int64_t first,
                      int64_t count, void *values, struct fault *fault);
bool data_column_append(const struct data_column *column, struct h5_rows *rows, int64_t count,
                        const void *values, struct fault *fault);

#endif
