/* Phase prune: the prompt router and the architecture codes (METHOD sections 3 and 4).
 *
 *  1. the teacher, the data, and whether they belong together
 *  2. MACs and budget, router
 *  3. for the methods that learn (prune.method), arrays, optimiser, the checkpoint of an earlier run, and the
 *     loop; of each step:
 *     a. this rank's samples, made noisy; all ranks' embeddings z
 *     b. the router's forward pass on the global batch: routing, and the student's gates
 *     c. teacher, gated student, and the gradient for the gates, of this rank's samples
 *     d. gathered over ranks, the router's backward pass and update, the same on every rank
 *     Then the stored draw is chosen. The other methods choose their one mask instead (prune_mask.h).
 *  4. the router file */
#include "phases/prune.h"

#include "base/check.h"
#include "phases/bench_speed.h"
#include "phases/data_text.h"
#include "phases/provenance.h"
#include "phases/prune_mask.h"
#include "phases/restart.h"
#include "phases/router_file.h"
#include "phases/teacher.h"
#include "router/transport.h"
#include "train/history.h"
#include "train/sample_request.h"
#include "train/student.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAD_STEPS_MAX = 20, KMEANS_PROMPTS = 8192, DRAW_PROMPTS = 1 << 17 };

/* Keys that may change between a run and its continuation. */
static const char *const free_keys[] = {"prune.checkpoint_every", NULL};

/* What is logged of a step, in the columns' order. */
enum {
    LOG_DDPM,
    LOG_DISTILL_OUT,
    LOG_DISTILL_BLOCK,
    LOG_RESOURCE,
    LOG_CONTRASTIVE,
    LOG_SPREAD_MAX,
    LOG_SPREAD_STD,
    LOG_TOTAL,
    LOG_RATIO,   // R: mean over the batch, of the prunable MACs
    LOG_ENTROPY, // of the assignment, in nats: log K when all codes are used evenly
    LOG_LR,
    LOG_RATE,
    LOG_SINGLE, // columns of one number; then K of each of these:
    LOG_EXPERT_USE = LOG_SINGLE,
    LOG_EXPERT_RATIO,
    LOG_COLUMNS,
};

struct pruning {
    struct run *run;
    const struct prune_cfg *cfg;
    struct backend *backend;
    enum dtype dtype;
    struct teacher teacher;
    struct text_encoder text; // of token ids; zero: the data have states
    struct dataset *dataset;
    const struct dataset_info *info; // the data set's
    struct sample_order order;
    struct tape *tape;
    struct noised_batch noised;
    struct student student;

    struct routing routing;
    struct router_step *router_step;
    struct router_optimiser optimiser;
    double learning_rate; // after warm-up and scaling

    struct history_column columns[LOG_COLUMNS];
    struct history history;
    int64_t step;         // done, warm-up included
    int64_t first, count; // this rank's samples of the global batch
    size_t *counts;       // [ranks] samples of each rank

    double *z;                           // [batch, D]
    float *z_mine, *z_all;               // [count, D], [batch, D]
    float *gates;                        // [count, n]
    float *gradient_mine, *gradient_all; // [count, n], [batch, n]
    double *gradient;                    // [batch, n]
    double *losses_mine, *losses_all;    // [count, 3], [batch, 3]: ddpm, distill_out, distill_block
    double *log_values;                  // [history.values]
    char checkpoint[4096], csv[4096];
};

static int64_t total_steps(const struct prune_cfg *cfg)
{
    return cfg->warmup_steps + cfg->steps;
}

// ---- 1: inputs

static bool check_fit(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    const struct unet_config *config = &pruning->teacher.unet->config;
    struct lineage data;
    if (!lineage_open(cfg->data_file, FILE_DATA, &data, fault)) return false;
    bool ok = lineage_check(&pruning->teacher.lineage, cfg->teacher_file, &data, cfg->data_file, fault);
    pruning->routing.lineage = data;
    if (!ok) return false;
    if (config->in_channels != pruning->info->channels || config->text_width != pruning->info->text_width)
        return fault_raise(
            fault, EXIT_CODE_INPUT,
            "%s takes latents of %lld channels and token states %lld wide, %s has %lld and %lld",
            cfg->teacher_file, (long long)config->in_channels, (long long)config->text_width, cfg->data_file,
            (long long)pruning->info->channels, (long long)pruning->info->text_width);
    int64_t ranks = comm_size(pruning->run->comm);
    if (prune_learns(cfg->method) && cfg->batch % (ranks * cfg->micro_batch) != 0)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "prune.batch = %lld is not a multiple of %lld ranks x prune.micro_batch = %lld",
                           (long long)cfg->batch, (long long)ranks, (long long)cfg->micro_batch);
    return unet_check_prunable(pruning->teacher.unet, fault) &&
           unet_check_latents(config, pruning->info->height, pruning->info->width, fault);
}

