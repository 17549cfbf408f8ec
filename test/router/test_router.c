/* A whole step of the router and its inference: PyTorch, finite differences, who learns from what,
 * symmetries. */
#include "router/router.h"

#include "base/check.h"
#include "base/random.h"
#include "models/unet_folder.h"
#include "router/contrastive.h"
#include "router/transport.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* METHOD's numbers; weights of the losses and the target are the test's. */
static struct router_config paper(int64_t D, int64_t K)
{
    return (struct router_config){.D = D,
                                  .K = K,
                                  .gumbel = {.temperature = 0.4, .offset = 3},
                                  .normal_form = NORMAL_FORM_MIXED,
                                  .transport = true,
                                  .eps = 0.05,
                                  .rounds = 3,
                                  .tau = 0.03,
                                  .resource_form = RESOURCE_LOG,
                                  .target = 0.6,
                                  .w_resource = 2,
                                  .w_contrastive = 100};
}

static const struct adamw_settings adam = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .decay = 0};

// ---- PyTorch

static enum normal_form kind_of(const char *name)
{
    return strcmp(name, "mixed") == 0  ? NORMAL_FORM_MIXED
           : strcmp(name, "hard") == 0 ? NORMAL_FORM_HARD
                                       : NORMAL_FORM_SOFT;
}

/* z -> logits -> gates -> normal form -> L_cont, and back to weight and bias. */
static void way_of_the_contrastive_loss_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"predictor_contrastive_mixed", "predictor_contrastive_hard",
                           "predictor_contrastive_soft", "predictor_contrastive_b1"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        struct unit_table table = table_of_fixture(fixture);
        struct unit_macs macs = macs_make(&table);
        int64_t B = fixture_length(fixture, "inputs/z", 0), D = fixture_length(fixture, "inputs/z", 1),
                n = table.entries;
        struct router_config config = paper(D, 2);
        config.gumbel = (struct gumbel){fixture_attribute(fixture, "gamma"), fixture_attribute(fixture, "b")};
        config.normal_form = kind_of(fixture_text(fixture, "normal_form"));
        config.tau = fixture_attribute(fixture, "tau");
        config.w_contrastive = 1;
        struct router *router = router_new(config, &table, &macs);
        struct router_step *step = router_step_new(router, B);
        router_initialise(router, 0);
        memcpy(router->weight, fixture_doubles(fixture, "inputs/predictor_weight"),
               (size_t)(n * D) * sizeof(double));
        memcpy(router->bias, fixture_doubles(fixture, "inputs/predictor_bias"), (size_t)n * sizeof(double));
        memcpy(step->noise_predicted, fixture_doubles(fixture, "inputs/gumbel"),
               (size_t)(B * n) * sizeof(double));
        double *zero = check_calloc((size_t)(B * n), sizeof *zero);

        router_forward(router, ROUTER_MAIN, fixture_doubles(fixture, "inputs/z"), step);
        router_backward(router, ROUTER_MAIN, zero, step);
        double loss = fixture_number(fixture, "outputs/loss");
        assert_near(B * n, step->logits, fixture_doubles(fixture, "outputs/logits"), 1e-13);
        assert_near(B * n, step->predicted, fixture_doubles(fixture, "outputs/gates"), 1e-10);
        assert_near(B * n, step->predicted_form, fixture_doubles(fixture, "outputs/architecture"), 1e-10);
        assert_near(1, &step->losses.contrastive, &loss,
                    1e-9); // DESIGN section 9's limit of router quantities
        assert_near(n * D, step->weight_gradient, fixture_doubles(fixture, "gradients/predictor_weight"),
                    1e-9);
        assert_near(n, step->bias_gradient, fixture_doubles(fixture, "gradients/predictor_bias"), 1e-9);

        free(zero);
        router_step_delete(step);
        router_delete(router);
        unit_macs_free(&macs);
        unit_table_free(&table);
        fixture_close(fixture);
    }
}

/* The UNet of the prune_step fixtures: its units and MACs, no weights. */
static struct unet *fixture_unet(void)
{
    struct unet_config config;
    struct fault fault = {0};
    CHECK(unet_folder_config("test/fixtures/unet_sd2", 32, &config, &fault), "%s", fault.text);
    return unet_new(NULL, &config, (struct unet_shape){0});
}

