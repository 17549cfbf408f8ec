/* Phase pretrain, model clip:
 *
 *  1. the image encoder's configuration, the data, and whether they fit
 *  2. the networks, their optimiser, and the checkpoint of an earlier run
 *  3. the loop: pictures and embeddings of a step, features, the loss over the features of all ranks, the
 *     backward pass from its gradient, update
 *  4. now and then and at the end: retrieval on the held-out pictures
 *  5. the file, from the averaged weights */
#include "phases/pretrain_clip.h"

#include "base/check.h"
#include "base/random.h"
#include "io/text_file.h"
#include "metrics/clip_loss.h"
#include "metrics/features.h"
#include "metrics/retrieval.h"
#include "models/clip.h"
#include "phases/lineage.h"
#include "phases/restart.h"
#include "phases/training.h"
#include "train/gradient_buckets.h"
#include "train/sample_request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20 };

enum { COLUMN_LOSS, COLUMN_NORM, COLUMN_LR, COLUMN_SCALE, COLUMN_RATE, COLUMNS };
static const struct history_column columns[COLUMNS] = {{"loss", 1, HISTORY_NUMBER},
                                                       {"gradient_norm", 1, HISTORY_NUMBER},
                                                       {"learning_rate", 1, HISTORY_NUMBER},
                                                       {"logit_scale", 1, HISTORY_NUMBER},
                                                       {"samples_per_second", 1, HISTORY_TIMING}};

/* Keys that may change between a run and its continuation. */
static const char *const free_keys[] = {"run.threads", "pretrain.steps", "pretrain.checkpoint_every",
                                        "pretrain.sample_every", NULL};

enum { TOPS = 2 };
static const int64_t tops[TOPS] = {1, 5};

/* What is measured on the held-out pictures. */
struct measurement {
    int64_t items; // 0: not measured
    double image_to_text[TOPS], text_to_image[TOPS];
};

struct clip_training {
    struct run *run;
    const struct pretrain_cfg *cfg;
    char *config_text; // the image encoder's config.json
    struct backend *backend;
    enum dtype dtype;
    struct clip *clip;
    struct tape *tape;
    struct dataset *dataset;
    struct dataset *validation; // NULL: nothing is held out
    struct sample_order order;
    struct optimiser optimiser;
    struct gradient_buckets buckets;
    struct history history;
    struct lineage lineage; // of the data
    struct h5_parent parent;
    struct training training;
    struct measurement measurement; // the last; rank 0's
    int64_t first, count;           // this rank's samples of the global batch
    float *pixels;                  // [count, S, S, 3]
    float *features[2], *seed[2];   // [count, P] of pictures and of prompts, and their gradients
};

// ---- 1: configuration and data

static bool check_fit(const struct clip_training *training, const struct clip_vision_config *config,
                      struct fault *fault)
{
    const struct dataset_info *info = dataset_info(training->dataset);
    const struct pretrain_cfg *cfg = training->cfg;
    const struct latent_form *form = &training->lineage.latent;
    int64_t ranks = comm_size(training->run->comm), patch = latent_patch(form->kind);
    if (info->channels != latent_channels(form->kind))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s has %s latents of %lld channels, %d are allowed",
                           cfg->data_file, latent_kind_name(form->kind), (long long)info->channels,
                           latent_channels(form->kind));
    if (!lineage_check_pictures(&training->lineage, cfg->data_file,
                                "prepare the pictures with data.latent = \"haar\" or \"pixel\" for it",
                                fault))
        return false;
    if (config->image_channels != 3)
        return fault_raise(fault, EXIT_CODE_DECK, "%s has num_channels %lld, pictures have 3",
                           cfg->clip_vision, (long long)config->image_channels);
    if (config->image_size != info->height * patch || config->image_size != info->width * patch)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "%s has image_size %lld, the pictures of %s are %lld x %lld", cfg->clip_vision,
                           (long long)config->image_size, cfg->data_file, (long long)(info->height * patch),
                           (long long)(info->width * patch));
    if (cfg->batch % (ranks * cfg->micro_batch) != 0)
        return fault_raise(
            fault, EXIT_CODE_DECK,
            "pretrain.batch = %lld is not a multiple of %lld ranks x pretrain.micro_batch = %lld",
            (long long)cfg->batch, (long long)ranks, (long long)cfg->micro_batch);
    return true;
}