static bool open_inputs(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    struct teacher_gates gates = {(int)cfg->ff_entries, cfg->depth_gates};
    if (!data_text_open(pruning->run, cfg->data_file, cfg->pipeline, pruning->backend, pruning->dtype,
                        &pruning->text, fault) ||
        !dataset_open(cfg->data_file, "train", &pruning->text, &pruning->dataset, fault))
        return false;
    pruning->info = dataset_info(pruning->dataset);
    bool ok = prune_learns(cfg->method)
                  ? teacher_read(cfg->teacher_file, pruning->backend, pruning->dtype, gates, true,
                                 &pruning->teacher, fault)
                  : teacher_load(cfg->teacher_file, pruning->backend, gates, &pruning->teacher, fault);
    return ok && check_fit(pruning, fault);
}

// ---- 2: budget, router

static bool make_router(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    struct routing *routing = &pruning->routing;
    routing->config_text = check_strdup(pruning->teacher.config_text);
    memcpy(routing->teacher_id, pruning->teacher.lineage.content_id, sizeof routing->teacher_id);
    routing->unet = pruning->teacher.unet;
    routing->latents[0] = cfg->macs_resolution ? cfg->macs_resolution : pruning->info->height;
    routing->latents[1] = cfg->macs_resolution ? cfg->macs_resolution : pruning->info->width;
    routing->tokens = pruning->info->tokens;
    routing->budget = cfg->budget;
    routing->macs = unet_macs(routing->unet, routing->latents[0], routing->latents[1], routing->tokens);
    double target = resource_target(&routing->macs, cfg->budget);
    if (!(target > 0))
        return fault_raise(fault, EXIT_CODE_DECK,
                           "prune.budget = %g cannot be reached: %.3f of the MACs are not prunable",
                           cfg->budget, 1 - routing->macs.prunable / routing->macs.total);
    struct router_config config = {.D = pruning->info->embedding_width,
                                   .K = prune_codes(cfg),
                                   .gumbel = {cfg->gamma, cfg->offset},
                                   .normal_form = (enum normal_form)cfg->normal_form,
                                   .mac_weights = cfg->mac_weights,
                                   .transport = cfg->transport,
                                   .eps = cfg->transport_eps,
                                   .rounds = (int)cfg->transport_iterations,
                                   .tau = cfg->tau,
                                   .resource_form = (enum resource_form)cfg->resource_form,
                                   .target = target,
                                   .w_resource = cfg->w_resource,
                                   .w_contrastive = cfg->w_contrastive,
                                   .w_spread_max = cfg->w_spread_max,
                                   .w_spread_std = cfg->w_spread_std};
    routing->router = router_new(config, &routing->unet->table, &routing->macs);
    return true;
}

static void make_history(struct pruning *pruning)
{
    static const char *const names[LOG_COLUMNS] = {
        "ddpm",          "distill_out",        "distill_block", "resource",    "contrastive",
        "spread_max",    "spread_std",         "total",         "ratio",       "entropy",
        "learning_rate", "samples_per_second", "expert_use",    "expert_ratio"};
    int K = (int)pruning->routing.router->config.K;
    for (int i = 0; i < LOG_COLUMNS; i++)
        pruning->columns[i] = (struct history_column){names[i], i < LOG_SINGLE ? 1 : K,
                                                      i >= LOG_SINGLE ? HISTORY_LIST
                                                      : i == LOG_RATE ? HISTORY_TIMING
                                                                      : HISTORY_NUMBER};
    history_init(&pruning->history, pruning->columns, LOG_COLUMNS);
}

// ---- 3: learning: what it needs, and the checkpoint

static void start_router(struct pruning *pruning)
{
    const struct prune_cfg *cfg = pruning->cfg;
    struct router *router = pruning->routing.router;
    router_initialise(router, (uint64_t)cfg->run.seed);
    struct adamw_settings settings = {cfg->beta1, cfg->beta2, cfg->epsilon, cfg->weight_decay};
    pruning->optimiser = router_optimiser_new(router, settings);
    pruning->router_step = router_step_new(router, cfg->batch);
    pruning->learning_rate =
        cfg->learning_rate * (cfg->lr_scale == LR_SCALE_SQRT_BATCH ? sqrt((double)cfg->batch) : 1);
}

