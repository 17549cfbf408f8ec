#include "train/rank_dealing.h"

#include "base/check.h"

#include <stdlib.h>

/* A group for every piece; sizes grow where the work of a rank is largest. */
static void deal_ranks(struct rank_dealing *dealing, int ranks, int pieces, const double *work)
{
    int *size = check_malloc((size_t)pieces * sizeof *size);
    for (int p = 0; p < pieces; p++) {
        size[p] = 1;
        dealing->group_of_piece[p] = p;
    }
    for (int spare = ranks - pieces; spare > 0; spare--) {
        int most = 0;
        for (int p = 1; p < pieces; p++)
            if (work[p] / size[p] > work[most] / size[most]) most = p;
        size[most]++;
    }
    for (int p = 0, rank = 0; p < pieces; p++)
        for (int i = 0; i < size[p]; i++) dealing->group_of_rank[rank++] = p;
    free(size);
}

/* The largest piece that has no group yet. */
static int largest_left(const struct rank_dealing *dealing, int pieces, const double *work)
{
    int largest = -1;
    for (int p = 0; p < pieces; p++)
        if (dealing->group_of_piece[p] < 0 && (largest < 0 || work[p] > work[largest])) largest = p;
    return largest;
}

/* A group for every rank; the group with the least work gets the largest piece that is left. */
static void deal_pieces(struct rank_dealing *dealing, int ranks, int pieces, const double *work)
{
    double *load = check_calloc((size_t)ranks, sizeof *load);
    for (int r = 0; r < ranks; r++) dealing->group_of_rank[r] = r;
    for (int p = 0; p < pieces; p++) dealing->group_of_piece[p] = -1;
    for (int dealt = 0; dealt < pieces; dealt++) {
        int piece = largest_left(dealing, pieces, work), least = 0;
        for (int r = 1; r < ranks; r++)
            if (load[r] < load[least]) least = r;
        dealing->group_of_piece[piece] = least;
        load[least] += work[piece];
    }
    free(load);
}

struct rank_dealing rank_dealing_make(int ranks, int pieces, const double *work)
{
    CHECK(ranks >= 1 && pieces >= 1, "%d ranks for %d pieces", ranks, pieces);
    struct rank_dealing dealing = {.groups = ranks < pieces ? ranks : pieces,
                                   .group_of_rank = check_malloc((size_t)ranks * sizeof(int)),
                                   .group_of_piece = check_malloc((size_t)pieces * sizeof(int))};
    if (ranks >= pieces)
        deal_ranks(&dealing, ranks, pieces, work);
    else
        deal_pieces(&dealing, ranks, pieces, work);
    return dealing;
}

void rank_dealing_clear(struct rank_dealing *dealing)
{
    free(dealing->group_of_rank);
    free(dealing->group_of_piece);
    *dealing = (struct rank_dealing){0};
}
