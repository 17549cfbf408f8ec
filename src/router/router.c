#include "router/router.h"

#include "base/check.h"
#include "base/random.h"
#include "router/contrastive.h"
#include "router/initialise.h"
#include "router/transport.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 }; // prompts handled at a time in inference

static double *new_array(int64_t rows, int64_t columns)
{
    return check_calloc((size_t)(rows * columns), sizeof(double));
}

static void copy_array(double *to, const double *from, int64_t count)
{
    memcpy(to, from, (size_t)count * sizeof *to);
}

// ---- life and starting values

struct router *router_new(struct router_config config, const struct unit_table *table,
                          const struct unit_macs *macs)
{
    CHECK(config.D >= 1 && config.K >= 1 && table->entries >= 1, "router: D %lld, K %lld, entries %d",
          (long long)config.D, (long long)config.K, table->entries);
    struct router *router = check_calloc(1, sizeof *router);
    *router = (struct router){.config = config, .table = table, .macs = macs, .n = table->entries};
    router->scale = new_array(1, router->n);
    router->weight = new_array(router->n, config.D);
    router->bias = new_array(1, router->n);
    router->codes = new_array(config.K, router->n);
    router->draw = new_array(config.K, router->n);
    normal_form_scale(table, config.mac_weights ? macs : NULL, router->scale);
    return router;
}

void router_delete(struct router *router)
{
    if (!router) return;
    free(router->scale);
    free(router->weight);
    free(router->bias);
    free(router->codes);
    free(router->draw);
    free(router);
}

static struct random_key initial_key(uint64_t seed, int block)
{
    return (struct random_key){.seed = seed, .stream = RANDOM_ROUTER, .sample = (uint64_t)block};
}

void router_initialise(struct router *router, uint64_t seed)
{
    const struct unit_table *table = router->table;
    int64_t D = router->config.D, K = router->config.K, n = router->n;
    for (int u = 0; u < table->units; u++)
        initialise_orthogonal(table->unit[u].width, D, initial_key(seed, u),
                              router->weight + table->unit[u].first * D);
    if (table->depth_entries > 0)
        initialise_orthogonal(table->depth_entries, D, initial_key(seed, table->units),
                              router->weight + table->width_entries * D);
    memset(router->bias, 0, (size_t)n * sizeof *router->bias);
    initialise_orthogonal(K, n, initial_key(seed, table->units + 1), router->codes);
    gumbel_gates(table, router->config.gumbel, K, router->codes, NULL, router->draw);
}

/* logits [rows, n] = z weight' + bias: the architecture embeddings e (METHOD section 3). */
static void predict(const struct router *router, int64_t rows, const double *z, double *logits)
{
    int D = (int)router->config.D, n = (int)router->n;
    for (int64_t row = 0; row < rows; row++) copy_array(logits + row * n, router->bias, n);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, n, D, 1, z, D, router->weight, D, 1,
                logits, n);
}

void router_codes_from_prompts(struct router *router, int64_t rows, const double *z, uint64_t seed)
{
    double *logits = new_array(rows, router->n);
    predict(router, rows, z, logits);
    initialise_kmeans(rows, router->n, logits, router->config.K, initial_key(seed, router->table->units + 2),
                      router->codes);
    free(logits);
}

// ---- a training step

struct router_step *router_step_new(const struct router *router, int64_t B)
{
    CHECK(B >= 1, "router: a batch of %lld prompts", (long long)B);
    int64_t n = router->n, K = router->config.K;
    struct router_step *step = check_calloc(1, sizeof *step);
    step->B = B;
    step->noise_predicted = new_array(B, n);
    step->noise_codes = new_array(K, n);
    step->logits = new_array(B, n);
    step->predicted = new_array(B, n);
    step->predicted_form = new_array(B, n);
    step->predicted_length = new_array(B, 1);
    step->code_gates = new_array(K, n);
    step->code_form = new_array(K, n);
    step->code_length = new_array(K, 1);
    step->similarity = new_array(B, K);
    step->plan = new_array(B, K);
    step->expert = check_calloc((size_t)B, sizeof *step->expert);
    step->gates = new_array(B, n);
    step->ratio = new_array(B, 1);
    step->gate_gradient = new_array(B, n);
    step->logit_gradient = new_array(B, n);
    step->weight_gradient = new_array(n, router->config.D);
    step->bias_gradient = new_array(1, n);
    step->code_gradient = new_array(K, n);
    return step;
}