static void make_arrays(struct pruning *pruning)
{
    const struct prune_cfg *cfg = pruning->cfg;
    const struct run *run = pruning->run;
    size_t batch = (size_t)cfg->batch, D = (size_t)pruning->info->embedding_width,
           n = (size_t)pruning->routing.router->n;
    int ranks = comm_size(run->comm);
    pruning->count = cfg->batch / ranks;
    pruning->first = pruning->count * comm_rank(run->comm);
    size_t count = (size_t)pruning->count;
    pruning->counts = check_malloc((size_t)ranks * sizeof *pruning->counts);
    for (int r = 0; r < ranks; r++) pruning->counts[r] = count;
    pruning->z = check_malloc(batch * D * sizeof *pruning->z);
    pruning->z_mine = check_malloc(count * D * sizeof *pruning->z_mine);
    pruning->z_all = check_malloc(batch * D * sizeof *pruning->z_all);
    pruning->gates = check_malloc(count * n * sizeof *pruning->gates);
    pruning->gradient_mine = check_malloc(count * n * sizeof *pruning->gradient_mine);
    pruning->gradient_all = check_malloc(batch * n * sizeof *pruning->gradient_all);
    pruning->gradient = check_malloc(batch * n * sizeof *pruning->gradient);
    pruning->losses_mine = check_malloc(count * 3 * sizeof *pruning->losses_mine);
    pruning->losses_all = check_malloc(batch * 3 * sizeof *pruning->losses_all);

    pruning->log_values = check_malloc((size_t)pruning->history.values * sizeof *pruning->log_values);
    pruning->tape = tape_new(pruning->backend, pruning->dtype);
    sample_order_init(&pruning->order, (uint64_t)cfg->run.seed, pruning->info->items);
    pruning->student = (struct student){.teacher = pruning->teacher.unet,
                                        .unet = pruning->teacher.unet,
                                        .info = pruning->info,
                                        .weights = {cfg->w_ddpm, cfg->w_distill_out, cfg->w_distill_block},
                                        .micro_batch = cfg->micro_batch,
                                        .global_batch = cfg->batch,
                                        .recompute = cfg->recompute};
    snprintf(pruning->checkpoint, sizeof pruning->checkpoint, "%s/prune.checkpoint.h5", cfg->run.folder);
    snprintf(pruning->csv, sizeof pruning->csv, "%s/prune.csv", cfg->run.folder);
}

/* The router's three learned arrays, and what AdamW holds of each. */
struct learned {
    const char *name;
    double *value;
    struct adamw_moments *adamw;
    int rank;
    int64_t shape[2];
};

static void list_learned(struct pruning *pruning, struct learned learned[3])
{
    struct router *router = pruning->routing.router;
    int64_t n = router->n, D = router->config.D, K = router->config.K;
    learned[0] = (struct learned){"predictor/weight", router->weight, &pruning->optimiser.weight, 2, {n, D}};
    learned[1] = (struct learned){"predictor/bias", router->bias, &pruning->optimiser.bias, 1, {n, 0}};
    learned[2] = (struct learned){"codes", router->codes, &pruning->optimiser.codes, 2, {K, n}};
}

static bool read_moment(struct h5_reader *reader, const char *which, const struct learned *learned,
                        double *values, struct fault *fault)
{
    char name[96];
    snprintf(name, sizeof name, "optimizer/%s/%s", which, learned->name);
    return h5_expect(reader, name, learned->rank, learned->shape, NULL, fault) &&
           h5_read_double(reader, name, 0, learned->shape[0], values, fault);
}