/* A pruning step with PyTorch's UNet. The file has d total / d gates, of the UNet's and the router's own
 * losses together: it stands for the UNet's here, and the router's own losses that it holds get weight 0. */
static void prune_step_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"prune_step_warmup", "prune_step_warmup_soft", "prune_step_main",
                           "prune_step_main_hard"};
    struct unet *unet = fixture_unet();
    struct unit_macs macs = unet_macs(unet, 8, 8, 5); // latents and tokens of the fixtures
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        enum router_stage stage =
            strcmp(fixture_text(fixture, "phase"), "warmup") == 0 ? ROUTER_WARM_UP : ROUTER_MAIN;
        int64_t B = fixture_length(fixture, "inputs/z", 0), D = fixture_length(fixture, "inputs/z", 1);
        int64_t K = fixture_length(fixture, "inputs/codes", 0), n = unet->table.entries;
        assert_int_equal(n, fixture_length(fixture, "inputs/codes", 1));
        struct router_config config = paper(D, K);
        config.gumbel = (struct gumbel){fixture_attribute(fixture, "gamma"), fixture_attribute(fixture, "b")};
        config.normal_form = kind_of(fixture_text(fixture, "normal_form"));
        config.tau = fixture_attribute(fixture, "tau");
        config.target = resource_target(&macs, fixture_attribute(fixture, "p"));
        config.w_resource = 0;
        config.w_contrastive = stage == ROUTER_MAIN ? fixture_attribute(fixture, "w_cont") : 0;
        struct router *router = router_new(config, &unet->table, &macs);
        struct router_step *step = router_step_new(router, B);
        memcpy(router->weight, fixture_doubles(fixture, "inputs/predictor_weight"),
               (size_t)(n * D) * sizeof(double));
        memcpy(router->bias, fixture_doubles(fixture, "inputs/predictor_bias"), (size_t)n * sizeof(double));
        memcpy(router->codes, fixture_doubles(fixture, "inputs/codes"), (size_t)(K * n) * sizeof(double));
        memcpy(step->noise_predicted, fixture_doubles(fixture, "inputs/gumbel_pred"),
               (size_t)(B * n) * sizeof(double));
        memcpy(step->noise_codes, fixture_doubles(fixture, "inputs/gumbel_code"),
               (size_t)(K * n) * sizeof(double));

        router_forward(router, stage, fixture_doubles(fixture, "inputs/z"), step);
        router_backward(router, stage, fixture_doubles(fixture, "intermediate/gates_gradient"), step);
        const double limit = 1e-9; // DESIGN section 9, router quantities
        assert_near(B * n, step->gates, fixture_doubles(fixture, "outputs/gates"), limit);
        assert_near(B * K, step->similarity, fixture_doubles(fixture, "outputs/similarity"), limit);
        assert_near(B * K, step->plan, fixture_doubles(fixture, "outputs/plan"), limit);
        assert_near(B, step->ratio, fixture_doubles(fixture, "outputs/ratio"), limit);
        const int64_t *expert = fixture_integers(fixture, "outputs/expert");
        for (int64_t b = 0; b < B; b++) assert_int_equal(step->expert[b], expert[b]);
        assert_near(1, &step->losses.resource, fixture_doubles(fixture, "outputs/loss/resource"), limit);
        assert_near(1, &step->losses.contrastive, fixture_doubles(fixture, "outputs/loss/contrastive"),
                    limit);
        assert_near(n * D, step->weight_gradient, fixture_doubles(fixture, "gradients/predictor_weight"),
                    limit);
        assert_near(n, step->bias_gradient, fixture_doubles(fixture, "gradients/predictor_bias"), limit);
        assert_near(K * n, step->code_gradient, fixture_doubles(fixture, "gradients/codes"), limit);
        router_step_delete(step);
        router_delete(router);
        fixture_close(fixture);
    }
    unit_macs_free(&macs);
    unet_delete(unet);
}

// ---- a router of our own: the small table, 6 prompts, 3 codes

enum { B = 6, D = 5, K = 3 };

struct setting {
    struct unit_table table;
    struct unit_macs macs;
    struct router *router;
    struct router_step *step;
    double *z;       /* [B, D] */
    double *weights; /* [B, n] of the stand-in for the UNet's loss, sum(weights x gates^2) / 2 */
};

