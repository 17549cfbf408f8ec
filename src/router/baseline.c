#include "router/baseline.h"

#include "base/check.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the budget: nearer than this a mask is done. */
static const double tolerance = 1e-3;

/* A mask in the making. */
struct mask {
    const struct unit_table *table;
    const struct unit_macs *macs;
    uint8_t *kept; // [entries]
    int *width;    // [units] entries that are left
    double excess; // MACs above the budget
    double slack;  // MACs that do not matter
};

/* Everything kept. Ended by mask_end. */
static struct mask mask_begin(const struct unit_table *table, const struct unit_macs *macs, double budget,
                              uint8_t *kept)
{
    struct mask mask = {.table = table,
                        .macs = macs,
                        .kept = kept,
                        .width = check_malloc((size_t)table->units * sizeof *mask.width),
                        .excess = (1 - budget) * macs->total,
                        .slack = tolerance * budget * macs->total};
    memset(kept, 1, (size_t)table->entries);
    for (int u = 0; u < table->units; u++) mask.width[u] = table->unit[u].width;
    return mask;
}

/* Returns the ratio of all MACs. */
static double mask_end(struct mask *mask)
{
    double *gates = check_malloc((size_t)mask->table->entries * sizeof *gates);
    for (int i = 0; i < mask->table->entries; i++) gates[i] = mask->kept[i];
    double ratio = unit_macs_total_ratio(mask->macs, unit_table_ratio(mask->table, mask->macs, gates, NULL));
    free(gates);
    free(mask->width);
    return ratio;
}

// ---- removal in the order of a ranking

/* A width entry and its place in a ranking: least first. */
struct ranked {
    double score;
    int entry, unit;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return (x->entry > y->entry) - (x->entry < y->entry);
}

/* Removes entries, least score first, until the budget is met. */
static void remove_ranked(struct mask *mask, int count, struct ranked *ranked)
{
    if (count > 0) qsort(ranked, (size_t)count, sizeof *ranked, by_score);
    for (int i = 0; i < count && mask->excess > mask->slack; i++) {
        int u = ranked[i].unit;
        double saved = mask->macs->unit[u] / mask->table->unit[u].width;
        if (mask->width[u] == 1 || mask->excess - saved < -mask->slack) continue;
        mask->kept[ranked[i].entry] = 0;
        mask->width[u]--;
        mask->excess -= saved;
    }
}

double baseline_ranked(const struct unit_table *table, const struct unit_macs *macs, double budget,
                       const double *score, uint8_t *kept)
{
    struct mask mask = mask_begin(table, macs, budget, kept);
    struct ranked *ranked = check_malloc((size_t)table->width_entries * sizeof *ranked);
    int count = 0;
    for (int u = 0; u < table->units; u++)
        for (int i = 0; i < table->unit[u].width; i++, count++) {
            int entry = table->unit[u].first + i;
            ranked[count] = (struct ranked){score[entry], entry, u};
        }
    remove_ranked(&mask, count, ranked);
    free(ranked);
    return mask_end(&mask);
}

double baseline_random(const struct unit_table *table, const struct unit_macs *macs, double budget,
                       uint64_t seed, uint8_t *kept)
{
    size_t count = (size_t)table->width_entries;
    uint64_t *place = check_malloc(count * sizeof *place);
    double *score = check_malloc(count * sizeof *score);
    random_permutation((struct random_key){.seed = seed, .stream = RANDOM_BASELINE}, count, place);
    for (size_t i = 0; i < count; i++) score[i] = (double)place[i];
    double ratio = baseline_ranked(table, macs, budget, score, kept);
    free(score);
    free(place);
    return ratio;
}

void baseline_magnitude_score(const struct unit_table *table, const double *norm, double *score)
{
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        double sum = 0;
        for (int i = 0; i < unit->width; i++) sum += norm[unit->first + i];
        for (int i = 0; i < unit->width; i++)
            score[unit->first + i] = sum > 0 ? norm[unit->first + i] * unit->width / sum : 0;
    }
}

// ---- even trimming

/* Ranks a unit's entries, last first, so that the removed share of all units grows alike: removal j of a unit
 * comes when that share passes (j + phase) / width. A phase of 1/2 everywhere would round all units of one
 * width at the same moment; multiples of the golden ratio spread them evenly. */