static bool read_state(struct pruning *pruning, struct h5_reader *reader, struct fault *fault)
{
    struct learned learned[3];
    list_learned(pruning, learned);
    struct routing stored;
    if (!restart_check_deck(reader, pruning->run->deck, free_keys, fault) ||
        !restart_check_data(reader, pruning->routing.lineage.content_id, pruning->cfg->data_file, fault) ||
        !routing_read(reader, pruning->backend, &stored, fault))
        return false;
    struct router *router = pruning->routing.router;
    bool same = stored.router->n == router->n && stored.router->config.K == router->config.K &&
                stored.router->config.D == router->config.D &&
                strcmp(stored.teacher_id, pruning->routing.teacher_id) == 0;
    if (same) {
        size_t codes = (size_t)(router->config.K * router->n) * sizeof(double);
        memcpy(router->weight, stored.router->weight,
               (size_t)(router->n * router->config.D) * sizeof(double));
        memcpy(router->bias, stored.router->bias, (size_t)router->n * sizeof(double));
        memcpy(router->codes, stored.router->codes, codes);
        memcpy(router->draw, stored.router->draw, codes);
    }
    routing_clear(&stored);
    if (!same)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s belongs to another teacher than %s: remove it to start anew", h5_path(reader),
                           pruning->cfg->teacher_file);
    int64_t steps[3];
    bool ok = h5_expect(reader, "optimizer/step", 1, (int64_t[]){3}, NULL, fault) &&
              h5_read_int64(reader, "optimizer/step", 0, 3, steps, fault);
    for (int i = 0; ok && i < 3; i++) {
        learned[i].adamw->steps = steps[i];
        ok = read_moment(reader, "first_moment", &learned[i], learned[i].adamw->first, fault) &&
             read_moment(reader, "second_moment", &learned[i], learned[i].adamw->second, fault);
    }
    return ok && h5_read_one_int64(reader, "training/step", &pruning->step, fault) &&
           h5_read_one_int64(reader, "training/skipped", &pruning->optimiser.skipped, fault) &&
           history_read_h5(&pruning->history, reader, fault);
}

static bool resume(struct pruning *pruning, struct fault *fault)
{
    if (!restart_is_there(pruning->run->comm, pruning->checkpoint)) return true;
    struct h5_reader *reader;
    if (!h5_open(pruning->checkpoint, FILE_ROUTER, &reader, fault)) return false;
    bool ok = read_state(pruning, reader, fault);
    h5_close(reader);
    if (ok)
        log_info(pruning->run->log, "going on from step %lld of %s", (long long)pruning->step,
                 pruning->checkpoint);
    return ok;
}

// ---- 4: files

static bool write_state(struct pruning *pruning, struct h5_writer *writer, struct fault *fault)
{
    struct learned learned[3];
    list_learned(pruning, learned);
    int64_t steps[3] = {learned[0].adamw->steps, learned[1].adamw->steps, learned[2].adamw->steps};
    bool ok = h5_write_int64(writer, "optimizer/step", 1, (int64_t[]){3}, steps, fault);
    for (int i = 0; ok && i < 3; i++) {
        char name[96];
        snprintf(name, sizeof name, "optimizer/first_moment/%s", learned[i].name);
        ok = h5_write_double(writer, name, learned[i].rank, learned[i].shape, learned[i].adamw->first, fault);
        snprintf(name, sizeof name, "optimizer/second_moment/%s", learned[i].name);
        ok = ok && h5_write_double(writer, name, learned[i].rank, learned[i].shape, learned[i].adamw->second,
                                   fault);
    }
    return ok;
}

/* The router file, or (with the optimiser's state) the checkpoint. Rank 0 writes, the verdict is shared. */
static bool write_file(struct pruning *pruning, const char *path, bool state, struct fault *fault)
{
    const struct run *run = pruning->run;
    timer_start(run->timers, "write");
    if (comm_rank(run->comm) == 0) {
        struct h5_parent parents[] = {{"teacher.h5", pruning->teacher.lineage.content_id},
                                      {"data.h5", pruning->routing.lineage.content_id}};
        struct h5_provenance provenance =
            run_provenance(run, &pruning->cfg->run, pruning->backend, pruning->dtype, parents, 2);
        struct h5_writer *writer;
        if (h5_create(path, FILE_ROUTER, &writer, fault)) {
            if (routing_write(&pruning->routing, writer, fault) &&
                (!state || write_state(pruning, writer, fault)) &&
                h5_write_one_int64(writer, "training/step", pruning->step, fault) &&
                h5_write_one_int64(writer, "training/skipped", pruning->optimiser.skipped, fault) &&
                history_write_h5(&pruning->history, writer, fault))
                h5_finish(writer, &provenance, NULL, fault);
            else
                h5_abandon(writer);
        }
    }
    timer_stop(run->timers, "write");
    return comm_agree(run->comm, fault);
}

// ---- 3: the loop

