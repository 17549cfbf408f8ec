/* Phase pretrain: ordinary diffusion training of a UNet, from scratch or on from the weights of an earlier
 * run.
 *
 *  1. the network's configuration, the data, and whether they fit
 *  2. the network, its optimiser, and the checkpoint of an earlier run
 *  3. the loop: batch, noise, forward and backward pass, update, log
 *  4. now and then a sheet of samples and a checkpoint
 *  5. the teacher file, from the averaged weights */
#include "phases/pretrain.h"

#include "base/check.h"
#include "io/text_file.h"
#include "models/initialise.h"
#include "models/weights.h"
#include "phases/data_text.h"
#include "phases/lineage.h"
#include "phases/pretrain_clip.h"
#include "phases/restart.h"
#include "phases/sample_sheet.h"
#include "phases/teacher.h"
#include "phases/training.h"
#include "train/gradient_buckets.h"
#include "train/noised_batch.h"
#include "train/sample_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20 };

enum { COLUMN_LOSS, COLUMN_NORM, COLUMN_LR, COLUMN_RATE, COLUMNS };
static const struct history_column columns[COLUMNS] = {{"loss", 1, HISTORY_NUMBER},
                                                       {"gradient_norm", 1, HISTORY_NUMBER},
                                                       {"learning_rate", 1, HISTORY_NUMBER},
                                                       {"samples_per_second", 1, HISTORY_TIMING}};

/* Keys that may change between a run and its continuation. */
static const char *const free_keys[] = {"run.threads", "pretrain.steps", "pretrain.checkpoint_every",
                                        "pretrain.sample_", NULL};

struct pretraining {
    struct run *run;
    const struct pretrain_cfg *cfg;
    char *config_text; // the UNet's config.json
    struct backend *backend;
    enum dtype dtype;
    struct unet *unet;
    struct tape *tape;
    struct text_encoder text; // of token ids; zero: the data have states
    struct dataset *dataset;
    struct sample_order order;
    struct noise_schedule schedule;
    struct optimiser optimiser;
    struct gradient_buckets buckets;
    struct noised_batch noised;
    struct history history;
    struct lineage lineage; // of the data
    struct lineage initial; // of the file whose weights the run begins with; zero: none
    struct sample_sheet *sheet;
    int64_t first, count; // this rank's samples of the global batch
    float *seed, *loss;   // [micro_batch]
    struct h5_parent parent[2];
    struct training training;
};

// ---- 1: configuration and data

static bool check_fit(const struct pretraining *training, const struct unet_config *config,
                      struct fault *fault)
{
    const struct dataset_info *info = dataset_info(training->dataset);
    const struct pretrain_cfg *cfg = training->cfg;
    int64_t ranks = comm_size(training->run->comm);
    if (config->in_channels != info->channels || config->out_channels != info->channels)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "%s has %lld in and %lld out channels, the latents of %s have %lld", cfg->unet,
                           (long long)config->in_channels, (long long)config->out_channels, cfg->data_file,
                           (long long)info->channels);
    if (config->text_width != info->text_width)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "%s has cross_attention_dim %lld, the token states of %s are %lld wide", cfg->unet,
                           (long long)config->text_width, cfg->data_file, (long long)info->text_width);
    if (cfg->batch % (ranks * cfg->micro_batch) != 0)
        return fault_raise(
            fault, EXIT_CODE_DECK,
            "pretrain.batch = %lld is not a multiple of %lld ranks x pretrain.micro_batch = %lld",
            (long long)cfg->batch, (long long)ranks, (long long)cfg->micro_batch);
    return (cfg->sample_every == 0 ||
            lineage_check_pictures(&training->lineage, cfg->data_file,
                                   "set pretrain.sample_every = 0, and make pictures with phase sample",
                                   fault)) &&
           unet_check_latents(config, info->height, info->width, fault);
}

static bool open_inputs(struct pretraining *training, struct unet_config *config, struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    return text_file_read(cfg->unet, MAX_CONFIG_BYTES, &training->config_text, fault) &&
           unet_config_parse(config, training->config_text, cfg->unet, UNET_FF_ENTRIES, fault) &&
           lineage_open(cfg->data_file, FILE_DATA, &training->lineage, fault) &&
           data_text_open(training->run, cfg->data_file, cfg->pipeline, training->backend, training->dtype,
                          &training->text, fault) &&
           dataset_open(cfg->data_file, "train", &training->text, &training->dataset, fault) &&
           check_fit(training, config, fault);
}

