/* Phase bench.
 *
 *  1. what is measured: the teacher's file or a config.json, the router file's masks or a uniform one
 *  2. the machine's roof
 *  3. the teacher, then each expert: made, counted, timed at every resolution and batch size
 *  4. a pruning step of the teacher
 *  5. training: passes of the teacher and of each expert, and each expert's step of fine-tuning
 *  6. table and file */
#include "phases/bench.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/random.h"
#include "io/text_file.h"
#include "models/initialise.h"
#include "models/weights.h"
#include "phases/provenance.h"
#include "phases/restart.h"
#include "phases/router_file.h"
#include "router/baseline.h"
#include "tensor/device.h"
#include "train/optimiser.h"
#include "train/student.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20, MODEL_NAME_SIZE = 32 };

/* One case's figures. */
struct figures {
    double time, least; // s: median and shortest
    double speed;       // GFLOP/s of the shortest
    double memory;      // bytes of the backend: weights, activations, scratch
    double resident;    // bytes: of the process
    int64_t growths;    // times that memory grew after the first pass
};

struct roofs {
    double matmul[2], convolution[2]; // GFLOP/s, fp32 and bf16; 0: not measured, or not supported
    double copy;                      // GB/s; 0: not measured
};

struct benching {
    struct run *run;
    const struct bench_cfg *cfg;
    struct backend *plan; // for networks that are counted alone
    struct unet_config config;
    struct routing routing;         // zero: no experts
    uint8_t *masks;                 // [M - 1, entries]
    int64_t entries, width_entries; // of a mask
    char teacher_id[SHA256_HEX_SIZE];
    enum dtype dtype;
    struct roofs roof;

    int64_t M, R, B;           // models, resolutions, batch sizes
    int64_t *parameters;       // [M]
    double *macs, *macs_paper; // [M, R]
    struct figures *forward;   // [M, R, B]
    struct figures prune_step;
    struct figures *training;      // [M] forward and backward pass, with the weights' gradients
    struct figures *finetune_step; // [M - 1] of each expert: the teacher's forward pass and the update too
};

// ---- 1: what is measured

/* What model 1, 2, ... keeps of the teacher. */
static struct unet_shape shape_of(const struct benching *bench, int64_t model)
{
    const uint8_t *mask = bench->masks + (model - 1) * bench->entries;
    return (struct unet_shape){mask, mask + bench->width_entries};
}

static bool read_config(struct benching *bench, struct fault *fault)
{
    const struct bench_cfg *cfg = bench->cfg;
    bool file = !*cfg->unet;
    const char *path = file ? cfg->teacher_file : cfg->unet;
    char *text = NULL;
    struct h5_reader *reader = NULL;
    bool ok = file
                  ? h5_open(path, FILE_TEACHER, &reader, fault) && restart_refuse_checkpoint(reader, fault) &&
                        h5_load_text(reader, "config", MAX_CONFIG_BYTES, &text, fault)
                  : text_file_read(path, MAX_CONFIG_BYTES, &text, fault);
    ok = ok && unet_config_parse(&bench->config, text, path, (int)cfg->ff_entries, fault);
    if (ok && file)
        memcpy(bench->teacher_id, h5_stored_content_id(reader), strlen(h5_stored_content_id(reader)) + 1);
    bench->config.depth_gates = cfg->depth_gates;
    h5_close(reader);
    free(text);
    return ok;
}

static bool read_masks(struct benching *bench, struct fault *fault)
{
    const struct bench_cfg *cfg = bench->cfg;
    struct routing *routing = &bench->routing;
    if (!routing_open(cfg->router_file, bench->plan, routing, fault)) return false;
    if (!routing_check_teacher(routing, cfg->router_file, bench->teacher_id, cfg->teacher_file, fault))
        return false;
    bench->config = routing->unet->config; // the same network, with the entries that the masks speak of
    int64_t K = routing->router->config.K;
    bench->masks = check_malloc((size_t)(K * routing->router->n));
    bench->entries = routing->unet->table.entries;
    bench->width_entries = routing->unet->table.width_entries;
    router_masks(routing->router, bench->masks);
    bench->M = 1 + K;
    return true;
}

