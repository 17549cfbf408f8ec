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

/* Sums of a group's ranks, which are `who` in the whole job, by each of the functions: the ordered ones to
 * the last bit. Three sums are under way together. */
static void check_sums(const struct comm *group, const int *who)
{
    enum { N = 101 };
    double ordered[N];
    float fast[N], started[N], fixed[N], more[N];
    for (size_t i = 0; i < N; i++) {
        ordered[i] = value(who[comm_rank(group)], i);
        fast[i] = started[i] = fixed[i] = more[i] = (float)ordered[i];
    }
    struct comm_request *request[] = {comm_sum_start(group, started, N, false),
                                      comm_sum_start(group, fixed, N, true),
                                      comm_sum_start(group, more, N, true)};
    comm_sum_ordered(group, ordered, N);
    comm_sum(group, fast, N);
    for (int i = 0; i < 3; i++) {
        while (!comm_sum_test(request[i])) {
        }
        assert_true(comm_sum_test(request[i])); // once come, always there
        comm_sum_wait(request[i]);
    }
    for (size_t i = 0; i < N; i++) {
        double expected = 0, of_floats = 0;
        for (int rank = 0; rank < comm_size(group); rank++) {
            expected += value(who[rank], i);
            of_floats += (float)value(who[rank], i);
        }
        assert_true(ordered[i] == expected); // the order of ranks is the contract
        assert_true(fixed[i] == (float)of_floats && more[i] == fixed[i]);
        assert_true(fabs(fast[i] - expected) < 1e-6 * comm_size(group)); // float
        assert_true(fabs(started[i] - expected) < 1e-6 * comm_size(group));
    }
    for (int kind = 0; kind < 2; kind++) comm_sum_wait(comm_sum_start(group, NULL, 0, kind));
    comm_sum(group, NULL, 0);
    float one = 1; // fewer values than ranks
    comm_sum_wait(comm_sum_start(group, &one, 1, true));
    assert_true(one == (float)comm_size(group));
}

static void sums(void **state)
{
    int who[64];
    for (int rank = 0; rank < 64; rank++) who[rank] = rank;
    check_sums(*state, who);
}

/* Sums in which the order matters: the first two parts cancel, and the others are lost if they are added to
 * one of those before. */
static void ordered_sums_are_in_rank_order(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    double large = 0x1p60, expected = 0;
    double parts[64];
    for (int r = 0; r < size; r++) expected += parts[r] = r == 0 ? large : r == 1 ? -large : 1;
    float mine[3] = {(float)parts[rank], (float)parts[rank], (float)parts[rank]};
    comm_sum_wait(comm_sum_start(comm, mine, 3, true));
    for (int i = 0; i < 3; i++) assert_true(mine[i] == (float)expected);
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

/* Groups of every size, each with all that a communicator has, working at the same time. */
static void groups(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm);
    for (int colours = 1; colours <= size; colours++) {
        int who[64], members = 0, colour = rank % colours;
        for (int r = colour; r < size; r += colours) who[members++] = r;
        struct comm *group = comm_split(comm, colour);
        assert_int_equal(comm_rank(group), rank / colours);
        assert_int_equal(comm_size(group), members);
        check_sums(group, who);
        double first = rank;
        comm_broadcast(group, 0, &first, sizeof first);
        assert_true(first == colour);
        assert_true(comm_any(group, rank == 0) == (colour == 0)); // what one group says, others do not hear
        assert_true(comm_meet(group, INFINITY));
        struct fault none = {0};
        assert_true(comm_rejoin(comm, group, &none));
        comm_free(group);
    }
}

/* A group fails, in one place or alike on all its ranks, while the others work on: all have its fault at the
 * end, after their work. */
static void a_group_fails(void **state)
{
    const struct comm *comm = *state;
    int rank = comm_rank(comm), size = comm_size(comm), colours = (size + 1) / 2;
    for (int lowest = 0; lowest < size; lowest++) {
        struct comm *group = comm_split(comm, rank % colours);
        struct fault fault = {0};
        if (rank == lowest) fault_raise(&fault, EXIT_CODE_OUTPUT, "rank %d", rank);
        bool mine = rank % colours == lowest % colours;
        assert_true(comm_agree(group, &fault) == !mine);
        double work = 1;
        if (!mine) comm_sum_ordered(group, &work, 1); // the others do not know
        assert_false(comm_rejoin(comm, group, &fault));
        char expected[32];
        snprintf(expected, sizeof expected, "rank %d", lowest);
        assert_int_equal(fault.code, EXIT_CODE_OUTPUT);
        assert_string_equal(fault.text, expected);
        comm_free(group);
    }
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
        cmocka_unit_test(ordered_sums_are_in_rank_order),
        cmocka_unit_test(any_min_max),
        cmocka_unit_test(agree_on_the_lowest_rank_that_failed),
        cmocka_unit_test(groups),
        cmocka_unit_test(a_group_fails),
        cmocka_unit_test(meetings),
        cmocka_unit_test(timers_over_ranks),
        cmocka_unit_test_setup_teardown(broadcast_from_every_root, in_pieces, whole),
        cmocka_unit_test_setup_teardown(gather_in_rank_order, in_pieces, whole),
        cmocka_unit_test_setup_teardown(sums, in_pieces, whole),
        cmocka_unit_test_setup_teardown(groups, in_pieces, whole),
        cmocka_unit_test_setup_teardown(agree_on_the_lowest_rank_that_failed, in_pieces, whole),
        cmocka_unit_test_setup_teardown(timers_over_ranks, in_pieces, whole),
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) tests[i].initial_state = comm;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bool any = comm_any(comm, failed != 0);
    comm_stop(comm);
    return any;
}
