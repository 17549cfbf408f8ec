/* Phase finetune: experts sliced out of the teacher and trained on their own prompts (METHOD section 6).
 *
 *  1. data, router, assignment and teacher, and whether they belong together
 *  2. which experts are still to be trained, and which ranks train which
 *  3. of each expert, by a group of ranks:
 *     a. the sliced network, its optimiser, and the checkpoint of an earlier run
 *     b. the loop: batch of its prompts, passes of teacher and expert, update, log
 *     c. the expert's file */
#include "phases/finetune.h"

#include "base/check.h"
#include "phases/assignment_file.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"
#include "phases/restart.h"
#include "train/history.h"
#include "train/optimiser_file.h"
#include "train/rank_dealing.h"
#include "train/sample_request.h"
#include "train/student.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAD_STEPS_MAX = 20 };

enum {
    COLUMN_LOSS, // the weighted sum of the three
    COLUMN_DDPM,
    COLUMN_DISTILL_OUT,
    COLUMN_DISTILL_BLOCK,
    COLUMN_NORM,
    COLUMN_LR,
    COLUMN_RATE,
    COLUMNS
};
static const struct history_column columns[COLUMNS] = {{"loss", 1, false},
                                                       {"ddpm", 1, false},
                                                       {"distill_out", 1, false},
                                                       {"distill_block", 1, false},
                                                       {"gradient_norm", 1, false},
                                                       {"learning_rate", 1, false},
                                                       {"samples_per_second", 1, true}};

/* Keys that may change between a run and its continuation. */
static const char *const free_keys[] = {"run.folder",
                                        "run.log",
                                        "run.log_all_ranks",
                                        "run.threads",
                                        "run.wall_clock_limit",
                                        "files.",
                                        "phase",
                                        "finetune.checkpoint_every",
                                        "comm.",
                                        "finetune.expert",
                                        "finetune.steps",
                                        "finetune.epochs",
                                        NULL};

/* What all groups of ranks have. */
struct finetuning {
    struct run *run;
    const struct finetune_cfg *cfg;
    struct backend *backend;
    enum dtype dtype;
    struct dataset *dataset;
    const struct dataset_info *info; // the data set's
    struct lineage lineage;          // of the data
    struct routing routing;
    struct assignment assignment;
    struct lineage teacher; // of the teacher file
    struct tape *tape;
};

/* One expert being trained by a group of ranks. */
struct expert_training {
    const struct finetuning *shared;
    const struct run *run;  // the group's: its communicator and log
    struct teacher teacher; // frozen
    struct expert expert;
    int64_t *item; // [prompts] places of its prompts in the split; owned
    int64_t prompts, steps;
    struct sample_order order;
    struct noised_batch noised;
    struct optimiser optimiser;
    struct gradient_buckets buckets;
    struct student student;
    struct history history;
    int64_t step;         // done
    int64_t first, count; // this rank's samples of the group's batch
    double *losses;       // [3, count]: ddpm, distill_out, distill_block
    char *path, *checkpoint, *csv;
    char label[32]; // "expert 3, step"
};

// ---- 1: inputs

static bool open_inputs(struct finetuning *tuning, struct fault *fault)
{
    const struct finetune_cfg *cfg = tuning->cfg;
    if (!lineage_open(cfg->data_file, FILE_DATA, &tuning->lineage, fault) ||
        !dataset_open(cfg->data_file, "train", &tuning->dataset, fault))
        return false;
    tuning->info = dataset_info(tuning->dataset);
    if (!routing_open(cfg->router_file, tuning->backend, &tuning->routing, fault) ||
        !assignment_read(cfg->assignment_file, "train", tuning->info->items, &tuning->routing,
                         &tuning->lineage, &tuning->assignment, fault))
        return false;
    return lineage_open(cfg->teacher_file, FILE_TEACHER, &tuning->teacher, fault) &&
           routing_check_teacher(&tuning->routing, cfg->router_file, tuning->teacher.content_id,
                                 cfg->teacher_file, fault) &&
           lineage_check(&tuning->teacher, cfg->teacher_file, &tuning->lineage, cfg->data_file, fault) &&
           unet_check_latents(&tuning->routing.unet->config, tuning->info->height, tuning->info->width,
                              fault);
}

static bool check_expert_number(const struct finetuning *tuning, struct fault *fault)
{
    int64_t wanted = tuning->cfg->expert, K = tuning->routing.router->config.K;
    return wanted < K || fault_raise(fault, EXIT_CODE_DECK,
                                     "finetune.expert is %lld, %s has experts 0..%lld (-1: all of them)",
                                     (long long)wanted, tuning->cfg->router_file, (long long)K - 1);
}