/* bench.budget: one expert of uniform width, without a router file. */
static bool choose_mask(struct benching *bench, struct fault *fault)
{
    const struct bench_cfg *cfg = bench->cfg;
    int64_t resolution = cfg->resolutions.value[0];
    struct unet *unet = unet_new(bench->plan, &bench->config, (struct unet_shape){0});
    if (unet_check_prunable(unet, fault)) {
        struct unit_macs macs = unet_macs(unet, resolution, resolution, cfg->tokens);
        bench->masks = check_malloc((size_t)unet->table.entries);
        bench->entries = unet->table.entries;
        bench->width_entries = unet->table.width_entries;
        baseline_uniform(&unet->table, &macs, cfg->budget, bench->masks);
        unet_check_shape(&unet->table, shape_of(bench, 1), fault);
        unit_macs_free(&macs);
    }
    unet_delete(unet);
    bench->M = 2;
    return fault->code == EXIT_CODE_OK;
}

static bool open_inputs(struct benching *bench, struct fault *fault)
{
    const struct bench_cfg *cfg = bench->cfg;
    bench->M = 1;
    bench->R = cfg->resolutions.count;
    bench->B = cfg->batch_sizes.count;
    if (!read_config(bench, fault)) return false;
    for (int64_t r = 0; r < bench->R; r++)
        if (!unet_check_latents(&bench->config, cfg->resolutions.value[r], cfg->resolutions.value[r], fault))
            return false;
    if (cfg->budget > 0 && !choose_mask(bench, fault)) return false;
    if (cfg->budget == 0 && cfg->experts && !*cfg->unet && !read_masks(bench, fault)) return false;
    size_t models = (size_t)bench->M, counts = models * (size_t)bench->R, cases = counts * (size_t)bench->B;
    bench->parameters = check_calloc(models, sizeof *bench->parameters);
    bench->macs = check_calloc(counts, sizeof *bench->macs);
    bench->macs_paper = check_calloc(counts, sizeof *bench->macs_paper);
    bench->forward = check_calloc(cases, sizeof *bench->forward);
    bench->training = check_calloc(models, sizeof *bench->training);
    bench->finetune_step = check_calloc(models, sizeof *bench->finetune_step);
    return true;
}

// ---- 2: roof

static bool measure_roof(struct benching *bench, struct fault *fault)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    struct backend *backend;
    if (!run_open_backend(bench->run, &bench->cfg->run, &backend, &bench->dtype, fault)) return false;
    double seconds = bench->cfg->roof_seconds;
    bool wanted = seconds > 0 && !bench->run->check_only;
    for (int i = 0; i < 2 && wanted; i++) {
        if (!backend->ops->supports(backend, dtypes[i])) continue;
        bench->roof.matmul[i] = backend->ops->roof(backend, ROOF_MATMUL, dtypes[i], seconds);
        bench->roof.convolution[i] = backend->ops->roof(backend, ROOF_CONVOLUTION, dtypes[i], seconds);
        log_info(bench->run->log, "roof in %s: matrix product %.1f GFLOP/s, convolution %.1f GFLOP/s",
                 dtype_name(dtypes[i]), bench->roof.matmul[i], bench->roof.convolution[i]);
    }
    if (wanted) {
        bench->roof.copy = backend->ops->roof(backend, ROOF_COPY, DTYPE_F32, seconds);
        log_info(bench->run->log, "roof of copies: %.1f GB/s read and written", bench->roof.copy);
    }
    backend_close(backend);
    return true;
}

/* The faster of the two, in the precision of this run; 0: not measured. */
static double roof_of(const struct benching *bench)
{
    int i = bench->dtype == DTYPE_BF16;
    double matmul = bench->roof.matmul[i], convolution = bench->roof.convolution[i];
    return matmul > convolution ? matmul : convolution;
}

// ---- timing

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The time by which all that was asked for is done. */
static double time_when_done(struct backend *backend)
{
    backend->ops->synchronize(backend);
    return timer_now();
}

