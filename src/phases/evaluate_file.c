/* Phase evaluate: metrics.h5 and the table. */
#include "phases/evaluate_parts.h"

#include "base/check.h"
#include "phases/provenance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 64 };

const char *quantity_name(enum quantity quantity)
{
    static const char *const names[QUANTITIES] = {[QUANTITY_FRECHET] = "frechet",
                                                  [QUANTITY_CMMD] = "cmmd",
                                                  [QUANTITY_CLIP_SCORE] = "clip_score",
                                                  [QUANTITY_DENOISING_LOSS] = "denoising_loss",
                                                  [QUANTITY_DISTILL_OUT] = "distill_out"};
    return names[quantity];
}

// ---- the file

/* `prefix``name``suffix` [M] and the same with _interval [M, 2]. */
static bool write_intervals(struct h5_writer *writer, const char *prefix, enum quantity quantity,
                            const char *suffix, int64_t M, const struct interval *intervals,
                            struct fault *fault)
{
    char name[NAME_SIZE], of_interval[NAME_SIZE + 16];
    double *value = check_malloc((size_t)M * sizeof *value),
           *bounds = check_malloc(2 * (size_t)M * sizeof *bounds);
    for (int64_t m = 0; m < M; m++) {
        value[m] = intervals[m].value;
        bounds[2 * m] = intervals[m].low;
        bounds[2 * m + 1] = intervals[m].high;
    }
    snprintf(name, sizeof name, "%s%s%s", prefix, quantity_name(quantity), suffix);
    snprintf(of_interval, sizeof of_interval, "%s_interval", name);
    bool ok = h5_write_double(writer, name, 1, &M, value, fault) &&
              h5_write_double(writer, of_interval, 2, (int64_t[]){M, 2}, bounds, fault);
    free(bounds);
    free(value);
    return ok;
}

static bool write_quantities(const struct evaluating *evaluating, struct h5_writer *writer,
                             struct fault *fault)
{
    int64_t M = evaluating->M;
    bool pictures = evaluating->cfg->pictures, teacher = evaluating->cfg->teacher;
    for (enum quantity q = 0; q < QUANTITIES; q++) {
        bool measured = q < PICTURE_QUANTITIES && pictures && evaluating->measured_with[q].width > 0;
        if (q < PICTURE_QUANTITIES ? !measured : q == QUANTITY_DISTILL_OUT && !teacher) continue;
        if (!write_intervals(writer, "", q, "", M, evaluating->value[q], fault)) return false;
        if (q < DISTANCES &&
            !write_intervals(writer, "", q, "_population", M, evaluating->population[q], fault))
            return false;
        if (q < PICTURE_QUANTITIES && !write_intervals(writer, "real/", q, "", M, evaluating->real[q], fault))
            return false;
    }
    return true;
}

/* Which network each quantity of pictures was measured with. */
static bool write_networks(const struct evaluating *evaluating, struct h5_writer *writer, struct fault *fault)
{
    bool ok = true;
    for (int q = 0; ok && q < PICTURE_QUANTITIES; q++) {
        const struct measured_with *with = &evaluating->measured_with[q];
        char name[NAME_SIZE], id[NAME_SIZE + 16], features[NAME_SIZE + 16];
        if (with->width == 0) continue;
        snprintf(name, sizeof name, "network/%s", quantity_name((enum quantity)q));
        snprintf(id, sizeof id, "%s_id", name);
        snprintf(features, sizeof features, "%s_features", name);
        ok = h5_write_text(writer, name, with->kind, fault) && h5_write_text(writer, id, with->id, fault) &&
             h5_write_one_int64(writer, features, with->width, fault);
    }
    return ok;
}

static bool write_models(const struct evaluating *evaluating, struct h5_writer *writer, struct fault *fault)
{
    int64_t M = evaluating->M;
    char(*name)[ROW_NAME_SIZE] = check_malloc((size_t)M * sizeof *name);
    const char **names = check_malloc((size_t)M * sizeof *names);
    for (int64_t m = 0; m < M; m++) {
        row_name(evaluating, m, name[m]);
        names[m] = name[m];
    }
    bool ok = h5_write_strings(writer, "model", 1, &M, names, fault) &&
              h5_write_int64(writer, "prompts", 1, &M, evaluating->prompts, fault) &&
              h5_write_int64(writer, "parameters", 1, &M, evaluating->parameters, fault) &&
              h5_write_double(writer, "macs", 1, &M, evaluating->macs, fault) &&
              h5_write_double(writer, "seconds_per_image", 1, &M, evaluating->seconds, fault) &&
              (!evaluating->cfg->pictures ||
               (h5_write_int64(writer, "count", 1, &M, evaluating->pictures, fault) &&
                h5_write_int64(writer, "real/count", 1, &M, evaluating->partners, fault)));
    free(names);
    free(name);
    return ok;
}

