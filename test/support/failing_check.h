/* What tests say of contracts that a caller breaks. */
#ifndef SUPPORT_FAILING_CHECK_H
#define SUPPORT_FAILING_CHECK_H

/* Runs `body` in a process of its own, where a CHECK must fail with a message that contains `part`; else the
 * test fails. For tests that come before anything of OpenMP: a forked process has none of the threads that
 * libgomp then believes in. */
void assert_check_fails(void (*body)(void), const char *part);

#endif