static struct setting *setting_new(struct unit_table table, struct router_config config)
{
    struct setting *s = check_calloc(1, sizeof *s);
    s->table = table;
    s->macs = macs_make(&s->table);
    s->router = router_new(config, &s->table, &s->macs);
    s->step = router_step_new(s->router, B);
    s->z = random_normals(70, B * D);
    s->weights = random_normals(71, B * table.entries);
    router_initialise(s->router, 1);
    router_draw_noise(s->router, s->step, 1, 0);
    // about half of the gates closed, and a softmax of the depth logits that is not flat
    for (int i = 0; i < table.entries; i++) {
        double spread = i < table.width_entries ? 1 : 4;
        s->router->bias[i] -= i < table.width_entries ? 3.4 : 0;
        for (int k = 0; k < K; k++) {
            double *code = &s->router->codes[k * table.entries + i];
            *code = spread * 8 * *code - 3.4;
        }
        for (int d = 0; d < D; d++) s->router->weight[i * D + d] *= spread;
    }
    return s;
}

static void setting_delete(struct setting *s)
{
    free(s->weights);
    free(s->z);
    router_step_delete(s->step);
    router_delete(s->router);
    unit_macs_free(&s->macs);
    unit_table_free(&s->table);
    free(s);
}

/* One step whose UNet's loss is sum(weights x gates^2) / 2. Returns that loss plus w_contrastive L_cont. */
static double run_step(const struct setting *s, enum router_stage stage)
{
    int64_t count = B * s->router->n;
    double *gradient = check_malloc((size_t)count * sizeof *gradient), loss = 0;
    router_forward(s->router, stage, s->z, s->step);
    for (int64_t i = 0; i < count; i++) {
        double gate = s->step->gates[i];
        loss += s->weights[i] * gate * gate / 2;
        gradient[i] = s->weights[i] * gate;
    }
    router_backward(s->router, stage, gradient, s->step);
    free(gradient);
    return loss + s->router->config.w_contrastive * s->step->losses.contrastive;
}

struct step_context {
    struct setting *setting;
    enum router_stage stage;
    double *parameters; /* what is varied: the router's weight, bias or codes */
    int64_t count;
    bool contrastive_alone;
};

static double loss_at(const double *x, const void *context)
{
    const struct step_context *c = context;
    memcpy(c->parameters, x, (size_t)c->count * sizeof *x);
    double all = run_step(c->setting, c->stage);
    return c->contrastive_alone
               ? c->setting->router->config.w_contrastive * c->setting->step->losses.contrastive
               : all;
}

static void check_step_gradient(struct step_context context, const double *found)
{
    size_t bytes = (size_t)context.count * sizeof(double);
    double *x = check_malloc(bytes), *gradient = check_malloc(bytes);
    memcpy(x, context.parameters, bytes);
    memcpy(gradient, found, bytes); // the step's own array is written over by each evaluation
    double error = finite_difference_error(loss_at, &context, context.count, x, gradient, 1e-6);
    memcpy(context.parameters, x, bytes);
    assert_true(largest(context.count, gradient) > 1e-2);
    // truncation h^2 / gamma^3 and rounding 1e-16 / h of a loss of order 1
    assert_true(error < 1e-7 * fmax(1, largest(context.count, gradient)));
    free(gradient);
    free(x);
}

/* In warm-up the predictor gets everything. (The soft form and no budget: without hard values the loss is
 * smooth.) */
static void warm_up_gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    struct unit_table tables[] = {table_small(), table_flat()};
    for (int t = 0; t < 2; t++) {
        struct router_config config = paper(D, K);
        config.normal_form = NORMAL_FORM_SOFT;
        config.tau = 0.3;
        config.w_contrastive = 3;
        config.w_resource = 0;
        struct setting *s = setting_new(tables[t], config);
        int64_t n = s->router->n;
        run_step(s, ROUTER_WARM_UP);
        assert_true(largest(K * n, s->step->code_gradient) == 0);
        check_step_gradient((struct step_context){s, ROUTER_WARM_UP, s->router->weight, n * D, false},
                            s->step->weight_gradient);
        run_step(s, ROUTER_WARM_UP);
        check_step_gradient((struct step_context){s, ROUTER_WARM_UP, s->router->bias, n, false},
                            s->step->bias_gradient);
        setting_delete(s);
    }
}

