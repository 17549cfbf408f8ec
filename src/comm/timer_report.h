/* Timers over ranks. */
#ifndef COMM_TIMER_REPORT_H
#define COMM_TIMER_REPORT_H

#include "base/log.h"
#include "base/timer.h"
#include "comm/comm.h"

/* One timer over those ranks that have it. */
struct timer_summary {
    char path[TIMER_PATH_SIZE];
    int ranks;             /* that have it */
    int64_t max_calls;     /* of one rank */
    double min, mean, max; /* seconds */
};

/* Summaries of all timers of all ranks, in the order of their first rank; *count of them. The same on every
 * rank. Running timers count with their finished calls alone. Collective. The caller frees the array. */
struct timer_summary *timer_summarise(const struct comm *comm, const struct timers *timers, int *count);

/* The table, by log_info. Local. */
void timer_report(const struct log *log, const struct timer_summary *summary, int count);

#endif
