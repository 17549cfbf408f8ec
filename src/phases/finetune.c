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
#include "phases/bench_speed.h"
#include "phases/data_text.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"
#include "phases/restart.h"
#include "phases/training.h"
#include "train/rank_dealing.h"
#include "train/sample_request.h"
#include "train/student.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
static const struct history_column columns[COLUMNS] = {{"loss", 1, HISTORY_NUMBER},
                                                       {"ddpm", 1, HISTORY_NUMBER},
                                                       {"distill_out", 1, HISTORY_NUMBER},
                                                       {"distill_block", 1, HISTORY_NUMBER},
                                                       {"gradient_norm", 1, HISTORY_NUMBER},
                                                       {"learning_rate", 1, HISTORY_NUMBER},
                                                       {"samples_per_second", 1, HISTORY_TIMING}};

/* Keys that may change between a run and its continuation. */
static const char *const free_keys[] = {
    "run.threads",     "comm.", "finetune.checkpoint_every", "finetune.expert", "finetune.steps",
    "finetune.epochs", NULL};

/* What all groups of ranks have. */
struct finetuning {
    struct run *run;
    const struct finetune_cfg *cfg;
    struct backend *backend;
    enum dtype dtype;
    struct text_encoder text; // of token ids; zero: the data have states
    struct dataset *dataset;
    const struct dataset_info *info; // the data set's
    struct lineage lineage;          // of the data
    struct routing routing;
    struct assignment assignment;
    struct lineage teacher; // of the teacher file
    struct tape *tape;
    bool cuda_aware; // MPI sums gradients in the GPUs' memory
};

/* One expert being trained by a group of ranks. */
struct expert_training {
    const struct finetuning *shared;
    struct training training; // of the group
    struct teacher teacher;   // frozen
    struct expert expert;
    struct h5_parent parent[4];
    int64_t *item; // [prompts] places of its prompts in the split; owned
    int64_t prompts;
    struct sample_order order;
    struct noised_batch noised;
    struct optimiser optimiser;
    struct gradient_buckets buckets;
    struct student student;
    struct history history;
    int64_t first, count; // this rank's samples of the group's batch
    double *losses;       // [3, count]: ddpm, distill_out, distill_block
    char label[32];       // "expert 3, step"
};

// ---- 1: inputs

