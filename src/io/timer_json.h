/* The timers of a run as JSON. */
#ifndef IO_TIMER_JSON_H
#define IO_TIMER_JSON_H

#include "base/fault.h"
#include "comm/timer_report.h"

/* {"step/teacher": {"ranks": 2, "calls": 10, "min": 1.0, "mean": 1.1, "max": 1.2}, ...}, seconds. Written
 * whole or not at all. Local. */
bool timer_json_write(const char *path, const struct timer_summary *summary, int count, struct fault *fault);

#endif
