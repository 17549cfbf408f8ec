/* Phase evaluate (METHOD section 8).
 *
 *  1. router, data and assignment, and whether they belong together
 *  2. pictures: features, Frechet distance, CMMD, CLIP score (evaluate_pictures.c)
 *  3. every expert, and the teacher: errors at fixed timesteps and noises, MACs, weights, time
 *     (evaluate_denoising.c, evaluate_cost.c)
 *  4. the file and a table (evaluate_file.c)
 *
 * What is slow, features and errors, is kept in caches (row_cache.h), so a run that was interrupted, or is
 * repeated, goes on where it was. */
#define _POSIX_C_SOURCE 200809L // access
#include "phases/evaluate_parts.h"

#include "base/check.h"
#include "base/version.h"
#include "io/sha256.h"
#include "phases/data_text.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// ---- shared by the parts

struct interval interval_none(void)
{
    return (struct interval){NAN, NAN, NAN, NAN};
}

const char *evaluate_split_name(enum evaluate_split split)
{
    return split == EVALUATE_TRAIN ? "train" : "validation";
}

int64_t row_of_teacher(const struct evaluating *evaluating)
{
    return evaluating->cfg->teacher ? ROW_EXPERTS + evaluating->K : -1;
}

void row_name(const struct evaluating *evaluating, int64_t row, char name[ROW_NAME_SIZE])
{
    if (row == ROW_ALL)
        snprintf(name, ROW_NAME_SIZE, "all");
    else if (row == row_of_teacher(evaluating))
        snprintf(name, ROW_NAME_SIZE, "teacher");
    else
        snprintf(name, ROW_NAME_SIZE, "expert %lld", (long long)(row - ROW_EXPERTS));
}

char *evaluate_key(const struct evaluating *evaluating, enum dtype dtype)
{
    return check_format("program %s\n%s %s\ndata %s\nsplit %s\n", version_commit(),
                        evaluating->backend->ops->name, dtype_name(dtype), evaluating->data.content_id,
                        evaluate_split_name(evaluating->cfg->split));
}

char *evaluate_cache_path(const struct evaluating *evaluating, const char *name)
{
    return check_format("%s_%s.h5", evaluating->cfg->cache_file, name);
}

// ---- 1: inputs

/* Whether all that is read is there; a fault names the phase that makes what is not. Beside published metric
 * networks clip.h5 may be missing. */
static bool check_files(const struct evaluate_cfg *cfg, struct fault *fault)
{
    bool published = *cfg->inception || *cfg->clip_folder || *cfg->cmmd_folder;
    const struct {
        const char *path, *phase, *instead;
        bool needed;
    } files[] = {
        {cfg->data_file, "prepare", "", true},
        {cfg->router_file, "prune", "", true},
        {cfg->assignment_file, "assign", "", true},
        {cfg->teacher_file, "pretrain", "", cfg->teacher || cfg->experts == EXPERTS_SLICED},
        {cfg->samples_file, "sample", ", or set evaluate.pictures = false", cfg->pictures},
        {cfg->teacher_samples_file, "sample with sample.model = \"teacher\"",
         ", or set evaluate.teacher_pictures = false", cfg->pictures && cfg->teacher_pictures},
        {cfg->clip_file, "pretrain with pretrain.model = \"clip\"", ", or set evaluate.pictures = false",
         cfg->pictures && !published},
    };
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        if (files[f].needed && access(files[f].path, F_OK) != 0)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s is missing: it is made by %s%s", files[f].path,
                               files[f].phase, files[f].instead);
    return true;
}

static bool check_experts(const struct evaluate_cfg *cfg, int64_t K, struct fault *fault)
{
    for (int64_t k = 0; cfg->experts == EXPERTS_FINETUNED && k < K; k++) {
        char *path = expert_path(cfg->expert_file, k);
        bool there = access(path, F_OK) == 0;
        if (!there)
            fault_raise(fault, EXIT_CODE_INPUT,
                        "%s is missing: it is made by finetune, or set evaluate.experts = \"sliced\"", path);
        free(path);
        if (!there) return false;
    }
    return true;
}

/* Experts that were finetuned on the prompts of another assignment are not what this one's table is about. */
static bool check_training(const struct evaluating *evaluating, struct fault *fault)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    bool ok = true;
    for (int64_t k = 0; ok && cfg->experts == EXPERTS_FINETUNED && k < evaluating->K; k++) {
        char *path = expert_path(cfg->expert_file, k);
        struct h5_reader *reader = NULL;
        ok = h5_open(path, FILE_EXPERT, &reader, fault) &&
             provenance_check_parent(reader, "assignment.h5", evaluating->assignment.content_id,
                                     "run finetune again, or name its files.assignment", fault);
        h5_close(reader);
        free(path);
    }
    return ok;
}

static bool open_inputs(struct evaluating *evaluating, struct fault *fault)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    const char *split = evaluate_split_name(cfg->split);
    struct routing *routing = &evaluating->routing;
    if (!check_files(cfg, fault) || !routing_open(cfg->router_file, evaluating->backend, routing, fault) ||
        !check_experts(cfg, routing->router->config.K, fault) ||
        !lineage_open(cfg->data_file, FILE_DATA, &evaluating->data, fault) ||
        !lineage_check(&routing->lineage, cfg->router_file, &evaluating->data, cfg->data_file, fault) ||
        !data_text_open(evaluating->run, cfg->data_file, cfg->pipeline, evaluating->backend,
                        evaluating->dtype, &evaluating->text, fault) ||
        !dataset_open(cfg->data_file, split, &evaluating->text, &evaluating->dataset, fault))
        return false;
    evaluating->info = dataset_info(evaluating->dataset);
    evaluating->K = routing->router->config.K;
    if (cfg->pictures && !*cfg->pictures_source &&
        !lineage_check_pictures(&evaluating->data, cfg->data_file,
                                "name the files of the real ones in evaluate.pictures_source, or set "
                                "evaluate.pictures = false, which leaves the losses and the cost",
                                fault))
        return false;
    int64_t resolution = cfg->macs_resolution;
    return assignment_read(cfg->assignment_file, split, evaluating->info->items, routing, &evaluating->data,
                           &evaluating->assignment, fault) &&
           check_training(evaluating, fault) &&
           (resolution == 0 || unet_check_latents(&routing->unet->config, resolution, resolution, fault));
}