/* The held-out part, where the file has one. */
static bool open_validation(struct clip_training *training, struct fault *fault)
{
    const char *path = training->cfg->data_file;
    struct h5_reader *reader;
    if (!h5_open(path, FILE_DATA, &reader, fault)) return false;
    bool held_out = h5_exists(reader, "validation");
    h5_close(reader);
    if (!held_out) return true;
    if (!dataset_open(path, "validation", NULL, &training->validation, fault)) return false;
    const struct dataset_info *here = dataset_info(training->dataset),
                              *there = dataset_info(training->validation);
    return (here->embedding_width == there->embedding_width && here->channels == there->channels &&
            here->height == there->height && here->width == there->width) ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s: train and validation have other shapes", path);
}

static bool open_inputs(struct clip_training *training, struct clip_vision_config *config,
                        struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    return text_file_read(cfg->clip_vision, MAX_CONFIG_BYTES, &training->config_text, fault) &&
           clip_vision_config_parse(config, training->config_text, cfg->clip_vision, fault) &&
           lineage_open(cfg->data_file, FILE_DATA, &training->lineage, fault) &&
           dataset_open(cfg->data_file, "train", NULL, &training->dataset, fault) &&
           open_validation(training, fault) && check_fit(training, config, fault);
}

// ---- 2: networks and optimiser

static bool build(struct clip_training *training, const struct clip_vision_config *config,
                  struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    const struct run *run = training->run;
    const struct dataset_info *info = dataset_info(training->dataset);
    bool cuda_aware;
    if (!run_open_backend(run, &cfg->run, &training->backend, &training->dtype, fault) ||
        !cuda_aware_find(run->comm, training->backend, cfg->cuda_aware, &cuda_aware, fault))
        return false;
    training->clip = clip_new(training->backend, config, info->embedding_width);
    parameter_set_allocate(&training->clip->parameters, true);
    clip_initialise(training->clip, (uint64_t)cfg->run.seed);
    optimiser_init(&training->optimiser, &cfg->optimiser, &training->clip->parameters);
    gradient_buckets_init(&training->buckets, run->comm, &training->clip->parameters,
                          (size_t)cfg->bucket_mib << 20, cfg->deterministic, cuda_aware);
    training->tape = tape_new(training->backend, training->dtype);
    sample_order_init(&training->order, (uint64_t)cfg->run.seed, info->items);
    history_init(&training->history, columns, COLUMNS);
    training->count = cfg->batch / comm_size(run->comm);
    training->first = training->count * comm_rank(run->comm);
    size_t count = (size_t)training->count, width = (size_t)config->projection,
           values = (size_t)(config->image_size * config->image_size * 3);
    training->pixels = check_malloc(count * values * sizeof(float));
    for (int i = 0; i < 2; i++) {
        training->features[i] = check_calloc(count * width, sizeof(float));
        training->seed[i] = check_calloc(count * width, sizeof(float));
    }
    return true;
}

static bool check_network(void *task, struct h5_reader *reader, struct fault *fault)
{
    const struct clip_training *training = task;
    char *then;
    if (!h5_load_text(reader, "config", MAX_CONFIG_BYTES, &then, fault)) return false;
    bool same = strcmp(then, training->config_text) == 0;
    free(then);
    return same ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s belongs to another network than %s: go on without it, or with its configuration",
                       h5_path(reader), training->cfg->clip_vision);
}

// ---- 3: the loop

/* Asks for this rank's samples of a step: items in the run's order, random views. */
static void ask_batch(struct clip_training *training, int64_t step)
{
    const struct pretrain_cfg *cfg = training->cfg;
    struct sample_request request = {.seed = (uint64_t)cfg->run.seed,
                                     .step = step,
                                     .batch = cfg->batch,
                                     .first = training->first,
                                     .count = training->count};
    sample_request_ask(&request, &training->order, training->dataset);
}

static int64_t clamp(int64_t value, int64_t most)
{
    return value < 0 ? 0 : value > most ? most : value;
}

/* A picture [S, S, 3] moved by (dy, dx) pixels; its edges are drawn out over what becomes free. */
static void shift_picture(int64_t size, int64_t dy, int64_t dx, const uint8_t *from, uint8_t *to)
{
    for (int64_t y = 0; y < size; y++)
        for (int64_t x = 0; x < size; x++) {
            int64_t source = clamp(y - dy, size - 1) * size + clamp(x - dx, size - 1);
            memcpy(to + (y * size + x) * 3, from + source * 3, 3);
        }
}