void router_step_delete(struct router_step *step)
{
    if (!step) return;
    double *owned[] = {step->noise_predicted, step->noise_codes,    step->logits,
                       step->predicted,       step->predicted_form, step->predicted_length,
                       step->code_gates,      step->code_form,      step->code_length,
                       step->similarity,      step->plan,           step->gates,
                       step->ratio,           step->gate_gradient,  step->logit_gradient,
                       step->weight_gradient, step->bias_gradient,  step->code_gradient};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(step->expert);
    free(step);
}

/* One draw of the codes' noise [K, n]: the same for routing and student. */
static void draw_code_noise(const struct router *router, uint64_t seed, uint64_t number, double *noise)
{
    for (int64_t k = 0; k < router->config.K; k++)
        random_gumbel((struct random_key){seed, RANDOM_GUMBEL_CODES, number, (uint64_t)k},
                      (uint64_t)router->n, noise + k * router->n);
}

void router_draw_noise(const struct router *router, struct router_step *step, uint64_t seed, uint64_t number)
{
#pragma omp parallel for
    for (int64_t b = 0; b < step->B; b++)
        random_gumbel((struct random_key){seed, RANDOM_GUMBEL_PREDICTED, number, (uint64_t)b},
                      (uint64_t)router->n, step->noise_predicted + b * router->n);
    draw_code_noise(router, seed, number, step->noise_codes);
}

static void to_normal_form(const struct router *router, int64_t rows, const double *gates, double *form,
                           double *length)
{
    normal_form_forward(router->table, router->config.normal_form, router->scale, rows, gates, form, length);
}

/* similarity [rows, codes] of two sets of architectures in normal form: cosines (Eq. 5). */
static void cosines(int64_t rows, int64_t codes, int64_t n, const double *form, const double *code_form,
                    double *similarity)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)codes, (int)n, 1, form, (int)n,
                code_form, (int)n, 0, similarity, (int)codes);
}

static void harden(int64_t n, const double *gates, double *hard)
{
    for (int64_t i = 0; i < n; i++) hard[i] = gate_hard(gates[i]);
}

/* ratio [rows] of hard(gates) [rows, n]. */
static void hard_ratios(const struct router *router, int64_t rows, const double *gates, double *ratio)
{
    double *hard = new_array(1, router->n);
    for (int64_t row = 0; row < rows; row++) {
        harden(router->n, gates + row * router->n, hard);
        ratio[row] = unit_table_ratio(router->table, router->macs, hard, NULL);
    }
    free(hard);
}

void router_forward(const struct router *router, enum router_stage stage, const double *z,
                    struct router_step *step)
{
    const struct router_config *config = &router->config;
    int64_t B = step->B, K = config->K, n = router->n;
    step->z = z;

    // soft gates of the predicted vectors and of the codes
    predict(router, B, z, step->logits);
    gumbel_gates(router->table, config->gumbel, B, step->logits, step->noise_predicted, step->predicted);
    gumbel_gates(router->table, config->gumbel, K, router->codes, step->noise_codes, step->code_gates);

    // routing: cosine of normal forms, optimal transport over the global batch, argmax
    to_normal_form(router, B, step->predicted, step->predicted_form, step->predicted_length);
    to_normal_form(router, K, step->code_gates, step->code_form, step->code_length);
    cosines(B, K, n, step->predicted_form, step->code_form, step->similarity);
    if (config->transport) transport_plan(B, K, step->similarity, config->eps, config->rounds, step->plan);
    transport_experts(B, K, config->transport ? step->plan : step->similarity, step->expert);

