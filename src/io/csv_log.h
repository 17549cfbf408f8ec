/* The live metrics of a run: a CSV that can be followed while it grows, one line a step, flushed each.
 *
 * The first column is `step`. After a restart the lines behind the checkpoint's step are cut off, and the
 * file goes on as if the run had never stopped. Local: rank 0 alone writes it. */
#ifndef IO_CSV_LOG_H
#define IO_CSV_LOG_H

#include "base/fault.h"

#include <stdint.h>

struct csv_log;

/* Opens the log for steps after `last_step`: lines with a greater step (and a half line at the end) are cut
 * off; last_step < 0 starts an empty file. columns[count] are the names after `step`; an existing file with
 * others is an EXIT_CODE_OUTPUT fault when last_step >= 0. */
bool csv_log_open(const char *path, const char *const *columns, int count, int64_t last_step,
                  struct csv_log **log, struct fault *fault);

/* Appends one line; values[count] are written with all their digits. */
bool csv_log_write(struct csv_log *log, int64_t step, const double *values, struct fault *fault);

void csv_log_close(struct csv_log *log); /* NULL allowed */

#endif