// ---- 2: network, optimiser, checkpoint

/* A network of other heads may have weights of the same shapes. */
static bool check_network(void *task, struct h5_reader *reader, struct fault *fault)
{
    const struct pretraining *training = task;
    char *then;
    if (!h5_load_text(reader, "config", MAX_CONFIG_BYTES, &then, fault)) return false;
    bool same = strcmp(then, training->config_text) == 0;
    free(then);
    return same ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s belongs to another network than %s: go on without it, or with its configuration",
                       h5_path(reader), training->cfg->unet);
}

/* Whether the file's weights mean here what they meant there; its noise schedule goes on. */
static bool check_initial(struct pretraining *training, struct h5_reader *reader, struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    if (!restart_refuse_checkpoint(reader, fault) || !check_network(training, reader, fault) ||
        !lineage_read(reader, &training->initial, fault) ||
        !lineage_check(&training->initial, cfg->initial, &training->lineage, cfg->data_file, fault) ||
        !teacher_read_schedule(reader, &training->schedule, fault))
        return false;
    enum prediction prediction = training->schedule.prediction;
    return prediction == cfg->prediction ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s predicts %s, pretrain.prediction is %s", h5_path(reader),
                       prediction_name(prediction), prediction_name(cfg->prediction));
}

static bool initialise(struct pretraining *training, struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    struct parameter_set *parameters = &training->unet->parameters;
    parameters_initialise(parameters, (uint64_t)cfg->run.seed);
    if (!*cfg->initial) return true;
    struct h5_reader *reader;
    if (!h5_open(cfg->initial, FILE_TEACHER, &reader, fault)) return false;
    bool ok = check_initial(training, reader, fault) && weights_read_h5(parameters, reader, "weights", fault);
    h5_close(reader);
    return ok;
}

static bool build(struct pretraining *training, const struct unet_config *config, struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    const struct run *run = training->run;
    training->unet = unet_new(training->backend, config, (struct unet_shape){0});
    struct parameter_set *parameters = &training->unet->parameters;
    parameter_set_allocate(parameters, true);
    training->schedule = noise_schedule_scaled_linear(cfg->prediction);
    initialise(training, fault);
    bool cuda_aware;
    if (!comm_agree(run->comm, fault) ||
        !cuda_aware_find(run->comm, training->backend, cfg->cuda_aware, &cuda_aware, fault))
        return false;
    optimiser_init(&training->optimiser, &cfg->optimiser, parameters);
    gradient_buckets_init(&training->buckets, run->comm, parameters, (size_t)cfg->bucket_mib << 20,
                          cfg->deterministic, cuda_aware);
    training->tape = tape_new(training->backend, training->dtype);
    sample_order_init(&training->order, (uint64_t)cfg->run.seed, dataset_info(training->dataset)->items);
    history_init(&training->history, columns, COLUMNS);
    training->count = cfg->batch / comm_size(run->comm);
    training->first = training->count * comm_rank(run->comm);
    training->seed = check_malloc((size_t)cfg->micro_batch * sizeof *training->seed);
    training->loss = check_malloc((size_t)cfg->micro_batch * sizeof *training->loss);
    return true;
}

// ---- 5 (and 4): files

static bool write_description(void *task, struct h5_writer *writer, bool finished, struct fault *fault)
{
    const struct pretraining *training = task;
    (void)finished;
    return h5_write_text(writer, "config", training->config_text, fault) &&
           teacher_write_schedule(&training->schedule, writer, fault) &&
           lineage_write(&training->lineage, FILE_TEACHER, writer, fault);
}

// ---- 3: the loop

/* Asks for this rank's samples of a step: items in the run's order, random views, some prompts dropped. */
static void ask_batch(struct pretraining *training, int64_t step)
{
    const struct pretrain_cfg *cfg = training->cfg;
    struct sample_request request = {.seed = (uint64_t)cfg->run.seed,
                                     .step = step,
                                     .batch = cfg->batch,
                                     .first = training->first,
                                     .count = training->count,
                                     .prompt_dropout = cfg->prompt_dropout};
    sample_request_ask(&request, &training->order, training->dataset);
}

/* Forward and backward pass of samples [first, first + micro_batch) of this rank; returns the sum of their
 * losses. With the last micro-batch of a step gradients are complete and go to the other ranks. */