    // gates of the student
    for (int64_t b = 0; b < B; b++)
        copy_array(step->gates + b * n,
                   stage == ROUTER_WARM_UP ? step->predicted + b * n : step->code_gates + step->expert[b] * n,
                   n);
    hard_ratios(router, B, step->gates, step->ratio);
}

/* Losses of the ratios; ratio_gradient [B] = d (their weighted sum) / d ratio. */
static void ratio_losses(const struct router *router, struct router_step *step, double *ratio_gradient)
{
    const struct router_config *config = &router->config;
    struct router_losses *losses = &step->losses;
    int64_t B = step->B;
    double *resource = new_array(B, 1), *largest = new_array(B, 1), *deviation = new_array(B, 1);
    losses->resource = resource_loss(B, step->ratio, config->target, config->resource_form, resource);
    losses->spread_max = spread_max(B, step->ratio, largest);
    losses->spread_std = spread_std(B, step->ratio, deviation);
    losses->mean_ratio = 0;
    for (int64_t b = 0; b < B; b++) {
        losses->mean_ratio += step->ratio[b] / (double)B;
        ratio_gradient[b] = config->w_resource * resource[b] + config->w_spread_max * largest[b] +
                            config->w_spread_std * deviation[b];
    }
    free(deviation);
    free(largest);
    free(resource);
}

/* step->gate_gradient += ratio_gradient times d ratio / d gates. The ratio is one of hard gates; by the
 * straight-through estimator its gradient is taken for that of the soft ones. */
static void add_ratio_gradient(const struct router *router, struct router_step *step,
                               const double *ratio_gradient)
{
    int64_t n = router->n;
    double *hard = new_array(1, n), *slope = new_array(1, n);
    for (int64_t b = 0; b < step->B; b++) {
        harden(n, step->gates + b * n, hard);
        unit_table_ratio(router->table, router->macs, hard, slope);
        for (int64_t i = 0; i < n; i++) step->gate_gradient[b * n + i] += ratio_gradient[b] * slope[i];
    }
    free(slope);
    free(hard);
}

/* step->code_gradient [K, n] from the gradients of the gates of the samples that each code got. */
static void code_backward(const struct router *router, struct router_step *step)
{
    int64_t K = router->config.K, n = router->n;
    double *gate_gradient = new_array(K, n);
    for (int64_t b = 0; b < step->B; b++)
        for (int64_t i = 0; i < n; i++)
            gate_gradient[step->expert[b] * n + i] += step->gate_gradient[b * n + i];
    gumbel_gates_backward(router->table, router->config.gumbel, K, router->codes, step->noise_codes,
                          gate_gradient, step->code_gradient);
    free(gate_gradient);
}

/* Gradients of weight and bias from that of the predicted gates [B, n]. */
static void predictor_backward(const struct router *router, const double *gate_gradient,
                               struct router_step *step)
{
    int B = (int)step->B, D = (int)router->config.D, n = (int)router->n;
    gumbel_gates_backward(router->table, router->config.gumbel, B, step->logits, step->noise_predicted,
                          gate_gradient, step->logit_gradient);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, D, B, 1, step->logit_gradient, n, step->z, D, 0,
                step->weight_gradient, D);
    memset(step->bias_gradient, 0, (size_t)n * sizeof *step->bias_gradient);
    for (int b = 0; b < B; b++)
        for (int i = 0; i < n; i++) step->bias_gradient[i] += step->logit_gradient[(int64_t)b * n + i];
}

void router_backward(const struct router *router, enum router_stage stage, const double *gate_gradient,
                     struct router_step *step)
{
    const struct router_config *config = &router->config;
    int64_t B = step->B, n = router->n;

    // what looks at the student's gates: UNet, budget, spread
    copy_array(step->gate_gradient, gate_gradient, B * n);
    double *ratio_gradient = new_array(B, 1);
    ratio_losses(router, step, ratio_gradient);
    add_ratio_gradient(router, step, ratio_gradient);
    free(ratio_gradient);

