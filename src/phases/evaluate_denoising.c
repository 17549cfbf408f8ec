/* Phase evaluate: the experts and the teacher as denoisers, at fixed timesteps and noises. */
#include "phases/evaluate_parts.h"

#include "base/check.h"
#include "io/sha256.h"
#include "phases/expert_file.h"
#include "phases/row_cache.h"
#include "train/noised_batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a row of the cache has: squared errors [T] of the expert to the target, and with a teacher also [T] of
 * the expert to the teacher and [T] of the teacher to the target. */
enum { EXPERT_TO_TARGET, EXPERT_TO_TEACHER, TEACHER_TO_TARGET, ERRORS };

/* Of one expert; the context of its cache. */
struct denoising {
    struct evaluating *evaluating;
    const struct expert *expert;
    const int64_t *item; // [rows] of the split, those of the expert; borrowed
    struct noised_batch noised;
};

static bool has_teacher(const struct evaluating *evaluating)
{
    return evaluating->cfg->teacher;
}

static int64_t row_width(const struct evaluating *evaluating)
{
    return (has_teacher(evaluating) ? ERRORS : 1) * evaluating->cfg->timesteps.count;
}

/* Errors at one timestep of the `count` samples that `noised` begins with, into column `t` of values. */
static void run_timestep(const struct denoising *denoising, int64_t t, int64_t count, float *values)
{
    const struct evaluating *evaluating = denoising->evaluating;
    const struct noised_batch *noised = &denoising->noised;
    struct tape *tape = evaluating->tape;
    int64_t T = evaluating->cfg->timesteps.count, width = row_width(evaluating);
    float *error = check_malloc((size_t)noised->count * sizeof *error);

    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = noised_batch_input(tape, noised, evaluating->info, 0, noised->count);
    struct tensor *target = noised_batch_target(tape, noised, evaluating->info, 0, noised->count);
    struct unet_output expert, teacher;
    struct tensor *errors[ERRORS];
    unet_forward(tape, denoising->expert->unet, input, &expert);
    errors[EXPERT_TO_TARGET] = op_squared_error(tape, expert.sample, target);
    if (has_teacher(evaluating)) {
        unet_forward(tape, evaluating->teacher.unet, input, &teacher);
        errors[EXPERT_TO_TEACHER] = op_squared_error(tape, expert.sample, teacher.sample);
        errors[TEACHER_TO_TARGET] = op_squared_error(tape, teacher.sample, target);
    }
    for (int64_t e = 0; e < width / T; e++) {
        tape_read(tape, errors[e], error);
        for (int64_t i = 0; i < count; i++) values[i * width + e * T + t] = error[i];
    }
    free(error);
}

/* A batch always has the same size, the last item standing in for what is missing: so its numbers do not
 * depend on what else is in it. */
static bool compute_errors(void *context, int64_t first, int64_t count, float *values, struct fault *fault)
{
    struct denoising *denoising = context;
    struct evaluating *evaluating = denoising->evaluating;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    int64_t *item = check_malloc((size_t)cfg->batch * sizeof *item);
    int *flip = check_calloc((size_t)cfg->batch, sizeof *flip);
    for (int64_t i = 0; i < cfg->batch; i++) item[i] = denoising->item[first + (i < count ? i : count - 1)];
    struct batch batch;
    dataset_ask(evaluating->dataset, cfg->batch, item, flip, NULL);
    bool ok = dataset_take(evaluating->dataset, &batch, fault);
    for (int64_t t = 0; ok && t < cfg->timesteps.count; t++) {
        noised_batch_make_fixed(&denoising->noised, &denoising->expert->schedule, evaluating->info, &batch,
                                (uint64_t)cfg->run.seed, (int)cfg->timesteps.value[t], item);
        run_timestep(denoising, t, count, values);
    }
    free(flip);
    free(item);
    return ok;
}

/* "timesteps 50 150 ..." */
static char *timesteps_text(const struct integer_list *timesteps)
{
    char *text = check_strdup("timesteps");
    for (int i = 0; i < timesteps->count; i++) {
        char *longer = check_format("%s %lld", text, (long long)timesteps->value[i]);
        free(text);
        text = longer;
    }
    return text;
}

static char *denoising_key(const struct evaluating *evaluating, const struct expert *expert)
{
    char *common = evaluate_key(evaluating, evaluating->dtype),
         *timesteps = timesteps_text(&evaluating->cfg->timesteps);
    char *key = check_format(
        "%sexpert %lld of router %s\n%s %s\nassignment %s\nteacher %s\n%s\nseed %lld\nbatch %lld\n", common,
        (long long)expert->index, evaluating->routing.lineage.content_id,
        *expert->lineage.content_id ? "finetuned" : "sliced", expert->lineage.content_id,
        evaluating->assignment.content_id,
        has_teacher(evaluating) || !*expert->lineage.content_id ? evaluating->routing.teacher_id : "none",
        timesteps, (long long)evaluating->cfg->run.seed, (long long)evaluating->cfg->batch);
    free(common);
    free(timesteps);
    return key;
}

