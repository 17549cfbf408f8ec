/* Progress of a loop: count, rate and time left. On a terminal one line that is written again and again; into
 * a file a plain line at most every 30 s. Local; only a rank and level that log_info prints at shows it. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include "base/log.h"

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const struct log *log; /* borrowed */
    const char *what;      /* "step", "picture"; borrowed */
    int64_t first, total;  /* done before this run (a restart), and to be done in all */
    double (*clock)(void); /* timer_now; tests put their own */
    double began, shown;   /* times of the start and of the last output */
    bool terminal;         /* the stream is one */
    int width;             /* characters on the terminal's line now */
};

/* `done` of `total` are done already. */
struct progress progress_start(const struct log *log, const char *what, int64_t done, int64_t total);

/* Says that `done` are done. `format` makes a short note behind the numbers ("loss 0.12"); "" for none. Cheap
 * when nothing is to be shown yet. */
__attribute__((format(printf, 3, 4))) void progress_update(struct progress *progress, int64_t done,
                                                           const char *format, ...);

/* Ends the terminal's line, so that other lines may follow. Also before a log line in the middle of a loop.
 */
void progress_pause(struct progress *progress);

#endif
