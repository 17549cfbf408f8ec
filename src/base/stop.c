#define _POSIX_C_SOURCE 200809L // sigaction
#include "base/stop.h"

#include "base/check.h"
#include "base/timer.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t signalled; // the signal; set by a handler, which has nothing but static storage

static void handle(int number)
{
    signalled = number;
}

static void set_handlers(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGTERM, &action, NULL) == 0,
          "cannot set signal handlers: %s", strerror(errno));
}

void stop_catch_signals(void)
{
    signalled = 0;
    set_handlers(handle);
}

void stop_release_signals(void)
{
    set_handlers(SIG_DFL);
    if (signalled) raise(signalled);
}

void stop_init(struct stop *stop, double limit, const char *folder)
{
    double now = timer_now();
    *stop = (struct stop){.deadline = limit > 0 ? now + limit : INFINITY, .next_poll = now};
    if (folder) stop->file = check_format("%s/stop", folder);
}

void stop_watch(struct stop *stop, const char *folder)
{
    if (!stop->file) stop->file = check_format("%s/stop", folder);
}

void stop_clear(struct stop *stop)
{
    free(stop->file);
    stop->file = NULL;
}

bool stop_asked(struct stop *stop)
{
    if (stop->asked) return true;
    double now = timer_now();
    if (signalled) {
        stop->reason = "signal";
    } else if (now >= stop->deadline) {
        stop->reason = "wall-clock limit";
    } else if (stop->file && now >= stop->next_poll) {
        stop->next_poll = now + 1;
        if (access(stop->file, F_OK) == 0) stop->reason = "file stop";
    }
    stop->asked = stop->reason != NULL;
    return stop->asked;
}

void stop_remove_file(const struct stop *stop)
{
    if (stop->file) unlink(stop->file);
}