static bool open_inputs(struct finetuning *tuning, struct fault *fault)
{
    const struct finetune_cfg *cfg = tuning->cfg;
    if (!lineage_open(cfg->data_file, FILE_DATA, &tuning->lineage, fault) ||
        !data_text_open(tuning->run, cfg->data_file, cfg->pipeline, tuning->backend, tuning->dtype,
                        &tuning->text, fault) ||
        !dataset_open(cfg->data_file, "train", &tuning->text, &tuning->dataset, fault))
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

/* Whether a finished file or a checkpoint was trained on the prompts that are there now. */
static bool check_prompts(const struct finetuning *tuning, struct h5_reader *reader, struct fault *fault)
{
    static const char advice[] = "remove it to train anew";
    return provenance_check_parent(reader, "data.h5", tuning->lineage.content_id, advice, fault) &&
           provenance_check_parent(reader, "assignment.h5", tuning->assignment.content_id, advice, fault);
}

/* Whether expert k has its file already, with all its steps. A file of another router, deck, data or
 * assignment is a fault. */
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
            ok = restart_refuse_checkpoint(reader, fault) &&
                 expert_check_identity(reader, &tuning->routing, k, fault) &&
                 check_prompts(tuning, reader, fault) &&
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

static bool distils(const struct finetune_cfg *cfg)
{
    return cfg->w_distill_out > 0 || cfg->w_distill_block > 0;
}

/* Time of an expert's training, in passes of the full UNet: of each sample the teacher's forward pass, if it
 * is distilled, and the expert's forward pass and twice that for its backward pass. */
static double work_of(const struct finetuning *tuning, const double *ratio, int64_t k)
{
    const struct finetune_cfg *cfg = tuning->cfg;
    return (double)steps_of(cfg, tuning->assignment.count[k]) * (distils(cfg) + 3 * ratio[k]);
}

// ---- 3a: network, optimiser, checkpoint

/* Reads the teacher, slices the expert out of it, and freezes it (or gives it back, if nothing is distilled).
 */
static bool make_networks(struct expert_training *training, int64_t k, struct fault *fault)
{
    const struct finetuning *tuning = training->shared;
    const struct finetune_cfg *cfg = tuning->cfg;
    const struct unet_config *config = &tuning->routing.unet->config;
    struct teacher_gates gates = teacher_gates_of(config);
    if (!teacher_load(cfg->teacher_file, tuning->backend, gates, &training->teacher, fault)) return false;
    expert_slice(&training->teacher, &tuning->routing, k, true, &training->expert);
    if (distils(cfg)) {
        parameter_set_freeze(&training->teacher.unet->parameters, tuning->dtype, false);
    } else {
        unet_delete(training->teacher.unet);
        training->teacher.unet = NULL;
    }
    return true;
}

/* How the group's ranks share the batch, and what they learn from. */
static void make_student(struct expert_training *training)
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    const struct comm *comm = training->training.run->comm;
    int64_t ranks = comm_size(comm), rank = comm_rank(comm);
    training->first = cfg->batch * rank / ranks;
    training->count = cfg->batch * (rank + 1) / ranks - training->first;
    training->losses = check_calloc(3 * (size_t)training->count, sizeof *training->losses);
    training->student = (struct student){.teacher = training->teacher.unet,
                                         .unet = training->expert.unet,
                                         .info = training->shared->info,
                                         .weights = {cfg->w_ddpm, cfg->w_distill_out, cfg->w_distill_block},
                                         .micro_batch = cfg->micro_batch,
                                         .global_batch = cfg->batch,
                                         .recompute = cfg->recompute,
                                         .buckets = &training->buckets};
    if (training->prompts > 0)
        sample_order_init(&training->order, (uint64_t)cfg->run.seed, training->prompts);
}

static void make_optimiser(struct expert_training *training)
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    struct optimiser_config optimiser = cfg->optimiser;
    if (cfg->lr_scale == LR_SCALE_SQRT_BATCH) optimiser.learning_rate *= sqrt((double)cfg->batch);
    struct parameter_set *parameters = &training->expert.unet->parameters;
    optimiser_init(&training->optimiser, &optimiser, parameters);
    gradient_buckets_init(&training->buckets, training->training.run->comm, parameters,
                          (size_t)cfg->bucket_mib << 20, cfg->deterministic, training->shared->cuda_aware);
    history_init(&training->history, columns, COLUMNS);
}

static bool check_checkpoint(void *task, struct h5_reader *reader, struct fault *fault)
{
    const struct expert_training *training = task;
    return expert_check_identity(reader, &training->shared->routing, training->expert.index, fault) &&
           check_prompts(training->shared, reader, fault);
}

static bool write_description(void *task, struct h5_writer *writer, bool finished, struct fault *fault)
{
    const struct expert_training *training = task;
    (void)finished;
    return expert_write_identity(&training->expert, writer, fault) &&
           h5_write_one_int64(writer, "training/prompts", training->prompts, fault);
}

static bool run_step(void *task, double *values, struct fault *fault);

static const struct training_task functions = {
    .run_step = run_step, .look = NULL, .write = write_description, .check = check_checkpoint};

