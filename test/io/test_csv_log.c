// The metrics log: flushed lines, and a restart that cuts back to its checkpoint.
#include "io/csv_log.h"
#include "support/files.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static char *folder, *path;
static const char *const columns[] = {"loss", "rate"};

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    path = scratch_path(folder, "metrics.csv");
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    free(path);
    scratch_remove(folder);
    return 0;
}

static void assert_content(const char *expected)
{
    size_t size;
    char *text = file_bytes(path, &size);
    assert_string_equal(text, expected);
    free(text);
}

static void lines_are_there_at_once_and_cut_at_restart(void **state)
{
    (void)state;
    struct csv_log *log;
    GOOD(csv_log_open(path, columns, 2, -1, &log, &fault));
    assert_content("step,loss,rate\n");
    GOOD(csv_log_write(log, 9, (double[]){0.1, 1}, &fault));
    assert_content("step,loss,rate\n9,0.10000000000000001,1\n");
    GOOD(csv_log_write(log, 10, (double[]){-1e300, NAN}, &fault));
    GOOD(csv_log_write(log, 11, (double[]){2, 3}, &fault));
    csv_log_close(log);

    // the checkpoint was of step 10; the kill came in the middle of a line
    FILE *stream = fopen(path, "ab");
    fputs("12,0.", stream);
    fclose(stream);
    GOOD(csv_log_open(path, columns, 2, 10, &log, &fault));
    assert_content("step,loss,rate\n9,0.10000000000000001,1\n10,-1.0000000000000001e+300,nan\n");
    GOOD(csv_log_write(log, 11, (double[]){4, 5}, &fault));
    csv_log_close(log);
    assert_content("step,loss,rate\n9,0.10000000000000001,1\n10,-1.0000000000000001e+300,nan\n11,4,5\n");

    // only the half line is cut
    stream = fopen(path, "ab");
    fputs("12,0.", stream);
    fclose(stream);
    GOOD(csv_log_open(path, columns, 2, 100, &log, &fault));
    csv_log_close(log);
    assert_content("step,loss,rate\n9,0.10000000000000001,1\n10,-1.0000000000000001e+300,nan\n11,4,5\n");
    GOOD(csv_log_open(path, columns, 2, -1, &log, &fault)); // a new run
    csv_log_close(log);
    assert_content("step,loss,rate\n");
}

static void another_log_is_not_touched(void **state)
{
    (void)state;
    struct csv_log *log;
    file_write(path, "step,other\n1,2\n", 15);
    FAILS(csv_log_open(path, columns, 2, 0, &log, &fault), EXIT_CODE_OUTPUT, "is not the log of this run");
    assert_content("step,other\n1,2\n");
    file_write(path, "step,lo", 7); // killed in the header
    GOOD(csv_log_open(path, columns, 2, 0, &log, &fault));
    csv_log_close(log);
    assert_content("step,loss,rate\n");
    remove(path);
    GOOD(csv_log_open(path, columns, 2, 5, &log, &fault)); // lost: begins anew
    csv_log_close(log);
    FAILS(csv_log_open("no-such-folder/m.csv", columns, 2, -1, &log, &fault), EXIT_CODE_OUTPUT,
          "no-such-folder/m.csv");
}

static void a_full_disk_is_a_fault(void **state)
{
    (void)state;
    remove(path);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {40, 40};
        setrlimit(RLIMIT_FSIZE, &limit);
        struct csv_log *log;
        struct fault own = {0};
        bool good = csv_log_open(path, columns, 2, -1, &log, &own);
        for (int i = 0; i < 10 && good; i++) good = csv_log_write(log, i, (double[]){1.5, 2.5}, &own);
        _exit(!good && strstr(own.text, "metrics.csv: cannot write: File too large") ? (int)own.code : 99);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(WEXITSTATUS(status), EXIT_CODE_OUTPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_there_at_once_and_cut_at_restart),
        cmocka_unit_test(another_log_is_not_touched),
        cmocka_unit_test(a_full_disk_is_a_fault),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
