/* The teacher, read from teacher.h5. */
#ifndef PHASES_TEACHER_H
#define PHASES_TEACHER_H

#include "diffusion/noise_schedule.h"
#include "models/unet.h"
#include "phases/lineage.h"

struct teacher {
    char *config_text; /* config.json; owned */
    struct unet *unet; /* owned */
    struct noise_schedule schedule;
    struct lineage lineage;
};

/* What its unit table is to be made of. */
struct teacher_gates {
    int ff_entries;
    bool depth_gates;
};

/* Those of a network that is there: the router's. */
struct teacher_gates teacher_gates_of(const struct unet_config *config);

/* Reads a teacher with its masters in memory, to be sliced or frozen. Local: every rank reads. Free with
 * teacher_clear. */
bool teacher_load(const char *path, struct backend *backend, struct teacher_gates gates,
                  struct teacher *teacher, struct fault *fault);

/* The same, frozen for computation in `dtype`; `backward`: gradients will flow through it. */
bool teacher_read(const char *path, struct backend *backend, enum dtype dtype, struct teacher_gates gates,
                  bool backward, struct teacher *teacher, struct fault *fault);
void teacher_clear(struct teacher *teacher);

/* The noise schedule that a network was trained with: datasets `prediction` and `schedule/betas`. A file
 * without the latter has Stable Diffusion's. */
bool teacher_read_schedule(struct h5_reader *reader, struct noise_schedule *schedule, struct fault *fault);
bool teacher_write_schedule(const struct noise_schedule *schedule, struct h5_writer *writer,
                            struct fault *fault);

#endif