/* pixels[count, S, S, 3] of latents[count, H, W, C], each picture moved at random in step `step`; step -1: as
 * it is. */
static void read_pixels(const struct clip_training *training, int64_t step, int64_t count,
                        const float *latents, float *pixels)
{
    const struct pretrain_cfg *cfg = training->cfg;
    const struct dataset_info *info = dataset_info(training->dataset);
    int64_t size = training->clip->vision->config.image_size, values = size * size * 3,
            latent = info->height * info->width * info->channels;
    uint64_t range = 2 * (uint64_t)cfg->shift + 1;
    uint8_t *rgb = check_malloc(2 * (size_t)values); // the picture, and moved
    for (int64_t i = 0; i < count; i++) {
        latent_decode(&training->lineage.latent, (int)info->height, (int)info->width, latents + i * latent,
                      rgb);
        uint8_t *shown = rgb;
        if (step >= 0 && cfg->shift > 0) {
            struct random_key key = {(uint64_t)cfg->run.seed, RANDOM_FLIP, (uint64_t)step,
                                     (uint64_t)(training->first + i)}; // element 0 is the view
            int64_t dy = (int64_t)random_below(key, 1, range) - cfg->shift;
            int64_t dx = (int64_t)random_below(key, 2, range) - cfg->shift;
            shift_picture(size, dy, dx, rgb, shown = rgb + values);
        }
        clip_pixels(training->clip, 1, shown, pixels + i * values);
    }
    free(rgb);
}

/* Features out[2] of pictures and prompts: pixels[count, S, S, 3], z[count, D] -> [count, P] each. */
static void forward(struct clip_training *training, enum tape_mode mode, int64_t count, const float *pixels,
                    const float *z, struct tensor *out[2])
{
    const struct clip *clip = training->clip;
    struct tape *tape = training->tape;
    int64_t size = clip->vision->config.image_size, width = dataset_info(training->dataset)->embedding_width;
    tape_reset(tape, mode);
    struct tensor *picture = tape_input(tape, training->dtype, 4, (int64_t[]){count, size, size, 3}, pixels);
    struct tensor *prompt = tape_input(tape, training->dtype, 2, (int64_t[]){count, width}, z);
    out[0] = clip_vision_forward(tape, clip->vision, picture);
    out[1] = clip_text_forward(tape, clip, prompt);
}

/* Rows of all ranks in the global order, from this rank's rows[count, width]. The caller frees them. */
static float *gather(const struct clip_training *training, int64_t width, const float *rows)
{
    const struct comm *comm = training->run->comm;
    size_t *counts = check_malloc((size_t)comm_size(comm) * sizeof *counts);
    float *all = check_malloc((size_t)(training->cfg->batch * width) * sizeof *all);
    for (int rank = 0; rank < comm_size(comm); rank++) counts[rank] = (size_t)(training->count * width);
    comm_gather(comm, rows, counts, sizeof *rows, all);
    free(counts);
    return all;
}

/* A copy in fp64. The caller frees it. */
static double *widen(int64_t count, const float *values)
{
    double *wide = check_malloc((size_t)count * sizeof *wide);
    for (int64_t i = 0; i < count; i++) wide[i] = values[i];
    return wide;
}

/* The loss over the features of all ranks; this rank's rows of its gradient go into `seed`, that of the logit
 * scale into the parameter's gradient: on rank 0, as gradients are summed over ranks. z[count, D].
 * Collective; the same on every rank. */
static double contrast(struct clip_training *training, const float *z)
{
    struct clip *clip = training->clip;
    int64_t B = training->cfg->batch, P = clip->vision->config.projection,
            D = dataset_info(training->dataset)->embedding_width;
    float *all_z = gather(training, D, z);
    int32_t *group = check_malloc((size_t)B * sizeof *group);
    double *features[2], *gradient[2], scale_gradient;
    clip_groups(B, D, all_z, group);
    free(all_z);
    for (int i = 0; i < 2; i++) {
        float *all = gather(training, P, training->features[i]);
        features[i] = widen(B * P, all);
        gradient[i] = check_malloc((size_t)(B * P) * sizeof **gradient);
        free(all);
    }
    double loss = clip_loss(B, P, features[0], features[1], group, clip_bound_scale(clip), gradient[0],
                            gradient[1], &scale_gradient);
    for (int i = 0; i < 2; i++) {
        for (int64_t j = 0; j < training->count * P; j++)
            training->seed[i][j] = (float)gradient[i][training->first * P + j];
        free(features[i]);
        free(gradient[i]);
    }
    if (comm_rank(training->run->comm) == 0)
        training->backend->ops->upload(training->backend, clip->logit_scale->gradient.data,
                                       &(float){(float)scale_gradient}, sizeof(float));
    free(group);
    return loss;
}

