#include "train/sample_order.h"

#include "base/check.h"
#include "base/random.h"

#include <stdlib.h>

void sample_order_init(struct sample_order *order, uint64_t seed, int64_t items)
{
    CHECK(items >= 1, "an order of %lld items", (long long)items);
    *order = (struct sample_order){seed, items, -1, check_malloc((size_t)items * sizeof *order->position)};
}

void sample_order_clear(struct sample_order *order)
{
    free(order->position);
    *order = (struct sample_order){0};
}

void sample_order_items(struct sample_order *order, int64_t first, int64_t count, int64_t *item)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t epoch = (first + i) / order->items;
        if (epoch != order->epoch) {
            struct random_key key = {order->seed, RANDOM_ORDER, (uint64_t)epoch, 0};
            random_permutation(key, (uint64_t)order->items, order->position);
            order->epoch = epoch;
        }
        item[i] = (int64_t)order->position[(first + i) % order->items];
    }
}