/* What is shared with other trainings. */
static void describe_training(struct expert_training *training, const struct run *group, int64_t k)
{
    const struct finetuning *tuning = training->shared;
    const struct finetune_cfg *cfg = tuning->cfg;
    const struct h5_parent parents[] = {{"data.h5", tuning->lineage.content_id},
                                        {"teacher.h5", tuning->teacher.content_id},
                                        {"router.h5", tuning->routing.lineage.content_id},
                                        {"assignment.h5", tuning->assignment.content_id}};
    memcpy(training->parent, parents, sizeof parents);
    snprintf(training->label, sizeof training->label, "expert %lld, step", (long long)k);
    training->training = (struct training){
        .run = group,
        .run_cfg = &cfg->run,
        .label = training->label,
        .section = "finetune",
        .free_keys = free_keys,
        .data_file = cfg->data_file,
        .steps = steps_of(cfg, training->prompts),
        .batch = cfg->batch,
        .checkpoint_every = cfg->checkpoint_every,
        .half = cfg->half,
        .functions = &functions,
        .task = training,
        .kind = FILE_EXPERT,
        .backend = tuning->backend,
        .dtype = tuning->dtype,
        .optimiser = &training->optimiser,
        .history = &training->history,
        .loss = COLUMN_LOSS,
        .gradient_norm = COLUMN_NORM,
        .rate = COLUMN_RATE,
        .parent = training->parent,
        .parents = 4,
        .checkpoint = check_format("%s/finetune_%02lld.checkpoint.h5", cfg->run.folder, (long long)k),
        .csv = check_format("%s/finetune_%02lld.csv", cfg->run.folder, (long long)k)};
}

static bool begin_training(struct expert_training *training, const struct finetuning *tuning,
                           const struct run *group, int64_t k, struct fault *fault)
{
    *training = (struct expert_training){.shared = tuning, .prompts = tuning->assignment.count[k]};
    training->item = assignment_items(&tuning->assignment, k);
    describe_training(training, group, k);
    if (make_networks(training, k, fault)) {
        make_student(training);
        make_optimiser(training);
    }
    return comm_agree(group->comm, fault);
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
    free(training->training.checkpoint);
    free(training->training.csv);
}

// ---- 3b: the loop

/* Asks for this rank's samples of a step: the expert's prompts in the run's order, random views, some prompts
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
static void mean_losses(const struct expert_training *training, double *values)
{
    const struct finetune_cfg *cfg = training->shared->cfg;
    double sum[3] = {0};
    for (int term = 0; term < 3; term++)
        for (int64_t i = 0; i < training->count; i++)
            sum[term] += training->losses[term * training->count + i];
    comm_sum_ordered(training->training.run->comm, sum, 3);
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
static bool run_step(void *task, double *values, struct fault *fault)
{
    struct expert_training *training = task;
    const struct finetuning *tuning = training->shared;
    const struct finetune_cfg *cfg = tuning->cfg;
    const struct run *run = training->training.run;
    int64_t step = training->training.step;
    double began = timer_now();
    struct batch batch;
    timer_start(run->timers, "data");
    if (dataset_take(tuning->dataset, &batch, fault)) {
        noised_batch_make(&training->noised, &training->expert.schedule, tuning->info, &batch,
                          (uint64_t)cfg->run.seed, (uint64_t)step, (uint64_t)training->first, cfg->min_snr);
        if (step + 1 < training->training.steps) ask_batch(training, step + 1);
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
    values[COLUMN_NORM] = optimiser_update(&training->optimiser, values[COLUMN_LOSS]);
    timer_stop(run->timers, "update");
    values[COLUMN_RATE] = (double)cfg->batch / (timer_now() - began);
    training->training.step++;
    return true;
}

// ---- 3: one expert

static void report_expert(const struct expert_training *training)
{
    const struct run *run = training->training.run;
    log_info(run->log,
             "expert %lld: %lld prompts, %.4f of the teacher's MACs, %.2f M parameters, %lld steps of "
             "%lld samples on %d rank%s",
             (long long)training->expert.index, (long long)training->prompts, training->expert.ratio,
             (double)parameter_set_elements(&training->expert.unet->parameters) / 1e6,
             (long long)training->training.steps, (long long)training->training.batch, comm_size(run->comm),
             comm_size(run->comm) == 1 ? "" : "s");
    if (training->prompts == 0)
        log_warning(run->log, "expert %lld has no training prompt: it is left as sliced, untrained",
                    (long long)training->expert.index);
}

static bool train(struct expert_training *training, struct fault *fault)
{
    report_expert(training);
    if (!training_resume(&training->training, fault)) return false;
    if (training->training.step < training->training.steps) ask_batch(training, training->training.step);
    if (!training_run(&training->training, fault)) return false;
    char *path = expert_path(training->shared->cfg->expert_file, training->expert.index);
    bool ok = training_finish(&training->training, path, fault);
    free(path);
    return ok;
}

/* Trains expert k. Collective over the group. */
static bool finetune_expert(const struct finetuning *tuning, const struct run *group, int64_t k,
                            struct fault *fault)
{
    struct expert_training training;
    bool ok = begin_training(&training, tuning, group, k, fault) && train(&training, fault);
    end_training(&training);
    return ok;
}