/* Afterwards codes get what the student's gates give, the predictor the contrastive loss alone. */
static void main_gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    struct unit_table tables[] = {table_small(), table_flat()};
    for (int t = 0; t < 2; t++) {
        struct router_config config = paper(D, K);
        config.normal_form = NORMAL_FORM_SOFT;
        config.tau = 0.3;
        config.w_contrastive = 3;
        config.w_resource = 0;
        struct setting *s = setting_new(tables[t], config);
        int64_t n = s->router->n;
        run_step(s, ROUTER_MAIN);
        check_step_gradient((struct step_context){s, ROUTER_MAIN, s->router->codes, K * n, false},
                            s->step->code_gradient);
        run_step(s, ROUTER_MAIN);
        check_step_gradient((struct step_context){s, ROUTER_MAIN, s->router->weight, n * D, true},
                            s->step->weight_gradient);
        run_step(s, ROUTER_MAIN);
        check_step_gradient((struct step_context){s, ROUTER_MAIN, s->router->bias, n, true},
                            s->step->bias_gradient);
        setting_delete(s);
    }
}

/* The budget's gradient: slope of the loss x slope of the ratio at the hard gates, straight through to the
 * soft ones, summed over the samples of a code, then back through the Gumbel-sigmoid. */
static void budget_goes_straight_through(void **state)
{
    (void)state;
    struct router_config config = paper(D, K);
    config.w_contrastive = 0;
    config.w_spread_max = 0.3;
    config.w_spread_std = 0.7;
    struct setting *s = setting_new(table_small(), config);
    int64_t n = s->router->n;
    memset(s->weights, 0, (size_t)(B * n) * sizeof *s->weights);
    for (int stage = ROUTER_WARM_UP; stage <= ROUTER_MAIN; stage++) {
        run_step(s, (enum router_stage)stage);
        const struct router_step *step = s->step;
        double resource[B], most[B], deviation[B], mean = 0;
        assert_true(step->losses.resource == resource_loss(B, step->ratio, 0.6, RESOURCE_LOG, resource));
        assert_true(step->losses.spread_max == spread_max(B, step->ratio, most));
        assert_true(step->losses.spread_std == spread_std(B, step->ratio, deviation));
        for (int b = 0; b < B; b++) mean += step->ratio[b] / B;
        assert_within(step->losses.mean_ratio, mean, 1e-14);

        double gates[B * 37] = {0}, codes[K * 37] = {0}, hard[37], slope[37], logits[B * 37];
        for (int b = 0; b < B; b++) {
            for (int i = 0; i < n; i++) hard[i] = step->gates[b * n + i] >= 0.5;
            assert_true(step->ratio[b] == unit_table_ratio(&s->table, &s->macs, hard, slope));
            assert_true(step->ratio[b] > 0.05 && step->ratio[b] < 0.95);
            for (int i = 0; i < n; i++) {
                gates[b * n + i] = (2 * resource[b] + 0.3 * most[b] + 0.7 * deviation[b]) * slope[i];
                codes[step->expert[b] * n + i] += gates[b * n + i];
            }
        }
        if (stage == ROUTER_WARM_UP) {
            gumbel_gates_backward(&s->table, config.gumbel, B, step->logits, step->noise_predicted, gates,
                                  logits);
            double bias[37] = {0};
            for (int i = 0; i < B * n; i++) bias[i % n] += logits[i];
            assert_near(n, step->bias_gradient, bias, 1e-13);
            assert_true(largest(K * n, step->code_gradient) == 0);
        } else {
            gumbel_gates_backward(&s->table, config.gumbel, K, s->router->codes, step->noise_codes, codes,
                                  logits);
            assert_near(K * n, step->code_gradient, logits, 1e-13);
            assert_true(largest(n * D, step->weight_gradient) ==
                        0); // the predictor has no part in the budget now
        }
    }
    setting_delete(s);
}