// ---- 2: what is to be done, and by whom

/* Steps of an expert with so many prompts: as many as asked for, or as its passes over them take. */
static int64_t steps_of(const struct finetune_cfg *cfg, int64_t prompts)
{
    if (prompts == 0) return 0;
    if (cfg->epochs == 0) return cfg->steps;
    return (int64_t)ceil(cfg->epochs * (double)prompts / (double)cfg->batch);
}

/* Whether expert k has its file already, with all its steps. A file of another router or deck is a fault. */
static bool is_finished(const struct finetuning *tuning, int64_t k, bool *finished, struct fault *fault)
{
    const struct finetune_cfg *cfg = tuning->cfg;
    char *path = expert_path(cfg->expert_file, k);
    *finished = false;
    bool ok = true;
    struct h5_reader *reader;
    if (access(path, F_OK) == 0) {
        ok = h5_open(path, FILE_EXPERT, &reader, fault);
        if (ok) {
            int64_t step;
            struct expert wanted = {.index = k};
            memcpy(wanted.router_id, tuning->routing.lineage.content_id, sizeof wanted.router_id);
            ok = restart_refuse_checkpoint(reader, fault) && expert_check_identity(reader, &wanted, fault) &&
                 restart_check_deck(reader, tuning->run->deck, free_keys, fault) &&
                 h5_read_one_int64(reader, "training/step", &step, fault);
            *finished = ok && step >= steps_of(cfg, tuning->assignment.count[k]);
            h5_close(reader);
        }
    }
    free(path);
    return ok;
}

/* The experts that are asked for and not finished, todo[] of up to K; rank 0 looks. Collective. */
static bool find_todo(const struct finetuning *tuning, int64_t *todo, int *count, struct fault *fault)
{
    const struct finetune_cfg *cfg = tuning->cfg;
    const struct comm *comm = tuning->run->comm;
    int64_t K = tuning->routing.router->config.K;
    *count = 0;
    for (int64_t k = 0; k < K; k++) {
        bool finished = false, asked = cfg->expert < 0 || cfg->expert == k;
        if (asked && comm_rank(comm) == 0) is_finished(tuning, k, &finished, fault);
        if (!comm_agree(comm, fault)) return false;
        finished = comm_any(comm, finished);
        if (finished) log_info(tuning->run->log, "expert %lld is finished", (long long)k);
        if (asked && !finished) todo[(*count)++] = k;
    }
    return true;
}

/* Time of an expert's training, in passes of the full UNet: of each sample the teacher's forward pass, and
 * the expert's forward pass and twice that for its backward pass. */
static double work_of(const struct finetuning *tuning, const double *ratio, int64_t k)
{
    return (double)steps_of(tuning->cfg, tuning->assignment.count[k]) * (1 + 3 * ratio[k]);
}

// ---- 3a: network, optimiser, checkpoint

/* Reads the teacher, slices the expert out of it, and freezes it (or gives it back, if nothing is distilled).
 */
static bool make_networks(struct expert_training *training, int64_t k, struct fault *fault)
{
    const struct finetuning *tuning = training->shared;
    const struct finetune_cfg *cfg = tuning->cfg;
    const struct unet_config *config = &tuning->routing.unet->config;
    struct teacher_gates gates = {config->ff_entries, config->depth_gates};
    if (!teacher_load(cfg->teacher_file, tuning->backend, gates, &training->teacher, fault)) return false;
    expert_slice(&training->teacher, &tuning->routing, k, true, &training->expert);
    if (cfg->w_distill_out > 0 || cfg->w_distill_block > 0) {
        parameter_set_freeze(&training->teacher.unet->parameters, tuning->dtype, false);
    } else {
        unet_delete(training->teacher.unet);
        training->teacher.unet = NULL;
    }
    return true;
}

