/* Resident memory of this process, libraries and all, as the operating system counts it. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Most bytes resident since the process began, or since memory_peak_reset. */
size_t memory_peak(void);

/* Begins a new peak at what is resident now. False where the system cannot (not Linux, or no permission): the
 * peak then stays that of the process. */
bool memory_peak_reset(void);

#endif
