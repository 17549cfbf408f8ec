#define _POSIX_C_SOURCE 200809L // fileno
#include "base/progress.h"

#include "base/timer.h"

#include <stdarg.h>
#include <unistd.h>

#define TERMINAL_INTERVAL 0.2 // seconds between two outputs
#define FILE_INTERVAL 30.0

struct progress progress_start(const struct log *log, const char *what, int64_t done, int64_t total)
{
    double now = timer_now();
    return (struct progress){
        .log = log,
        .what = what,
        .first = done,
        .total = total,
        .clock = timer_now,
        .began = now,
        .shown = now,
        .terminal = log->stream && isatty(fileno(log->stream)),
    };
}

/* "1:02:03" or "2:03" */
static void format_duration(double seconds, char *text, size_t size)
{
    if (seconds > 1e8) seconds = 1e8;
    long whole = (long)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(text, size, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, size, "%ld:%02ld", whole / 60, whole % 60);
}

void progress_update(struct progress *progress, int64_t done, const char *format, ...)
{
    const struct log *log = progress->log;
    if (!log_speaks(log, LOG_NORMAL)) return;
    double now = progress->clock();
    bool last = progress->terminal && done >= progress->total;
    if (!last && now - progress->shown < (progress->terminal ? TERMINAL_INTERVAL : FILE_INTERVAL)) return;
    progress->shown = now;

    char note[256], left[32] = "?";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, sizeof note, format, arguments);
    va_end(arguments);
    double elapsed = now - progress->began;
    double rate = elapsed > 0 ? (double)(done - progress->first) / elapsed : 0;
    if (rate > 0) format_duration((double)(progress->total - done) / rate, left, sizeof left);
    char line[512];
    int width = snprintf(line, sizeof line, "%s %lld of %lld, %.3g/s, %s left%s%s", progress->what,
                         (long long)done, (long long)progress->total, rate, left, *note ? ", " : "", note);
    if (!progress->terminal) {
        log_info(log, "%s", line);
        return;
    }
    fprintf(log->stream, "\raptp: %-*s", progress->width, line); // padded: covers what stood there
    fflush(log->stream);
    progress->width = width;
}

void progress_pause(struct progress *progress)
{
    if (progress->width == 0) return;
    fputc('\n', progress->log->stream);
    fflush(progress->log->stream);
    progress->width = 0;
}