static double run_micro_batch(struct pretraining *training, int64_t first, bool last)
{
    const struct pretrain_cfg *cfg = training->cfg;
    const struct dataset_info *info = dataset_info(training->dataset);
    struct tape *tape = training->tape;
    tape_reset(tape, cfg->recompute ? TAPE_RECOMPUTE : TAPE_RECORD);
    struct unet_input input = noised_batch_input(tape, &training->noised, info, first, cfg->micro_batch);
    struct tensor *target = noised_batch_target(tape, &training->noised, info, first, cfg->micro_batch);
    struct unet_output output;
    unet_forward(tape, training->unet, input, &output);
    struct tensor *loss = op_squared_error(tape, output.sample, target); // [micro_batch]
    for (int64_t i = 0; i < cfg->micro_batch; i++)
        training->seed[i] = training->noised.weight[first + i] / (float)cfg->batch;
    if (last) gradient_buckets_watch(&training->buckets, tape);
    tape_backward(tape, 1, &loss, (const float *const[]){training->seed});
    tape_read(tape, loss, training->loss);
    double sum = 0;
    for (int64_t i = 0; i < cfg->micro_batch; i++) sum += training->loss[i];
    return sum;
}

/* One step; values[COLUMNS] are what is logged of it. */
static bool run_step(void *task, double *values, struct fault *fault)
{
    struct pretraining *training = task;
    const struct pretrain_cfg *cfg = training->cfg;
    struct timers *timers = training->run->timers;
    double began = timer_now();
    struct batch batch;
    timer_start(timers, "data");
    bool ok = dataset_take(training->dataset, &batch, fault);
    if (ok) {
        noised_batch_make(&training->noised, &training->schedule, dataset_info(training->dataset), &batch,
                          (uint64_t)cfg->run.seed, (uint64_t)training->training.step,
                          (uint64_t)training->first, cfg->min_snr);
        ask_batch(training, training->training.step + 1);
    }
    timer_stop(timers, "data");
    if (!comm_agree(training->run->comm, fault)) return false;

    timer_start(timers, "passes");
    parameter_set_zero_gradients(&training->unet->parameters);
    double sum = 0;
    for (int64_t first = 0; first < training->count; first += cfg->micro_batch)
        sum += run_micro_batch(training, first, first + cfg->micro_batch == training->count);
    timer_stop(timers, "passes");

    timer_start(timers, "update");
    gradient_buckets_finish(&training->buckets);
    comm_sum_ordered(training->run->comm, &sum, 1);
    values[COLUMN_LOSS] = sum / (double)cfg->batch;
    values[COLUMN_LR] = optimiser_learning_rate(&training->optimiser);
    values[COLUMN_NORM] = optimiser_update(&training->optimiser, values[COLUMN_LOSS]);
    timer_stop(timers, "update");
    values[COLUMN_RATE] = (double)cfg->batch / (timer_now() - began);
    training->training.step++;
    return true;
}

static bool draw_sheet(void *task, struct fault *fault)
{
    struct pretraining *training = task;
    const struct run *run = training->run;
    if (comm_rank(run->comm) == 0) {
        timer_start(run->timers, "samples");
        char path[4096 + 64];
        snprintf(path, sizeof path, "%s/samples_%06lld.png", training->cfg->run.folder,
                 (long long)training->training.step);
        optimiser_swap_average(&training->optimiser);
        sample_sheet_draw(training->sheet, training->dtype, training->unet, &training->schedule, path, fault);
        optimiser_swap_average(&training->optimiser);
        timer_stop(run->timers, "samples");
    }
    return comm_agree(run->comm, fault);
}

static const struct training_task functions = {
    .run_step = run_step, .look = draw_sheet, .write = write_description, .check = check_network};

/* What is shared with other trainings. */
static void describe_training(struct pretraining *training)
{
    const struct pretrain_cfg *cfg = training->cfg;
    training->parent[0] = (struct h5_parent){"data.h5", training->lineage.content_id};
    training->parent[1] = (struct h5_parent){"initial weights", training->initial.content_id};
    training->training =
        (struct training){.run = training->run,
                          .run_cfg = &cfg->run,
                          .label = "step",
                          .section = "pretrain",
                          .free_keys = free_keys,
                          .data_file = cfg->data_file,
                          .steps = cfg->steps,
                          .batch = cfg->batch,
                          .checkpoint_every = cfg->checkpoint_every,
                          .half = cfg->half,
                          .functions = &functions,
                          .task = training,
                          .kind = FILE_TEACHER,
                          .backend = training->backend,
                          .dtype = training->dtype,
                          .optimiser = &training->optimiser,
                          .history = &training->history,
                          .loss = COLUMN_LOSS,
                          .gradient_norm = COLUMN_NORM,
                          .rate = COLUMN_RATE,
                          .parent = training->parent,
                          .parents = *cfg->initial ? 2 : 1,
                          .look_every = cfg->sample_every,
                          .checkpoint = check_format("%s/pretrain.checkpoint.h5", cfg->run.folder),
                          .csv = check_format("%s/pretrain.csv", cfg->run.folder)};
}

