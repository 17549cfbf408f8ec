/* Ranks dealt out among pieces of work: every rank and piece has a place, groups are runs of neighbours, and
 * no other simple dealing is much faster (against an exhaustive search on small cases). */
#include "train/rank_dealing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

enum { MOST = 8 };

/* Time until the slowest group is done. */
static double time_of(const struct rank_dealing *dealing, int ranks, int pieces, const double *work)
{
    double slowest = 0;
    for (int g = 0; g < dealing->groups; g++) {
        double sum = 0;
        int size = 0;
        for (int p = 0; p < pieces; p++) sum += dealing->group_of_piece[p] == g ? work[p] : 0;
        for (int r = 0; r < ranks; r++) size += dealing->group_of_rank[r] == g;
        assert_true(size >= 1);
        slowest = fmax(slowest, sum / size);
    }
    return slowest;
}

static void check_form(const struct rank_dealing *dealing, int ranks, int pieces)
{
    assert_int_equal(dealing->groups, ranks < pieces ? ranks : pieces);
    assert_int_equal(dealing->group_of_rank[0], 0);
    for (int r = 1; r < ranks; r++) {
        int rise = dealing->group_of_rank[r] - dealing->group_of_rank[r - 1];
        assert_true(rise == 0 || rise == 1);
    }
    assert_int_equal(dealing->group_of_rank[ranks - 1], dealing->groups - 1);
    for (int p = 0; p < pieces; p++)
        assert_true(dealing->group_of_piece[p] >= 0 && dealing->group_of_piece[p] < dealing->groups);
}

/* The least time of any dealing with a group for every piece: sizes by trying all. */
static double best_sizes(int ranks, int pieces, const double *work)
{
    if (pieces == 0) return ranks >= 0 ? 0 : INFINITY;
    double best = INFINITY;
    for (int size = 1; size <= ranks - (pieces - 1); size++)
        best = fmin(best, fmax(work[0] / size, best_sizes(ranks - size, pieces - 1, work + 1)));
    return best;
}

/* The least time with single ranks: pieces[from..] put everywhere. */
static double best_places(int ranks, int pieces, const double *work, double *load)
{
    if (pieces == 0) {
        double slowest = 0;
        for (int r = 0; r < ranks; r++) slowest = fmax(slowest, load[r]);
        return slowest;
    }
    double best = INFINITY;
    for (int r = 0; r < ranks; r++) {
        load[r] += work[0];
        best = fmin(best, best_places(ranks, pieces - 1, work + 1, load));
        load[r] -= work[0];
    }
    return best;
}

static const double works[][MOST] = {
    {1, 1, 1, 1, 1, 1, 1, 1}, {8, 7, 6, 5, 4, 3, 2, 1}, {100, 1, 1, 1, 1, 1, 1, 1}, {3, 3, 2, 2, 2, 5, 1, 4}};

static void test_enough_ranks(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof works / sizeof *works; w++)
        for (int pieces = 1; pieces <= 5; pieces++)
            for (int ranks = pieces; ranks <= 16; ranks++) {
                struct rank_dealing dealing = rank_dealing_make(ranks, pieces, works[w]);
                check_form(&dealing, ranks, pieces);
                // giving one rank after the other to the slowest is the best there is
                assert_true(time_of(&dealing, ranks, pieces, works[w]) <=
                            best_sizes(ranks, pieces, works[w]) * (1 + 1e-12));
                rank_dealing_clear(&dealing);
            }
}

static void test_few_ranks(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof works / sizeof *works; w++)
        for (int pieces = 2; pieces <= MOST; pieces++)
            for (int ranks = 1; ranks < pieces && ranks <= 4; ranks++) {
                double load[MOST] = {0};
                struct rank_dealing dealing = rank_dealing_make(ranks, pieces, works[w]);
                check_form(&dealing, ranks, pieces);
                // the largest first is at most 4/3 - 1/(3 ranks) of the best (Graham 1969)
                assert_true(time_of(&dealing, ranks, pieces, works[w]) <=
                            best_places(ranks, pieces, works[w], load) * (4.0 / 3 - 1.0 / (3 * ranks)) +
                                1e-9);
                rank_dealing_clear(&dealing);
            }
}

static void test_no_work(void **state)
{
    (void)state;
    const double none[3] = {0};
    struct rank_dealing dealing = rank_dealing_make(5, 3, none);
    check_form(&dealing, 5, 3);
    rank_dealing_clear(&dealing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_enough_ranks), cmocka_unit_test(test_few_ranks),
                                       cmocka_unit_test(test_no_work)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