static int rank_evenly(const struct unit_table *table, int u, struct ranked *ranked)
{
    const double golden = 0.61803398874989484820;
    const struct unit *unit = &table->unit[u];
    double phase = golden * (u + 1) - floor(golden * (u + 1));
    for (int j = 0; j < unit->width; j++)
        ranked[j] = (struct ranked){(j + phase) / unit->width, unit->first + unit->width - 1 - j, u};
    return unit->width;
}

/* Trims the units whose step is `step`, or all units (step NULL). */
static void trim_evenly(struct mask *mask, const int *step_of, int step)
{
    const struct unit_table *table = mask->table;
    struct ranked *ranked = check_malloc((size_t)table->width_entries * sizeof *ranked);
    int count = 0;
    for (int u = 0; u < table->units; u++)
        if (!step_of || step_of[u] == step) count += rank_evenly(table, u, ranked + count);
    remove_ranked(mask, count, ranked);
    free(ranked);
}

double baseline_uniform(const struct unit_table *table, const struct unit_macs *macs, double budget,
                        uint8_t *kept)
{
    struct mask mask = mask_begin(table, macs, budget, kept);
    trim_evenly(&mask, NULL, 0);
    return mask_end(&mask);
}

// ---- blocks

/* Level of a unit that has no depth gate, 0 outermost; -1 in the middle block. */
static int level_of(const struct unit_table *table, const char *path)
{
    int innermost = 0, index;
    for (int i = 0; i < table->depth_entries; i++)
        if (table->depth[i].level > innermost) innermost = table->depth[i].level;
    if (sscanf(path, "down_blocks.%d.", &index) == 1) return index;
    if (sscanf(path, "up_blocks.%d.", &index) == 1) return innermost - index;
    return -1;
}

/* Step of each unit and depth entry: pairs first, each of the depth entries of one block. Returns the number
 * of steps. */
static int plan_blocks(const struct unit_table *table, int *unit_step, int *depth_step)
{
    int pairs = 0, innermost = 0;
    for (int i = table->depth_entries - 1; i >= 0; i--) {
        int entry = table->depth_order[i];
        const struct depth_unit *unit = &table->depth[entry];
        depth_step[entry] = -1;
        for (int j = table->depth_entries - 1; j > i; j--) {
            const struct depth_unit *before = &table->depth[table->depth_order[j]];
            if (before->up == unit->up && before->level == unit->level)
                depth_step[entry] = depth_step[table->depth_order[j]];
        }
        if (depth_step[entry] < 0) depth_step[entry] = pairs++;
        if (unit->level > innermost) innermost = unit->level;
    }
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        int level = level_of(table, unit->path);
        if (unit->depth >= 0)
            unit_step[u] = depth_step[unit->depth];
        else
            unit_step[u] = level < 0 ? pairs : pairs + 1 + innermost - level;
    }
    return pairs + 1 + innermost + 1;
}

/* MACs that go when all depth entries of a step are dropped; 0 when it has none. */
static double dropped_macs(const struct mask *mask, const int *unit_step, const int *depth_step, int step)
{
    double saved = 0;
    for (int i = 0; i < mask->table->depth_entries; i++)
        if (depth_step[i] == step) saved += mask->macs->depth[i];
    for (int u = 0; u < mask->table->units; u++)
        if (unit_step[u] == step && mask->table->unit[u].depth >= 0) saved += mask->macs->unit[u];
    return saved;
}

double baseline_block(const struct unit_table *table, const struct unit_macs *macs, double budget,
                      uint8_t *kept)
{
    CHECK(table->depth_entries > 0, "block removal: no unit of %d has a depth gate", table->units);
    struct mask mask = mask_begin(table, macs, budget, kept);
    int *unit_step = check_malloc((size_t)table->units * sizeof *unit_step),
        *depth_step = check_malloc((size_t)table->depth_entries * sizeof *depth_step);
    int steps = plan_blocks(table, unit_step, depth_step);
    bool whole = true; // blocks are still dropped as a whole
    for (int step = 0; step < steps && mask.excess > mask.slack; step++) {
        double saved = dropped_macs(&mask, unit_step, depth_step, step);
        whole = whole && saved > 0 && mask.excess - saved >= -mask.slack;
        if (!whole) {
            trim_evenly(&mask, unit_step, step);
            continue;
        }
        for (int i = 0; i < table->depth_entries; i++)
            if (depth_step[i] == step) kept[table->width_entries + i] = 0;
        mask.excess -= saved;
    }
    free(unit_step);
    free(depth_step);
    return mask_end(&mask);
}
