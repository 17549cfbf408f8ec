/* Which item of a data set each sample of a training run is: epoch after epoch, each a random permutation.
 *
 * A function of (seed, step, place in the global batch) alone, so a restart neither loses nor repeats an
 * item, and the number of ranks does not matter. */
#ifndef TRAIN_SAMPLE_ORDER_H
#define TRAIN_SAMPLE_ORDER_H

#include <stdint.h>

struct sample_order {
    uint64_t seed;
    int64_t items;      /* of the data set, >= 1 */
    int64_t epoch;      /* of the permutation held, or -1 */
    uint64_t *position; /* [items] owned */
};

/* Free with sample_order_clear. */
void sample_order_init(struct sample_order *order, uint64_t seed, int64_t items);
void sample_order_clear(struct sample_order *order);

/* item[0..count): the items of samples first, first + 1, ... of the run; sample s of step t in batches of B
 * is t B + s. */
void sample_order_items(struct sample_order *order, int64_t first, int64_t count, int64_t *item);

#endif
