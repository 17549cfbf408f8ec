/* Masks that are not learned: the budget on the sliced network itself, each method's own rule, a plain
 * computation beside it. On a small UNet of the SD 2 family and on SD 2.1. */
#include "router/baseline.h"

#include "base/check.h"
#include "models/unet_folder.h"
#include "models/weights.h"
#include "support/router_check.h"
#include "tensor/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TOKENS = 77, LATENTS = 32 };

static const double budgets[] = {0.5, 0.6, 0.8};

/* A network and what a method knows of it. */
struct subject {
    struct backend *backend;
    struct unet *unet;
    struct unit_macs macs;
    double *score; // [width_entries] of a ranking
    double limit;  // of |ratio / budget - 1|
};

/* The small network has its weights, whose norms are the score; that of SD 2.1 is random. */
static struct subject subject_open(bool small)
{
    struct fault fault = {0};
    struct unet_config config;
    const char *folder = small ? "test/fixtures/unet_sd2" : "test/fixtures/sd21";
    if (!unet_folder_config(folder, 32, &config, &fault)) fail_msg("%s", fault.text);
    // A mask stops within a thousandth; what is left of the small network may be too coarse for that.
    struct subject subject = {.backend = backend_open(small ? BACKEND_CPU : BACKEND_PLAN),
                              .limit = small ? 0.01 : 0.001 + 1e-12};
    subject.unet = unet_new(subject.backend, &config, (struct unet_shape){0});
    subject.macs = unet_macs(subject.unet, LATENTS, LATENTS, TOKENS);
    const struct unit_table *table = &subject.unet->table;
    if (small) {
        if (!unet_folder_load(folder, subject.unet, false, &fault)) fail_msg("%s", fault.text);
        subject.score = check_malloc((size_t)table->width_entries * sizeof *subject.score);
        unet_slice_norms(subject.unet, subject.score);
        baseline_magnitude_score(table, subject.score, subject.score);
    } else {
        subject.score = random_normals(1, table->width_entries);
    }
    return subject;
}

static void subject_close(struct subject *subject)
{
    free(subject->score);
    unit_macs_free(&subject->macs);
    unet_delete(subject->unet);
    backend_close(subject->backend);
}

enum method { UNIFORM, RANDOM, RANKED, BLOCK, METHODS };

static double choose(const struct subject *subject, enum method method, double budget, uint8_t *mask)
{
    const struct unit_table *table = &subject->unet->table;
    switch (method) {
    case UNIFORM:
        return baseline_uniform(table, &subject->macs, budget, mask);
    case RANDOM:
        return baseline_random(table, &subject->macs, budget, 7, mask);
    case RANKED:
        return baseline_ranked(table, &subject->macs, budget, subject->score, mask);
    case BLOCK:
        return baseline_block(table, &subject->macs, budget, mask);
    case METHODS:
        break;
    }
    return NAN;
}

static uint8_t *new_mask(const struct subject *subject)
{
    return check_malloc((size_t)subject->unet->table.entries);
}

static struct unet_shape shape_of(const struct subject *subject, const uint8_t *mask)
{
    return (struct unet_shape){mask, mask + subject->unet->table.width_entries};
}

static int kept_of(const struct unit *unit, const uint8_t *mask)
{
    int kept = 0;
    for (int i = 0; i < unit->width; i++) kept += mask[unit->first + i];
    return kept;
}

/* MACs of the network that the mask leaves, over those of the whole one. */
static double sliced_ratio(const struct subject *subject, const uint8_t *mask)
{
    struct unet *sliced = unet_new(subject->backend, &subject->unet->config, shape_of(subject, mask));
    struct unit_macs macs = unet_macs(sliced, LATENTS, LATENTS, TOKENS);
    double ratio = macs.total / subject->macs.total;
    unit_macs_free(&macs);
    unet_delete(sliced);
    return ratio;
}

