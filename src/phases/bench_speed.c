#define _POSIX_C_SOURCE 200809L // access
#include "phases/bench_speed.h"

#include "base/check.h"
#include "io/hdf5_file.h"

#include <stdlib.h>
#include <unistd.h>

enum { MAX_RANK = 4, MAX_VALUES = 1 << 20, DURATION_SIZE = 32 };

/* The least of a dataset's values. */
static bool read_speed(struct h5_reader *reader, const char *name, double *speed, struct fault *fault)
{
    struct h5_info info;
    double *values;
    if (!h5_describe(reader, name, &info, fault) ||
        !h5_load_double(reader, name, info.rank, info.shape, MAX_VALUES, &values, &info, fault))
        return false;
    int64_t count = 1;
    for (int i = 0; i < info.rank; i++) count *= info.shape[i];
    *speed = count > 0 ? values[0] : 0;
    for (int64_t i = 1; i < count; i++)
        if (values[i] < *speed) *speed = values[i];
    free(values);
    return *speed > 0 || fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is not positive", h5_path(reader), name);
}

static const char *duration(double seconds, char text[DURATION_SIZE])
{
    if (seconds < 120)
        snprintf(text, DURATION_SIZE, "%.2g s", seconds);
    else if (seconds < 2 * 3600)
        snprintf(text, DURATION_SIZE, "%.0f min", seconds / 60);
    else
        snprintf(text, DURATION_SIZE, "%.0f h", seconds / 3600);
    return text;
}

void bench_speed_report(const struct run *run, const char *bench_file, const struct planned_work *work)
{
    struct h5_reader *reader = NULL;
    struct fault fault = {0};
    double speed;
    char one[DURATION_SIZE], all[DURATION_SIZE];
    if (access(bench_file, F_OK) != 0) {
        log_info(run->log, "time: there is no %s (files.bench), by which it would be told: run bench",
                 bench_file);
        return;
    }
    if (!h5_open(bench_file, FILE_BENCH, &reader, &fault)) {
        log_warning(run->log, "time: %s", fault.text);
    } else if (!h5_exists(reader, work->speed)) {
        log_info(run->log, "time: %s has no %s, by which it would be told", bench_file, work->speed);
    } else if (!read_speed(reader, work->speed, &speed, &fault)) {
        log_warning(run->log, "time: %s", fault.text);
    } else {
        double seconds = work->flops / (1e9 * speed);
        log_info(run->log, "time: about %s for %s, %s for all %lld, at the %.0f GFLOP/s of %s in %s",
                 duration(seconds, one), work->what, duration(seconds * (double)work->count, all),
                 (long long)work->count, speed, work->speed, bench_file);
    }
    h5_close(reader);
}