/* Runs `pass` once to make primitives and memory, then `repeats` times. Under --check once, for the memory
 * alone. */
static struct figures measure(const struct benching *bench, struct tape *tape,
                              void (*pass)(struct tape *tape, void *context), void *context, double flops)
{
    struct backend *backend = tape_backend(tape);
    const struct arena *arena = tape_arena(tape), *scratch = backend->scratch;
    int repeats = bench->run->check_only ? 0 : (int)bench->cfg->repeats;
    struct figures figures = {0};
    memory_peak_reset();
    pass(tape, context);

    size_t held = backend_bytes_held(backend);
    int64_t growths = (int64_t)(arena_growths(arena) + arena_growths(scratch));
    double *seconds = check_malloc((size_t)(repeats + 1) * sizeof *seconds);
    for (int i = 0; i < repeats; i++) {
        double start = time_when_done(backend);
        pass(tape, context);
        seconds[i] = time_when_done(backend) - start;
    }
    if (repeats > 0) {
        qsort(seconds, (size_t)repeats, sizeof *seconds, by_size);
        figures.time = (seconds[(repeats - 1) / 2] + seconds[repeats / 2]) / 2;
        figures.least = seconds[0];
        figures.speed = 1e-9 * flops / figures.least;
    }
    free(seconds);
    figures.growths = (int64_t)(arena_growths(arena) + arena_growths(scratch)) - growths +
                      (backend_bytes_held(backend) != held);
    figures.memory = (double)(held + arena_peak(arena) + arena_peak(scratch));
    figures.resident = (double)memory_peak();
    return figures;
}

// ---- inputs: random, of a sensible size

/* The caller frees it. */
static float *normals(uint64_t what, int64_t count)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    random_normal((struct random_key){1, RANDOM_BENCH, 0, what}, (uint64_t)count, values);
    return values;
}

static float *constants(float value, int64_t count)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = value;
    return values;
}

static struct dataset_info input_info(const struct benching *bench, int64_t resolution)
{
    return (struct dataset_info){.height = resolution,
                                 .width = resolution,
                                 .channels = bench->config.in_channels,
                                 .tokens = bench->cfg->tokens,
                                 .text_width = bench->config.text_width};
}

/* Free with noised_batch_clear. */
static struct noised_batch make_inputs(const struct dataset_info *info, int64_t count)
{
    int64_t latents = count * info->height * info->width * info->channels, tokens = count * info->tokens;
    return (struct noised_batch){.count = count,
                                 .capacity = count,
                                 .noisy = normals(0, latents),
                                 .target = normals(1, latents),
                                 .timesteps = constants(500, count),
                                 .weight = constants(1, count),
                                 .text_states = normals(2, tokens * info->text_width),
                                 .text_mask = constants(1, tokens)};
}

// ---- 3: models

/* The whole UNet with its weights, not frozen. */
static bool make_teacher(const struct benching *bench, struct backend *backend, bool trainable,
                         struct unet **made, struct fault *fault)
{
    struct unet *unet = unet_new(backend, &bench->config, (struct unet_shape){0});
    struct h5_reader *reader = NULL;
    bool ok = true;
    parameter_set_allocate(&unet->parameters, trainable);
    if (bench->run->check_only) {
        // shapes are all that is asked for
    } else if (*bench->cfg->unet) {
        parameters_initialise(&unet->parameters, (uint64_t)bench->cfg->run.seed);
    } else {
        ok = h5_open(bench->cfg->teacher_file, FILE_TEACHER, &reader, fault) &&
             weights_read_h5(&unet->parameters, reader, "weights", fault);
        h5_close(reader);
    }
    if (ok)
        *made = unet;
    else
        unet_delete(unet);
    return ok;
}

/* Model 1 + k: expert k, cut out of the teacher. Not frozen. */
static struct unet *make_expert(const struct benching *bench, const struct unet *teacher, int64_t model,
                                bool trainable)
{
    struct unet_shape shape = shape_of(bench, model);
    struct unet *expert = unet_new(teacher->parameters.backend, &bench->config, shape);
    parameter_set_allocate(&expert->parameters, trainable);
    if (!bench->run->check_only) unet_slice(teacher, shape, expert);
    return expert;
}

