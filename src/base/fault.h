/* Failures that a user can cause: a wrong deck, a broken file, a full disk.
 *
 * A function that can fail so returns bool and takes a `struct fault *` as its last argument: true means
 * done, false means that the fault says what happened. The caller hands it up; main prints it once and ends
 * with its exit code. Everything that only a defect of the program or of the system can cause is a CHECK
 * (base/check.h) instead. */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdbool.h>

/* The program's exit codes (DESIGN section 7). */
enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_VERIFY = 1,   /* verify: a quantity is over its limit */
    EXIT_CODE_DECK = 2,     /* deck or command line */
    EXIT_CODE_INPUT = 3,    /* input file: missing, broken, not what was asked for */
    EXIT_CODE_OUTPUT = 4,   /* output file or disk */
    EXIT_CODE_INTERNAL = 5, /* a failed CHECK */
    EXIT_CODE_STOPPED = 75, /* stopped early with a checkpoint; run again to continue */
};

enum { FAULT_TEXT_SIZE = 2048 };

/* The first failure that happened; code EXIT_CODE_OK means none. Plain bytes, so that it can be broadcast. */
struct fault {
    enum exit_code code;
    char text[FAULT_TEXT_SIZE]; /* where, what was found, what is allowed; no trailing newline */
};

/* Records a failure unless one is recorded already (the first one is the cause). Always returns false, so
 * that a function can end with `return fault_raise(fault, ...)`. Text that does not fit is cut; control
 * characters in it become question marks. */
__attribute__((format(printf, 3, 4))) bool fault_raise(struct fault *fault, enum exit_code code,
                                                       const char *format, ...);

/* Puts a place in front of a recorded text ("teacher.h5: " + text); nothing if no fault is recorded. Returns
 * false. */
__attribute__((format(printf, 2, 3))) bool fault_prefix(struct fault *fault, const char *format, ...);

#endif
