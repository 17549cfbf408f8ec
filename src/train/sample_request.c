#include "train/sample_request.h"

#include "base/check.h"
#include "base/random.h"

#include <stdlib.h>

void sample_request_ask(const struct sample_request *request, struct sample_order *order,
                        struct dataset *dataset)
{
    int64_t count = request->count;
    uint64_t views = (uint64_t)dataset_info(dataset)->views, step = (uint64_t)request->step;
    int64_t *item = check_malloc((size_t)count * sizeof *item);
    int *view = check_malloc((size_t)count * sizeof *view);
    bool *drop = check_malloc((size_t)count * sizeof *drop);
    sample_order_items(order, request->step * request->batch + request->first, count, item);
    for (int64_t i = 0; i < count; i++) {
        uint64_t sample = (uint64_t)(request->first + i);
        struct random_key view_key = {request->seed, RANDOM_FLIP, step, sample};
        struct random_key drop_key = {request->seed, RANDOM_PROMPT_DROPOUT, step, sample};
        if (request->item) item[i] = request->item[item[i]];
        view[i] = (int)random_below(view_key, 0, views);
        drop[i] = random_uniform(drop_key, 0) < request->prompt_dropout;
    }
    dataset_ask(dataset, count, item, view, drop);
    free(item);
    free(view);
    free(drop);
}