    // what looks at the predicted vectors in normal form: the contrastive loss
    double *form_gradient = new_array(B, n), *predicted_gradient = new_array(B, n);
    step->losses.contrastive =
        contrastive_loss(B, config->D, step->z, n, step->predicted_form, config->tau, form_gradient);
    cblas_dscal((int)(B * n), config->w_contrastive, form_gradient, 1);
    normal_form_backward(router->table, config->normal_form, router->scale, B, step->predicted,
                         step->predicted_form, step->predicted_length, form_gradient, predicted_gradient);

    // who learns from what (METHOD section 3): the student's gates are the predicted ones or the codes'
    if (stage == ROUTER_WARM_UP) {
        cblas_daxpy((int)(B * n), 1, step->gate_gradient, 1, predicted_gradient, 1);
        memset(step->code_gradient, 0, (size_t)(config->K * n) * sizeof *step->code_gradient);
    } else {
        code_backward(router, step);
    }
    predictor_backward(router, predicted_gradient, step);
    free(predicted_gradient);
    free(form_gradient);
}

struct router_optimiser router_optimiser_new(const struct router *router, struct adamw_settings settings)
{
    return (struct router_optimiser){.settings = settings,
                                     .weight = adamw_moments_new(router->n * router->config.D),
                                     .bias = adamw_moments_new(router->n),
                                     .codes = adamw_moments_new(router->config.K * router->n)};
}

void router_optimiser_free(struct router_optimiser *optimiser)
{
    adamw_moments_free(&optimiser->weight);
    adamw_moments_free(&optimiser->bias);
    adamw_moments_free(&optimiser->codes);
}

bool router_update(struct router *router, enum router_stage stage, const struct router_step *step, double lr,
                   struct router_optimiser *optimiser)
{
    if (!all_finite(optimiser->weight.count, step->weight_gradient) ||
        !all_finite(optimiser->bias.count, step->bias_gradient) ||
        !all_finite(optimiser->codes.count, step->code_gradient)) {
        optimiser->skipped++;
        return false;
    }
    adamw_step(&optimiser->weight, optimiser->settings, lr, step->weight_gradient, router->weight);
    adamw_step(&optimiser->bias, optimiser->settings, lr, step->bias_gradient, router->bias);
    if (stage == ROUTER_MAIN)
        adamw_step(&optimiser->codes, optimiser->settings, lr, step->code_gradient, router->codes);
    return true;
}

// ---- stored draw and inference

void router_store_draw(struct router *router, const struct router_step *step)
{
    copy_array(router->draw, step->code_gates, router->config.K * router->n);
}

/* out [rows, columns] = a [rows, width] b' [width, columns], each element a dot product of its own: a
 * prompt's expert must not depend, not even in the last bit, on the prompts that happen to be handled with
 * it. */
static void dot_products(int64_t rows, int64_t columns, int64_t width, const double *a, const double *b,
                         double *out)
{
    enum { BLOCK = 16 }; // rows that share one reading of b
#pragma omp parallel for
    for (int64_t first = 0; first < rows; first += BLOCK)
        for (int64_t column = 0; column < columns; column++)
            for (int64_t row = first; row < rows && row < first + BLOCK; row++)
                out[row * columns + column] =
                    cblas_ddot((int)width, a + row * width, 1, b + column * width, 1);
}

/* similarity [rows, codes] of the noise-free predicted vectors of z [rows, D] and gates [codes, n] of codes.
 */
static void inference_similarity(const struct router *router, int64_t rows, const double *z, int64_t codes,
                                 const double *gates, double *similarity)
{
    int64_t D = router->config.D, n = router->n;
    double *code_form = new_array(codes, n), *code_length = new_array(codes, 1);
    double *logits = new_array(CHUNK, n), *predicted = new_array(CHUNK, n);
    double *form = new_array(CHUNK, n), *length = new_array(CHUNK, 1);
    to_normal_form(router, codes, gates, code_form, code_length);
    for (int64_t first = 0; first < rows; first += CHUNK) {
        int64_t count = rows - first < CHUNK ? rows - first : CHUNK;
        dot_products(count, n, D, z + first * D, router->weight, logits);
        for (int64_t i = 0; i < count * n; i++) logits[i] += router->bias[i % n];
        gumbel_gates(router->table, router->config.gumbel, count, logits, NULL, predicted);
        to_normal_form(router, count, predicted, form, length);
        dot_products(count, codes, n, form, code_form, similarity + first * codes);
    }
    free(length);
    free(form);
    free(predicted);
    free(logits);
    free(code_length);
    free(code_form);
}

