/* expert_NN.h5: one expert, a UNet that was really sliced out of the teacher by a mask of the router (METHOD
 * section 6). */
#ifndef PHASES_EXPERT_FILE_H
#define PHASES_EXPERT_FILE_H

#include "phases/router_file.h"
#include "phases/teacher.h"

struct expert {
    int64_t index;     /* its row in the router file */
    char *config_text; /* the teacher's config.json; owned */
    uint8_t *mask;     /* [entries of the unit table], 1 = kept; owned */
    double ratio;      /* its MACs over the teacher's, where the router's budget is counted */
    struct unet *unet; /* sliced; owned */
    struct noise_schedule schedule;
    struct lineage lineage; /* content_id: of the file that it was read from, or "" */
    char teacher_id[SHA256_HEX_SIZE], router_id[SHA256_HEX_SIZE];
};

/* "run/expert" and 3: "run/expert_03.h5". The caller frees it. */
char *expert_path(const char *prefix, int64_t index);

/* Expert `index` of the router, sliced out of the teacher, whose masters must be in memory (teacher_load) and
 * whose unit table must be the router's. Masters are in memory, with gradients where `trainable`. Free with
 * expert_clear. */
void expert_slice(const struct teacher *teacher, const struct routing *routing, int64_t index, bool trainable,
                  struct expert *expert);

/* Whether there is a finished file (a checkpoint is refused) of expert `index` of that router and its
 * teacher, else an EXIT_CODE_INPUT fault. Nothing of the network is read. Local. */
bool expert_check(const char *path, const struct routing *routing, int64_t index, struct fault *fault);

/* Reads such a file with its masters in memory. The weights must be those that the mask which `routing` has
 * for it keeps, else an EXIT_CODE_INPUT fault. Local. Free with expert_clear. */
bool expert_load(const char *path, struct backend *backend, const struct routing *routing, int64_t index,
                 struct expert *expert, struct fault *fault);

/* The same, frozen for computation in `dtype`; `backward`: gradients will flow through it. */
bool expert_read(const char *path, struct backend *backend, enum dtype dtype, bool backward,
                 const struct routing *routing, int64_t index, struct expert *expert, struct fault *fault);
void expert_clear(struct expert *expert);

/* Whether an open file, finished or a checkpoint, is of expert `index` of that router and of its teacher. */
bool expert_check_identity(struct h5_reader *reader, const struct routing *routing, int64_t index,
                           struct fault *fault);

/* Writes everything but weights and training state. */
bool expert_write_identity(const struct expert *expert, struct h5_writer *writer, struct fault *fault);

#endif
