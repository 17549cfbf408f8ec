/* Phase evaluate: Frechet distance, CMMD and CLIP score of each row, from the features. */
#include "phases/evaluate_pictures.h"

#include "base/check.h"
#include "metrics/clip_score.h"
#include "metrics/cmmd.h"
#include "metrics/frechet.h"

#include <math.h>
#include <stdlib.h>

// ---- feature rows of a row of the table

/* [count, F]; owned. */
struct feature_rows {
    int64_t count;
    double *values;
};

static struct feature_rows rows_new(int64_t most, int64_t F)
{
    return (struct feature_rows){0, check_malloc((size_t)(most * F) * sizeof(double))};
}

static void add_row(struct feature_rows *rows, int64_t F, const float *features)
{
    double *to = rows->values + rows->count++ * F;
    for (int64_t i = 0; i < F; i++) to[i] = features[i];
}

static bool in_row(const struct evaluating *evaluating, int64_t row, int32_t expert)
{
    if (row == ROW_ALL) return expert >= 0;
    return expert == (row == row_of_teacher(evaluating) ? -1 : row - ROW_EXPERTS);
}

/* The generated pictures of a row, or in the same order the prompt of each. */
static struct feature_rows generated_rows(const struct pictures *pictures, int n, int64_t row, bool prompts)
{
    const struct network_features *features = &pictures->features[n];
    int64_t F = pictures->network[n].width, S = 0;
    for (int set = 0; set < pictures->sets; set++) S += pictures->samples[set].S;
    struct feature_rows rows = rows_new(S, F);
    for (int set = 0; set < pictures->sets; set++) {
        const struct samples *samples = &pictures->samples[set];
        for (int64_t s = 0; s < samples->S; s++)
            if (in_row(pictures->evaluating, row, samples->expert[s]))
                add_row(&rows, F,
                        prompts ? features->captions + pictures->real_row[samples->item[s]] * F
                                : features->generated[set] + s * F);
    }
    return rows;
}

/* Items that there are generated pictures of in a row: seen[N]. */
static void see_items(const struct pictures *pictures, int64_t row, bool *seen)
{
    for (int64_t i = 0; i < pictures->evaluating->info->items; i++) seen[i] = false;
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        for (int64_t s = 0; s < set->S; s++)
            if (in_row(pictures->evaluating, row, set->expert[s])) seen[set->item[s]] = true;
}

enum of_item { PICTURE_OF_ITEM, CAPTION_OF_ITEM, PARTNER_OF_ITEM };

/* Of each item that is seen, once: its real picture, with the same rows its caption, or its partner. */
static struct feature_rows item_rows(const struct pictures *pictures, int n, const bool *seen,
                                     enum of_item what)
{
    const struct network_features *features = &pictures->features[n];
    const struct real_set *set = what == PARTNER_OF_ITEM ? &pictures->others : &pictures->real;
    const int64_t *place = what == PARTNER_OF_ITEM ? pictures->others_row : pictures->real_row;
    const float *values = what == PICTURE_OF_ITEM   ? features->real
                          : what == CAPTION_OF_ITEM ? features->captions
                                                    : features->others;
    int64_t F = pictures->network[n].width;
    struct feature_rows rows = rows_new(set->count, F);
    for (int64_t i = 0; i < pictures->evaluating->info->items; i++)
        if (seen[i] && place[i] >= 0 && !set->broken[place[i]]) add_row(&rows, F, values + place[i] * F);
    return rows;
}

// ---- quantities

/* What one quantity of one row has come to; zero where another rank computes it. */
struct found {
    struct interval value, population;
};

static struct found find_distance(const struct evaluating *evaluating, enum quantity quantity, int64_t F,
                                  int64_t N, const double *a, int64_t M, const double *b)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    int64_t fewer = N < M ? N : M;
    struct found found = {interval_none(), interval_none()};
    if (fewer < (quantity == QUANTITY_FRECHET ? LEAST_FOR_FRECHET : 1)) return found;
    if (fewer >= LEAST_FOR_INTERVAL && cfg->half_samples > 0) {
        struct bootstrap halves = {(uint64_t)cfg->run.seed, cfg->half_samples, true};
        struct interval interval = quantity == QUANTITY_FRECHET ? frechet_interval(halves, N, M, F, a, b)
                                                                : cmmd_interval(halves, N, M, F, a, b);
        found = (struct found){interval_about_value(interval), interval_of_population(interval)};
        found.value.low = fmax(found.value.low, 0); // no two sets are nearer than that
        return found;
    }
    if (quantity == QUANTITY_CMMD) {
        found.value.value = cmmd_distance(N, M, F, a, b);
        return found;
    }
    struct moments of_a = moments_of(N, F, a, NULL), of_b = moments_of(M, F, b, NULL);
    found.value.value = frechet_distance(&of_a, &of_b);
    moments_free(&of_b);
    moments_free(&of_a);
    return found;
}