/* Model 0 is the teacher. Not frozen. */
static bool make_model(const struct benching *bench, int64_t model, struct backend *backend,
                       struct unet **made, struct fault *fault)
{
    struct unet *teacher;
    if (!make_teacher(bench, backend, false, &teacher, fault)) return false;
    *made = model == 0 ? teacher : make_expert(bench, teacher, model, false);
    if (model > 0) unet_delete(teacher);
    return true;
}

struct forward_case {
    const struct unet *unet;
    const struct dataset_info *info;
    const struct noised_batch *inputs;
    float *sample; // [B, H, W, out_channels]
};

static void forward_pass(struct tape *tape, void *context)
{
    const struct forward_case *c = context;
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = noised_batch_input(tape, c->inputs, c->info, 0, c->inputs->count);
    input.text_mask = NULL; // all tokens are seen, and no mask is asked for
    struct unet_output output;
    unet_forward(tape, c->unet, input, &output);
    tape_read(tape, output.sample, c->sample);
}

static void measure_forward(struct benching *bench, const struct unet *unet, int64_t model, int64_t r,
                            int64_t b)
{
    int64_t resolution = bench->cfg->resolutions.value[r], batch = bench->cfg->batch_sizes.value[b];
    struct dataset_info info = input_info(bench, resolution);
    struct noised_batch inputs = make_inputs(&info, batch);
    float *sample = constants(0, batch * resolution * resolution * bench->config.out_channels);
    struct tape *tape = tape_new(unet->parameters.backend, bench->dtype);
    struct forward_case c = {unet, &info, &inputs, sample};
    double flops = 2 * (double)batch * bench->macs[model * bench->R + r];
    bench->forward[(model * bench->R + r) * bench->B + b] = measure(bench, tape, forward_pass, &c, flops);
    tape_delete(tape);
    noised_batch_clear(&inputs);
    free(sample);
}

static void count_macs(struct benching *bench, const struct unet *unet, int64_t model)
{
    for (int64_t r = 0; r < bench->R; r++) {
        int64_t resolution = bench->cfg->resolutions.value[r];
        struct unit_macs macs = unet_macs(unet, resolution, resolution, bench->cfg->tokens);
        bench->macs[model * bench->R + r] = macs.total;
        bench->macs_paper[model * bench->R + r] = macs.paper;
        unit_macs_free(&macs);
    }
}

static void model_name(int64_t model, char name[MODEL_NAME_SIZE])
{
    if (model == 0)
        snprintf(name, MODEL_NAME_SIZE, "teacher");
    else
        snprintf(name, MODEL_NAME_SIZE, "expert %lld", (long long)model - 1);
}

/* "  5.123 s   412.5 GFLOP/s   71 % of the roof   2100.0 MiB" */
static void describe(const struct benching *bench, const struct figures *figures, size_t size, char *text)
{
    const double MiB = 1 << 20;
    char share[32] = "";
    if (roof_of(bench) > 0 && figures->speed > 0)
        snprintf(share, sizeof share, "  %5.1f %% of the roof", 100 * figures->speed / roof_of(bench));
    if (bench->run->check_only)
        snprintf(text, size, "%.1f MiB", figures->memory / MiB);
    else
        snprintf(text, size, "%9.4f s (least %.4f)  %8.1f GFLOP/s%s  %.1f MiB, process %.1f MiB%s",
                 figures->time, figures->least, figures->speed, share, figures->memory / MiB,
                 figures->resident / MiB, figures->growths ? "  memory grew after the first pass" : "");
}