static void ask_batch(struct pruning *pruning, int64_t step)
{
    const struct prune_cfg *cfg = pruning->cfg;
    struct sample_request request = {.seed = (uint64_t)cfg->run.seed,
                                     .step = step,
                                     .batch = cfg->batch,
                                     .first = pruning->first,
                                     .count = pruning->count,
                                     .prompt_dropout = 0};
    sample_request_ask(&request, &pruning->order, pruning->dataset);
}

/* 3a: this rank's samples made noisy, the embeddings of the global batch in pruning->z. */
static bool load_batch(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    struct batch batch;
    timer_start(pruning->run->timers, "data");
    if (dataset_take(pruning->dataset, &batch, fault)) {
        noised_batch_make(&pruning->noised, &pruning->teacher.schedule, pruning->info, &batch,
                          (uint64_t)cfg->run.seed, (uint64_t)pruning->step, (uint64_t)pruning->first,
                          cfg->min_snr);
        memcpy(pruning->z_mine, batch.embeddings,
               (size_t)(pruning->count * pruning->info->embedding_width) * sizeof *pruning->z_mine);
        ask_batch(pruning, pruning->step + 1);
    }
    timer_stop(pruning->run->timers, "data");
    if (!comm_agree(pruning->run->comm, fault)) return false;
    size_t D = (size_t)pruning->info->embedding_width;
    comm_gather(pruning->run->comm, pruning->z_mine, pruning->counts, D * sizeof(float), pruning->z_all);
    for (size_t i = 0; i < (size_t)cfg->batch * D; i++) pruning->z[i] = pruning->z_all[i];
    return true;
}

/* 3c: forward and backward passes of this rank's samples, everything gathered in the order of the global
 * batch. */
static void run_student(struct pruning *pruning)
{
    const struct router_step *step = pruning->router_step;
    size_t n = (size_t)pruning->routing.router->n, count = (size_t)pruning->count,
           batch = (size_t)pruning->cfg->batch;
    for (size_t i = 0; i < count * n; i++)
        pruning->gates[i] = (float)step->gates[(size_t)pruning->first * n + i];
    double *losses = check_malloc(3 * count * sizeof *losses);
    struct student_result result = {losses, losses + count, losses + 2 * count, pruning->gradient_mine};
    timer_start(pruning->run->timers, "passes");
    student_run(pruning->tape, &pruning->student, &pruning->noised, pruning->gates, &result);
    timer_stop(pruning->run->timers, "passes");
    for (size_t i = 0; i < count; i++)
        for (size_t term = 0; term < 3; term++) pruning->losses_mine[3 * i + term] = losses[term * count + i];
    free(losses);

    timer_start(pruning->run->timers, "gather");
    comm_gather(pruning->run->comm, pruning->gradient_mine, pruning->counts, n * sizeof(float),
                pruning->gradient_all);
    comm_gather(pruning->run->comm, pruning->losses_mine, pruning->counts, 3 * sizeof(double),
                pruning->losses_all);
    timer_stop(pruning->run->timers, "gather");
    for (size_t i = 0; i < batch * n; i++) pruning->gradient[i] = pruning->gradient_all[i];
}

static double current_rate(const struct pruning *pruning)
{
    int64_t warmup = pruning->cfg->lr_warmup;
    if (pruning->step + 1 >= warmup) return pruning->learning_rate;
    return pruning->learning_rate * (double)(pruning->step + 1) / (double)warmup;
}

/* What the step says, in the order of the columns. */
static void fill_log(struct pruning *pruning, double rate, double seconds)
{
    const struct prune_cfg *cfg = pruning->cfg;
    const struct router_step *step = pruning->router_step;
    double *values = pruning->log_values, batch = (double)cfg->batch;
    for (int i = 0; i < pruning->history.values; i++) values[i] = 0;
    for (int64_t i = 0; i < cfg->batch; i++)
        for (int term = 0; term < 3; term++)
            values[LOG_DDPM + term] += pruning->losses_all[3 * i + term] / batch;
    values[LOG_RESOURCE] = step->losses.resource;
    values[LOG_CONTRASTIVE] = step->losses.contrastive;
    values[LOG_SPREAD_MAX] = step->losses.spread_max;
    values[LOG_SPREAD_STD] = step->losses.spread_std;
    values[LOG_TOTAL] =
        cfg->w_ddpm * values[LOG_DDPM] + cfg->w_distill_out * values[LOG_DISTILL_OUT] +
        cfg->w_distill_block * values[LOG_DISTILL_BLOCK] + cfg->w_resource * values[LOG_RESOURCE] +
        cfg->w_contrastive * values[LOG_CONTRASTIVE] + cfg->w_spread_max * values[LOG_SPREAD_MAX] +
        cfg->w_spread_std * values[LOG_SPREAD_STD];
    values[LOG_RATIO] = step->losses.mean_ratio;
    values[LOG_LR] = rate;
    values[LOG_RATE] = batch / seconds;
    int64_t K = pruning->routing.router->config.K;
    double *use = values + LOG_SINGLE, *ratio = use + K;
    values[LOG_ENTROPY] = transport_use(cfg->batch, K, step->expert, use);
    router_ratios(pruning->routing.router, ratio);
    for (int64_t k = 0; k < K; k++) ratio[k] = unit_macs_total_ratio(&pruning->routing.macs, ratio[k]);
}