void router_assign(const struct router *router, int64_t rows, const double *z, int *expert,
                   double *similarity)
{
    int64_t K = router->config.K;
    double *scores = similarity ? similarity : new_array(rows, K);
    inference_similarity(router, rows, z, K, router->draw, scores);
    transport_experts(rows, K, scores, expert);
    if (!similarity) free(scores);
}

/* mean [draws]: of the ratios that the prompts z [rows, D] get, routed as in inference, from each of several
 * draws, gates [draws, K, n]. */
static void routed_ratios(const struct router *router, int64_t rows, const double *z, int64_t draws,
                          const double *gates, double *mean)
{
    int64_t K = router->config.K;
    double *ratio = new_array(draws, K), *similarity = new_array(CHUNK, draws * K);
    int *expert = check_malloc((size_t)(CHUNK * draws) * sizeof *expert); // [prompts, draws]
    hard_ratios(router, draws * K, gates, ratio);
    for (int64_t d = 0; d < draws; d++) mean[d] = 0;
    for (int64_t first = 0; first < rows; first += CHUNK) {
        int64_t count = rows - first < CHUNK ? rows - first : CHUNK;
        inference_similarity(router, count, z + first * router->config.D, draws * K, gates, similarity);
        transport_experts(count * draws, K, similarity, expert);
        for (int64_t i = 0; i < count * draws; i++) mean[i % draws] += ratio[i % draws * K + expert[i]];
    }
    for (int64_t d = 0; d < draws; d++) mean[d] /= (double)rows;
    free(expert);
    free(similarity);
    free(ratio);
}

/* gates [K, n] of draw `d`: 0 is the stored one, the others are fresh. */
static void make_draw(const struct router *router, uint64_t seed, uint64_t number, int64_t d, double *gates)
{
    int64_t K = router->config.K, n = router->n;
    if (d == 0) {
        copy_array(gates, router->draw, K * n);
        return;
    }
    double *noise = new_array(K, n);
    draw_code_noise(router, seed, number + (uint64_t)d, noise);
    gumbel_gates(router->table, router->config.gumbel, K, router->codes, noise, gates);
    free(noise);
}

double router_choose_draw(struct router *router, int64_t rows, const double *z, int64_t draws, uint64_t seed,
                          uint64_t number)
{
    enum { BLOCK = 64 }; // draws tried at a time
    CHECK(draws >= 1 && rows >= 1, "router: %lld draws, %lld prompts", (long long)draws, (long long)rows);
    int64_t size = router->config.K * router->n;
    double *gates = new_array(BLOCK, size), *best = new_array(1, size), mean[BLOCK], best_mean = INFINITY;
    for (int64_t first = 0; first < draws; first += BLOCK) {
        int64_t count = draws - first < BLOCK ? draws - first : BLOCK;
        for (int64_t d = 0; d < count; d++) make_draw(router, seed, number, first + d, gates + d * size);
        routed_ratios(router, rows, z, count, gates, mean);
        for (int64_t d = 0; d < count; d++) {
            if (fabs(mean[d] - router->config.target) >= fabs(best_mean - router->config.target)) continue;
            best_mean = mean[d];
            copy_array(best, gates + d * size, size);
        }
    }
    copy_array(router->draw, best, size);
    free(best);
    free(gates);
    return best_mean;
}

void router_masks(const struct router *router, uint8_t *mask)
{
    for (int64_t i = 0; i < router->config.K * router->n; i++) mask[i] = (uint8_t)gate_hard(router->draw[i]);
}

void router_ratios(const struct router *router, double *ratio)
{
    hard_ratios(router, router->config.K, router->draw, ratio);
}
