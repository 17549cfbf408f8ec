/* Timers that nest, and stop requests. Asserts orders of times, never durations. */
#define _POSIX_C_SOURCE 200809L // mkdtemp, raise
#include "base/timer.h"

#include "base/stop.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void timers_nest(void **state)
{
    (void)state;
    struct timers timers = {0};
    for (int step = 0; step < 3; step++) {
        timer_start(&timers, "step");
        timer_start(&timers, "teacher");
        timer_stop(&timers, "teacher");
        timer_start(&timers, "student");
        timer_stop(&timers, "student");
        timer_stop(&timers, "step");
    }
    timer_start(&timers, "teacher"); // of the same name, but not inside a step
    timer_stop(&timers, "teacher");
    const char *const paths[] = {"step", "step/teacher", "step/student", "teacher"};
    assert_int_equal(timers.count, 4);
    for (int i = 0; i < 4; i++) assert_string_equal(timers.item[i].path, paths[i]);
    assert_int_equal(timer_find(&timers, "step/student")->calls, 3);
    assert_int_equal(timer_find(&timers, "teacher")->calls, 1);
    assert_null(timer_find(&timers, "student"));
    double inside =
        timer_find(&timers, "step/teacher")->seconds + timer_find(&timers, "step/student")->seconds;
    assert_true(inside >= 0 && timer_find(&timers, "step")->seconds >= inside);
}

static void stop_all_ends_what_runs(void **state)
{
    (void)state;
    struct timers timers = {0};
    timer_start(&timers, "a");
    timer_start(&timers, "b");
    timers_stop_all(&timers);
    assert_int_equal(timers.depth, 0);
    assert_int_equal(timer_find(&timers, "a")->calls, 1);
    assert_int_equal(timer_find(&timers, "a/b")->calls, 1);
}

static void nothing_asks(void **state)
{
    (void)state;
    struct stop stop;
    stop_init(&stop, 0, NULL);
    assert_false(stop_asked(&stop));
    stop_clear(&stop);
}

static void signals_ask(void **state)
{
    (void)state;
    const int numbers[] = {SIGUSR1, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct stop stop;
        stop_catch_signals();
        stop_init(&stop, 0, NULL);
        assert_false(stop_asked(&stop)); // what came before counts no more
        raise(numbers[i]);
        assert_true(stop_asked(&stop));
        assert_string_equal(stop.reason, "signal");
        stop_clear(&stop);
    }
}

/* A request from before the run has begun is not lost. */
static void early_signals_ask(void **state)
{
    (void)state;
    struct stop stop;
    stop_catch_signals();
    raise(SIGUSR1);
    stop_init(&stop, 0, NULL);
    assert_true(stop_asked(&stop));
    stop_clear(&stop);
    stop_catch_signals(); // forgets it
}

/* Status of a child that catches signals and releases them, and gets one before or after that. */
static int status_of_released(bool before)
{
    pid_t child = fork();
    if (child == 0) {
        stop_catch_signals();
        if (before) raise(SIGTERM);
        stop_release_signals();
        raise(SIGTERM);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return status;
}

static void released_signals_end(void **state)
{
    (void)state;
    for (int before = 0; before < 2; before++) {
        int status = status_of_released(before);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGTERM);
    }
}

static void a_passed_deadline_asks(void **state)
{
    (void)state;
    struct stop stop;
    stop_init(&stop, 1e9, NULL);
    assert_false(stop_asked(&stop));
    stop.deadline = timer_now();
    assert_true(stop_asked(&stop));
    assert_string_equal(stop.reason, "wall-clock limit");
    stop.deadline = timer_now() + 1e9;
    assert_true(stop_asked(&stop)); // for good
    stop_clear(&stop);
}

static void a_file_asks(void **state)
{
    (void)state;
    char folder[] = "build/test_stop_XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/stop", folder);
    struct stop stop;
    stop_init(&stop, 0, folder);
    assert_false(stop_asked(&stop));
    fclose(fopen(path, "w"));
    stop.next_poll = 0;
    assert_true(stop_asked(&stop));
    assert_string_equal(stop.reason, "file stop");
    stop_remove_file(&stop);
    assert_int_equal(access(path, F_OK), -1);
    stop_clear(&stop);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_nest),
        cmocka_unit_test(stop_all_ends_what_runs),
        cmocka_unit_test(nothing_asks),
        cmocka_unit_test(signals_ask),
        cmocka_unit_test(early_signals_ask),
        cmocka_unit_test(released_signals_end),
        cmocka_unit_test(a_passed_deadline_asks),
        cmocka_unit_test(a_file_asks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
