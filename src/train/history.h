/* What a run logged, step by step: in memory, in a CSV that can be followed, and in checkpoints (DESIGN
 * section 6). */
#ifndef TRAIN_HISTORY_H
#define TRAIN_HISTORY_H

#include "base/fault.h"

#include <stdbool.h>
#include <stdint.h>

struct csv_log;
struct h5_reader;
struct h5_writer;

enum history_kind {
    HISTORY_NUMBER, /* one number a step */
    HISTORY_TIMING, /* one, for the CSV alone: files must not depend on how fast the machine was */
    HISTORY_LIST,   /* width >= 1 numbers a step ("expert_use", one an expert): NAME_0, NAME_1, ... in the CSV
                     */
};

/* A table of doubles with named columns. */
struct history_column {
    const char *name; /* borrowed */
    int width;        /* numbers a step: 1 but in lists */
    enum history_kind kind;
};

struct history {
    const struct history_column *column; /* borrowed */
    int columns, values;                 /* values: numbers a step, the sum of the widths */
    int64_t *step;                       /* [rows] owned */
    double *value;                       /* [rows, values] owned */
    int64_t rows, capacity;
    struct csv_log *csv; /* rank 0's, or NULL */
};

/* Starts empty; free with history_clear, which closes the CSV too. */
void history_init(struct history *history, const struct history_column *column, int columns);
void history_clear(struct history *history);

/* Opens the CSV at `path` to go on behind the rows that are there (a restart cuts it back to them). Rank 0
 * alone. */
bool history_open_csv(struct history *history, const char *path, struct fault *fault);

/* Adds a row: values[history->values] in the order of the columns. */
bool history_add(struct history *history, int64_t step, const double *values, struct fault *fault);

/* The datasets history/step [L] and history/NAME [L], or [L, width] of a list. */
bool history_write_h5(const struct history *history, struct h5_writer *writer, struct fault *fault);
/* Replaces the rows by those of a file with the same columns; timings become zero. */
bool history_read_h5(struct history *history, struct h5_reader *reader, struct fault *fault);

#endif