static void sliced_network_meets_the_budget(void **state)
{
    (void)state;
    for (int small = 0; small < 2; small++) {
        struct subject subject = subject_open(small);
        struct fault fault = {0};
        uint8_t *mask = new_mask(&subject);
        for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++)
            for (enum method method = 0; method < METHODS; method++) {
                memset(mask, 9, (size_t)subject.unet->table.entries);
                double ratio = choose(&subject, method, budgets[b], mask);
                for (int i = 0; i < subject.unet->table.entries; i++) assert_true(mask[i] <= 1);
                if (!unet_check_shape(&subject.unet->table, shape_of(&subject, mask), &fault))
                    fail_msg("%s", fault.text);
                assert_within(sliced_ratio(&subject, mask), ratio, 1e-12);
                if (!(fabs(ratio / budgets[b] - 1) <= subject.limit))
                    fail_msg("method %d, budget %g: %g", (int)method, budgets[b], ratio);
            }
        free(mask);
        subject_close(&subject);
    }
}

static void whole_network_meets_a_budget_of_one(void **state)
{
    (void)state;
    struct subject subject = subject_open(false);
    uint8_t *mask = new_mask(&subject);
    for (enum method method = 0; method < METHODS; method++) {
        assert_true(choose(&subject, method, 1, mask) == 1);
        for (int i = 0; i < subject.unet->table.entries; i++) assert_int_equal(mask[i], 1);
    }
    free(mask);
    subject_close(&subject);
}

/* A budget below what is not prunable: everything but one entry a unit goes. */
static void too_small_a_budget_is_not_met(void **state)
{
    (void)state;
    for (int small = 0; small < 2; small++) {
        struct subject subject = subject_open(small);
        const struct unit_table *table = &subject.unet->table;
        uint8_t *mask = new_mask(&subject);
        for (enum method method = 0; method < METHODS; method++) {
            double ratio = choose(&subject, method, 0.02, mask);
            assert_true(ratio > 0.03);
            assert_within(sliced_ratio(&subject, mask), ratio, 1e-12);
            for (int u = 0; u < table->units; u++) {
                const struct unit *unit = &table->unit[u];
                bool dropped = unit->depth >= 0 && !mask[table->width_entries + unit->depth];
                assert_true(dropped || kept_of(unit, mask) == 1);
            }
        }
        free(mask);
        subject_close(&subject);
    }
}

static void depth_stays(const struct subject *subject, const uint8_t *mask)
{
    const struct unit_table *table = &subject->unet->table;
    for (int i = 0; i < table->depth_entries; i++) assert_int_equal(mask[table->width_entries + i], 1);
}

/* One share f for all units: |kept - f width| <= 1, but that one entry always stays. */
static void uniform_keeps_the_same_share_of_every_unit(void **state)
{
    (void)state;
    for (int small = 0; small < 2; small++) {
        struct subject subject = subject_open(small);
        const struct unit_table *table = &subject.unet->table;
        uint8_t *mask = new_mask(&subject);
        for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
            choose(&subject, UNIFORM, budgets[b], mask);
            depth_stays(&subject, mask);
            double least = 0, most = 1, half[2] = {0}, units[2] = {0};
            for (int u = 0; u < table->units; u++) {
                const struct unit *unit = &table->unit[u];
                int kept = kept_of(unit, mask);
                for (int i = 0; i < kept; i++) assert_int_equal(mask[unit->first + i], 1); // the first stay
                if (kept > 1) least = fmax(least, (kept - 1.0) / unit->width);
                most = fmin(most, (kept + 1.0) / unit->width);
                if (unit->width != 32) continue;
                half[2 * u >= table->units] += (double)kept / unit->width;
                units[2 * u >= table->units]++;
            }
            assert_true(least <= most);
            // rounding does not favour an end of the network: half an entry at most
            if (!small) assert_within(half[0] / units[0], half[1] / units[1], 0.5 / 32);
        }
        free(mask);
        subject_close(&subject);
    }
}

static void random_is_a_function_of_the_seed(void **state)
{
    (void)state;
    struct subject subject = subject_open(false);
    const struct unit_table *table = &subject.unet->table;
    uint8_t *mask = new_mask(&subject), *again = new_mask(&subject), *other = new_mask(&subject);
    baseline_random(table, &subject.macs, 0.6, 1, mask);
    baseline_random(table, &subject.macs, 0.6, 1, again);
    baseline_random(table, &subject.macs, 0.6, 2, other);
    assert_memory_equal(mask, again, table->entries);
    depth_stays(&subject, mask);
    // Two independent masks that keep a share q differ in 2 q (1 - q) of the entries, here nearly a half.
    int differ = 0, kept = 0;
    for (int i = 0; i < table->width_entries; i++) {
        differ += mask[i] != other[i];
        kept += mask[i];
    }
    double n = table->width_entries, q = kept / n, expected = 2 * q * (1 - q);
    assert_within(differ / n, expected, 5 * sqrt(expected / n)); // five deviations
    free(mask);
    free(again);
    free(other);
    subject_close(&subject);
}