static struct found find_score(const struct evaluating *evaluating, int64_t F, int64_t N, const double *image,
                               const double *text)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    struct found found = {interval_none(), interval_none()};
    if (N == 0) return found;
    double *score = check_malloc((size_t)N * sizeof *score);
    clip_score(N, F, image, text, score);
    found.value =
        bootstrap_mean((struct bootstrap){(uint64_t)cfg->run.seed, cfg->bootstrap, false}, N, score, NULL);
    if (N < LEAST_FOR_INTERVAL) found.value.low = found.value.high = NAN;
    free(score);
    return found;
}

/* Of the generated pictures of a row, or of the real ones in their place. */
static struct found find_quantity(const struct pictures *pictures, int64_t row, enum quantity quantity,
                                  bool real)
{
    const struct evaluating *evaluating = pictures->evaluating;
    int n = pictures->network_of[quantity];
    int64_t F = pictures->network[n].width;
    bool *seen = check_malloc((size_t)evaluating->info->items * sizeof *seen);
    see_items(pictures, row, seen);
    struct feature_rows a, b;
    struct found found;
    if (quantity == QUANTITY_CLIP_SCORE) {
        a = real ? item_rows(pictures, n, seen, PICTURE_OF_ITEM) : generated_rows(pictures, n, row, false);
        b = real ? item_rows(pictures, n, seen, CAPTION_OF_ITEM) : generated_rows(pictures, n, row, true);
        found = find_score(evaluating, F, a.count, a.values, b.values);
    } else {
        a = real ? item_rows(pictures, n, seen, PICTURE_OF_ITEM) : generated_rows(pictures, n, row, false);
        b = item_rows(pictures, n, seen, real ? PARTNER_OF_ITEM : PICTURE_OF_ITEM);
        found = find_distance(evaluating, quantity, F, a.count, a.values, b.count, b.values);
    }
    free(b.values);
    free(a.values);
    free(seen);
    return found;
}

static void count_pictures(struct pictures *pictures, int64_t row)
{
    struct evaluating *evaluating = pictures->evaluating;
    int64_t N = evaluating->info->items;
    bool *seen = check_malloc((size_t)N * sizeof *seen);
    see_items(pictures, row, seen);
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        for (int64_t s = 0; s < set->S; s++)
            evaluating->pictures[row] += in_row(evaluating, row, set->expert[s]);
    for (int64_t i = 0; i < N; i++) {
        int64_t other = pictures->others_row[i];
        evaluating->partners[row] += seen[i] && other >= 0 && !pictures->others.broken[other];
    }
    free(seen);
}

/* Every rank finds some; each is found whole by one rank, so that the number of ranks changes no bit. */
void evaluate_quantities(struct pictures *pictures)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct comm *comm = evaluating->run->comm;
    int64_t jobs = evaluating->M * PICTURE_QUANTITIES * 2;
    struct found *found = check_calloc((size_t)jobs, sizeof *found);
    struct progress progress = progress_start(evaluating->run->log, "quantity", 0, jobs);
    for (int64_t job = 0; job < jobs; job++) {
        int64_t row = job / 2 / PICTURE_QUANTITIES;
        enum quantity quantity = (enum quantity)(job / 2 % PICTURE_QUANTITIES);
        if (job % comm_size(comm) == comm_rank(comm))
            found[job] = pictures->network_of[quantity] < 0
                             ? (struct found){interval_none(), interval_none()}
                             : find_quantity(pictures, row, quantity, job % 2 == 1);
        progress_update(&progress, job + 1, "%s", "");
    }
    progress_pause(&progress);
    comm_sum_ordered(comm, (double *)found, (size_t)jobs * (sizeof *found / sizeof(double)));
    for (int64_t row = 0, job = 0; row < evaluating->M; row++) {
        count_pictures(pictures, row);
        for (int q = 0; q < PICTURE_QUANTITIES; q++, job += 2) {
            evaluating->value[q][row] = found[job].value;
            evaluating->real[q][row] = found[job + 1].value;
            if (q < DISTANCES) evaluating->population[q][row] = found[job].population;
        }
    }
    free(found);
}
