#include "train/history.h"

#include "base/check.h"
#include "io/csv_log.h"
#include "io/hdf5_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 96, MAX_ROWS = 1 << 28 };

void history_init(struct history *history, const struct history_column *column, int columns)
{
    *history = (struct history){.column = column, .columns = columns};
    for (int i = 0; i < columns; i++) history->values += column[i].width;
}

void history_clear(struct history *history)
{
    csv_log_close(history->csv);
    free(history->step);
    free(history->value);
    *history = (struct history){0};
}

bool history_open_csv(struct history *history, const char *path, struct fault *fault)
{
    char(*text)[NAME_SIZE] = check_malloc((size_t)history->values * sizeof *text);
    const char **name = check_malloc((size_t)history->values * sizeof *name);
    int count = 0;
    for (int i = 0; i < history->columns; i++)
        for (int j = 0; j < history->column[i].width; j++, count++) {
            if (history->column[i].kind != HISTORY_LIST)
                snprintf(text[count], NAME_SIZE, "%s", history->column[i].name);
            else
                snprintf(text[count], NAME_SIZE, "%s_%d", history->column[i].name, j);
            name[count] = text[count];
        }
    int64_t last = history->rows ? history->step[history->rows - 1] : -1;
    bool ok = csv_log_open(path, name, count, last, &history->csv, fault);
    free(text);
    free(name);
    return ok;
}

static void reserve(struct history *history, int64_t rows)
{
    if (rows <= history->capacity) return;
    history->capacity = rows > 2 * history->capacity ? rows : 2 * history->capacity;
    history->step = check_realloc(history->step, (size_t)history->capacity * sizeof *history->step);
    history->value =
        check_realloc(history->value, (size_t)(history->capacity * history->values) * sizeof *history->value);
}

bool history_add(struct history *history, int64_t step, const double *values, struct fault *fault)
{
    reserve(history, history->rows + 1);
    history->step[history->rows] = step;
    memcpy(history->value + history->rows * history->values, values,
           (size_t)history->values * sizeof *values);
    history->rows++;
    return !history->csv || csv_log_write(history->csv, step, values, fault);
}

/* Copies a column out of the table, or into it: column[rows, width]. */
static void copy_column(const struct history *history, int index, double *column, bool into)
{
    int first = 0, width = history->column[index].width;
    for (int i = 0; i < index; i++) first += history->column[i].width;
    for (int64_t row = 0; row < history->rows; row++) {
        double *table = history->value + row * history->values + first;
        if (into)
            memcpy(table, column + row * width, (size_t)width * sizeof *table);
        else
            memcpy(column + row * width, table, (size_t)width * sizeof *table);
    }
}

bool history_write_h5(const struct history *history, struct h5_writer *writer, struct fault *fault)
{
    if (!h5_write_int64(writer, "history/step", 1, &history->rows, history->step, fault)) return false;
    bool ok = true;
    for (int i = 0; ok && i < history->columns; i++) {
        int width = history->column[i].width;
        if (history->column[i].kind == HISTORY_TIMING) continue;
        double *column = check_malloc((size_t)(history->rows * width) * sizeof *column);
        copy_column(history, i, column, false);
        char name[NAME_SIZE];
        snprintf(name, sizeof name, "history/%s", history->column[i].name);
        ok = h5_write_double(writer, name, history->column[i].kind == HISTORY_LIST ? 2 : 1,
                             (int64_t[]){history->rows, width}, column, fault);
        free(column);
    }
    return ok;
}

bool history_read_h5(struct history *history, struct h5_reader *reader, struct fault *fault)
{
    int64_t *step;
    struct h5_info info;
    if (!h5_load_int64(reader, "history/step", 1, (int64_t[]){-1}, MAX_ROWS, &step, &info, fault))
        return false;
    reserve(history, info.elements);
    history->rows = info.elements;
    memcpy(history->step, step, (size_t)info.elements * sizeof *step);
    memset(history->value, 0, (size_t)(history->rows * history->values) * sizeof *history->value);
    free(step);
    bool ok = true;
    for (int i = 0; ok && i < history->columns; i++) {
        int width = history->column[i].width;
        if (history->column[i].kind == HISTORY_TIMING) continue;
        double *column;
        char name[NAME_SIZE];
        snprintf(name, sizeof name, "history/%s", history->column[i].name);
        ok = h5_load_double(reader, name, history->column[i].kind == HISTORY_LIST ? 2 : 1,
                            (int64_t[]){history->rows, width}, history->rows * width, &column, NULL, fault);
        if (!ok) break;
        copy_column(history, i, column, true);
        free(column);
    }
    return ok;
}
