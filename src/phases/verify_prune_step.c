/* References of a whole pruning step (METHOD sections 3, 3a and 4), up to the gradients of the router. */
#include "base/check.h"
#include "models/unet_folder.h"
#include "phases/verify_models.h"
#include "router/router.h"
#include "train/student.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FF_ENTRIES = 4096, MAX_BATCH = 1 << 14, MAX_CODES = 1 << 12 };

static const double MIN_SNR = 5; // METHOD section 3a, last point but one

/* What the reference gives; owned. */
struct step_case {
    enum router_stage stage;
    struct router_config router;    /* but for `target`, which comes with the MACs */
    struct student_weights weights; /* of the losses */
    double p;
    struct unet *unet; /* frozen, whole */
    struct unit_macs macs;
    struct dataset_info info; /* of latents and token states */
    int64_t B;
    double *z;                               /* [B, D] */
    double *predictor_weight, *bias, *codes; /* [n, D], [n], [K, n] */
    double *noise_predicted, *noise_codes;   /* [B, n], [K, n] */
    struct noised_batch noised;
};

static void case_clear(struct step_case *c)
{
    double *owned[] = {c->z, c->predictor_weight, c->bias, c->codes, c->noise_predicted, c->noise_codes};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    noised_batch_clear(&c->noised);
    unit_macs_free(&c->macs);
    unet_delete(c->unet);
}

// ---- reading

static bool read_settings(struct verification *verification, struct step_case *c, struct fault *fault)
{
    static const char *const stages[] = {"warmup", "main", NULL};       // as enum router_stage
    static const char *const forms[] = {"mixed", "hard", "soft", NULL}; // as enum normal_form
    int stage, form;
    c->router = (struct router_config){
        .transport = true, .eps = 0.05, .rounds = 3, .resource_form = RESOURCE_LOG}; // METHOD section 3
    c->weights.ddpm = 1;
    bool ok =
        verify_choice(verification, "phase", stages, -1, &stage, fault) &&
        verify_choice(verification, "normal_form", forms, NORMAL_FORM_MIXED, &form, fault) &&
        verify_attribute(verification, "p", NAN, 0, 1, &c->p, fault) &&
        verify_attribute(verification, "tau", 0.03, 1e-6, 1e6, &c->router.tau, fault) &&
        verify_attribute(verification, "gamma", 0.4, 1e-6, 1e6, &c->router.gumbel.temperature, fault) &&
        verify_attribute(verification, "b", 3, -1e6, 1e6, &c->router.gumbel.offset, fault) &&
        verify_attribute(verification, "w_distill_out", 0.2, 0, 1e9, &c->weights.distill_out, fault) &&
        verify_attribute(verification, "w_distill_block", 0.2, 0, 1e9, &c->weights.distill_block, fault) &&
        verify_attribute(verification, "w_res", 2, 0, 1e9, &c->router.w_resource, fault) &&
        verify_attribute(verification, "w_cont", 100, 0, 1e9, &c->router.w_contrastive, fault);
    if (!ok) return false;
    c->stage = (enum router_stage)stage;
    c->router.normal_form = (enum normal_form)form;
    return true;
}

static bool read_unet(struct verification *verification, struct step_case *c, struct fault *fault)
{
    double ff_entries;
    struct unet_config config;
    if (!verify_attribute(verification, "ff_entries", UNET_FF_ENTRIES, 1, MAX_FF_ENTRIES, &ff_entries,
                          fault) ||
        !unet_folder_config(verification->folder, (int)ff_entries, &config, fault))
        return false;
    c->unet = unet_new(verification->backend, &config, (struct unet_shape){0});
    if (!unet_check_prunable(c->unet, fault) ||
        !unet_folder_load(verification->folder, c->unet, false, fault))
        return false;
    parameter_set_freeze(&c->unet->parameters, verification->dtype, true);
    return true;
}

