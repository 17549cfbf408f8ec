#define _GNU_SOURCE // vasprintf
#include "base/check.h"

#include "base/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    void (*abort_job)(int exit_code);
    int rank;
} job;

void check_set_abort(void (*abort_job)(int exit_code), int rank)
{
    job.abort_job = abort_job;
    job.rank = rank;
}

void check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    fflush(stdout);
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    fprintf(stderr, "aptp: rank %d: %s:%d: check failed: %s: %s\n", job.rank, file, line, condition, message);
    fflush(stderr);
    if (job.abort_job) job.abort_job(EXIT_CODE_INTERNAL);
    _Exit(EXIT_CODE_INTERNAL);
}

void *check_malloc(unsigned long bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    CHECK(memory, "out of memory: %lu bytes asked for", bytes);
    return memory;
}

void *check_calloc(unsigned long count, unsigned long bytes)
{
    void *memory = calloc(count ? count : 1, bytes ? bytes : 1);
    CHECK(memory, "out of memory: %lu x %lu bytes asked for", count, bytes);
    return memory;
}

void *check_realloc(void *memory, unsigned long bytes)
{
    memory = realloc(memory, bytes ? bytes : 1);
    CHECK(memory, "out of memory: %lu bytes asked for", bytes);
    return memory;
}

char *check_strdup(const char *text)
{
    return check_format("%s", text);
}

char *check_format(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    CHECK(length >= 0, "cannot format a string");
    return text;
}