static void report_model(const struct benching *bench, int64_t model)
{
    const struct bench_cfg *cfg = bench->cfg;
    char name[MODEL_NAME_SIZE], text[256];
    model_name(model, name);
    log_info(bench->run->log, "%s: %lld parameters", name, (long long)bench->parameters[model]);
    for (int64_t r = 0; r < bench->R; r++) {
        int64_t at = model * bench->R + r;
        log_info(bench->run->log,
                 "  %lld x %lld latents: %.3f GMACs (the paper's way: %.3f), %.4f of the teacher's",
                 (long long)cfg->resolutions.value[r], (long long)cfg->resolutions.value[r],
                 1e-9 * bench->macs[at], 1e-9 * bench->macs_paper[at], bench->macs[at] / bench->macs[r]);
        for (int64_t b = 0; b < bench->B; b++) {
            describe(bench, &bench->forward[at * bench->B + b], sizeof text, text);
            log_info(bench->run->log, "    batch %-4lld %s", (long long)cfg->batch_sizes.value[b], text);
        }
    }
}

static bool measure_model(struct benching *bench, int64_t model, struct fault *fault)
{
    struct backend *backend;
    struct unet *unet;
    if (!run_open_backend(bench->run, &bench->cfg->run, &backend, &bench->dtype, fault)) return false;
    bool ok = make_model(bench, model, backend, &unet, fault);
    if (ok) {
        bench->parameters[model] = parameter_set_elements(&unet->parameters);
        count_macs(bench, unet, model);
        parameter_set_freeze(&unet->parameters, bench->dtype, false);
        for (int64_t r = 0; r < bench->R; r++)
            for (int64_t b = 0; b < bench->B; b++) measure_forward(bench, unet, model, r, b);
        report_model(bench, model);
        unet_delete(unet);
    }
    backend_close(backend);
    return ok;
}

// ---- 4: a pruning step

struct prune_case {
    struct student student;
    const struct noised_batch *inputs;
    const float *gates; // [B, entries]
    struct student_result result;
};

static void prune_pass(struct tape *tape, void *context)
{
    struct prune_case *c = context;
    student_run(tape, &c->student, c->inputs, c->gates, &c->result);
}

static void time_prune_step(struct benching *bench, const struct unet *unet)
{
    int64_t count = bench->cfg->prune_batch, n = unet->table.entries;
    struct dataset_info info = input_info(bench, bench->cfg->resolutions.value[0]);
    struct noised_batch inputs = make_inputs(&info, count);
    float *gates = constants(0.75f, count * n), *gradient = constants(0, count * n);
    double *losses = check_calloc(3 * (size_t)count, sizeof *losses);
    struct prune_case c = {.student = {.teacher = unet,
                                       .unet = unet,
                                       .info = &info,
                                       .weights = {1, 0.2, 0.2},
                                       .micro_batch = count,
                                       .global_batch = count},
                           .inputs = &inputs,
                           .gates = gates,
                           .result = {losses, losses + count, losses + 2 * count, gradient}};
    struct tape *tape = tape_new(unet->parameters.backend, bench->dtype);
    bench->prune_step = measure(bench, tape, prune_pass, &c, 6 * (double)count * bench->macs[0]);
    tape_delete(tape);
    noised_batch_clear(&inputs);
    free(gates);
    free(gradient);
    free(losses);
}

static bool measure_prune_step(struct benching *bench, struct fault *fault)
{
    struct backend *backend;
    struct unet *unet;
    char text[256];
    if (!run_open_backend(bench->run, &bench->cfg->run, &backend, &bench->dtype, fault)) return false;
    bool ok = make_teacher(bench, backend, false, &unet, fault);
    if (ok && unet_check_prunable(unet, fault)) {
        parameter_set_freeze(&unet->parameters, bench->dtype, true);
        time_prune_step(bench, unet);
        describe(bench, &bench->prune_step, sizeof text, text);
        log_info(bench->run->log, "pruning step, batch %lld at %lld x %lld latents",
                 (long long)bench->cfg->prune_batch, (long long)bench->cfg->resolutions.value[0],
                 (long long)bench->cfg->resolutions.value[0]);
        log_info(bench->run->log, "               %s", text);
    }
    if (ok) unet_delete(unet);
    backend_close(backend);
    return fault->code == EXIT_CODE_OK;
}

// ---- 5: training

struct training_case {
    struct student student;
    const struct noised_batch *inputs;
    struct student_result result;
    struct parameter_set *parameters; // of the student
    struct optimiser *optimiser;      // NULL: passes alone
};