static bool write_items(const struct evaluating *evaluating, struct h5_writer *writer, struct fault *fault)
{
    const struct integer_list *timesteps = &evaluating->cfg->timesteps;
    int64_t N = evaluating->info->items, T = timesteps->count, cases[] = {N, T};
    int64_t *item = check_malloc((size_t)N * sizeof *item);
    double *mean = check_calloc((size_t)N, sizeof *mean);
    for (int64_t i = 0; i < N; i++) {
        item[i] = i;
        for (int64_t t = 0; t < T; t++) mean[i] += evaluating->loss[i * T + t] / (double)T;
    }
    bool ok =
        h5_write_int64(writer, "denoising/item", 1, &N, item, fault) &&
        h5_write_int32(writer, "denoising/expert", 1, &N, evaluating->assignment.expert, fault) &&
        h5_write_int64(writer, "denoising/timestep", 1, &T, timesteps->value, fault) &&
        h5_write_double(writer, "denoising/item_loss", 1, &N, mean, fault) &&
        h5_write_double(writer, "denoising/loss", 2, cases, evaluating->loss, fault) &&
        (!evaluating->cfg->teacher ||
         (h5_write_double(writer, "denoising/distill_out", 2, cases, evaluating->distill_out, fault) &&
          h5_write_double(writer, "denoising/teacher_loss", 2, cases, evaluating->teacher_loss, fault)));
    free(mean);
    free(item);
    return ok;
}

static bool write_settings(const struct evaluating *evaluating, struct h5_writer *writer, struct fault *fault)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    const struct sampling_settings *sampling = &evaluating->sampling;
    const struct dataset_info *info = evaluating->info;
    int64_t asked = cfg->macs_resolution,
            latents[] = {asked ? asked : info->height, asked ? asked : info->width};
    return h5_write_text(writer, "settings/split", evaluate_split_name(cfg->split), fault) &&
           h5_write_text(writer, "settings/experts", cfg->experts == EXPERTS_SLICED ? "sliced" : "finetuned",
                         fault) &&
           h5_write_one_int64(writer, "settings/seed", cfg->run.seed, fault) &&
           h5_write_text(writer, "settings/real_pictures", *cfg->pictures_source ? "files" : "latents",
                         fault) &&
           h5_write_one_int64(writer, "settings/bootstrap", cfg->bootstrap, fault) &&
           h5_write_one_int64(writer, "settings/half_samples", cfg->half_samples, fault) &&
           h5_write_int64(writer, "settings/latents", 1, (int64_t[]){2}, latents, fault) &&
           h5_write_one_int64(writer, "settings/timing_batch", cfg->timing_batch, fault) &&
           h5_write_text(writer, "settings/sampler", sampler_name(sampling->sampler), fault) &&
           h5_write_one_int64(writer, "settings/steps", sampling->steps, fault) &&
           h5_write_one_double(writer, "settings/guidance", sampling->guidance, fault);
}

static bool write_all_of_it(const struct evaluating *evaluating, struct h5_writer *writer,
                            struct fault *fault)
{
    return write_models(evaluating, writer, fault) && write_quantities(evaluating, writer, fault) &&
           write_networks(evaluating, writer, fault) && write_items(evaluating, writer, fault) &&
           write_settings(evaluating, writer, fault);
}

/* The content id of clip.h5, NULL: it was not used. */
static const char *trained_clip_id(const struct evaluating *evaluating)
{
    for (int q = 0; q < PICTURE_QUANTITIES; q++) {
        const struct measured_with *with = &evaluating->measured_with[q];
        if (with->width > 0 && strcmp(with->path, evaluating->cfg->clip_file) == 0) return with->id;
    }
    return NULL;
}

/* Everything of the chain that was read. The names of the experts' files are the caller's: names[K]. */
static int list_parents(const struct evaluating *evaluating, char (*names)[NAME_SIZE],
                        struct h5_parent *parent)
{
    int count = 0;
    parent[count++] = (struct h5_parent){"data.h5", evaluating->data.content_id};
    parent[count++] = (struct h5_parent){"router.h5", evaluating->routing.lineage.content_id};
    parent[count++] = (struct h5_parent){"assignment.h5", evaluating->assignment.content_id};
    if (evaluating->cfg->teacher || evaluating->cfg->experts == EXPERTS_SLICED)
        parent[count++] = (struct h5_parent){"teacher.h5", evaluating->routing.teacher_id};
    if (evaluating->cfg->pictures) {
        parent[count++] = (struct h5_parent){"samples.h5", evaluating->samples_id[0]};
        if (evaluating->cfg->teacher_pictures)
            parent[count++] = (struct h5_parent){"teacher_samples.h5", evaluating->samples_id[1]};
        const char *clip = trained_clip_id(evaluating);
        if (clip) parent[count++] = (struct h5_parent){"clip.h5", clip};
    }
    for (int64_t k = 0; k < evaluating->K; k++) {
        const char *id = evaluating->expert_ids + k * SHA256_HEX_SIZE;
        if (!*id) continue; // sliced
        snprintf(names[k], NAME_SIZE, "expert_%02lld.h5", (long long)k);
        parent[count++] = (struct h5_parent){names[k], id};
    }
    return count;
}