static void make_training(struct expert_training *training)
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    int64_t ranks = comm_size(training->run->comm), rank = comm_rank(training->run->comm);
    double scale = cfg->lr_scale == LR_SCALE_SQRT_BATCH ? sqrt((double)cfg->batch) : 1;
    struct optimiser_config optimiser = {.learning_rate = cfg->learning_rate * scale,
                                         .warmup_steps = cfg->lr_warmup,
                                         .beta1 = cfg->beta1,
                                         .beta2 = cfg->beta2,
                                         .epsilon = cfg->epsilon,
                                         .weight_decay = cfg->weight_decay,
                                         .clip_norm = cfg->clip_norm,
                                         .ema_decay = cfg->ema_decay};
    struct parameter_set *parameters = &training->expert.unet->parameters;
    optimiser_init(&training->optimiser, &optimiser, parameters);
    gradient_buckets_init(&training->buckets, training->run->comm, parameters, (size_t)cfg->bucket_mib << 20,
                          cfg->deterministic);
    training->first = cfg->batch * rank / ranks;
    training->count = cfg->batch * (rank + 1) / ranks - training->first;
    training->student = (struct student){.teacher = training->teacher.unet,
                                         .unet = training->expert.unet,
                                         .info = training->shared->info,
                                         .weights = {cfg->w_ddpm, cfg->w_distill_out, cfg->w_distill_block},
                                         .micro_batch = cfg->micro_batch,
                                         .global_batch = cfg->batch,
                                         .recompute = cfg->recompute,
                                         .buckets = &training->buckets};
    training->losses = check_calloc(3 * (size_t)training->count, sizeof *training->losses);
    history_init(&training->history, columns, COLUMNS);
}

static void begin_training(struct expert_training *training, const struct finetuning *tuning,
                           const struct run *group, int64_t k, struct fault *fault)
{
    const struct finetune_cfg *cfg = tuning->cfg;
    *training = (struct expert_training){.shared = tuning, .run = group};
    training->prompts = tuning->assignment.count[k];
    training->steps = steps_of(cfg, training->prompts);
    training->item = assignment_items(&tuning->assignment, k);
    training->path = expert_path(cfg->expert_file, k);
    training->checkpoint = check_format("%s/finetune_%02lld.checkpoint.h5", cfg->run.folder, (long long)k);
    training->csv = check_format("%s/finetune_%02lld.csv", cfg->run.folder, (long long)k);
    snprintf(training->label, sizeof training->label, "expert %lld, step", (long long)k);
    if (training->prompts > 0)
        sample_order_init(&training->order, (uint64_t)cfg->run.seed, training->prompts);
    if (make_networks(training, k, fault)) make_training(training);
}

static void end_training(struct expert_training *training)
{
    if (training->optimiser.parameters) {
        gradient_buckets_clear(&training->buckets);
        optimiser_clear(&training->optimiser);
        history_clear(&training->history);
    }
    sample_order_clear(&training->order);
    noised_batch_clear(&training->noised);
    expert_clear(&training->expert);
    teacher_clear(&training->teacher);
    free(training->item);
    free(training->losses);
    free(training->path);
    free(training->checkpoint);
    free(training->csv);
}

static bool read_state(struct expert_training *training, struct h5_reader *reader, struct fault *fault)
{
    const struct finetuning *tuning = training->shared;
    return restart_check_deck(reader, training->run->deck, free_keys, fault) &&
           restart_check_data(reader, tuning->lineage.content_id, tuning->cfg->data_file, fault) &&
           expert_check_identity(reader, &training->expert, fault) &&
           optimiser_read_h5(&training->optimiser, reader, fault) &&
           h5_read_one_int64(reader, "training/step", &training->step, fault) &&
           history_read_h5(&training->history, reader, fault);
}

static bool resume(struct expert_training *training, struct fault *fault)
{
    if (access(training->checkpoint, F_OK) != 0) return true;
    struct h5_reader *reader;
    if (!h5_open(training->checkpoint, FILE_EXPERT, &reader, fault)) return false;
    bool ok = read_state(training, reader, fault);
    h5_close(reader);
    if (ok)
        log_info(training->run->log, "expert %lld: going on from step %lld of %s",
                 (long long)training->expert.index, (long long)training->step, training->checkpoint);
    return ok;
}

// ---- 3c: files

static bool write_all_of_it(struct expert_training *training, bool checkpoint, struct h5_writer *writer,
                            struct fault *fault)
{
    const struct optimiser *optimiser = &training->optimiser;
    const struct finetune_cfg *cfg = training->shared->cfg;
    return expert_write_identity(&training->expert, writer, fault) &&
           (checkpoint ? optimiser_write_h5(optimiser, writer, fault)
                       : optimiser_write_result_h5(optimiser, cfg->half, writer, fault)) &&
           h5_write_one_int64(writer, "training/step", training->step, fault) &&
           h5_write_one_int64(writer, "training/samples", training->step * cfg->batch, fault) &&
           h5_write_one_int64(writer, "training/prompts", training->prompts, fault) &&
           h5_write_one_int64(writer, "training/skipped", optimiser->skipped, fault) &&
           history_write_h5(&training->history, writer, fault);
}

