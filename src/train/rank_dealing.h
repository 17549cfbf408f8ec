/* Ranks dealt out among pieces of work that do not need each other (DESIGN section 5: fine-tuning's experts).
 */
#ifndef TRAIN_RANK_DEALING_H
#define TRAIN_RANK_DEALING_H

/* Which group each rank belongs to, and which group does each piece. Groups are runs of neighbouring ranks,
 * at least one each; pieces of one group are done in turns, in their order. */
struct rank_dealing {
    int groups;
    int *group_of_rank;  /* [ranks] owned, never falls */
    int *group_of_piece; /* [pieces] owned */
};

/* Deals `ranks` >= 1 ranks to `pieces` >= 1 pieces by their work[pieces] >= 0, so that the longest time that
 * a group needs is about the least: with enough ranks every piece has a group, and further ranks go, one by
 * one, to the group with the most work a rank; with fewer ranks than pieces every rank is a group, and
 * pieces, the largest first, go to the group with the least work. A function of its arguments alone: the same
 * on all ranks. Free with rank_dealing_clear. */
struct rank_dealing rank_dealing_make(int ranks, int pieces, const double *work);
void rank_dealing_clear(struct rank_dealing *dealing);

#endif