static bool read_router(struct verification *verification, struct step_case *c, struct fault *fault)
{
    int64_t n = c->unet->table.entries, z[2] = {-1, -1}, codes[2] = {-1, n};
    if (!verify_load_doubles(verification, "inputs/z", 2, z, &c->z, z, fault) ||
        !verify_load_doubles(verification, "inputs/codes", 2, codes, &c->codes, codes, fault))
        return false;
    int64_t B = c->B = z[0], D = c->router.D = z[1], K = c->router.K = codes[0];
    if (B > MAX_BATCH || K > MAX_CODES)
        return fault_raise(
            fault, EXIT_CODE_INPUT, "%s: %lld prompts and %lld codes, at most %d and %d allowed",
            h5_path(verification->reference), (long long)B, (long long)K, MAX_BATCH, MAX_CODES);
    return verify_load_doubles(verification, "inputs/predictor_weight", 2, (int64_t[]){n, D},
                               &c->predictor_weight, NULL, fault) &&
           verify_load_doubles(verification, "inputs/predictor_bias", 1, &n, &c->bias, NULL, fault) &&
           verify_load_doubles(verification, "inputs/gumbel_pred", 2, (int64_t[]){B, n}, &c->noise_predicted,
                               NULL, fault) &&
           verify_load_doubles(verification, "inputs/gumbel_code", 2, (int64_t[]){K, n}, &c->noise_codes,
                               NULL, fault);
}

/* Noisy latents, targets and loss weights from z0, noise and timesteps. */
static void make_noised(struct step_case *c, const int64_t nchw[4], const float *z0, const float *noise,
                        const int64_t *timesteps)
{
    struct noise_schedule schedule = noise_schedule_scaled_linear(PREDICTION_V);
    struct noised_batch *noised = &c->noised;
    int64_t size = nchw[1] * nchw[2] * nchw[3];
    size_t bytes = (size_t)(c->B * size) * sizeof(float);
    float *latent = check_malloc(bytes);
    noised->noisy = check_malloc(bytes);
    noised->target = check_malloc(bytes);
    noised->timesteps = check_malloc((size_t)c->B * sizeof(float));
    noised->weight = check_malloc((size_t)c->B * sizeof(float));
    verify_to_nhwc(nchw, z0, latent);
    verify_to_nhwc(nchw, noise, noised->noisy);
    for (int64_t b = 0; b < c->B; b++) {
        int timestep = (int)timesteps[b];
        noise_schedule_add_noise(&schedule, timestep, size, latent + b * size, noised->noisy + b * size,
                                 noised->noisy + b * size, noised->target + b * size);
        noised->timesteps[b] = (float)timestep;
        noised->weight[b] = (float)noise_schedule_min_snr(&schedule, timestep, MIN_SNR);
    }
    noised->count = noised->capacity = c->B;
    free(latent);
}

static bool read_batch(struct verification *verification, struct step_case *c, struct fault *fault)
{
    const struct unet_config *config = &c->unet->config;
    int64_t B = c->B, nchw[4] = {B, config->in_channels, -1, -1}, text[3] = {B, -1, config->text_width};
    float *z0 = NULL, *noise = NULL;
    int64_t *timesteps = NULL;
    if (config->in_channels != config->out_channels)
        return fault_raise(
            fault, EXIT_CODE_INPUT, "%s: a UNet of %lld channels in and %lld out predicts no noise",
            verification->folder, (long long)config->in_channels, (long long)config->out_channels);
    bool ok =
        verify_load_floats(verification, "inputs/latent_z0", 4, nchw, &z0, nchw, fault) &&
        unet_check_latents(config, nchw[2], nchw[3], fault) &&
        verify_load_floats(verification, "inputs/eps", 4, nchw, &noise, NULL, fault) &&
        verify_load_integers(verification, "inputs/timesteps", 1, &B, 0, TRAIN_TIMESTEPS - 1, &timesteps,
                             NULL, fault) &&
        verify_load_floats(verification, "inputs/text_states", 3, text, &c->noised.text_states, text, fault);
    if (ok) {
        c->info = (struct dataset_info){.items = B,
                                        .views = 1,
                                        .height = nchw[2],
                                        .width = nchw[3],
                                        .channels = nchw[1],
                                        .tokens = text[1],
                                        .text_width = text[2],
                                        .embedding_width = c->router.D};
        c->noised.text_mask = check_malloc((size_t)(B * text[1]) * sizeof(float));
        for (int64_t i = 0; i < B * text[1]; i++) c->noised.text_mask[i] = 1;
        make_noised(c, nchw, z0, noise, timesteps);
    }
    free(timesteps);
    free(noise);
    free(z0);
    return ok;
}