/* One file, whole or not at all; the group's first rank writes, the verdict is shared. */
static bool write_file(struct expert_training *training, bool checkpoint, struct fault *fault)
{
    const struct run *run = training->run;
    const struct finetuning *tuning = training->shared;
    timer_start(run->timers, "write");
    if (comm_rank(run->comm) == 0) {
        struct h5_parent parents[] = {{"data.h5", tuning->lineage.content_id},
                                      {"teacher.h5", tuning->teacher.content_id},
                                      {"router.h5", tuning->routing.lineage.content_id},
                                      {"assignment.h5", tuning->assignment.content_id}};
        struct h5_provenance provenance =
            run_provenance(run, &tuning->cfg->run, tuning->backend, tuning->dtype, parents, 4);
        struct h5_writer *writer;
        if (h5_create(checkpoint ? training->checkpoint : training->path, FILE_EXPERT, &writer, fault)) {
            if (write_all_of_it(training, checkpoint, writer, fault))
                h5_finish(writer, &provenance, NULL, fault);
            else
                h5_abandon(writer);
        }
    }
    timer_stop(run->timers, "write");
    return comm_agree(run->comm, fault);
}

// ---- 3b: the loop

/* Asks for this rank's samples of a step: the expert's prompts in the run's order, random flips, some prompts
 * dropped. */
static void ask_batch(struct expert_training *training, int64_t step)
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    struct sample_request request = {.seed = (uint64_t)cfg->run.seed,
                                     .step = step,
                                     .batch = cfg->batch,
                                     .first = training->first,
                                     .count = training->count,
                                     .prompt_dropout = cfg->prompt_dropout,
                                     .item = training->item};
    sample_request_ask(&request, &training->order, training->shared->dataset);
}

/* The three unweighted losses of the step, means over the group's batch, and their weighted sum first. */
static void mean_losses(const struct expert_training *training, double values[COLUMNS])
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    double sum[3] = {0};
    for (int term = 0; term < 3; term++)
        for (int64_t i = 0; i < training->count; i++)
            sum[term] += training->losses[term * training->count + i];
    comm_sum_ordered(training->run->comm, sum, 3);
    for (int term = 0; term < 3; term++) values[COLUMN_DDPM + term] = sum[term] / (double)cfg->batch;
    values[COLUMN_LOSS] = cfg->w_ddpm * values[COLUMN_DDPM] +
                          cfg->w_distill_out * values[COLUMN_DISTILL_OUT] +
                          cfg->w_distill_block * values[COLUMN_DISTILL_BLOCK];
}

/* Forward and backward passes of this rank's samples. */
static void run_passes(struct expert_training *training)
{
    int64_t count = training->count;
    double *losses = training->losses;
    struct student_result result = {losses, losses + count, losses + 2 * count, NULL};
    parameter_set_zero_gradients(&training->expert.unet->parameters);
    student_run(training->shared->tape, &training->student, &training->noised, NULL, &result);
}

/* One step; values[COLUMNS] are what is logged of it. */
static bool run_step(struct expert_training *training, double values[COLUMNS], struct fault *fault)
{
    const struct finetuning *tuning = training->shared;
    const struct finetune_cfg *cfg = tuning->cfg;
    const struct run *run = training->run;
    double began = timer_now();
    struct batch batch;
    timer_start(run->timers, "data");
    if (dataset_take(tuning->dataset, &batch, fault)) {
        noised_batch_make(&training->noised, &training->expert.schedule, tuning->info, &batch,
                          (uint64_t)cfg->run.seed, (uint64_t)training->step, (uint64_t)training->first,
                          cfg->min_snr);
        if (training->step + 1 < training->steps) ask_batch(training, training->step + 1);
    }
    timer_stop(run->timers, "data");
    if (!comm_agree(run->comm, fault)) return false;

    timer_start(run->timers, "passes");
    run_passes(training);
    timer_stop(run->timers, "passes");

    timer_start(run->timers, "update");
    gradient_buckets_finish(&training->buckets);
    mean_losses(training, values);
    values[COLUMN_LR] = optimiser_learning_rate(&training->optimiser);
    values[COLUMN_NORM] = optimiser_update(&training->optimiser);
    timer_stop(run->timers, "update");
    values[COLUMN_RATE] = (double)cfg->batch / (timer_now() - began);
    training->step++;
    return true;
}