/* One step of the loop. */
static bool run_step(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    struct router *router = pruning->routing.router;
    struct router_step *step = pruning->router_step;
    double began = timer_now();
    enum router_stage stage = pruning->step < cfg->warmup_steps ? ROUTER_WARM_UP : ROUTER_MAIN;

    if (!load_batch(pruning, fault)) return false; // a
    timer_start(pruning->run->timers, "router");
    router_draw_noise(router, step, (uint64_t)cfg->run.seed, (uint64_t)pruning->step);
    router_forward(router, stage, pruning->z, step); // b
    timer_stop(pruning->run->timers, "router");
    run_student(pruning); // c
    timer_start(pruning->run->timers, "router");
    double rate = current_rate(pruning);
    router_backward(router, stage, pruning->gradient, step); // d
    router_store_draw(router, step);
    router_update(router, stage, step, rate, &pruning->optimiser);
    timer_stop(pruning->run->timers, "router");
    fill_log(pruning, rate, timer_now() - began);
    pruning->step++;
    return true;
}

/* Embeddings of prompts of the training split, [rows, D], all or `most` of them: in runs of neighbours that
 * lie evenly over the split, whose order may be by subject. The caller frees them. */
static bool read_prompts(const struct pruning *pruning, int64_t most, int64_t *rows, double **z,
                         struct fault *fault)
{
    enum { RUN = 64 };
    struct h5_reader *reader;
    if (!h5_open(pruning->cfg->data_file, FILE_DATA, &reader, fault)) return false;
    int64_t D = pruning->info->embedding_width, items = pruning->info->items;
    *rows = items < most ? items : most;
    *z = check_malloc((size_t)(*rows * D) * sizeof **z);
    bool ok = true;
    for (int64_t row = 0, count; ok && row < *rows; row += count) {
        count = *rows - row < RUN ? *rows - row : RUN;
        int64_t first = row * items / *rows;
        ok = h5_read_double(reader, "train/embedding", first, count, *z + row * D, fault);
    }
    h5_close(reader);
    if (!ok) free(*z);
    return ok;
}

/* router.codes_init = kmeans: at the end of the warm-up the codes start as centres of the predicted vectors.
 */
static bool start_codes(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    if (cfg->codes_init != CODES_INIT_KMEANS || pruning->step != cfg->warmup_steps) return true;
    int64_t rows;
    double *z;
    if (!read_prompts(pruning, KMEANS_PROMPTS, &rows, &z, fault)) return false;
    int64_t K = pruning->routing.router->config.K;
    bool enough = rows >= K;
    if (enough) router_codes_from_prompts(pruning->routing.router, rows, z, (uint64_t)cfg->run.seed);
    free(z);
    return enough ||
           fault_raise(fault, EXIT_CODE_DECK, "router.codes_init = kmeans: %lld prompts for %lld codes",
                       (long long)rows, (long long)K);
}

static bool stop_here(struct pruning *pruning, struct fault *fault)
{
    const struct run *run = pruning->run;
    if (!write_file(pruning, pruning->checkpoint, true, fault)) return false;
    return fault_raise(fault, EXIT_CODE_STOPPED,
                       "stopped by %s after step %lld of %lld; run again to go on from %s",
                       run->stop->reason ? run->stop->reason : "another rank", (long long)pruning->step,
                       (long long)total_steps(pruning->cfg), pruning->checkpoint);
}