/* Gradients of the loss of a step, for this rank's part; returns the loss. Where the samples do not go
 * through the networks at once, they go twice: for the features alone first. z[count, D] */
static double run_passes(struct clip_training *training, const float *z)
{
    const struct pretrain_cfg *cfg = training->cfg;
    int64_t micro = cfg->micro_batch, count = training->count, P = training->clip->vision->config.projection,
            D = dataset_info(training->dataset)->embedding_width,
            size = training->clip->vision->config.image_size, values = size * size * 3;
    enum tape_mode recorded = cfg->recompute ? TAPE_RECOMPUTE : TAPE_RECORD;
    bool at_once = micro == count;
    struct tensor *out[2];
    parameter_set_zero_gradients(&training->clip->parameters);
    for (int64_t first = 0; first < count; first += micro) {
        forward(training, at_once ? recorded : TAPE_NO_GRADIENT, micro, training->pixels + first * values,
                z + first * D, out);
        for (int i = 0; i < 2; i++) tape_read(training->tape, out[i], training->features[i] + first * P);
    }
    double loss = contrast(training, z);
    for (int64_t first = 0; first < count; first += micro) {
        if (!at_once)
            forward(training, recorded, micro, training->pixels + first * values, z + first * D, out);
        if (first + micro == count) gradient_buckets_watch(&training->buckets, training->tape);
        tape_backward(training->tape, 2, out,
                      (const float *const[]){training->seed[0] + first * P, training->seed[1] + first * P});
    }
    return loss;
}

/* One step; values[COLUMNS] are what is logged of it. */
static bool run_step(void *task, double *values, struct fault *fault)
{
    struct clip_training *training = task;
    const struct pretrain_cfg *cfg = training->cfg;
    struct timers *timers = training->run->timers;
    double began = timer_now();
    struct batch batch;
    timer_start(timers, "data");
    bool ok = dataset_take(training->dataset, &batch, fault);
    if (ok) {
        ask_batch(training, training->training.step + 1);
        read_pixels(training, training->training.step, training->count, batch.latents, training->pixels);
    }
    timer_stop(timers, "data");
    if (!comm_agree(training->run->comm, fault)) return false;

    timer_start(timers, "passes");
    values[COLUMN_LOSS] = run_passes(training, batch.embeddings);
    timer_stop(timers, "passes");

    timer_start(timers, "update");
    gradient_buckets_finish(&training->buckets);
    values[COLUMN_LR] = optimiser_learning_rate(&training->optimiser);
    values[COLUMN_NORM] = optimiser_update(&training->optimiser, values[COLUMN_LOSS]);
    values[COLUMN_SCALE] = clip_bound_scale(training->clip);
    timer_stop(timers, "update");
    values[COLUMN_RATE] = (double)cfg->batch / (timer_now() - began);
    training->training.step++;
    return true;
}

// ---- 4: retrieval

/* Features of the held-out items, image and text [N, P], and their groups [N]. */
static bool held_out_features(struct clip_training *training, double *image, double *text, int32_t *group,
                              struct fault *fault)
{
    const struct dataset_info *info = dataset_info(training->validation);
    int64_t size = training->clip->vision->config.image_size, P = training->clip->vision->config.projection,
            D = info->embedding_width, N = info->items, micro = training->cfg->micro_batch;
    float *pixels = check_malloc((size_t)(micro * size * size * 3) * sizeof *pixels);
    float *z = check_malloc((size_t)(N * D) * sizeof *z),
          *row = check_malloc((size_t)(micro * P) * sizeof *row);
    int64_t *item = check_malloc((size_t)micro * sizeof *item);
    int *flip = check_calloc((size_t)micro, sizeof *flip);
    bool ok = true;
    for (int64_t first = 0; ok && first < N; first += micro) {
        int64_t count = N - first < micro ? N - first : micro;
        struct batch batch;
        struct tensor *out[2];
        for (int64_t i = 0; i < count; i++) item[i] = first + i;
        dataset_ask(training->validation, count, item, flip, NULL);
        if (!(ok = dataset_take(training->validation, &batch, fault))) break;
        memcpy(z + first * D, batch.embeddings, (size_t)(count * D) * sizeof *z);
        read_pixels(training, -1, count, batch.latents, pixels);
        forward(training, TAPE_NO_GRADIENT, count, pixels, batch.embeddings, out);
        tape_read(training->tape, out[0], row);
        for (int64_t i = 0; i < count * P; i++) image[first * P + i] = row[i];
        tape_read(training->tape, out[1], row);
        for (int64_t i = 0; i < count * P; i++) text[first * P + i] = row[i];
    }
    if (ok) clip_groups(N, D, z, group);
    free(flip);
    free(item);
    free(row);
    free(z);
    free(pixels);
    return ok;
}

