#define _POSIX_C_SOURCE 200809L // fork
#include "support/failing_check.h"

#include "base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { CHECK_FAILED = 43, TEXT_SIZE = 4096 };

static void leave(int exit_code)
{
    (void)exit_code;
    _exit(CHECK_FAILED);
}

void assert_check_fails(void (*body)(void), const char *part)
{
    int end[2], status = 0;
    assert_int_equal(pipe(end), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(end[1], STDERR_FILENO);
        alarm(60);
        check_set_abort(leave, 0);
        body();
        _exit(0);
    }
    close(end[1]);
    char text[TEXT_SIZE];
    size_t length = 0;
    for (ssize_t bytes; (bytes = read(end[0], text + length, TEXT_SIZE - 1 - length)) > 0;)
        length += (size_t)bytes;
    text[length] = '\0';
    close(end[0]);
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != CHECK_FAILED) fail_msg("no CHECK failed: %s", text);
    if (!strstr(text, part)) fail_msg("the failed CHECK says %s", text);
}
