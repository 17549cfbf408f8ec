/* What the program says: lines "aptp: ...", by default of rank 0 alone. Handed around as a plain value. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdio.h>

enum log_level {
    LOG_QUIET,   /* warnings alone */
    LOG_NORMAL,  /* and what a user wants to follow */
    LOG_VERBOSE, /* and details */
};

struct log {
    enum log_level level;
    int rank;
    bool all_ranks; /* every rank speaks, as "aptp: rank 3: ..."; else rank 0 alone */
    FILE *stream;   /* of everything but warnings; borrowed, usually stdout */
    FILE *warnings; /* borrowed, usually stderr */
};

/* One line, flushed; no newline in the format. Local: a rank that has no voice says nothing. */
__attribute__((format(printf, 2, 3))) void log_info(const struct log *log, const char *format, ...);
__attribute__((format(printf, 2, 3))) void log_detail(const struct log *log, const char *format, ...);
/* "aptp: warning: ..."; at every level. */
__attribute__((format(printf, 2, 3))) void log_warning(const struct log *log, const char *format, ...);

/* Whether this rank would print at `level`. */
bool log_speaks(const struct log *log, enum log_level level);

#endif