/* On the networks' present weights. Rank 0. */
static bool measure(struct clip_training *training, struct fault *fault)
{
    int64_t N = dataset_info(training->validation)->items, P = training->clip->vision->config.projection;
    struct measurement *measurement = &training->measurement;
    double *image = check_malloc((size_t)(N * P) * sizeof *image);
    double *text = check_malloc((size_t)(N * P) * sizeof *text);
    int32_t *group = check_malloc((size_t)N * sizeof *group);
    bool ok = held_out_features(training, image, text, group, fault) &&
              features_check("image features of the held-out pictures", N, P, image, 1, true, fault) &&
              features_check("text features of the held-out captions", N, P, text, 1, true, fault);
    if (ok) {
        measurement->items = N;
        for (int i = 0; i < TOPS; i++)
            retrieval_accuracy(N, P, image, text, group, tops[i], &measurement->image_to_text[i],
                               &measurement->text_to_image[i]);
        log_info(
            training->run->log,
            "retrieval among %lld held out: picture to caption %.1f %% (top 1), %.1f %% (top 5); caption to "
            "picture %.1f %%, %.1f %%; guessing %.1f %%, %.1f %%",
            (long long)N, 100 * measurement->image_to_text[0], 100 * measurement->image_to_text[1],
            100 * measurement->text_to_image[0], 100 * measurement->text_to_image[1], 100.0 / (double)N,
            fmin(100, 500.0 / (double)N));
    }
    free(group);
    free(text);
    free(image);
    return ok;
}

/* Retrieval with the averaged weights. */
static bool measure_average(void *task, struct fault *fault)
{
    struct clip_training *training = task;
    const struct run *run = training->run;
    if (comm_rank(run->comm) == 0 && training->validation) {
        timer_start(run->timers, "retrieval");
        optimiser_swap_average(&training->optimiser);
        measure(training, fault);
        optimiser_swap_average(&training->optimiser);
        timer_stop(run->timers, "retrieval");
    }
    return comm_agree(run->comm, fault);
}

// ---- 5: the file

static bool write_triple(struct h5_writer *writer, const char *name, const float *values, struct fault *fault)
{
    return h5_write_double(writer, name, 1, (int64_t[]){3}, (double[]){values[0], values[1], values[2]},
                           fault);
}

static bool write_measurement(const struct measurement *measurement, struct h5_writer *writer,
                              struct fault *fault)
{
    bool ok = h5_write_one_int64(writer, "validation/items", measurement->items, fault);
    for (int i = 0; ok && i < TOPS; i++) {
        char *forth = check_format("validation/top%lld_image_to_text", (long long)tops[i]);
        char *back = check_format("validation/top%lld_text_to_image", (long long)tops[i]);
        ok = h5_write_one_double(writer, forth, measurement->image_to_text[i], fault) &&
             h5_write_one_double(writer, back, measurement->text_to_image[i], fault);
        free(forth);
        free(back);
    }
    return ok;
}

static bool write_description(void *task, struct h5_writer *writer, bool finished, struct fault *fault)
{
    const struct clip_training *training = task;
    return h5_write_text(writer, "config", training->config_text, fault) &&
           write_triple(writer, "image/mean", training->clip->mean, fault) &&
           write_triple(writer, "image/deviation", training->clip->deviation, fault) &&
           h5_write_text(writer, "encoder/sentence", training->lineage.sentence_encoder, fault) &&
           (!finished || training->measurement.items == 0 ||
            write_measurement(&training->measurement, writer, fault));
}

// ---- the whole

static const struct training_task functions = {
    .run_step = run_step, .look = measure_average, .write = write_description, .check = check_network};