bool evaluate_write(const struct evaluating *evaluating, struct fault *fault)
{
    const struct run *run = evaluating->run;
    if (comm_rank(run->comm) == 0) {
        enum { OTHER_PARENTS = 7 };
        char(*names)[NAME_SIZE] = check_malloc((size_t)evaluating->K * sizeof *names);
        struct h5_parent *parent = check_malloc((size_t)(OTHER_PARENTS + evaluating->K) * sizeof *parent);
        int parents = list_parents(evaluating, names, parent);
        struct h5_provenance provenance = run_provenance(run, &evaluating->cfg->run, evaluating->backend,
                                                         evaluating->dtype, parent, parents);
        struct h5_writer *writer;
        if (h5_create(evaluating->cfg->metrics_file, FILE_METRICS, &writer, fault)) {
            if (write_all_of_it(evaluating, writer, fault))
                h5_finish(writer, &provenance, NULL, fault);
            else
                h5_abandon(writer);
        }
        free(parent);
        free(names);
    }
    return comm_agree(run->comm, fault);
}

// ---- the table

/* "12.345 [11.2, 13.4]", "12.345", or "-" */
static const char *cell(struct interval interval, char text[NAME_SIZE])
{
    if (isnan(interval.value))
        snprintf(text, NAME_SIZE, "-");
    else if (isnan(interval.low))
        snprintf(text, NAME_SIZE, "%.4g", interval.value);
    else
        snprintf(text, NAME_SIZE, "%.4g [%.4g, %.4g]", interval.value, interval.low, interval.high);
    return text;
}

static void report_networks(const struct evaluating *evaluating)
{
    for (int q = 0; q < PICTURE_QUANTITIES; q++) {
        const struct measured_with *with = &evaluating->measured_with[q];
        if (with->width > 0)
            log_info(evaluating->run->log, "%s by the network %s of %s (%.12s), %lld features",
                     quantity_name((enum quantity)q), with->kind, with->path, with->id,
                     (long long)with->width);
    }
}

static void report_pictures(const struct evaluating *evaluating)
{
    const struct log *log = evaluating->run->log;
    char name[ROW_NAME_SIZE], text[4][NAME_SIZE];
    struct interval *const *value = evaluating->value, *const *real = evaluating->real;
    log_info(log, "%-11s %8s  %-26s %-26s %-26s %-26s", "", "pictures", "Frechet distance",
             "same, population", "CMMD", "CLIP score");
    for (int64_t m = 0; m < evaluating->M; m++) {
        row_name(evaluating, m, name);
        log_info(log, "%-11s %8lld  %-26s %-26s %-26s %-26s", name, (long long)evaluating->pictures[m],
                 cell(value[QUANTITY_FRECHET][m], text[0]),
                 cell(evaluating->population[QUANTITY_FRECHET][m], text[1]),
                 cell(value[QUANTITY_CMMD][m], text[2]), cell(value[QUANTITY_CLIP_SCORE][m], text[3]));
    }
    log_info(log, "real pictures in the place of the generated ones:");
    for (int64_t m = 0; m < evaluating->M; m++) {
        row_name(evaluating, m, name);
        log_info(log, "%-11s %8lld  %-26s %-26s %-26s %-26s", name, (long long)evaluating->partners[m],
                 cell(real[QUANTITY_FRECHET][m], text[0]), "", cell(real[QUANTITY_CMMD][m], text[1]),
                 cell(real[QUANTITY_CLIP_SCORE][m], text[2]));
    }
}

void evaluate_report(const struct evaluating *evaluating)
{
    const struct log *log = evaluating->run->log;
    char name[ROW_NAME_SIZE], text[2][NAME_SIZE], seconds[NAME_SIZE];
    log_info(log, "values, and in brackets their 95 %% intervals");
    if (evaluating->cfg->pictures) {
        report_networks(evaluating);
        report_pictures(evaluating);
    }
    log_info(log, "%-11s %8s  %-26s %-26s %10s %12s %12s", "", "prompts", "denoising loss",
             "distance to the teacher", "GMACs", "weights", "s a picture");
    for (int64_t m = 0; m < evaluating->M; m++) {
        row_name(evaluating, m, name);
        snprintf(seconds, sizeof seconds, isnan(evaluating->seconds[m]) ? "-" : "%.4f",
                 evaluating->seconds[m]);
        log_info(log, "%-11s %8lld  %-26s %-26s %10.4f %12lld %12s", name, (long long)evaluating->prompts[m],
                 cell(evaluating->value[QUANTITY_DENOISING_LOSS][m], text[0]),
                 cell(evaluating->value[QUANTITY_DISTILL_OUT][m], text[1]), 1e-9 * evaluating->macs[m],
                 (long long)evaluating->parameters[m], seconds);
    }
}
