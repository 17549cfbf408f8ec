/* Log lines by level and rank; progress on a terminal and into a file. */
#define _POSIX_C_SOURCE 200809L // open_memstream
#include "base/log.h"

#include "base/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A log into memory. */
struct capture {
    struct log log;
    char *out, *err;
    size_t out_size, err_size;
};

static struct capture *capture_new(enum log_level level, int rank, bool all_ranks)
{
    struct capture *capture = calloc(1, sizeof *capture);
    capture->log = (struct log){level, rank, all_ranks, open_memstream(&capture->out, &capture->out_size),
                                open_memstream(&capture->err, &capture->err_size)};
    return capture;
}

/* What was said must be this. */
static void capture_end(struct capture *capture, const char *out, const char *err)
{
    fclose(capture->log.stream);
    fclose(capture->log.warnings);
    assert_string_equal(capture->out, out);
    assert_string_equal(capture->err, err);
    free(capture->out);
    free(capture->err);
    free(capture);
}

static void speak(const struct log *log)
{
    log_info(log, "info %d", 1);
    log_detail(log, "detail %d", 2);
    log_warning(log, "careful %d", 3);
}

static void levels(void **state)
{
    (void)state;
    const char *const expected[] = {
        [LOG_QUIET] = "", [LOG_NORMAL] = "aptp: info 1\n", [LOG_VERBOSE] = "aptp: info 1\naptp: detail 2\n"};
    for (enum log_level level = LOG_QUIET; level <= LOG_VERBOSE; level++) {
        struct capture *capture = capture_new(level, 0, false);
        speak(&capture->log);
        capture_end(capture, expected[level], "aptp: warning: careful 3\n");
    }
}

static void ranks(void **state)
{
    (void)state;
    struct capture *silent = capture_new(LOG_VERBOSE, 3, false), *loud = capture_new(LOG_NORMAL, 3, true);
    speak(&silent->log);
    speak(&loud->log);
    capture_end(silent, "", "");
    capture_end(loud, "aptp: rank 3: info 1\n", "aptp: rank 3: warning: careful 3\n");
}

static double *clock_hand(void)
{
    static double hand;
    return &hand;
}

static double fake_clock(void)
{
    return *clock_hand();
}

static struct progress start(struct capture *capture, int64_t done, int64_t total, bool terminal)
{
    struct progress progress = progress_start(&capture->log, "step", done, total);
    progress.clock = fake_clock;
    progress.began = progress.shown = *clock_hand() = 0;
    progress.terminal = terminal;
    return progress;
}

static void a_file_gets_a_line_at_most_every_30_seconds(void **state)
{
    (void)state;
    struct capture *capture = capture_new(LOG_NORMAL, 0, false);
    struct progress progress = start(capture, 100, 1000, false); // a restart at step 100
    for (int64_t done = 101; done <= 165; done++) {
        *clock_hand() = (double)(done - 100);
        progress_update(&progress, done, "loss %.1f", 0.5);
    }
    progress_pause(&progress);
    capture_end(capture,
                "aptp: step 130 of 1000, 1/s, 14:30 left, loss 0.5\n"
                "aptp: step 160 of 1000, 1/s, 14:00 left, loss 0.5\n",
                "");
}

static void a_terminal_gets_one_line(void **state)
{
    (void)state;
    struct capture *capture = capture_new(LOG_NORMAL, 0, false);
    struct progress progress = start(capture, 0, 40, true);
    *clock_hand() = 10;
    progress_update(&progress, 2, "a longer note");
    *clock_hand() = 10.1; // too soon
    progress_update(&progress, 3, "%s", "");
    *clock_hand() = 20;
    progress_update(&progress, 4, "%s", "");
    progress_update(&progress, 40, "%s", ""); // the end is always shown
    progress_pause(&progress);
    progress_pause(&progress); // nothing to end
    capture_end(capture,
                "\raptp: step 2 of 40, 0.2/s, 3:10 left, a longer note"
                "\raptp: step 4 of 40, 0.2/s, 3:00 left               "
                "\raptp: step 40 of 40, 2/s, 0:00 left \n",
                "");
}

static void hours_and_unknown_times(void **state)
{
    (void)state;
    struct capture *capture = capture_new(LOG_NORMAL, 0, false);
    struct progress progress = start(capture, 0, 1000, false);
    *clock_hand() = 100;
    progress_update(&progress, 0, "%s", "");
    *clock_hand() = 200;
    progress_update(&progress, 10, "%s", "");
    capture_end(capture, "aptp: step 0 of 1000, 0/s, ? left\naptp: step 10 of 1000, 0.05/s, 5:30:00 left\n",
                "");
}

static void other_ranks_and_quiet_runs_show_nothing(void **state)
{
    (void)state;
    struct capture *other = capture_new(LOG_NORMAL, 1, false), *quiet = capture_new(LOG_QUIET, 0, false);
    struct progress progress[] = {start(other, 0, 10, true), start(quiet, 0, 10, true)};
    *clock_hand() = 100;
    for (int i = 0; i < 2; i++) {
        progress_update(&progress[i], 5, "%s", "");
        progress_pause(&progress[i]);
    }
    capture_end(other, "", "");
    capture_end(quiet, "", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels),
        cmocka_unit_test(ranks),
        cmocka_unit_test(a_file_gets_a_line_at_most_every_30_seconds),
        cmocka_unit_test(a_terminal_gets_one_line),
        cmocka_unit_test(hours_and_unknown_times),
        cmocka_unit_test(other_ranks_and_quiet_runs_show_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