/* The rule as it is written, with the ratio computed anew at every try. */
static void plain_removal(const struct subject *subject, double budget, uint8_t *mask)
{
    const struct unit_table *table = &subject->unet->table;
    double *gates = check_malloc((size_t)table->entries * sizeof *gates);
    bool *tried = check_calloc((size_t)table->width_entries, sizeof *tried);
    for (int i = 0; i < table->entries; i++) gates[i] = 1;
    for (int round = 0; round < table->width_entries; round++) {
        double ratio =
            unit_macs_total_ratio(&subject->macs, unit_table_ratio(table, &subject->macs, gates, NULL));
        if (ratio <= 1.001 * budget) break;
        int lowest = -1, u = 0;
        for (int i = 0; i < table->width_entries; i++)
            if (!tried[i] && (lowest < 0 || subject->score[i] < subject->score[lowest])) lowest = i;
        tried[lowest] = true;
        while (lowest >= table->unit[u].first + table->unit[u].width) u++;
        double left = 0;
        for (int i = 0; i < table->unit[u].width; i++) left += gates[table->unit[u].first + i];
        gates[lowest] = 0;
        ratio = unit_macs_total_ratio(&subject->macs, unit_table_ratio(table, &subject->macs, gates, NULL));
        if (left == 1 || ratio < 0.999 * budget) gates[lowest] = 1;
    }
    for (int i = 0; i < table->entries; i++) mask[i] = gates[i] == 1;
    free(tried);
    free(gates);
}

static void ranking_removes_the_lowest_first(void **state)
{
    (void)state;
    for (int small = 0; small < 2; small++) {
        struct subject subject = subject_open(small);
        const struct unit_table *table = &subject.unet->table;
        uint8_t *mask = new_mask(&subject), *expected = new_mask(&subject);
        for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
            choose(&subject, RANKED, budgets[b], mask);
            plain_removal(&subject, budgets[b], expected);
            assert_memory_equal(mask, expected, table->entries);
            depth_stays(&subject, mask);
        }
        free(expected);
        free(mask);
        subject_close(&subject);
    }
}

/* Squares of all weights but biases and norms that are left of a unit's slices when it keeps one entry. */
static double squares_of_entry(const struct unet *unet, int unit, int entry)
{
    const struct unit_table *table = &unet->table;
    uint8_t *mask = check_malloc((size_t)table->entries);
    memset(mask, 1, (size_t)table->entries);
    for (int i = 0; i < table->unit[unit].width; i++) mask[table->unit[unit].first + i] = i == entry;
    double sum = 0;
    for (int s = 0; s < table->slices; s++) {
        const char *name = table->slice[s].name;
        if (table->slice[s].unit != unit || strstr(name, ".bias") || strstr(name, ".norm2.")) continue;
        int part;
        const struct parameter *parameter = parameter_find(&unet->parameters, name, &part);
        float *full = check_malloc(tensor_bytes(&parameter->value)),
              *kept = check_malloc(tensor_bytes(&parameter->value));
        int64_t dim[TENSOR_MAX_RANK], kept_dim[TENSOR_MAX_RANK], count = 1;
        int rank = weights_file_shape(parameter, part, dim);
        parameter_part_download(&unet->parameters, parameter, part, full);
        assert_true(
            unet_slice_weight(table, (struct unet_shape){mask, NULL}, name, rank, dim, full, kept, kept_dim));
        for (int i = 0; i < rank; i++) count *= kept_dim[i];
        for (int64_t i = 0; i < count; i++) sum += (double)kept[i] * kept[i];
        free(kept);
        free(full);
    }
    free(mask);
    return sum;
}

static void norms_are_those_of_the_slices(void **state)
{
    (void)state;
    struct subject subject = subject_open(true);
    const struct unit_table *table = &subject.unet->table;
    double *norm = check_malloc((size_t)table->width_entries * sizeof *norm),
           *score = check_malloc((size_t)table->width_entries * sizeof *score);
    unet_slice_norms(subject.unet, norm);
    baseline_magnitude_score(table, norm, score);
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        double mean = 0;
        for (int i = 0; i < unit->width; i++) {
            double expected = sqrt(squares_of_entry(subject.unet, u, i));
            assert_true(expected > 0);
            assert_within(norm[unit->first + i], expected, 1e-12 * expected); // sums in another order
            mean += norm[unit->first + i] / unit->width;
        }
        for (int i = 0; i < unit->width; i++)
            assert_within(score[unit->first + i], norm[unit->first + i] / mean, 1e-12);
    }
    free(score);
    free(norm);
    subject_close(&subject);
}