/* Rows of the cache into the items' rows. */
static void store_errors(struct evaluating *evaluating, int64_t rows, const int64_t *item,
                         const float *values)
{
    int64_t T = evaluating->cfg->timesteps.count, width = row_width(evaluating);
    double *out[ERRORS] = {[EXPERT_TO_TARGET] = evaluating->loss,
                           [EXPERT_TO_TEACHER] = evaluating->distill_out,
                           [TEACHER_TO_TARGET] = evaluating->teacher_loss};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < width; j++) out[j / T][item[i] * T + j % T] = values[i * width + j];
}

static bool denoise(struct evaluating *evaluating, const struct expert *expert, struct fault *fault)
{
    int64_t k = expert->index, rows = evaluating->assignment.count[k], width = row_width(evaluating);
    int64_t *item = assignment_items(&evaluating->assignment, k);
    char file[ROW_NAME_SIZE], what[ROW_NAME_SIZE + 32];
    snprintf(file, sizeof file, "expert_%02lld", (long long)k);
    snprintf(what, sizeof what, "denoising, expert %lld", (long long)k);
    char *path = evaluate_cache_path(evaluating, file), *key = denoising_key(evaluating, expert);
    float *values = check_malloc((size_t)(rows * width) * sizeof *values);
    struct denoising denoising = {.evaluating = evaluating, .expert = expert, .item = item};
    struct row_cache cache = {.path = path,
                              .what = what,
                              .key = key,
                              .rows = rows,
                              .width = width,
                              .batch = evaluating->cfg->batch,
                              .compute = compute_errors,
                              .context = &denoising};
    timer_start(evaluating->run->timers, "denoising");
    bool ok;
    if (evaluating->run->check_only) // one batch, for its memory
        ok = rows == 0 ||
             compute_errors(&denoising, 0, rows < cache.batch ? rows : cache.batch, values, fault);
    else
        ok = row_cache_fill(evaluating->run, &evaluating->cfg->run, &cache, values, fault);
    timer_stop(evaluating->run->timers, "denoising");
    if (ok) store_errors(evaluating, rows, item, values);
    noised_batch_clear(&denoising.noised);
    free(values);
    free(key);
    free(path);
    free(item);
    return ok;
}

// ---- models

static bool check_teacher(const struct evaluating *evaluating, const struct teacher *teacher,
                          struct fault *fault)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    return routing_check_teacher(&evaluating->routing, cfg->router_file, teacher->lineage.content_id,
                                 cfg->teacher_file, fault) &&
           lineage_check(&teacher->lineage, cfg->teacher_file, &evaluating->data, cfg->data_file, fault);
}

static bool open_teacher(struct evaluating *evaluating, struct fault *fault)
{
    if (has_teacher(evaluating) &&
        teacher_read(evaluating->cfg->teacher_file, evaluating->backend, evaluating->dtype,
                     teacher_gates_of(&evaluating->routing.unet->config), false, &evaluating->teacher, fault))
        check_teacher(evaluating, &evaluating->teacher, fault);
    return comm_agree(evaluating->run->comm, fault);
}

/* Slicing needs the masters of a teacher, which one that computes has no longer. */
static bool slice_expert(struct evaluating *evaluating, int64_t k, struct expert *expert, struct fault *fault)
{
    struct teacher whole;
    if (!teacher_load(evaluating->cfg->teacher_file, evaluating->backend,
                      teacher_gates_of(&evaluating->routing.unet->config), &whole, fault))
        return false;
    bool ok = check_teacher(evaluating, &whole, fault);
    if (ok) {
        expert_slice(&whole, &evaluating->routing, k, false, expert);
        parameter_set_freeze(&expert->unet->parameters, evaluating->dtype, false);
    }
    teacher_clear(&whole);
    return ok;
}

static bool open_expert(struct evaluating *evaluating, int64_t k, struct expert *expert, struct fault *fault)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    *expert = (struct expert){0};
    if (cfg->experts == EXPERTS_SLICED) {
        slice_expert(evaluating, k, expert, fault);
    } else {
        char *path = expert_path(cfg->expert_file, k);
        if (expert_read(path, evaluating->backend, evaluating->dtype, false, &evaluating->routing, k, expert,
                        fault))
            lineage_check(&expert->lineage, path, &evaluating->data, cfg->data_file, fault);
        free(path);
    }
    if (comm_agree(evaluating->run->comm, fault)) return true;
    if (expert->unet) expert_clear(expert);
    return false;
}