static bool run_loop(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    const struct run *run = pruning->run;
    int64_t steps = total_steps(cfg), skipped = pruning->optimiser.skipped;
    struct progress progress = progress_start(run->log, "step", pruning->step, steps);
    int bad = 0;
    if (pruning->step < steps) ask_batch(pruning, pruning->step);
    while (pruning->step < steps) {
        start_codes(pruning, fault);
        if (!comm_agree(run->comm, fault) || !run_step(pruning, fault)) return false;
        bad = pruning->optimiser.skipped > skipped ? bad + 1 : 0;
        skipped = pruning->optimiser.skipped;
        if (bad == BAD_STEPS_MAX)
            return fault_raise(fault, EXIT_CODE_INTERNAL,
                               "the gradient was not finite in %d steps in a row, up to step %lld: lower "
                               "prune.learning_rate, or use precision fp32",
                               bad, (long long)pruning->step);
        const double *log = pruning->log_values;
        progress_update(&progress, pruning->step, "loss %.3f, ratio of all MACs %.3f, %.0f samples/s",
                        log[LOG_TOTAL], unit_macs_total_ratio(&pruning->routing.macs, log[LOG_RATIO]),
                        log[LOG_RATE]);
        history_add(&pruning->history, pruning->step, log, fault); // rank 0's goes to the CSV too
        if (!comm_agree(run->comm, fault)) return false;
        if (comm_any(run->comm, stop_asked(run->stop))) {
            progress_pause(&progress);
            return stop_here(pruning, fault);
        }
        if (cfg->checkpoint_every > 0 && pruning->step % cfg->checkpoint_every == 0 &&
            pruning->step < steps && !write_file(pruning, pruning->checkpoint, true, fault))
            return false;
    }
    progress_pause(&progress);
    return true;
}

/* 4: of several draws the one whose mean ratio over the training prompts is nearest to the budget. */
static bool choose_draw(struct pruning *pruning, struct fault *fault)
{
    const struct prune_cfg *cfg = pruning->cfg;
    if (cfg->final_draws == 1) return true; // that of the last step
    int64_t rows;
    double *z;
    if (!read_prompts(pruning, DRAW_PROMPTS, &rows, &z, fault)) return false;
    double ratio = router_choose_draw(pruning->routing.router, rows, z, cfg->final_draws,
                                      (uint64_t)cfg->run.seed, (uint64_t)total_steps(cfg));
    free(z);
    log_info(pruning->run->log, "stored draw (best of %lld): %.4f of all MACs, the budget is %.4f",
             (long long)cfg->final_draws, unit_macs_total_ratio(&pruning->routing.macs, ratio), cfg->budget);
    return true;
}

// ---- what is said

static void report_plan(const struct pruning *pruning)
{
    const struct prune_cfg *cfg = pruning->cfg;
    const struct routing *routing = &pruning->routing;
    const struct unit_table *table = &routing->unet->table;
    const struct log *log = pruning->run->log;
    log_info(log,
             "%d width and %d depth entries; %.3f GMACs a sample at %lld x %lld latents and %lld tokens, "
             "%.3f of them prunable",
             table->width_entries, table->depth_entries, routing->macs.total / 1e9,
             (long long)routing->latents[0], (long long)routing->latents[1], (long long)routing->tokens,
             routing->macs.prunable / routing->macs.total);
    log_info(log, "budget %.4f of all MACs, %.4f of the prunable ones", cfg->budget,
             routing->router->config.target);
    if (routing->router->config.K != cfg->experts)
        log_info(log, "one expert: router.experts = %lld is for prune.method \"aptp\"",
                 (long long)cfg->experts);
    if (!prune_learns(cfg->method)) return;
    log_info(log, "%lld codes; %lld + %lld steps of %lld samples; learning rate %.3g",
             (long long)routing->router->config.K, (long long)cfg->warmup_steps, (long long)cfg->steps,
             (long long)cfg->batch, pruning->learning_rate);
    if (cfg->codes_init == CODES_INIT_ORTHOGONAL && pruning->learning_rate * (double)cfg->steps < 3)
        log_warning(log,
                    "learning rate x steps after warm-up is %.2f, below 3: codes that start at an offset of "
                    "%.1f will hardly "
                    "reach the threshold, and little will be pruned",
                    pruning->learning_rate * (double)cfg->steps, cfg->offset);
}