static bool stop_here(struct expert_training *training, struct fault *fault)
{
    if (!write_file(training, true, fault)) return false;
    const char *reason = training->run->stop->reason;
    return fault_raise(fault, EXIT_CODE_STOPPED,
                       "stopped by %s after step %lld of %lld of expert %lld; run again to go on from %s",
                       reason ? reason : "another rank", (long long)training->step,
                       (long long)training->steps, (long long)training->expert.index, training->checkpoint);
}

static bool run_loop(struct expert_training *training, struct fault *fault)
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    const struct run *run = training->run;
    struct progress progress = progress_start(run->log, training->label, training->step, training->steps);
    double smooth = 0;
    int bad = 0;
    if (training->step < training->steps) ask_batch(training, training->step);
    while (training->step < training->steps) {
        double values[COLUMNS];
        if (!run_step(training, values, fault)) return false;
        bad = isfinite(values[COLUMN_NORM]) ? 0 : bad + 1;
        if (bad == BAD_STEPS_MAX)
            return fault_raise(fault, EXIT_CODE_INTERNAL,
                               "expert %lld: the gradient was not finite in %d steps in a row, up to step "
                               "%lld: lower finetune.learning_rate, or use precision fp32",
                               (long long)training->expert.index, bad, (long long)training->step);
        smooth = smooth == 0 ? values[COLUMN_LOSS] : 0.98 * smooth + 0.02 * values[COLUMN_LOSS];
        progress_update(&progress, training->step, "loss %.4f, %.0f samples/s", smooth, values[COLUMN_RATE]);
        history_add(&training->history, training->step, values, fault); // the first rank's goes to the CSV
        if (!comm_agree(run->comm, fault)) return false;
        if (comm_any(run->comm, stop_asked(run->stop))) {
            progress_pause(&progress);
            return stop_here(training, fault);
        }
        if (training->step % cfg->checkpoint_every == 0 && training->step < training->steps &&
            !write_file(training, true, fault))
            return false;
    }
    progress_pause(&progress);
    return true;
}

// ---- 3: one expert

static void report_expert(const struct expert_training *training)
{
    const struct run *run = training->run;
    log_info(run->log,
             "expert %lld: %lld prompts, %.4f of the teacher's MACs, %.2f M parameters, %lld steps of "
             "%lld samples on %d rank%s",
             (long long)training->expert.index, (long long)training->prompts, training->expert.ratio,
             (double)parameter_set_elements(&training->expert.unet->parameters) / 1e6,
             (long long)training->steps, (long long)training->shared->cfg->batch, comm_size(run->comm),
             comm_size(run->comm) == 1 ? "" : "s");
}

static bool train(struct expert_training *training, struct fault *fault)
{
    const struct run *run = training->run;
    report_expert(training);
    if (resume(training, fault) && comm_rank(run->comm) == 0)
        history_open_csv(&training->history, training->csv, fault);
    if (!comm_agree(run->comm, fault) || !run_loop(training, fault)) return false;
    if (training->steps > 0 && !write_file(training, true, fault)) return false;
    if (!write_file(training, false, fault)) return false;
    if (training->prompts == 0)
        log_warning(run->log, "expert %lld has no training prompt: %s holds it as sliced, untrained",
                    (long long)training->expert.index, training->path);
    else
        log_info(run->log, "wrote %s: %lld steps, %lld skipped", training->path, (long long)training->step,
                 (long long)training->optimiser.skipped);
    return true;
}

/* Trains expert k. Collective over the group. */
static bool finetune_expert(const struct finetuning *tuning, const struct run *group, int64_t k,
                            struct fault *fault)
{
    struct expert_training training;
    begin_training(&training, tuning, group, k, fault);
    bool ok = comm_agree(group->comm, fault) && train(&training, fault);
    end_training(&training);
    return ok;
}