static double total_macs(const struct unet *unet, const struct dataset_info *info)
{
    struct unit_macs macs = unet_macs(unet, info->height, info->width, info->tokens);
    double total = macs.total;
    unit_macs_free(&macs);
    return total;
}

/* The teacher's forward pass, the expert's, and the backward pass, which is twice that. */
static void report_time(const struct expert_training *training)
{
    const struct finetuning *tuning = training->shared;
    const struct run *group = training->training.run;
    double samples = ceil((double)training->training.batch / comm_size(group->comm)); // of a rank
    double macs = total_macs(training->teacher.unet, tuning->info) +
                  3 * total_macs(training->expert.unet, tuning->info);
    bench_speed_report(group, tuning->cfg->bench_file,
                       &(struct planned_work){.speed = "finetune_step/speed",
                                              .what = "a step",
                                              .flops = 2 * samples * macs,
                                              .count = training->training.steps});
}

/* --check: one micro-batch on the plan backend tells the memory of a step, that of the group's rank that
 * needs the most. Collective over the group. */
static bool report_memory(const struct finetuning *tuning, const struct run *group, int64_t k,
                          struct fault *fault)
{
    struct expert_training training;
    if (!begin_training(&training, tuning, group, k, fault)) {
        end_training(&training);
        return false;
    }
    report_expert(&training);
    training.student.buckets = NULL; // there is nothing to sum, and nobody would wait for the sums
    const struct dataset_info *info = tuning->info;
    int64_t count = tuning->cfg->micro_batch < training.count ? tuning->cfg->micro_batch : training.count;
    noised_batch_blank(&training.noised, &training.expert.schedule, info, count);
    run_passes(&training);
    double step = comm_max(group->comm, (double)arena_peak(tape_arena(tuning->tape)));
    log_info(group->log,
             "expert %lld: planned memory a rank: %.1f MiB of weights and moments, %.1f MiB for a step, %.1f "
             "MiB to sum gradients",
             (long long)k, (double)backend_bytes_held(tuning->backend) / 0x1p20, step / 0x1p20,
             (double)gradient_buckets_bytes(&training.buckets) / 0x1p20);
    report_time(&training);
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

/* Trains expert k, or says what that would take. Collective over the group. */
static bool run_expert(const struct finetuning *tuning, const struct run *group, int64_t k,
                       struct fault *fault)
{
    return group->check_only ? report_memory(tuning, group, k, fault)
                             : finetune_expert(tuning, group, k, fault);
}

/* Deals todo[count] out to groups of ranks, and runs those of this rank's group. Collective. */
static bool run_in_groups(struct finetuning *tuning, const int64_t *todo, int count, struct fault *fault)
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
        if (dealing.group_of_piece[i] == mine) ok = run_expert(tuning, &group, todo[i], fault);
    if (!ok && fault->code != EXIT_CODE_STOPPED && dealing.groups > 1)
        log_warning(&log, "%s; the experts of other ranks are trained to their end", fault->text);
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
    if (!cuda_aware_find(run->comm, tuning->backend, tuning->cfg->cuda_aware, &tuning->cuda_aware, fault))
        return false;
    int64_t *todo = check_malloc((size_t)tuning->routing.router->config.K * sizeof *todo);
    int count;
    bool ok = find_todo(tuning, todo, &count, fault) && // 2
              (run->check_only || write_untrained(tuning, todo, &count, fault)) &&
              (count == 0 || run_in_groups(tuning, todo, count, fault)); // 3
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
    text_encoder_close(&tuning->text);
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
