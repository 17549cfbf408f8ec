#include "base/log.h"

#include <stdarg.h>

bool log_speaks(const struct log *log, enum log_level level)
{
    return level <= log->level && (log->rank == 0 || log->all_ranks);
}

/* The line is put together first, so that lines of several ranks do not mix. */
static void print_line(const struct log *log, FILE *stream, const char *kind, const char *format,
                       va_list arguments)
{
    char text[4096];
    vsnprintf(text, sizeof text, format, arguments);
    if (log->all_ranks)
        fprintf(stream, "aptp: rank %d: %s%s\n", log->rank, kind, text);
    else
        fprintf(stream, "aptp: %s%s\n", kind, text);
    fflush(stream);
}

void log_info(const struct log *log, const char *format, ...)
{
    if (!log_speaks(log, LOG_NORMAL)) return;
    va_list arguments;
    va_start(arguments, format);
    print_line(log, log->stream, "", format, arguments);
    va_end(arguments);
}

void log_detail(const struct log *log, const char *format, ...)
{
    if (!log_speaks(log, LOG_VERBOSE)) return;
    va_list arguments;
    va_start(arguments, format);
    print_line(log, log->stream, "", format, arguments);
    va_end(arguments);
}

void log_warning(const struct log *log, const char *format, ...)
{
    if (!log_speaks(log, LOG_QUIET)) return;
    va_list arguments;
    va_start(arguments, format);
    print_line(log, log->warnings, "warning: ", format, arguments);
    va_end(arguments);
}
