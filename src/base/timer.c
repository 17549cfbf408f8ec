#define _POSIX_C_SOURCE 200809L // clock_gettime
#include "base/timer.h"

#include "base/check.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

double timer_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int find(const struct timers *timers, const char *path)
{
    for (int i = 0; i < timers->count; i++)
        if (strcmp(timers->item[i].path, path) == 0) return i;
    return -1;
}

void timer_start(struct timers *timers, const char *name)
{
    CHECK(timers->depth < TIMER_DEPTH_MAX, "timer %s is nested more than %d deep", name, TIMER_DEPTH_MAX);
    const char *outer = timers->depth ? timers->item[timers->open[timers->depth - 1]].path : "";
    char path[TIMER_PATH_SIZE];
    int length = snprintf(path, sizeof path, "%s%s%s", outer, *outer ? "/" : "", name);
    CHECK(length > 0 && (size_t)length < sizeof path, "timer path %s/%s is too long", outer, name);
    int index = find(timers, path);
    if (index < 0) {
        CHECK(timers->count < TIMERS_MAX, "more than %d timers", TIMERS_MAX);
        index = timers->count++;
        timers->item[index] = (struct timer){0};
        memcpy(timers->item[index].path, path, sizeof path);
    }
    timers->open[timers->depth] = index;
    timers->started[timers->depth] = timer_now();
    timers->depth++;
}

void timer_stop(struct timers *timers, const char *name)
{
    CHECK(timers->depth > 0, "timer %s is stopped, none is running", name);
    struct timer *timer = &timers->item[timers->open[timers->depth - 1]];
    const char *slash = strrchr(timer->path, '/');
    CHECK(strcmp(slash ? slash + 1 : timer->path, name) == 0, "timer %s is stopped inside %s", name,
          timer->path);
    timers->depth--;
    timer->seconds += timer_now() - timers->started[timers->depth];
    timer->calls++;
}

void timers_stop_all(struct timers *timers)
{
    while (timers->depth > 0) {
        const char *path = timers->item[timers->open[timers->depth - 1]].path;
        const char *slash = strrchr(path, '/');
        timer_stop(timers, slash ? slash + 1 : path);
    }
}

const struct timer *timer_find(const struct timers *timers, const char *path)
{
    int index = find(timers, path);
    return index < 0 ? NULL : &timers->item[index];
}
