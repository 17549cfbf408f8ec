/* What tests say of functions that fill a fault: `struct fault fault` must be in scope. */
#ifndef SUPPORT_FAULTS_H
#define SUPPORT_FAULTS_H

#include "base/fault.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The call succeeds; else its fault is printed. */
#define GOOD(call)                                                                                           \
    do {                                                                                                     \
        if (!(call)) fail_msg("%s: %s", #call, fault.text);                                                  \
    } while (0)

/* The call fails with this exit code and a text that contains `part`. */
#define FAILS(call, exit_code, part)                                                                         \
    do {                                                                                                     \
        if (call) fail_msg("%s succeeds", #call);                                                            \
        assert_int_equal(fault.code, exit_code);                                                             \
        if (!strstr(fault.text, part)) fail_msg("fault text: %s", fault.text);                               \
        fault = (struct fault){0};                                                                           \
    } while (0)

#endif