static void students_gates_are_those_of_the_stage(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    int64_t n = s->router->n;
    const struct router_step *step = s->step;
    router_forward(s->router, ROUTER_WARM_UP, s->z, s->step);
    assert_memory_equal(step->gates, step->predicted, (size_t)(B * n) * sizeof(double));
    router_forward(s->router, ROUTER_MAIN, s->z, s->step);
    bool used[K] = {false};
    for (int b = 0; b < B; b++) {
        assert_memory_equal(step->gates + b * n, step->code_gates + step->expert[b] * n,
                            (size_t)n * sizeof(double));
        used[step->expert[b]] = true;
    }
    assert_true(used[0] && used[1] && used[2]); // 6 prompts, 3 codes: transport leaves none out here

    // plain argmax, when transport is off
    int expert[B];
    s->router->config.transport = false;
    router_forward(s->router, ROUTER_MAIN, s->z, s->step);
    transport_experts(B, K, step->similarity, expert);
    assert_memory_equal(step->expert, expert, sizeof expert);
    setting_delete(s);
}

/* Whoever looks across samples looks at all of them: another order of the batch, the same losses and
 * gradients. */
static void order_of_the_batch_does_not_matter(void **state)
{
    (void)state;
    for (int stage = ROUTER_WARM_UP; stage <= ROUTER_MAIN; stage++) {
        struct router_config config = paper(D, K);
        config.w_spread_max = config.w_spread_std = 0.1;
        struct setting *a = setting_new(table_small(), config), *b = setting_new(table_small(), config);
        int64_t n = a->router->n;
        for (int from = 0; from < B; from++) {
            int to = (5 * from + 2) % B;
            memcpy(b->z + to * D, a->z + from * D, D * sizeof(double));
            memcpy(b->weights + to * n, a->weights + from * n, (size_t)n * sizeof(double));
            memcpy(b->step->noise_predicted + to * n, a->step->noise_predicted + from * n,
                   (size_t)n * sizeof(double));
        }
        double loss = run_step(a, (enum router_stage)stage);
        assert_within(run_step(b, (enum router_stage)stage), loss, 1e-11);
        assert_within(b->step->losses.resource, a->step->losses.resource, 1e-14);
        assert_within(b->step->losses.spread_std, a->step->losses.spread_std, 1e-14);
        assert_near(n * D, b->step->weight_gradient, a->step->weight_gradient, 1e-11);
        assert_near(n, b->step->bias_gradient, a->step->bias_gradient, 1e-11);
        if (stage == ROUTER_MAIN) assert_near(K * n, b->step->code_gradient, a->step->code_gradient, 1e-11);
        setting_delete(b);
        setting_delete(a);
    }
}

/* Noise is a function of seed, step and place in the global batch. */
static void noise_follows_its_key(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    int64_t n = s->router->n;
    struct router_step *larger = router_step_new(s->router, B + 3);
    router_draw_noise(s->router, s->step, 9, 4);
    router_draw_noise(s->router, larger, 9, 4);
    assert_memory_equal(s->step->noise_predicted, larger->noise_predicted, (size_t)(B * n) * sizeof(double));
    assert_memory_equal(s->step->noise_codes, larger->noise_codes, (size_t)(K * n) * sizeof(double));
    const double *noise = larger->noise_predicted;
    for (int b = 1; b < B + 3; b++) assert_true(largest_difference(n, noise, noise + b * n) > 0.1);
    assert_true(largest_difference(n, noise, larger->noise_codes) > 0.1);
    router_draw_noise(s->router, s->step, 9, 5);
    assert_true(largest_difference(B * n, noise, s->step->noise_predicted) > 0.1);
    router_draw_noise(s->router, s->step, 8, 4);
    assert_true(largest_difference(K * n, larger->noise_codes, s->step->noise_codes) > 0.1);
    router_step_delete(larger);
    setting_delete(s);
}

/* Orthogonal block by block: a unit's rows are orthonormal (its columns, if it has more rows than z is wide).
 */