static void a_unit_without_weights_goes_first(void **state)
{
    (void)state;
    struct unit_table table = table_flat(); // 4 and 6 entries
    const double norm[10] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 6};
    double score[10];
    baseline_magnitude_score(&table, norm, score);
    for (int i = 0; i < 4; i++) assert_true(score[i] == 0);
    assert_within(score[4], 1 / 3.5, 1e-15);
    unit_table_free(&table);
}

// ---- blocks

/* The order in which pairs of SD 2.1 go; behind them the middle block, and the rest by level. */
static const char *const pairs[] = {"down_blocks.3.", "up_blocks.0.", "down_blocks.2.", "up_blocks.1.",
                                    "down_blocks.1.", "up_blocks.2.", "down_blocks.0.", "up_blocks.3."};
enum { PAIRS = 8, LEVELS = 4 };

static int block_step(const struct unit_table *table, int u)
{
    const struct unit *unit = &table->unit[u];
    int block = 0;
    if (strncmp(unit->path, "mid_block.", 10) == 0) return PAIRS;
    while (strncmp(unit->path, pairs[block], strlen(pairs[block])) != 0) block++;
    return unit->depth >= 0 ? block : PAIRS + 1 + block / 2; // pairs go level by level, from the innermost
}

/* What a budget leaves: steps before `trimmed` are dropped (pairs) or at one entry a unit, steps behind it
 * are whole, step `trimmed` is in between. */
static void blocks_go_in_order(void **state)
{
    (void)state;
    struct subject subject = subject_open(false);
    const struct unit_table *table = &subject.unet->table;
    uint8_t *mask = new_mask(&subject);
    int most_dropped = 0, deepest = 0;
    for (int percent = 99; percent >= 30; percent--) {
        assert_within(choose(&subject, BLOCK, percent / 100.0, mask), percent / 100.0,
                      percent * 1e-5 + 1e-12);
        int dropped = 0, trimmed = -1;
        for (int pair = 0; pair < PAIRS; pair++) {
            int entries = 0, gone = 0;
            for (int i = 0; i < table->depth_entries; i++) {
                if (strncmp(table->depth[i].path, pairs[pair], strlen(pairs[pair])) != 0) continue;
                entries++;
                gone += !mask[table->width_entries + i];
            }
            assert_true(gone == 0 || gone == entries);   // the whole pair
            if (gone) assert_int_equal(dropped++, pair); // and none before the one before
        }
        for (int u = 0; u < table->units; u++)
            if (kept_of(&table->unit[u], mask) < table->unit[u].width && block_step(table, u) > trimmed)
                trimmed = block_step(table, u);
        for (int u = 0; u < table->units; u++) {
            const struct unit *unit = &table->unit[u];
            int step = block_step(table, u), kept = kept_of(unit, mask);
            if (step < dropped) assert_int_equal(kept, unit->width);
            if (step >= dropped && step < trimmed) assert_int_equal(kept, 1);
            if (step > trimmed) assert_int_equal(kept, unit->width);
        }
        if (dropped > most_dropped) most_dropped = dropped;
        if (trimmed > deepest) deepest = trimmed;
    }
    assert_int_equal(most_dropped, PAIRS);
    assert_true(deepest > PAIRS); // beyond the middle block
    free(mask);
    subject_close(&subject);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sliced_network_meets_the_budget),
        cmocka_unit_test(whole_network_meets_a_budget_of_one),
        cmocka_unit_test(too_small_a_budget_is_not_met),
        cmocka_unit_test(uniform_keeps_the_same_share_of_every_unit),
        cmocka_unit_test(random_is_a_function_of_the_seed),
        cmocka_unit_test(ranking_removes_the_lowest_first),
        cmocka_unit_test(norms_are_those_of_the_slices),
        cmocka_unit_test(a_unit_without_weights_goes_first),
        cmocka_unit_test(blocks_go_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
