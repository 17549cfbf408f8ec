/* Failures that no user input may cause: CHECK stays in every build, ASSERT only in debug builds.
 *
 * A failed check prints rank, file:line, the condition and the message, and ends the whole MPI job with exit
 * code 5. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

/* Ends the program when `condition` is false; the message gives what was found and what is allowed. */
#define CHECK(condition, ...)                                                                                \
    ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))

#ifdef NDEBUG
#define ASSERT(condition) ((void)0)
#else
#define ASSERT(condition) CHECK(condition, "assertion")
#endif

__attribute__((noreturn, format(printf, 4, 5))) void
check_failed(const char *file, int line, const char *condition, const char *format, ...);

/* Says how a failed check ends the job: `abort_job` must not return (comm passes MPI_Abort), `rank` is
 * printed. This is the program's one global state: a failing check has no context that could be handed to it.
 */
void check_set_abort(void (*abort_job)(int exit_code), int rank);

/* malloc, calloc, realloc and strdup that never return NULL (a failed CHECK instead); free with free(). */
void *check_malloc(unsigned long bytes);
void *check_calloc(unsigned long count, unsigned long bytes);
void *check_realloc(void *memory, unsigned long bytes);
char *check_strdup(const char *text);

/* A formatted string of any length; the caller frees it. */
__attribute__((format(printf, 1, 2))) char *check_format(const char *format, ...);

#endif