static void describe_training(struct clip_training *training)
{
    const struct pretrain_cfg *cfg = training->cfg;
    training->parent = (struct h5_parent){"data.h5", training->lineage.content_id};
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
                          .kind = FILE_CLIP,
                          .backend = training->backend,
                          .dtype = training->dtype,
                          .optimiser = &training->optimiser,
                          .history = &training->history,
                          .loss = COLUMN_LOSS,
                          .gradient_norm = COLUMN_NORM,
                          .rate = COLUMN_RATE,
                          .parent = &training->parent,
                          .parents = 1,
                          .look_every = cfg->sample_every,
                          .checkpoint = check_format("%s/clip.checkpoint.h5", cfg->run.folder),
                          .csv = check_format("%s/clip.csv", cfg->run.folder)};
}

static void report_plan(const struct clip_training *training)
{
    const struct dataset_info *info = dataset_info(training->dataset);
    const struct pretrain_cfg *cfg = training->cfg;
    log_info(training->run->log, "image and text encoder of %.2f M parameters, features %lld wide, %s",
             (double)parameter_set_elements(&training->clip->parameters) / 1e6,
             (long long)training->clip->vision->config.projection, dtype_name(training->dtype));
    log_info(training->run->log, "%lld items, %lld held out; %lld steps of %lld samples: %.1f epochs",
             (long long)info->items,
             training->validation ? (long long)dataset_info(training->validation)->items : 0,
             (long long)cfg->steps, (long long)cfg->batch,
             (double)cfg->steps * (double)cfg->batch / (double)info->items);
}

/* --check: one micro-batch on the plan backend tells the memory of a step. */
static void report_memory(struct clip_training *training)
{
    const struct dataset_info *info = dataset_info(training->dataset);
    const struct pretrain_cfg *cfg = training->cfg;
    int64_t size = training->clip->vision->config.image_size;
    float *pixels = check_calloc((size_t)(cfg->micro_batch * size * size * 3), sizeof *pixels);
    float *z = check_calloc((size_t)(cfg->micro_batch * info->embedding_width), sizeof *z);
    struct tensor *out[2];
    forward(training, cfg->recompute ? TAPE_RECOMPUTE : TAPE_RECORD, cfg->micro_batch, pixels, z, out);
    tape_backward(training->tape, 2, out, (const float *const[]){training->seed[0], training->seed[1]});
    free(z);
    free(pixels);
    log_info(training->run->log,
             "planned memory a rank: %.1f MiB of weights and moments, %.1f MiB for a step",
             (double)backend_bytes(training->backend) / 0x1p20,
             (double)arena_peak(tape_arena(training->tape)) / 0x1p20);
}

static void release(struct clip_training *training)
{
    if (training->optimiser.parameters) { // all of it was built
        gradient_buckets_clear(&training->buckets);
        optimiser_clear(&training->optimiser);
        tape_delete(training->tape);
        sample_order_clear(&training->order);
        history_clear(&training->history);
    }
    for (int i = 0; i < 2; i++) {
        free(training->features[i]);
        free(training->seed[i]);
    }
    free(training->pixels);
    clip_delete(training->clip);
    dataset_close(training->validation);
    dataset_close(training->dataset);
    if (training->backend) backend_close(training->backend);
    lineage_clear(&training->lineage);
    free(training->training.checkpoint);
    free(training->training.csv);
    free(training->config_text);
}

static bool train(struct clip_training *training, struct fault *fault)
{
    const struct run *run = training->run;
    struct clip_vision_config config;
    open_inputs(training, &config, fault); // 1
    if (!comm_agree(run->comm, fault)) return false;
    build(training, &config, fault); // 2
    if (!comm_agree(run->comm, fault)) return false;
    describe_training(training);
    report_plan(training);
    if (run->check_only) {
        report_memory(training);
        return true;
    }
    if (!training_resume(&training->training, fault)) return false;
    ask_batch(training, training->training.step);
    return training_run(&training->training, fault) &&                            // 3
           measure_average(training, fault) &&                                    // 4
           training_finish(&training->training, training->cfg->clip_file, fault); // 5
}

bool pretrain_clip(struct run *run, const struct pretrain_cfg *cfg, struct fault *fault)
{
    struct clip_training training = {.run = run, .cfg = cfg};
    bool ok = train(&training, fault);
    release(&training);
    return ok;
}
