/* Every function of comm on the ranks that mpirun gives (1, 2, 4), with whole messages and in pieces. */
#include "comm/comm.h"

#include "base/check.h"
#include "base/random.h"
#include "comm/timer_report.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The number that rank `rank` has at place `i`. */
static double value(int rank, size_t i)
{
    return random_uniform((struct random_key){1, RANDOM_TEST, 0, (uint64_t)rank}, i) - 0.5;
}

static void ranks_and_node(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    assert_in_range(rank, 0, size - 1);
    assert_int_equal(comm_node_size(comm), size); // tests run on one machine
    assert_int_equal(comm_node_rank(comm), rank);
    char *library = comm_library(), *hosts = comm_hosts(comm);
    assert_true(strlen(library) > 0 && !strchr(library, '\n'));
    assert_true(strlen(hosts) > 0 && !strchr(hosts, ' ')); // one machine, named once
    free(library);
    free(hosts);
}

static void broadcast_from_every_root(void **state)
{
    const struct comm *comm = *state;
    for (int root = 0; root < comm_size(comm); root++) {
        double data[37];
        for (size_t i = 0; i < 37; i++) data[i] = comm_rank(comm) == root ? value(root, i) : NAN;
        comm_broadcast(comm, root, data, sizeof data);
        for (size_t i = 0; i < 37; i++) assert_true(data[i] == value(root, i));
        comm_broadcast(comm, root, NULL, 0);
    }
}

/* Parts of different lengths, the last rank's empty. */
static void gather_in_rank_order(void **state)
{
    const struct comm *comm = *state;
    int size = comm_size(comm), rank = comm_rank(comm);
    size_t counts[64], total = 0;
    for (int r = 0; r < size; r++) total += counts[r] = (size_t)(5 * (size - 1 - r));
    double mine[64 * 5], *all = check_malloc(total * sizeof *all);
    for (size_t i = 0; i < counts[rank]; i++) mine[i] = value(rank, i);
    comm_gather(comm, mine, counts, sizeof *mine, all);
    const double *next = all;
    for (int r = 0; r < size; r++)
        for (size_t i = 0; i < counts[r]; i++) assert_true(*next++ == value(r, i));
    free(all);
}

static void sums(void **state)
{
    const struct comm *comm = *state;
    enum { N = 101 };
    double ordered[N];
    float fast[N], started[N];
    for (size_t i = 0; i < N; i++) {
        ordered[i] = value(comm_rank(comm), i);
        fast[i] = started[i] = (float)ordered[i];
    }
    struct comm_request *request = comm_sum_start(comm, started, N);
    comm_sum_ordered(comm, ordered, N);
    comm_sum(comm, fast, N);
    while (!comm_sum_test(request)) {
    }
    comm_sum_wait(request);
    for (size_t i = 0; i < N; i++) {
        double expected = 0;
        for (int rank = 0; rank < comm_size(comm); rank++) expected += value(rank, i);
        assert_true(ordered[i] == expected); // to the last bit: the order of ranks is the contract
        assert_true(fabs(fast[i] - expected) < 1e-6 * comm_size(comm)); // float
        assert_true(fabs(started[i] - expected) < 1e-6 * comm_size(comm));
    }
    comm_sum(comm, NULL, 0);
    comm_sum_wait(comm_sum_start(comm, NULL, 0));
}

static void any_min_max(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    assert_false(comm_any(comm, false));
    for (int who = 0; who < size; who++) assert_true(comm_any(comm, rank == who));
    assert_true(comm_min(comm, rank + 0.5) == 0.5);
    assert_true(comm_max(comm, rank + 0.5) == size - 0.5);
}

static void agree_on_the_lowest_rank_that_failed(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    struct fault none = {0};
    assert_true(comm_agree(comm, &none));
    assert_int_equal(none.code, EXIT_CODE_OK);
    for (int lowest = 0; lowest < size; lowest++) {
        struct fault fault = {0};
        char expected[32];
        if (rank >= lowest) fault_raise(&fault, EXIT_CODE_INPUT, "rank %d", rank);
        assert_false(comm_agree(comm, &fault));
        snprintf(expected, sizeof expected, "rank %d", lowest);
        assert_int_equal(fault.code, EXIT_CODE_INPUT);
        assert_string_equal(fault.text, expected);
    }
}

