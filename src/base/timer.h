/* Named timers that nest: timer_start(timers, "step"), inside it timer_start(timers, "teacher"), ... make
 * "step" and "step/teacher". Local; comm/timer_report.h makes a table over ranks. */
#ifndef BASE_TIMER_H
#define BASE_TIMER_H

#include <stdint.h>

enum { TIMER_PATH_SIZE = 96, TIMERS_MAX = 128, TIMER_DEPTH_MAX = 16 };

struct timer {
    char path[TIMER_PATH_SIZE]; /* names of the enclosing timers and its own, separated by '/' */
    int64_t calls;
    double seconds; /* of finished calls */
};

/* No memory of its own; zero-initialised is empty. Timers keep the order of their first start. */
struct timers {
    struct timer item[TIMERS_MAX];
    int count;
    int open[TIMER_DEPTH_MAX]; /* running timers, outermost first */
    double started[TIMER_DEPTH_MAX];
    int depth;
};

/* Seconds of a clock that only goes forward, from an arbitrary start. */
double timer_now(void);

/* Starts the timer of that name inside the running one. `name` has no '/'. */
void timer_start(struct timers *timers, const char *name);
/* Stops the innermost running timer, which must have that name. */
void timer_stop(struct timers *timers, const char *name);

/* Stops whatever runs (a phase that ended with a fault). */
void timers_stop_all(struct timers *timers);

/* The timer at a path ("step/teacher"), or NULL if it was never started. */
const struct timer *timer_find(const struct timers *timers, const char *path);

#endif