/* The budget, counted at the case's own latents and tokens. */
static bool find_target(struct verification *verification, struct step_case *c, struct fault *fault)
{
    c->macs = unet_macs(c->unet, c->info.height, c->info.width, c->info.tokens);
    c->router.target = resource_target(&c->macs, c->p);
    if (c->router.target > 0) return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "%s: p = %g cannot be reached: only %.3f of the MACs can be pruned",
                       h5_path(verification->reference), c->p, c->macs.prunable / c->macs.total);
}

// ---- the step

/* What the step gives beside the router's own numbers; owned. */
struct step_result {
    struct student_result student;
    double *gate_gradient; /* [B, n] */
    float *output;         /* [B, C, H, W] of the student */
};

static void result_clear(struct step_result *result)
{
    free(result->student.ddpm);
    free(result->student.distill_out);
    free(result->student.distill_block);
    free(result->student.gate_gradient);
    free(result->gate_gradient);
    free(result->output);
}

/* The student's output, which the phase itself never looks at. */
static float *student_output(struct tape *tape, const struct step_case *c, const float *gates)
{
    int64_t n = c->unet->table.entries, nchw[4] = {c->B, c->info.channels, c->info.height, c->info.width};
    struct unet_output output;
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = noised_batch_input(tape, &c->noised, &c->info, 0, c->B);
    input.gates = tape_input(tape, DTYPE_F32, 2, (int64_t[]){c->B, n}, gates);
    unet_forward(tape, c->unet, input, &output);
    size_t bytes = (size_t)tensor_count(output.sample) * sizeof(float);
    float *pixels = check_malloc(bytes), *planes = check_malloc(bytes);
    tape_read(tape, output.sample, pixels);
    verify_to_nchw(nchw, pixels, planes);
    free(pixels);
    return planes;
}

/* Both networks: losses, and the gradient for the gates. */
static void run_student(struct tape *tape, const struct step_case *c, const double *gates,
                        struct step_result *result)
{
    int64_t B = c->B, count = B * c->unet->table.entries;
    float *single = check_malloc((size_t)count * sizeof *single);
    for (int64_t i = 0; i < count; i++) single[i] = (float)gates[i];
    *result = (struct step_result){
        .student = {.ddpm = check_malloc((size_t)B * sizeof(double)),
                    .distill_out = check_malloc((size_t)B * sizeof(double)),
                    .distill_block = check_malloc((size_t)B * sizeof(double)),
                    .gate_gradient = check_malloc((size_t)count * sizeof(float))},
        .gate_gradient = check_malloc((size_t)count * sizeof(double)),
        .output = student_output(tape, c, single),
    };
    struct student student = {.teacher = c->unet,
                              .unet = c->unet,
                              .info = &c->info,
                              .weights = c->weights,
                              .micro_batch = B,
                              .global_batch = B};
    student_run(tape, &student, &c->noised, single, &result->student);
    for (int64_t i = 0; i < count; i++) result->gate_gradient[i] = result->student.gate_gradient[i];
    free(single);
}

static double mean(int64_t count, const double *values)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i];
    return sum / (double)count;
}

static bool compare_routing(struct verification *verification, const struct step_case *c,
                            const struct router_step *step, struct fault *fault)
{
    int64_t B = c->B, n = c->unet->table.entries, K = c->router.K;
    int64_t *expert = check_malloc((size_t)B * sizeof *expert);
    for (int64_t b = 0; b < B; b++) expert[b] = step->expert[b];
    bool ok =
        verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/similarity", 2, (int64_t[]){B, K},
                       step->similarity, fault) &&
        verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/plan", 2, (int64_t[]){B, K}, step->plan,
                       fault) &&
        verify_integers(verification, "outputs/expert", 1, &B, expert, fault) &&
        verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/gates", 2, (int64_t[]){B, n},
                       step->gates, fault) &&
        verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/ratio", 1, &B, step->ratio, fault);
    free(expert);
    return ok;
}

