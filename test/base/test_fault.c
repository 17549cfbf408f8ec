/* Faults and failed checks. */
#define _POSIX_C_SOURCE 200809L // fork
#include "base/fault.h"

#include "base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void the_first_fault_stays(void **state)
{
    (void)state;
    struct fault fault = {0};
    assert_false(fault_raise(&fault, EXIT_CODE_INPUT, "%s has %d rows", "data.h5", 3));
    assert_false(fault_raise(&fault, EXIT_CODE_OUTPUT, "later"));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
    assert_string_equal(fault.text, "data.h5 has 3 rows");
    assert_false(fault_prefix(&fault, "rank %d: ", 2));
    assert_string_equal(fault.text, "rank 2: data.h5 has 3 rows");
}

static void prefix_without_fault_does_nothing(void **state)
{
    (void)state;
    struct fault fault = {0};
    assert_false(fault_prefix(&fault, "x: "));
    assert_int_equal(fault.code, EXIT_CODE_OK);
    assert_string_equal(fault.text, "");
}

static void long_texts_are_cut(void **state)
{
    (void)state;
    char text[2 * FAULT_TEXT_SIZE];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    struct fault fault = {0};
    fault_raise(&fault, EXIT_CODE_DECK, "%s", text);
    assert_int_equal(strlen(fault.text), FAULT_TEXT_SIZE - 1);
    fault_prefix(&fault, "file: ");
    assert_int_equal(strlen(fault.text), FAULT_TEXT_SIZE - 1);
    assert_memory_equal(fault.text, "file: aaa", 9);
}

static void a_terminal_is_told_nothing(void **state)
{
    (void)state;
    struct fault fault = {0};
    fault_raise(&fault, EXIT_CODE_INPUT, "%s",
                "a\tb\n\033[2Jc\x7f \xc2\x9b"
                "d \xc2\xa0\xc3\xa9\xc2");
    assert_string_equal(fault.text, "a\tb\n?[2Jc? ??d \xc2\xa0\xc3\xa9\xc2");
}

static void leave(int exit_code)
{
    _exit(exit_code + 40);
}

/* Runs a failing check in a child; returns its exit status and what it wrote to stderr. */
static int failing_check(void (*abort_job)(int), char *text, size_t size)
{
    int end[2];
    assert_int_equal(pipe(end), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(end[1], STDERR_FILENO);
        check_set_abort(abort_job, 3);
        int found = 2;
        CHECK(found == 1, "found %d, allowed: %d", found, 1);
        _exit(0);
    }
    close(end[1]);
    size_t length = 0;
    for (ssize_t bytes; (bytes = read(end[0], text + length, size - 1 - length)) > 0;)
        length += (size_t)bytes;
    text[length] = '\0';
    close(end[0]);
    int status = 0;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_failed_check_names_place_and_values(void **state)
{
    (void)state;
    char text[1024];
    assert_int_equal(failing_check(NULL, text, sizeof text), EXIT_CODE_INTERNAL);
    assert_non_null(strstr(text, "aptp: rank 3: test/base/test_fault.c:"));
    assert_non_null(strstr(text, "check failed: found == 1: found 2, allowed: 1\n"));
    assert_int_equal(failing_check(leave, text, sizeof text), EXIT_CODE_INTERNAL + 40); // the job's way out
}

static void strings(void **state)
{
    (void)state;
    char *text = check_format("%s-%04d", "a", 7), *copy = check_strdup(text);
    assert_string_equal(copy, "a-0007");
    assert_ptr_not_equal(copy, text);
    free(text);
    free(copy);
    void *nothing = check_malloc(0);
    assert_non_null(nothing);
    nothing = check_realloc(nothing, 10);
    free(nothing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_fault_stays),
        cmocka_unit_test(prefix_without_fault_does_nothing),
        cmocka_unit_test(long_texts_are_cut),
        cmocka_unit_test(a_terminal_is_told_nothing),
        cmocka_unit_test(a_failed_check_names_place_and_values),
        cmocka_unit_test(strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
