/* Requests to stop early: SIGUSR1 or SIGTERM, a wall-clock limit, a file named `stop` in the run's folder.
 *
 * A phase asks at the end of each step, for all ranks together, writes a checkpoint, and ends with a fault of
 * EXIT_CODE_STOPPED:
 *
 *     if (comm_any(run->comm, stop_asked(run->stop))) ...
 */
#ifndef BASE_STOP_H
#define BASE_STOP_H

#include <stdbool.h>

struct stop {
    double deadline;    /* of timer_now; infinity: none */
    double next_poll;   /* the file is looked for at most once a second */
    char *file;         /* "FOLDER/stop", owned; NULL: not looked for (most ranks) */
    bool asked;         /* once true it stays so */
    const char *reason; /* "signal", "wall-clock limit", "file stop", or NULL */
};

/* From now on SIGUSR1 and SIGTERM are requests, and forgotten if they came before. To be called first of all:
 * the default is death. The signal is the only state outside of `stop`: a handler has no other way. */
void stop_catch_signals(void);
/* They have their default effect again, at once if one has come: for what cannot be stopped with a
 * checkpoint. */
void stop_release_signals(void);

/* `limit` is in seconds from now, 0 = none. `folder` may be NULL. Free with stop_clear. */
void stop_init(struct stop *stop, double limit, const char *folder);
void stop_clear(struct stop *stop);
/* From now on this rank too looks for the file `stop` of that folder: one of each group of ranks that goes on
 * by itself. */
void stop_watch(struct stop *stop, const char *folder);

/* Whether this rank was asked to stop. Local. */
bool stop_asked(struct stop *stop);

/* Removes the file `stop`, so that the next run goes on. Local. */
void stop_remove_file(const struct stop *stop);

#endif