static bool find_cost(struct evaluating *evaluating, int64_t row, const struct unet *unet,
                      const struct noise_schedule *schedule, struct fault *fault)
{
    const struct dataset_info *info = evaluating->info;
    int64_t asked = evaluating->cfg->macs_resolution;
    struct unit_macs macs =
        unet_macs(unet, asked ? asked : info->height, asked ? asked : info->width, info->tokens);
    evaluating->macs[row] = macs.total;
    unit_macs_free(&macs);
    evaluating->parameters[row] = parameter_set_elements(&unet->parameters);
    evaluating->seconds[row] = evaluate_time(evaluating, unet, schedule, fault);
    return comm_agree(evaluating->run->comm, fault);
}

/* Row 0 from the experts': what prompts cost on average, and the weights of all. */
static void sum_costs(struct evaluating *evaluating)
{
    double *macs = evaluating->macs, *seconds = evaluating->seconds;
    macs[ROW_ALL] = seconds[ROW_ALL] = 0;
    evaluating->parameters[ROW_ALL] = 0;
    for (int64_t k = 0; k < evaluating->K; k++) {
        int64_t row = ROW_EXPERTS + k;
        double use = (double)evaluating->prompts[row] / (double)evaluating->info->items;
        macs[ROW_ALL] += use * macs[row];
        seconds[ROW_ALL] += use * seconds[row];
        evaluating->parameters[ROW_ALL] += evaluating->parameters[row];
    }
}

bool evaluate_models(struct evaluating *evaluating, struct fault *fault)
{
    if (!open_teacher(evaluating, fault)) return false;
    int64_t cases = evaluating->info->items * evaluating->cfg->timesteps.count;
    double **errors[] = {&evaluating->loss, &evaluating->distill_out, &evaluating->teacher_loss};
    for (int e = 0; e < ERRORS; e++) *errors[e] = check_calloc((size_t)cases, sizeof **errors[e]);
    for (int64_t k = 0; k < evaluating->K; k++) {
        struct expert expert;
        if (!open_expert(evaluating, k, &expert, fault)) return false;
        memcpy(evaluating->expert_ids + k * SHA256_HEX_SIZE, expert.lineage.content_id, SHA256_HEX_SIZE);
        bool ok = find_cost(evaluating, ROW_EXPERTS + k, expert.unet, &expert.schedule, fault) &&
                  denoise(evaluating, &expert, fault);
        expert_clear(&expert);
        if (!ok) return false;
    }
    sum_costs(evaluating);
    return !has_teacher(evaluating) ||
           find_cost(evaluating, row_of_teacher(evaluating), evaluating->teacher.unet,
                     &evaluating->teacher.schedule, fault);
}

// ---- means

/* Mean over the timesteps of the items [N, T] that belong to expert k, or with -1 to any. */
static struct interval mean_of_items(const struct evaluating *evaluating, const double *errors, int64_t k)
{
    int64_t N = evaluating->info->items, T = evaluating->cfg->timesteps.count, count = 0;
    double *mean = check_calloc((size_t)N, sizeof *mean);
    for (int64_t i = 0; i < N; i++) {
        if (k >= 0 && evaluating->assignment.expert[i] != k) continue;
        for (int64_t t = 0; t < T; t++) mean[count] += errors[i * T + t] / (double)T;
        count++;
    }
    struct interval interval = interval_none();
    if (count > 0)
        interval = bootstrap_mean(
            (struct bootstrap){(uint64_t)evaluating->cfg->run.seed, evaluating->cfg->bootstrap, false}, count,
            mean, NULL);
    if (count < LEAST_FOR_INTERVAL) interval.low = interval.high = NAN;
    free(mean);
    return interval;
}

void evaluate_losses(struct evaluating *evaluating)
{
    for (int64_t row = 0; row < ROW_EXPERTS + evaluating->K; row++) {
        int64_t k = row == ROW_ALL ? -1 : row - ROW_EXPERTS;
        evaluating->value[QUANTITY_DENOISING_LOSS][row] = mean_of_items(evaluating, evaluating->loss, k);
        if (has_teacher(evaluating))
            evaluating->value[QUANTITY_DISTILL_OUT][row] =
                mean_of_items(evaluating, evaluating->distill_out, k);
    }
    if (has_teacher(evaluating))
        evaluating->value[QUANTITY_DENOISING_LOSS][row_of_teacher(evaluating)] =
            mean_of_items(evaluating, evaluating->teacher_loss, -1);
}