static bool compare_losses(struct verification *verification, const struct step_case *c,
                           const struct router_step *step, const struct step_result *result,
                           struct fault *fault)
{
    double ddpm = mean(c->B, result->student.ddpm), out = mean(c->B, result->student.distill_out);
    double block = mean(c->B, result->student.distill_block);
    double resource = step->losses.resource, contrastive = step->losses.contrastive;
    double total = c->weights.ddpm * ddpm + c->weights.distill_out * out + c->weights.distill_block * block +
                   c->router.w_resource * resource + c->router.w_contrastive * contrastive;
    const struct {
        const char *name;
        enum quantity quantity;
        double value;
    } losses[] = {
        {"outputs/loss/ddpm", QUANTITY_OUTPUT, ddpm},
        {"outputs/loss/distill_out", QUANTITY_OUTPUT, out},
        {"outputs/loss/distill_block", QUANTITY_OUTPUT, block},
        {"outputs/loss/resource", QUANTITY_ROUTER_OUTPUT, resource},
        {"outputs/loss/contrastive", QUANTITY_ROUTER_OUTPUT, contrastive},
        {"outputs/loss/total", QUANTITY_OUTPUT, total},
    };
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof losses / sizeof *losses; i++)
        ok = verify_doubles(verification, losses[i].quantity, losses[i].name, 0, NULL, &losses[i].value,
                            fault);
    return ok;
}

/* The predictor learns through the UNet in warm-up alone, the codes after it: the others' gradients are of
 * fp64 code only. */
static bool compare_gradients(struct verification *verification, const struct step_case *c,
                              const struct router_step *step, struct fault *fault)
{
    int64_t n = c->unet->table.entries, D = c->router.D, K = c->router.K;
    bool warm_up = c->stage == ROUTER_WARM_UP;
    enum quantity predictor = warm_up ? QUANTITY_GRADIENT : QUANTITY_ROUTER_GRADIENT;
    enum quantity codes = warm_up ? QUANTITY_ROUTER_GRADIENT : QUANTITY_GRADIENT;
    return verify_doubles(verification, predictor, "gradients/predictor_weight", 2, (int64_t[]){n, D},
                          step->weight_gradient, fault) &&
           verify_doubles(verification, predictor, "gradients/predictor_bias", 1, &n, step->bias_gradient,
                          fault) &&
           verify_doubles(verification, codes, "gradients/codes", 2, (int64_t[]){K, n}, step->code_gradient,
                          fault);
}

static bool run_step(struct verification *verification, const struct step_case *c, struct fault *fault)
{
    int64_t B = c->B, n = c->unet->table.entries, D = c->router.D, K = c->router.K;
    struct router *router = router_new(c->router, &c->unet->table, &c->macs);
    struct router_step *step = router_step_new(router, B);
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    struct step_result result;
    memcpy(router->weight, c->predictor_weight, (size_t)(n * D) * sizeof(double));
    memcpy(router->bias, c->bias, (size_t)n * sizeof(double));
    memcpy(router->codes, c->codes, (size_t)(K * n) * sizeof(double));
    memcpy(step->noise_predicted, c->noise_predicted, (size_t)(B * n) * sizeof(double));
    memcpy(step->noise_codes, c->noise_codes, (size_t)(K * n) * sizeof(double));

    router_forward(router, c->stage, c->z, step);
    run_student(tape, c, step->gates, &result);
    router_backward(router, c->stage, result.gate_gradient, step);

    int64_t nchw[4] = {B, c->info.channels, c->info.height, c->info.width};
    bool ok = compare_routing(verification, c, step, fault) &&
              verify_floats(verification, QUANTITY_OUTPUT, "outputs/student_output", 4, nchw, result.output,
                            fault) &&
              compare_losses(verification, c, step, &result, fault) &&
              compare_gradients(verification, c, step, fault);
    if (ok) verify_report_memory(verification, tape);
    result_clear(&result);
    tape_delete(tape);
    router_step_delete(step);
    router_delete(router);
    return ok;
}

bool verify_prune_step(struct verification *verification, struct fault *fault)
{
    struct step_case c = {0};
    bool ok = read_settings(verification, &c, fault) && read_unet(verification, &c, fault) &&
              read_router(verification, &c, fault) && read_batch(verification, &c, fault) &&
              find_target(verification, &c, fault) && run_step(verification, &c, fault);
    case_clear(&c);
    return ok;
}