// ---- memory

static struct interval *intervals(int64_t M)
{
    struct interval *interval = check_malloc((size_t)M * sizeof *interval);
    for (int64_t m = 0; m < M; m++) interval[m] = interval_none();
    return interval;
}

static void make_rows(struct evaluating *evaluating)
{
    const struct assignment *assignment = &evaluating->assignment;
    int64_t M = evaluating->M = ROW_EXPERTS + evaluating->K + evaluating->cfg->teacher;
    evaluating->prompts = check_calloc((size_t)M, sizeof *evaluating->prompts);
    evaluating->pictures = check_calloc((size_t)M, sizeof *evaluating->pictures);
    evaluating->partners = check_calloc((size_t)M, sizeof *evaluating->partners);
    evaluating->parameters = check_calloc((size_t)M, sizeof *evaluating->parameters);
    evaluating->macs = check_calloc((size_t)M, sizeof *evaluating->macs);
    evaluating->seconds = check_calloc((size_t)M, sizeof *evaluating->seconds);
    evaluating->expert_ids = check_calloc((size_t)evaluating->K, SHA256_HEX_SIZE);
    for (int q = 0; q < QUANTITIES; q++) evaluating->value[q] = intervals(M);
    for (int q = 0; q < DISTANCES; q++) evaluating->population[q] = intervals(M);
    for (int q = 0; q < PICTURE_QUANTITIES; q++) evaluating->real[q] = intervals(M);
    for (int64_t m = 0; m < M; m++) evaluating->prompts[m] = assignment->prompts; // all, and the teacher
    for (int64_t k = 0; k < evaluating->K; k++) evaluating->prompts[ROW_EXPERTS + k] = assignment->count[k];
}

static void release(struct evaluating *evaluating)
{
    for (int q = 0; q < QUANTITIES; q++) free(evaluating->value[q]);
    for (int q = 0; q < DISTANCES; q++) free(evaluating->population[q]);
    for (int q = 0; q < PICTURE_QUANTITIES; q++) free(evaluating->real[q]);
    free(evaluating->prompts);
    free(evaluating->pictures);
    free(evaluating->partners);
    free(evaluating->parameters);
    free(evaluating->macs);
    free(evaluating->seconds);
    free(evaluating->loss);
    free(evaluating->distill_out);
    free(evaluating->teacher_loss);
    free(evaluating->expert_ids);
    teacher_clear(&evaluating->teacher);
    assignment_clear(&evaluating->assignment);
    dataset_close(evaluating->dataset);
    text_encoder_close(&evaluating->text);
    lineage_clear(&evaluating->data);
    routing_clear(&evaluating->routing);
    tape_delete(evaluating->tape);
    backend_close(evaluating->backend);
}

// ---- the phase

/* Of denoising a batch, the largest piece of work; planned, not measured. */
static void report_memory(const struct evaluating *evaluating)
{
    const struct backend *backend = evaluating->backend;
    double bytes = (double)backend_bytes_held(backend) + (double)arena_peak(tape_arena(evaluating->tape)) +
                   (double)arena_peak(backend->scratch);
    log_info(evaluating->run->log, "inputs fit together; planned memory: %.1f MiB a rank", bytes / (1 << 20));
}

static bool evaluate(struct evaluating *evaluating, struct fault *fault)
{
    const struct run *run = evaluating->run;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    open_inputs(evaluating, fault); // 1
    if (!comm_agree(run->comm, fault)) return false;
    make_rows(evaluating);
    log_info(run->log, "%lld experts (%s), %lld items of %s, %d timesteps", (long long)evaluating->K,
             cfg->experts == EXPERTS_SLICED ? "sliced" : "finetuned", (long long)evaluating->info->items,
             evaluate_split_name(cfg->split), cfg->timesteps.count);
    if (cfg->pictures && !evaluate_pictures(evaluating, fault)) return false; // 2
    if (!evaluate_models(evaluating, fault)) return false;                    // 3
    if (run->check_only) {
        report_memory(evaluating);
        return true;
    }
    evaluate_losses(evaluating);
    if (!evaluate_write(evaluating, fault)) return false; // 4
    evaluate_report(evaluating);
    log_info(run->log, "wrote %s", cfg->metrics_file);
    return true;
}

bool phase_evaluate(struct run *run, const struct evaluate_cfg *cfg, struct fault *fault)
{
    // METHOD section 7, where there are no samples that say it
    struct evaluating evaluating = {.run = run, .cfg = cfg, .sampling = {SAMPLER_PNDM, 25, 7.5}};
    if (!run_open_backend(run, &cfg->run, &evaluating.backend, &evaluating.dtype, fault)) return false;
    evaluating.tape = tape_new(evaluating.backend, evaluating.dtype);
    bool ok = evaluate(&evaluating, fault);
    release(&evaluating);
    return ok;
}
