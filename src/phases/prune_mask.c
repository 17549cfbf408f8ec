#include "phases/prune_mask.h"

#include "base/check.h"
#include "router/baseline.h"

#include <math.h>
#include <stdlib.h>

/* How far from the budget a mask may be, as a part of it. */
static const double budget_limit = 0.01;

bool prune_learns(enum prune_method method)
{
    return method == PRUNE_APTP || method == PRUNE_SINGLE;
}

int64_t prune_codes(const struct prune_cfg *cfg)
{
    return cfg->method == PRUNE_APTP ? cfg->experts : 1;
}

static void choose_by_magnitude(const struct run *run, const struct routing *routing, double budget,
                                uint8_t *mask)
{
    const struct unit_table *table = &routing->unet->table;
    double *norm = check_calloc((size_t)table->width_entries, sizeof *norm);
    if (!run->check_only) unet_slice_norms(routing->unet, norm);
    baseline_magnitude_score(table, norm, norm);
    baseline_ranked(table, &routing->macs, budget, norm, mask);
    free(norm);
}

bool prune_choose_mask(const struct run *run, const struct prune_cfg *cfg, struct routing *routing,
                       struct fault *fault)
{
    const struct unit_table *table = &routing->unet->table;
    static const char *const names[] = {[PRUNE_UNIFORM] = "uniform",
                                        [PRUNE_RANDOM] = "random",
                                        [PRUNE_MAGNITUDE] = "magnitude",
                                        [PRUNE_BLOCK] = "block"};
    uint8_t *mask = check_malloc((size_t)table->entries);
    switch (cfg->method) {
    case PRUNE_UNIFORM:
        baseline_uniform(table, &routing->macs, cfg->budget, mask);
        break;
    case PRUNE_RANDOM:
        baseline_random(table, &routing->macs, cfg->budget, (uint64_t)cfg->run.seed, mask);
        break;
    case PRUNE_MAGNITUDE:
        choose_by_magnitude(run, routing, cfg->budget, mask);
        break;
    case PRUNE_BLOCK:
        baseline_block(table, &routing->macs, cfg->budget, mask);
        break;
    case PRUNE_APTP:
    case PRUNE_SINGLE:
        CHECK(false, "prune.method %d learns its masks", (int)cfg->method);
    }
    for (int i = 0; i < table->entries; i++) routing->router->draw[i] = mask[i];
    free(mask);

    double ratio;
    routing_total_ratios(routing, routing->latents[0], routing->latents[1], &ratio);
    log_info(run->log, "the mask of method %s: %.4f of all MACs, the budget is %.4f", names[cfg->method],
             ratio, cfg->budget);
    return fabs(ratio / cfg->budget - 1) <= budget_limit ||
           fault_raise(fault, EXIT_CODE_DECK,
                       "prune.method = \"%s\" cannot meet prune.budget = %g within 1 %%: the nearest is %.4f "
                       "of all MACs",
                       names[cfg->method], cfg->budget, ratio);
}