static void predictor_starts_orthogonal(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    router_initialise(s->router, 3);
    const struct unit_table *table = &s->table;
    int64_t n = s->router->n;
    for (int u = 0; u <= table->units; u++) {
        int first = u < table->units ? table->unit[u].first : table->width_entries;
        int rows = u < table->units ? table->unit[u].width : table->depth_entries;
        const double *w = s->router->weight + first * D;
        double square = 0;
        for (int i = 0; i < rows * D; i++) square += w[i] * w[i];
        assert_within(square, rows < D ? rows : D, 1e-13);
        for (int a = 0; rows <= D && a < rows; a++)
            for (int b = 0; b < a; b++) {
                double dot = 0;
                for (int d = 0; d < D; d++) dot += w[a * D + d] * w[b * D + d];
                assert_within(dot, 0, 1e-13);
            }
    }
    assert_true(largest(n, s->router->bias) == 0);
    for (int a = 0; a < K; a++)
        for (int b = 0; b <= a; b++) {
            double dot = 0;
            for (int i = 0; i < n; i++) dot += s->router->codes[a * n + i] * s->router->codes[b * n + i];
            assert_within(dot, a == b, 1e-13);
        }
    // two units of 8 entries must not share their numbers
    assert_true(largest_difference(8 * D, s->router->weight, s->router->weight + table->unit[4].first * D) >
                0.1);
    setting_delete(s);
}

static void codes_from_prompts_are_their_centres(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    int64_t n = s->router->n;
    for (int i = 0; i < B * D; i++)
        s->z[i] = 1e-3 * s->z[i] + (i % D == i / D % K) * 10; // three groups of two
    router_forward(s->router, ROUTER_WARM_UP, s->z, s->step);
    router_codes_from_prompts(s->router, B, s->z, 2);
    bool found[K] = {false};
    for (int k = 0; k < K; k++)
        for (int group = 0; group < K; group++) {
            double mean[37];
            for (int i = 0; i < n; i++)
                mean[i] = (s->step->logits[group * n + i] + s->step->logits[(group + K) * n + i]) / 2;
            if (largest_difference(n, mean, s->router->codes + k * n) < 1e-12) found[group] = true;
        }
    assert_true(found[0] && found[1] && found[2]);
    setting_delete(s);
}

static void update_moves_what_learns(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    struct router *router = s->router;
    int64_t n = router->n;
    struct router_optimiser optimiser = router_optimiser_new(router, adam);
    double weight[37 * D], codes[K * 37];
    for (int stage = ROUTER_WARM_UP; stage <= ROUTER_MAIN; stage++) {
        memcpy(weight, router->weight, sizeof weight);
        memcpy(codes, router->codes, sizeof codes);
        run_step(s, (enum router_stage)stage);
        assert_true(router_update(router, (enum router_stage)stage, s->step, 0.01, &optimiser));
        assert_true(largest_difference(n * D, weight, router->weight) > 1e-3);
        double moved = largest_difference(K * n, codes, router->codes);
        // a first step of Adam is lr: also for the codes, whose moments begin after the warm-up
        assert_true(stage == ROUTER_WARM_UP ? moved == 0 : fabs(moved - 0.01) < 1e-5);
    }
    // a gradient that is not finite: nothing moves, and it is counted
    double *arrays[] = {s->step->weight_gradient, s->step->bias_gradient, s->step->code_gradient};
    for (int i = 0; i < 3; i++) {
        memcpy(weight, router->weight, sizeof weight);
        memcpy(codes, router->codes, sizeof codes);
        double kept = arrays[i][2];
        arrays[i][2] = i ? NAN : INFINITY;
        assert_false(router_update(router, ROUTER_MAIN, s->step, 0.01, &optimiser));
        arrays[i][2] = kept;
        assert_memory_equal(weight, router->weight, sizeof weight);
        assert_memory_equal(codes, router->codes, sizeof codes);
        assert_int_equal(optimiser.skipped, i + 1);
        assert_int_equal(optimiser.weight.steps, 2);
    }
    router_optimiser_free(&optimiser);
    setting_delete(s);
}

/* Training with the budget alone brings the mean ratio to the target. */
static void the_budget_is_met(void **state)
{
    (void)state;
    struct router_config config = paper(D, K);
    config.w_contrastive = 0;
    struct setting *s = setting_new(table_small(), config);
    router_initialise(s->router, 1); // near the full model
    memset(s->weights, 0, (size_t)(B * s->router->n) * sizeof *s->weights);
    struct router_optimiser optimiser = router_optimiser_new(s->router, adam);
    double late = 0;
    for (uint64_t number = 0; number < 400; number++) {
        router_draw_noise(s->router, s->step, 1, number);
        run_step(s, ROUTER_MAIN);
        router_update(s->router, ROUTER_MAIN, s->step, 0.05, &optimiser);
        if (number == 0) assert_true(s->step->losses.mean_ratio > 0.9);
        if (number >= 300) late += s->step->losses.mean_ratio / 100;
    }
    assert_within(late, config.target, 0.05); // noise of single draws
    router_optimiser_free(&optimiser);
    setting_delete(s);
}

