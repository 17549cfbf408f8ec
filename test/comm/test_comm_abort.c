/* A failure on one rank, with the others inside a collective call, ends the job with its exit code. The test
 * runs itself under mpirun as a small job. */
#define _POSIX_C_SOURCE 200809L // popen
#include "base/check.h"
#include "comm/comm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

/* The job: the last rank fails, and the others of its group, or of the job, wait for it in a barrier. Rank 0
 * of "group" is a group of its own, which has done its work. */
static int job(int argc, char **argv)
{
    struct comm *comm = comm_start(&argc, &argv);
    int rank = comm_rank(comm);
    bool last = rank == comm_size(comm) - 1;
    struct fault fault = {0};
    CHECK(!last || strcmp(argv[1], "check") != 0, "found %d", 7);
    if (last) fault_raise(&fault, EXIT_CODE_INPUT, "only the last rank knows");
    if (strcmp(argv[1], "group") == 0) {
        struct comm *group = comm_split(comm, rank > 0);
        if (rank > 0 && !last) comm_barrier(group);
        comm_rejoin(comm, group, &fault);
        comm_free(group);
    } else {
        if (!last) comm_barrier(comm);
        comm_conclude(comm, &fault);
    }
    comm_stop(comm);
    return 0;
}

static int run_job(const char *program, int ranks, const char *mode, char *text, size_t size)
{
    const char *mpirun = getenv("APTP_MPIRUN");
    char *command =
        check_format("%s -np %d %s %s 2>&1", mpirun ? mpirun : "mpirun --bind-to none --oversubscribe", ranks,
                     program, mode);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t length = fread(text, 1, size - 1, pipe);
    text[length] = '\0';
    int status = pclose(pipe);
    free(command);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_failed_check_on_one_rank(void **state)
{
    static char text[1 << 16];
    assert_int_equal(run_job(*state, 2, "check", text, sizeof text), EXIT_CODE_INTERNAL);
    assert_non_null(strstr(text, "aptp: rank 1: test/comm/test_comm_abort.c:"));
    assert_non_null(strstr(text, "found 7"));
}

static void a_fault_that_one_rank_alone_has(void **state)
{
    static char text[1 << 16];
    assert_int_equal(run_job(*state, 2, "fault", text, sizeof text), EXIT_CODE_INPUT);
    assert_non_null(strstr(text, "aptp: error: rank 1: only the last rank knows"));
}

static void a_fault_that_one_rank_of_a_group_alone_has(void **state)
{
    static char text[1 << 16];
    assert_int_equal(run_job(*state, 3, "group", text, sizeof text), EXIT_CODE_INPUT);
    char *message = strstr(text, "aptp: error: rank 2: only the last rank knows");
    assert_non_null(message);
    assert_null(strstr(message + 1, "aptp: error")); // said once
}

int main(int argc, char **argv)
{
    if (argc > 1) return job(argc, argv);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_check_on_one_rank),
        cmocka_unit_test(a_fault_that_one_rank_alone_has),
        cmocka_unit_test(a_fault_that_one_rank_of_a_group_alone_has),
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) tests[i].initial_state = argv[0];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