static void report_plan(const struct pretraining *training)
{
    const struct dataset_info *info = dataset_info(training->dataset);
    const struct unet *unet = training->unet;
    struct unit_macs macs = unet_macs(unet, info->height, info->width, info->tokens);
    log_info(training->run->log,
             "UNet of %.2f M parameters, %.3f GMACs a sample at %lld x %lld latents and %lld tokens, %s",
             (double)parameter_set_elements(&unet->parameters) / 1e6, macs.total / 1e9,
             (long long)info->height, (long long)info->width, (long long)info->tokens,
             dtype_name(training->dtype));
    log_info(training->run->log, "%lld items, %lld steps of %lld samples: %.1f epochs",
             (long long)info->items, (long long)training->cfg->steps, (long long)training->cfg->batch,
             (double)training->cfg->steps * (double)training->cfg->batch / (double)info->items);
    unit_macs_free(&macs);
}

/* --check: one micro-batch on the plan backend tells the memory of a step. */
static void report_memory(struct pretraining *training)
{
    const struct dataset_info *info = dataset_info(training->dataset);
    int64_t count = training->cfg->micro_batch;
    noised_batch_blank(&training->noised, &training->schedule, info, count);
    run_micro_batch(training, 0, false);
    log_info(training->run->log,
             "planned memory a rank: %.1f MiB of weights and moments, %.1f MiB for a step, %.1f MiB to sum "
             "gradients",
             (double)backend_bytes(training->backend) / 0x1p20,
             (double)arena_peak(tape_arena(training->tape)) / 0x1p20,
             (double)gradient_buckets_bytes(&training->buckets) / 0x1p20);
}

static void release(struct pretraining *training)
{
    if (training->optimiser.parameters) { // all of it was built
        gradient_buckets_clear(&training->buckets);
        optimiser_clear(&training->optimiser);
        tape_delete(training->tape);
        sample_order_clear(&training->order);
        history_clear(&training->history);
    }
    unet_delete(training->unet);
    sample_sheet_delete(training->sheet);
    noised_batch_clear(&training->noised);
    dataset_close(training->dataset);
    text_encoder_close(&training->text);
    if (training->backend) backend_close(training->backend);
    lineage_clear(&training->lineage);
    lineage_clear(&training->initial);
    free(training->training.checkpoint);
    free(training->training.csv);
    free(training->config_text);
    free(training->seed);
    free(training->loss);
}

static bool train(struct pretraining *training, struct fault *fault)
{
    const struct run *run = training->run;
    const struct pretrain_cfg *cfg = training->cfg;
    struct unet_config config;
    if (run_open_backend(run, &cfg->run, &training->backend, &training->dtype, fault))
        open_inputs(training, &config, fault); // 1
    if (!comm_agree(run->comm, fault)) return false;
    if (!build(training, &config, fault)) return false; // 2
    describe_training(training);
    report_plan(training);
    struct sample_sheet_settings sheet = {.prompts = cfg->sample_prompts,
                                          .steps = (int)cfg->sample_steps,
                                          .guidance = cfg->sample_guidance,
                                          .seed = (uint64_t)cfg->run.seed,
                                          .text_encoder = &training->text};
    sample_sheet_open(cfg->data_file, &training->lineage.latent, &sheet, &training->sheet, fault);
    if (!comm_agree(run->comm, fault)) return false;
    if (run->check_only) {
        report_memory(training);
        return true;
    }
    if (!training_resume(&training->training, fault)) return false;
    ask_batch(training, training->training.step);
    return training_run(&training->training, fault) &&                     // 3, 4
           training_finish(&training->training, cfg->teacher_file, fault); // 5
}

bool phase_pretrain(struct run *run, const struct pretrain_cfg *cfg, struct fault *fault)
{
    if (cfg->model == PRETRAIN_CLIP) return pretrain_clip(run, cfg, fault);
    struct pretraining training = {.run = run, .cfg = cfg};
    bool ok = train(&training, fault);
    release(&training);
    return ok;
}