// ---- stored draw and inference

/* Not even in the last bit: prompts are dealt to ranks in pieces of any size. */
static void a_prompts_expert_does_not_depend_on_others(void **state)
{
    (void)state;
    enum {
        ROWS = 600,
        WIDE = 203
    }; // more rows than are handled at a time; sums long enough to round differently
    struct unit_table table = table_small();
    struct unit_macs macs = macs_make(&table);
    struct router *router = router_new(paper(WIDE, K), &table, &macs);
    router_initialise(router, 4);
    for (int i = 0; i < table.width_entries; i++) router->bias[i] = -3.4; // about half of the gates closed
    for (int i = 0; i < K * table.entries; i++) router->codes[i] = 8 * router->codes[i] - 3.4;
    gumbel_gates(&table, router->config.gumbel, K, router->codes, NULL, router->draw);
    double *z = random_normals(72, ROWS * WIDE), *all = random_normals(73, ROWS * K), one[K];
    int *expert = check_malloc(ROWS * sizeof *expert), alone, count[K] = {0};
    router_assign(router, ROWS, z, expert, all);
    for (int row = 0; row < ROWS; row++) {
        router_assign(router, 1, z + row * WIDE, &alone, one);
        assert_memory_equal(one, all + row * K, sizeof one);
        assert_int_equal(alone, expert[row]);
        for (int k = 0; k < K; k++) assert_true(one[k] <= one[alone] && one[k] <= 1 + 1e-14);
        count[alone]++;
    }
    for (int k = 0; k < K; k++) assert_true(count[k] > 0);
    router_assign(router, 1, z, &alone, NULL); // without similarities
    assert_int_equal(alone, expert[0]);
    free(expert);
    free(all);
    free(z);
    router_delete(router);
    unit_macs_free(&macs);
    unit_table_free(&table);
}

/* A prompt whose predicted vector, noise-free, is a code's draw goes to that code with cosine 1. */
static void a_code_attracts_its_like(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    int64_t n = s->router->n;
    memset(s->router->bias, 0, (size_t)n * sizeof(double));
    for (int k = 0; k < K; k++) // z = unit vector k is predicted as code k
        for (int i = 0; i < n; i++) s->router->weight[i * D + k] = s->router->codes[k * n + i];
    gumbel_gates(&s->table, s->router->config.gumbel, K, s->router->codes, NULL, s->router->draw);
    double z[K * D] = {0}, similarity[K * K];
    int expert[K];
    for (int k = 0; k < K; k++) z[k * D + k] = 1;
    router_assign(s->router, K, z, expert, similarity);
    for (int k = 0; k < K; k++) {
        assert_int_equal(expert[k], k);
        assert_within(similarity[k * K + k], 1, 1e-12);
    }
    setting_delete(s);
}

static void masks_and_ratios_are_those_of_the_draw(void **state)
{
    (void)state;
    struct setting *s = setting_new(table_small(), paper(D, K));
    int64_t n = s->router->n;
    uint8_t mask[K * 37];
    double ratio[K], vector[37];
    router_forward(s->router, ROUTER_MAIN, s->z, s->step);
    router_store_draw(s->router, s->step);
    router_masks(s->router, mask);
    router_ratios(s->router, ratio);
    for (int k = 0; k < K; k++) {
        for (int i = 0; i < n; i++) {
            assert_int_equal(mask[k * n + i], s->step->code_gates[k * n + i] >= 0.5);
            vector[i] = mask[k * n + i];
        }
        assert_within(ratio[k], unit_table_ratio(&s->table, &s->macs, vector, NULL), 1e-14);
        for (int u = 0; u < s->table.units; u++) { // no unit is empty
            int kept = 0;
            for (int i = 0; i < s->table.unit[u].width; i++) kept += mask[k * n + s->table.unit[u].first + i];
            assert_true(kept > 0);
        }
    }
    setting_delete(s);
}

