#define _GNU_SOURCE // ftruncate, O_CLOEXEC
#include "io/csv_log.h"

#include "base/check.h"
#include "io/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct csv_log {
    char *path; // owned
    int descriptor;
    int columns; // after `step`
};

static bool log_fault(const char *path, struct fault *fault)
{
    return fault_raise(fault, EXIT_CODE_OUTPUT, "%s: cannot write: %s", path, strerror(errno));
}

// "step,loss,...\n"; the caller frees it.
static char *make_header(const char *const *columns, int count)
{
    char *header = check_strdup("step");
    for (int i = 0; i < count; i++) {
        CHECK(!strpbrk(columns[i], ",\"\r\n"), "column %s", columns[i]);
        char *longer = check_format("%s,%s", header, columns[i]);
        free(header);
        header = longer;
    }
    char *line = check_format("%s\n", header);
    free(header);
    return line;
}

// Bytes of the existing log to keep: the header and the whole lines up to `last_step`; 0 if it is empty or
// broken off in the header, -1 with a fault if its header is another.
static int64_t bytes_to_keep(const char *path, const char *header, int64_t last_step, struct fault *fault)
{
    FILE *stream = fopen(path, "rb");
    if (!stream && errno == ENOENT) return 0;
    if (!stream) {
        log_fault(path, fault);
        return -1;
    }
    char *line = NULL;
    size_t capacity = 0;
    int64_t keep = 0;
    for (ssize_t length; (length = getline(&line, &capacity, stream)) > 0 && line[length - 1] == '\n';
         keep += length) {
        if (keep == 0 && strcmp(line, header) != 0) {
            fault_raise(fault, EXIT_CODE_OUTPUT, "%s: is not the log of this run: its columns are %.200s",
                        path, line);
            keep = -1;
            break;
        }
        char *end;
        long long step = strtoll(line, &end, 10);
        if (keep > 0 && (end == line || *end != ',' || step > last_step)) break;
    }
    free(line);
    fclose(stream);
    return keep;
}

bool csv_log_open(const char *path, const char *const *columns, int count, int64_t last_step,
                  struct csv_log **log, struct fault *fault)
{
    *log = NULL;
    file_size_signal_ignore();
    char *header = make_header(columns, count);
    int64_t keep = last_step < 0 ? 0 : bytes_to_keep(path, header, last_step, fault);
    int descriptor = keep < 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    bool good = descriptor >= 0 && ftruncate(descriptor, (off_t)keep) == 0 &&
                (keep > 0 || write_all(descriptor, header, strlen(header)));
    if (!good) log_fault(path, fault); // unless a fault is there already
    free(header);
    if (good) {
        *log = check_malloc(sizeof **log);
        **log = (struct csv_log){check_strdup(path), descriptor, count};
    } else if (descriptor >= 0) {
        close(descriptor);
    }
    return good;
}

bool csv_log_write(struct csv_log *log, int64_t step, const double *values, struct fault *fault)
{
    enum { VALUE_SIZE = 32 };
    size_t size = (size_t)(log->columns + 1) * VALUE_SIZE + 2;
    char *line = check_malloc(size);
    int length = snprintf(line, size, "%lld", (long long)step);
    for (int i = 0; i < log->columns; i++) {
        length += snprintf(line + length, size - (size_t)length, ",%.17g", values[i]);
    }
    line[length++] = '\n';
    bool good = write_all(log->descriptor, line, (size_t)length); // one write: followers see whole lines
    free(line);
    return good || log_fault(log->path, fault);
}

void csv_log_close(struct csv_log *log)
{
    if (!log) return;
    close(log->descriptor);
    free(log->path);
    free(log);
}
