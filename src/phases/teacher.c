#include "phases/teacher.h"

#include "models/weights.h"
#include "phases/restart.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20 };

struct teacher_gates teacher_gates_of(const struct unet_config *config)
{
    return (struct teacher_gates){config->ff_entries, config->depth_gates};
}

static bool read_prediction(struct h5_reader *reader, enum prediction *prediction, struct fault *fault)
{
    char *name;
    if (!h5_load_text(reader, "prediction", 64, &name, fault)) return false;
    bool known = prediction_find(name, prediction);
    if (!known)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: prediction is \"%s\", v or epsilon allowed", h5_path(reader),
                    name);
    free(name);
    return known;
}

bool teacher_read_schedule(struct h5_reader *reader, struct noise_schedule *schedule, struct fault *fault)
{
    enum prediction prediction;
    if (!read_prediction(reader, &prediction, fault)) return false;
    *schedule = noise_schedule_scaled_linear(prediction);
    if (!h5_exists(reader, "schedule/betas")) return true;
    double *betas;
    if (!h5_load_double(reader, "schedule/betas", 1, (int64_t[]){2}, 2, &betas, NULL, fault)) return false;
    double start = betas[0], end = betas[1];
    free(betas);
    if (!(start > 0 && start < 1 && end > 0 && end < 1))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: schedule/betas are %g and %g, (0, 1) allowed",
                           h5_path(reader), start, end);
    *schedule = noise_schedule_of_betas(prediction, start, end);
    return true;
}

bool teacher_write_schedule(const struct noise_schedule *schedule, struct h5_writer *writer,
                            struct fault *fault)
{
    const double betas[2] = {schedule->beta_start, schedule->beta_end};
    return h5_write_text(writer, "prediction", prediction_name(schedule->prediction), fault) &&
           h5_write_double(writer, "schedule/betas", 1, (int64_t[]){2}, betas, fault);
}

static bool read_network(struct h5_reader *reader, struct backend *backend, struct teacher_gates gates,
                         struct teacher *teacher, struct fault *fault)
{
    struct unet_config config;
    if (!h5_load_text(reader, "config", MAX_CONFIG_BYTES, &teacher->config_text, fault) ||
        !unet_config_parse(&config, teacher->config_text, h5_path(reader), gates.ff_entries, fault) ||
        !teacher_read_schedule(reader, &teacher->schedule, fault) ||
        !lineage_read(reader, &teacher->lineage, fault))
        return false;
    config.depth_gates = gates.depth_gates;
    teacher->unet = unet_new(backend, &config, (struct unet_shape){0});
    parameter_set_allocate(&teacher->unet->parameters, false);
    return weights_read_h5(&teacher->unet->parameters, reader, "weights", fault);
}

bool teacher_load(const char *path, struct backend *backend, struct teacher_gates gates,
                  struct teacher *teacher, struct fault *fault)
{
    *teacher = (struct teacher){0};
    struct h5_reader *reader;
    if (!h5_open(path, FILE_TEACHER, &reader, fault)) return false;
    bool ok =
        restart_refuse_checkpoint(reader, fault) && read_network(reader, backend, gates, teacher, fault);
    h5_close(reader);
    if (!ok) teacher_clear(teacher);
    return ok;
}

bool teacher_read(const char *path, struct backend *backend, enum dtype dtype, struct teacher_gates gates,
                  bool backward, struct teacher *teacher, struct fault *fault)
{
    if (!teacher_load(path, backend, gates, teacher, fault)) return false;
    parameter_set_freeze(&teacher->unet->parameters, dtype, backward);
    return true;
}

void teacher_clear(struct teacher *teacher)
{
    unet_delete(teacher->unet);
    lineage_clear(&teacher->lineage);
    free(teacher->config_text);
    *teacher = (struct teacher){0};
}