static void groups(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    struct comm *group = comm_split(comm, rank % 2);
    assert_int_equal(comm_rank(group), rank / 2);
    assert_int_equal(comm_size(group), (size + 1 - rank % 2) / 2);
    double sum = rank, expected = 0;
    comm_sum_ordered(group, &sum, 1);
    for (int r = rank % 2; r < size; r += 2) expected += r;
    assert_true(sum == expected);
    comm_free(group);
}

/* All meet; and a rank that waits alone, with the others in another collective call, is told so. */
static void meetings(void **state)
{
    const struct comm *comm = *state;
    assert_true(comm_meet(comm, INFINITY));
    assert_true(comm_meet(comm, INFINITY));   // again
    struct comm *group = comm_split(comm, 0); // its own meetings, as the one below is never completed in time
    if (comm_size(comm) > 1 && comm_rank(comm) == 0) assert_false(comm_meet(group, 0.01));
    comm_barrier(comm); // the others go past this before they come, too late
    if (comm_rank(comm) != 0) comm_meet(group, INFINITY);
    comm_barrier(comm);
    comm_free(group);
}

static void timers_over_ranks(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    // Every rank has "step" and "step/work"; the last one alone also has "write".
    struct timers timers = {.count = rank == size - 1 ? 3 : 2,
                            .item = {{"step", 1 + rank, 10 + rank}, {"step/work", 2, 5}, {"write", 1, 0.5}}};
    int count;
    struct timer_summary *summary = timer_summarise(comm, &timers, &count);
    assert_int_equal(count, 3);
    assert_string_equal(summary[0].path, "step");
    assert_int_equal(summary[0].ranks, size);
    assert_int_equal(summary[0].max_calls, size);
    assert_true(summary[0].min == 10 && summary[0].max == 9 + size);
    assert_true(fabs(summary[0].mean - (10 + 0.5 * (size - 1))) < 1e-12); // one rounding
    assert_true(summary[1].min == 5 && summary[1].mean == 5 && summary[1].max == 5);
    assert_string_equal(summary[2].path, "write");
    assert_int_equal(summary[2].ranks, 1);
    assert_true(summary[2].mean == 0.5);

    FILE *stream = tmpfile();
    struct log log = {LOG_NORMAL, rank, true, stream, stream};
    timer_report(&log, summary, count);
    rewind(stream);
    char line[256], *indented = NULL;
    int lines = 0;
    for (; fgets(line, sizeof line, stream); lines++)
        if (strstr(line, "work")) indented = strstr(line, ":   work ");
    assert_int_equal(lines, 4);
    assert_non_null(indented);
    fclose(stream);
    free(summary);
}

static int set_pieces(struct comm *comm, size_t bytes)
{
    comm_set_piece(comm, bytes);
    return 0;
}

static int in_pieces(void **state)
{
    return set_pieces(*state, 40); // divides none of the arrays
}

static int whole(void **state)
{
    return set_pieces(*state, (size_t)1 << 30);
}

int main(int argc, char **argv)
{
    struct comm *comm = comm_start(&argc, &argv);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_and_node),
        cmocka_unit_test(broadcast_from_every_root),
        cmocka_unit_test(gather_in_rank_order),
        cmocka_unit_test(sums),
        cmocka_unit_test(any_min_max),
        cmocka_unit_test(agree_on_the_lowest_rank_that_failed),
        cmocka_unit_test(groups),
        cmocka_unit_test(meetings),
        cmocka_unit_test(timers_over_ranks),
        cmocka_unit_test_setup_teardown(broadcast_from_every_root, in_pieces, whole),
        cmocka_unit_test_setup_teardown(gather_in_rank_order, in_pieces, whole),
        cmocka_unit_test_setup_teardown(sums, in_pieces, whole),
        cmocka_unit_test_setup_teardown(agree_on_the_lowest_rank_that_failed, in_pieces, whole),
        cmocka_unit_test_setup_teardown(timers_over_ranks, in_pieces, whole),
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) tests[i].initial_state = comm;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bool any = comm_any(comm, failed != 0);
    comm_stop(comm);
    return any;
}