/* --check: one micro-batch on the plan backend tells the memory of a step. */
static bool report_memory(const struct finetuning *tuning, int64_t k, struct fault *fault)
{
    struct expert_training training;
    begin_training(&training, tuning, tuning->run, k, fault);
    if (!comm_agree(tuning->run->comm, fault)) return false;
    report_expert(&training);
    const struct dataset_info *info = tuning->info;
    int64_t count = tuning->cfg->micro_batch < training.count ? tuning->cfg->micro_batch : training.count;
    struct batch batch = {
        .count = count,
        .latents = check_calloc((size_t)(count * info->height * info->width * info->channels), sizeof(float)),
        .text_states = check_calloc((size_t)(count * info->tokens * info->text_width), sizeof(float)),
        .text_mask = check_calloc((size_t)(count * info->tokens), sizeof(float))};
    noised_batch_make(&training.noised, &training.expert.schedule, info, &batch, 0, 0, 0, 0);
    run_passes(&training);
    log_info(tuning->run->log,
             "expert %lld: planned memory a rank: %.1f MiB of weights and moments, %.1f MiB for a step",
             (long long)k, (double)backend_bytes_held(tuning->backend) / 0x1p20,
             (double)arena_peak(tape_arena(tuning->tape)) / 0x1p20);
    free(batch.latents);
    free(batch.text_states);
    free(batch.text_mask);
    end_training(&training);
    return true;
}

// ---- 2 again: groups of ranks

/* Experts without prompts are written as they are, by all ranks together; todo[] keeps the others. */
static bool write_untrained(const struct finetuning *tuning, int64_t *todo, int *count, struct fault *fault)
{
    int kept = 0;
    for (int i = 0; i < *count; i++) {
        if (tuning->assignment.count[todo[i]] > 0)
            todo[kept++] = todo[i];
        else if (!finetune_expert(tuning, tuning->run, todo[i], fault))
            return false;
    }
    *count = kept;
    return true;
}

/* Deals todo[count] out to groups of ranks, and trains those of this rank's group. Collective. */
static bool train_in_groups(struct finetuning *tuning, const int64_t *todo, int count, struct fault *fault)
{
    struct run *run = tuning->run;
    int rank = comm_rank(run->comm);
    int64_t K = tuning->routing.router->config.K;
    double *ratio = check_malloc((size_t)K * sizeof *ratio),
           *work = check_malloc((size_t)count * sizeof *work);
    routing_total_ratios(&tuning->routing, tuning->routing.latents[0], tuning->routing.latents[1], ratio);
    for (int i = 0; i < count; i++) work[i] = work_of(tuning, ratio, todo[i]);
    struct rank_dealing dealing = rank_dealing_make(comm_size(run->comm), count, work);
    int mine = dealing.group_of_rank[rank];
    struct log log = *run->log;
    struct run group = *run;
    group.comm = comm_split(run->comm, mine);
    group.log = &log;
    log.rank = comm_rank(group.comm);
    if (log.rank == 0) stop_watch(run->stop, tuning->cfg->run.folder); // groups stop each by itself
    bool ok = true;
    for (int i = 0; ok && i < count; i++)
        if (dealing.group_of_piece[i] == mine) ok = finetune_expert(tuning, &group, todo[i], fault);
    if (!ok && fault->code != EXIT_CODE_STOPPED)
        log_warning(&log, "%s; other experts are trained to their end", fault->text);
    comm_rejoin(run->comm, group.comm, fault);
    comm_free(group.comm);
    rank_dealing_clear(&dealing);
    free(ratio);
    free(work);
    return fault->code == EXIT_CODE_OK;
}

static bool finetune(struct finetuning *tuning, struct fault *fault)
{
    struct run *run = tuning->run;
    if (open_inputs(tuning, fault)) check_expert_number(tuning, fault); // 1
    if (!comm_agree(run->comm, fault)) return false;
    tuning->tape = tape_new(tuning->backend, tuning->dtype);
    int64_t *todo = check_malloc((size_t)tuning->routing.router->config.K * sizeof *todo);
    int count;
    bool ok = find_todo(tuning, todo, &count, fault); // 2
    if (run->check_only) {
        for (int i = 0; ok && i < count; i++) ok = report_memory(tuning, todo[i], fault);
    } else {
        ok = ok && write_untrained(tuning, todo, &count, fault) &&
             (count == 0 || train_in_groups(tuning, todo, count, fault)); // 3
    }
    free(todo);
    return ok;
}

static void release(struct finetuning *tuning)
{
    tape_delete(tuning->tape);
    routing_clear(&tuning->routing);
    assignment_clear(&tuning->assignment);
    lineage_clear(&tuning->lineage);
    lineage_clear(&tuning->teacher);
    dataset_close(tuning->dataset);
    backend_close(tuning->backend);
}

bool phase_finetune(struct run *run, const struct finetune_cfg *cfg, struct fault *fault)
{
    struct finetuning tuning = {.run = run, .cfg = cfg};
    if (!run_open_backend(run, &cfg->run, &tuning.backend, &tuning.dtype, fault)) return false;
    bool ok = finetune(&tuning, fault);
    release(&tuning);
    return ok;
}
