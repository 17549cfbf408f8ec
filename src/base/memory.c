#define _DEFAULT_SOURCE // getrusage
#include "base/memory.h"

#include <stdio.h>
#include <sys/resource.h>

size_t memory_peak(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

bool memory_peak_reset(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return false;
    bool ok = fputs("5", file) >= 0; // proc(5): resets the peak resident set size
    return fclose(file) == 0 && ok;
}