static void training_pass(struct tape *tape, void *context)
{
    struct training_case *c = context;
    parameter_set_zero_gradients(c->parameters);
    student_run(tape, &c->student, c->inputs, NULL, &c->result);
    if (c->optimiser) optimiser_update(c->optimiser, 0);
}

/* The passes of model `model`, `trained`; of an expert the step of its fine-tuning too, which has the
 * teacher's forward pass and the update. */
static void time_training(struct benching *bench, int64_t model, const struct unet *teacher,
                          struct unet *trained)
{
    int64_t count = bench->cfg->train_batch;
    struct dataset_info info = input_info(bench, bench->cfg->resolutions.value[0]);
    struct noised_batch inputs = make_inputs(&info, count);
    double *losses = check_calloc(3 * (size_t)count, sizeof *losses);
    struct training_case c = {.student = {.unet = trained,
                                          .info = &info,
                                          .weights = {1e-4, 1, 1},
                                          .micro_batch = count,
                                          .global_batch = count},
                              .inputs = &inputs,
                              .result = {losses, losses + count, losses + 2 * count, NULL},
                              .parameters = &trained->parameters};
    struct tape *tape = tape_new(trained->parameters.backend, bench->dtype);
    double flops = 6 * (double)count * bench->macs[model * bench->R];
    bench->training[model] = measure(bench, tape, training_pass, &c, flops);
    if (model > 0) {
        struct optimiser optimiser;
        struct optimiser_config config = {
            .learning_rate = 1e-5, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
        optimiser_init(&optimiser, &config, &trained->parameters);
        c.student.teacher = teacher;
        c.optimiser = &optimiser;
        flops += 2 * (double)count * bench->macs[0];
        bench->finetune_step[model - 1] = measure(bench, tape, training_pass, &c, flops);
        optimiser_clear(&optimiser);
    }
    tape_delete(tape);
    noised_batch_clear(&inputs);
    free(losses);
}

static void report_training(const struct benching *bench, int64_t model)
{
    const struct log *log = bench->run->log;
    char name[MODEL_NAME_SIZE], text[256];
    model_name(model, name);
    describe(bench, &bench->training[model], sizeof text, text);
    log_info(log, "%s: forward and backward pass, batch %lld at %lld x %lld latents", name,
             (long long)bench->cfg->train_batch, (long long)bench->cfg->resolutions.value[0],
             (long long)bench->cfg->resolutions.value[0]);
    log_info(log, "               %s", text);
    if (model == 0) return;
    if (!bench->run->check_only)
        log_info(log, "               %.3f of the teacher's time at %.3f of its MACs",
                 bench->training[model].time / bench->training[0].time,
                 bench->macs[model * bench->R] / bench->macs[0]);
    describe(bench, &bench->finetune_step[model - 1], sizeof text, text);
    log_info(log, "%s: step of fine-tuning, with the teacher's forward pass and the update", name);
    log_info(log, "               %s", text);
}

static bool measure_training(struct benching *bench, int64_t model, struct fault *fault)
{
    struct backend *backend;
    struct unet *teacher;
    if (!run_open_backend(bench->run, &bench->cfg->run, &backend, &bench->dtype, fault)) return false;
    bool ok = make_teacher(bench, backend, model == 0, &teacher, fault);
    if (ok) {
        struct unet *expert = model == 0 ? NULL : make_expert(bench, teacher, model, true);
        if (expert) parameter_set_freeze(&teacher->parameters, bench->dtype, false);
        time_training(bench, model, teacher, expert ? expert : teacher);
        report_training(bench, model);
        unet_delete(expert);
        unet_delete(teacher);
    }
    backend_close(backend);
    return ok;
}

// ---- 6: file

static bool write_int32_list(struct h5_writer *writer, const char *name, const struct integer_list *list,
                             struct fault *fault)
{
    int64_t count = list->count;
    int32_t *values = check_malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = (int32_t)list->value[i];
    bool ok = h5_write_int32(writer, name, 1, &count, values, fault);
    free(values);
    return ok;
}

static bool write_counts(const struct benching *bench, struct h5_writer *writer, struct fault *fault)
{
    int64_t M = bench->M;
    char(*name)[MODEL_NAME_SIZE] = check_malloc((size_t)M * sizeof *name);
    const char **names = check_malloc((size_t)M * sizeof *names);
    for (int64_t m = 0; m < M; m++) {
        model_name(m, name[m]);
        names[m] = name[m];
    }
    bool ok = h5_write_strings(writer, "model", 1, &M, names, fault) &&
              write_int32_list(writer, "resolution", &bench->cfg->resolutions, fault) &&
              write_int32_list(writer, "batch", &bench->cfg->batch_sizes, fault) &&
              h5_write_int64(writer, "parameters", 1, &M, bench->parameters, fault) &&
              h5_write_double(writer, "macs", 2, (int64_t[]){M, bench->R}, bench->macs, fault) &&
              h5_write_double(writer, "macs_paper", 2, (int64_t[]){M, bench->R}, bench->macs_paper, fault);
    free(names);
    free(name);
    return ok;
}

/* The columns of [count] figures as datasets `prefix`time, ... */
static bool write_figures(struct h5_writer *writer, const char *prefix, int rank, const int64_t *shape,
                          int64_t count, const struct figures *figures, struct fault *fault)
{
    static const struct {
        const char *name;
        size_t offset;
    } columns[] = {{"time", offsetof(struct figures, time)},
                   {"time_least", offsetof(struct figures, least)},
                   {"speed", offsetof(struct figures, speed)},
                   {"peak_memory", offsetof(struct figures, memory)},
                   {"peak_resident", offsetof(struct figures, resident)}};
    char name[64];
    double *values = check_malloc((size_t)count * sizeof *values);
    int64_t *growths = check_malloc((size_t)count * sizeof *growths);
    bool ok = true;
    for (size_t c = 0; ok && c < sizeof columns / sizeof *columns; c++) {
        for (int64_t i = 0; i < count; i++)
            values[i] = *(const double *)((const char *)&figures[i] + columns[c].offset);
        snprintf(name, sizeof name, "%s%s", prefix, columns[c].name);
        ok = h5_write_double(writer, name, rank, shape, values, fault);
    }
    for (int64_t i = 0; i < count; i++) growths[i] = figures[i].growths;
    snprintf(name, sizeof name, "%sgrowths", prefix);
    ok = ok && h5_write_int64(writer, name, rank, shape, growths, fault);
    free(growths);
    free(values);
    return ok;
}

static bool write_roof(const struct benching *bench, struct h5_writer *writer, struct fault *fault)
{
    static const char *const names[2][2] = {{"roof/matmul_fp32", "roof/convolution_fp32"},
                                            {"roof/matmul_bf16", "roof/convolution_bf16"}};
    for (int i = 0; i < 2; i++)
        if (bench->roof.matmul[i] > 0 &&
            (!h5_write_one_double(writer, names[i][0], bench->roof.matmul[i], fault) ||
             !h5_write_one_double(writer, names[i][1], bench->roof.convolution[i], fault)))
            return false;
    return bench->roof.copy == 0 || h5_write_one_double(writer, "roof/copy", bench->roof.copy, fault);
}

/* The GPU, where one computed. */
static bool write_device(const struct benching *bench, struct h5_writer *writer, struct fault *fault)
{
    if (run_backend_kind(bench->run, &bench->cfg->run) != BACKEND_CUDA) return true;
    char *text = device_text();
    bool ok = h5_write_text(writer, "device", text, fault);
    free(text);
    return ok;
}

static bool write_all_of_it(const struct benching *bench, struct h5_writer *writer, struct fault *fault)
{
    int64_t M = bench->M, R = bench->R, B = bench->B;
    const int32_t threads = omp_get_max_threads(), prune_batch = (int32_t)bench->cfg->prune_batch,
                  train_batch = (int32_t)bench->cfg->train_batch, tokens = (int32_t)bench->cfg->tokens,
                  repeats = (int32_t)bench->cfg->repeats;
    return write_counts(bench, writer, fault) && write_device(bench, writer, fault) &&
           h5_write_text(writer, "precision", dtype_name(bench->dtype), fault) &&
           h5_write_int32(writer, "threads", 0, NULL, &threads, fault) &&
           h5_write_int32(writer, "tokens", 0, NULL, &tokens, fault) &&
           h5_write_int32(writer, "repeats", 0, NULL, &repeats, fault) && write_roof(bench, writer, fault) &&
           write_figures(writer, "", 3, (int64_t[]){M, R, B}, M * R * B, bench->forward, fault) &&
           (train_batch == 0 || (h5_write_int32(writer, "training/batch", 0, NULL, &train_batch, fault) &&
                                 write_figures(writer, "training/", 1, &M, M, bench->training, fault) &&
                                 (M == 1 || write_figures(writer, "finetune_step/", 1, (int64_t[]){M - 1},
                                                          M - 1, bench->finetune_step, fault)))) &&
           (prune_batch == 0 ||
            (h5_write_int32(writer, "prune_step/batch", 0, NULL, &prune_batch, fault) &&
             write_figures(writer, "prune_step/", 0, NULL, 1, &bench->prune_step, fault)));
}

static bool write_file(const struct benching *bench, struct fault *fault)
{
    struct h5_parent parents[] = {{"teacher.h5", bench->teacher_id},
                                  {"router.h5", bench->routing.lineage.content_id}};
    int count = *bench->cfg->unet ? 0 : bench->M > 1 ? 2 : 1;
    struct h5_writer *writer;
    struct backend *computed = // for its name: every model had one of its own
        backend_open(run_backend_kind(bench->run, &bench->cfg->run));
    struct h5_provenance provenance =
        run_provenance(bench->run, &bench->cfg->run, computed, bench->dtype, parents, count);
    backend_close(computed);
    if (!h5_create(bench->cfg->bench_file, FILE_BENCH, &writer, fault)) return false;
    if (write_all_of_it(bench, writer, fault)) return h5_finish(writer, &provenance, NULL, fault);
    h5_abandon(writer);
    return false;
}

static bool measure_all(struct benching *bench, struct fault *fault)
{
    const struct run *run = bench->run;
    if (!open_inputs(bench, fault)) return false; // 1
    timer_start(run->timers, "roof");
    bool ok = measure_roof(bench, fault); // 2
    timer_stop(run->timers, "roof");
    timer_start(run->timers, "models");
    for (int64_t m = 0; ok && m < bench->M; m++) ok = measure_model(bench, m, fault); // 3
    timer_stop(run->timers, "models");
    if (ok && bench->cfg->prune_batch > 0) {
        timer_start(run->timers, "prune_step");
        ok = measure_prune_step(bench, fault); // 4
        timer_stop(run->timers, "prune_step");
    }
    timer_start(run->timers, "training");
    for (int64_t m = 0; ok && bench->cfg->train_batch > 0 && m < bench->M; m++)
        ok = measure_training(bench, m, fault); // 5
    timer_stop(run->timers, "training");
    if (!ok || run->check_only) return ok;
    if (!write_file(bench, fault)) return false; // 6
    log_info(run->log, "wrote %s", bench->cfg->bench_file);
    return true;
}

bool phase_bench(struct run *run, const struct bench_cfg *cfg, struct fault *fault)
{
    if (comm_rank(run->comm) != 0) return true; // main lets it sleep until rank 0 is done
    if (comm_size(run->comm) > 1)
        log_warning(run->log, "rank 0 alone measures, with %d of the machine's threads",
                    omp_get_max_threads());
    struct benching bench = {.run = run, .cfg = cfg, .plan = backend_open(BACKEND_PLAN)};
    bool ok = measure_all(&bench, fault);
    routing_clear(&bench.routing);
    free(bench.masks);
    free(bench.parameters);
    free(bench.macs);
    free(bench.macs_paper);
    free(bench.forward);
    free(bench.training);
    free(bench.finetune_step);
    backend_close(bench.plan);
    return ok;
}