/* Teacher, student and the gradient of its gates. */
static void report_time(const struct pruning *pruning)
{
    const struct prune_cfg *cfg = pruning->cfg;
    double samples = ceil((double)cfg->batch / comm_size(pruning->run->comm)); // of a rank
    const struct dataset_info *info = pruning->info;
    struct unit_macs macs = unet_macs(pruning->routing.unet, info->height, info->width, info->tokens);
    bench_speed_report(pruning->run, cfg->bench_file,
                       &(struct planned_work){.speed = "prune_step/speed",
                                              .what = "a step",
                                              .flops = 6 * samples * macs.total,
                                              .count = total_steps(cfg)});
    unit_macs_free(&macs);
}

/* --check: one micro-batch on the plan backend tells the memory of a step. */
static void report_memory(struct pruning *pruning)
{
    const struct dataset_info *info = pruning->info;
    int64_t count = pruning->cfg->micro_batch, n = pruning->routing.router->n;
    noised_batch_blank(&pruning->noised, &pruning->teacher.schedule, info, count);
    double *losses = check_malloc(3 * (size_t)count * sizeof *losses);
    float *gates = check_calloc((size_t)(count * n), sizeof *gates),
          *gradient = check_malloc((size_t)(count * n) * sizeof *gradient);
    struct student_result result = {losses, losses + count, losses + 2 * count, gradient};
    student_run(pruning->tape, &pruning->student, &pruning->noised, gates, &result);
    log_info(pruning->run->log, "planned memory a rank: %.1f MiB of weights, %.1f MiB for a step",
             (double)backend_bytes(pruning->backend) / 0x1p20,
             (double)arena_peak(tape_arena(pruning->tape)) / 0x1p20);
    free(losses);
    free(gates);
    free(gradient);
}

static void release(struct pruning *pruning)
{
    if (pruning->routing.router) {
        router_step_delete(pruning->router_step);
        router_optimiser_free(&pruning->optimiser);
    }
    routing_clear(&pruning->routing);
    history_clear(&pruning->history);
    noised_batch_clear(&pruning->noised);
    sample_order_clear(&pruning->order);
    tape_delete(pruning->tape);
    teacher_clear(&pruning->teacher);
    dataset_close(pruning->dataset);
    text_encoder_close(&pruning->text);
    backend_close(pruning->backend);
    void *arrays[] = {pruning->counts,       pruning->z,         pruning->z_mine,
                      pruning->z_all,        pruning->gates,     pruning->gradient_mine,
                      pruning->gradient_all, pruning->gradient,  pruning->losses_mine,
                      pruning->losses_all,   pruning->log_values};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
}

/* 3: the methods that learn: from the checkpoint of an earlier run, if there is one, to the stored draw. */
static bool learn(struct pruning *pruning, struct fault *fault)
{
    const struct run *run = pruning->run;
    resume(pruning, fault);
    if (comm_agree(run->comm, fault) && comm_rank(run->comm) == 0)
        history_open_csv(&pruning->history, pruning->csv, fault);
    if (!comm_agree(run->comm, fault) || !run_loop(pruning, fault)) return false;
    if (!write_file(pruning, pruning->checkpoint, true, fault)) return false;
    return choose_draw(pruning, fault);
}

static bool prune(struct pruning *pruning, struct fault *fault)
{
    const struct run *run = pruning->run;
    const struct prune_cfg *cfg = pruning->cfg;
    const bool learns = prune_learns(cfg->method);
    open_inputs(pruning, fault);                                                     // 1
    if (!comm_agree(run->comm, fault) || !make_router(pruning, fault)) return false; // 2
    make_history(pruning);
    if (learns) {
        start_router(pruning);
        make_arrays(pruning);
    }
    report_plan(pruning);
    if (!learns) { // 3
        prune_choose_mask(run, cfg, &pruning->routing, fault);
    } else if (run->check_only) {
        report_memory(pruning);
        report_time(pruning);
    } else {
        learn(pruning, fault);
    }
    if (!comm_agree(run->comm, fault) || run->check_only) return fault->code == EXIT_CODE_OK;
    if (!write_file(pruning, cfg->router_file, false, fault)) return false; // 4
    log_info(run->log, "wrote %s: %lld steps, %lld skipped", cfg->router_file, (long long)pruning->step,
             (long long)pruning->optimiser.skipped);
    return true;
}

bool phase_prune(struct run *run, const struct prune_cfg *cfg, struct fault *fault)
{
    struct pruning pruning = {.run = run, .cfg = cfg};
    if (!run_open_backend(run, &cfg->run, &pruning.backend, &pruning.dtype, fault)) return false;
    bool ok = prune(&pruning, fault);
    release(&pruning);
    return ok;
}