/* Mean ratio over the prompts, as assign routes them. */
static double routed_ratio(const struct setting *s)
{
    int expert[B];
    double ratio[K], mean = 0;
    router_ratios(s->router, ratio);
    router_assign(s->router, B, s->z, expert, NULL);
    for (int b = 0; b < B; b++) mean += ratio[expert[b]] / B;
    return mean;
}

static void the_best_of_the_draws_is_kept(void **state)
{
    (void)state;
    enum { DRAWS = 150 }; // more than are tried at a time
    struct setting *s = setting_new(table_small(), paper(D, K));
    size_t bytes = (size_t)(K * s->router->n) * sizeof(double);
    s->router->config.target = 0.5;
    router_draw_noise(s->router, s->step, 5, 100);
    router_forward(s->router, ROUTER_MAIN, s->z, s->step);
    router_store_draw(s->router, s->step);
    assert_within(router_choose_draw(s->router, B, s->z, 1, 5, 100), routed_ratio(s), 1e-14);
    assert_memory_equal(s->router->draw, s->step->code_gates, bytes); // of one draw the stored one

    // what the following steps would draw, one by one
    double nearest = INFINITY, *best = check_malloc(bytes);
    int chosen = 0;
    for (uint64_t d = 0; d < DRAWS; d++) {
        router_draw_noise(s->router, s->step, 5, 100 + d);
        router_forward(s->router, ROUTER_MAIN, s->z, s->step);
        router_store_draw(s->router, s->step);
        double distance = fabs(routed_ratio(s) - s->router->config.target);
        if (distance < nearest) {
            nearest = distance;
            chosen = (int)d;
            memcpy(best, s->router->draw, bytes);
        }
    }
    assert_true(chosen > 64);
    router_draw_noise(s->router, s->step, 5, 100);
    router_forward(s->router, ROUTER_MAIN, s->z, s->step);
    router_store_draw(s->router, s->step);
    double mean = router_choose_draw(s->router, B, s->z, DRAWS, 5, 100);
    assert_within(fabs(mean - s->router->config.target), nearest, 1e-14);
    assert_memory_equal(s->router->draw, best, bytes);
    free(best);
    setting_delete(s);
}

static void one_code_takes_everything(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    struct unit_macs macs = macs_make(&table);
    struct router *router = router_new(paper(D, 1), &table, &macs);
    struct router_step *step = router_step_new(router, 1); // and a batch of one
    double *z = random_normals(74, D), *gradient = random_normals(75, router->n);
    router_initialise(router, 0);
    router_draw_noise(router, step, 0, 0);
    router_forward(router, ROUTER_MAIN, z, step);
    router_backward(router, ROUTER_MAIN, gradient, step);
    assert_int_equal(step->expert[0], 0);
    assert_within(step->plan[0], 1, 1e-14);
    assert_true(step->losses.contrastive == 0 && largest(router->n * D, step->weight_gradient) == 0);
    assert_true(all_finite(router->n, step->code_gradient));
    free(gradient);
    free(z);
    router_step_delete(step);
    router_delete(router);
    unit_macs_free(&macs);
    unit_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(way_of_the_contrastive_loss_is_pytorchs),
        cmocka_unit_test(prune_step_is_pytorchs),
        cmocka_unit_test(warm_up_gradient_is_that_of_finite_differences),
        cmocka_unit_test(main_gradient_is_that_of_finite_differences),
        cmocka_unit_test(budget_goes_straight_through),
        cmocka_unit_test(students_gates_are_those_of_the_stage),
        cmocka_unit_test(order_of_the_batch_does_not_matter),
        cmocka_unit_test(noise_follows_its_key),
        cmocka_unit_test(predictor_starts_orthogonal),
        cmocka_unit_test(codes_from_prompts_are_their_centres),
        cmocka_unit_test(update_moves_what_learns),
        cmocka_unit_test(the_budget_is_met),
        cmocka_unit_test(a_prompts_expert_does_not_depend_on_others),
        cmocka_unit_test(a_code_attracts_its_like),
        cmocka_unit_test(masks_and_ratios_are_those_of_the_draw),
        cmocka_unit_test(the_best_of_the_draws_is_kept),
        cmocka_unit_test(one_code_takes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
