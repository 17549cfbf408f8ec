/* What the files evaluate*.c share; no other file includes it.
 *
 * Letters: N items of the split, T timesteps, K experts, M rows of the table: row 0 is all experts together,
 * row 1 + k expert k, row 1 + K, where it is asked for, the teacher. */
#ifndef PHASES_EVALUATE_PARTS_H
#define PHASES_EVALUATE_PARTS_H

#include "diffusion/sampler.h"
#include "metrics/bootstrap.h"
#include "phases/assignment_file.h"
#include "phases/evaluate.h"
#include "phases/router_file.h"
#include "phases/teacher.h"
#include "tensor/tape.h"
#include "train/dataset.h"

enum { ROW_ALL = 0, ROW_EXPERTS = 1, ROW_NAME_SIZE = 32 };

/* Means and distances of a row, each with its interval. */
enum quantity {
    QUANTITY_FRECHET,
    QUANTITY_CMMD,
    QUANTITY_CLIP_SCORE,
    QUANTITY_DENOISING_LOSS,
    QUANTITY_DISTILL_OUT,
    QUANTITIES,
    DISTANCES = QUANTITY_CLIP_SCORE,              /* the first ones are distances of sets of pictures */
    PICTURE_QUANTITIES = QUANTITY_DENOISING_LOSS, /* and these are of pictures */
};
const char *quantity_name(enum quantity quantity); /* "frechet" */

/* Fewest cases of which an interval is given; a Frechet distance needs 2 pictures for a value. */
enum { LEAST_FOR_INTERVAL = 10, LEAST_FOR_FRECHET = 2 };

/* No value and no interval. */
struct interval interval_none(void);

struct sampling_settings {
    enum sampler_kind sampler;
    int64_t steps;
    double guidance;
};

/* The network that a quantity of pictures is measured with; width 0: the quantity is left out. */
struct measured_with {
    const char *kind, *path;  /* "inception" and its folder; borrowed */
    char id[SHA256_HEX_SIZE]; /* of all that its features depend on; of clip.h5 the content id */
    int64_t width;            /* of its features */
};

struct evaluating {
    struct run *run;
    const struct evaluate_cfg *cfg;
    struct backend *backend;
    enum dtype dtype;
    struct tape *tape;

    struct routing routing;
    struct lineage data;      /* of data.h5 */
    struct text_encoder text; /* of token ids; zero: the data have states */
    struct dataset *dataset;  /* the split */
    const struct dataset_info *info;
    struct assignment assignment; /* of the split */
    struct teacher teacher;       /* frozen; zero: neither evaluated nor sliced */
    struct sampling_settings sampling;
    int64_t K, M;

    /* results, arrays of [M]; owned */
    int64_t *prompts;  /* of the split */
    int64_t *pictures; /* generated ones */
    int64_t *parameters;
    double *macs, *seconds;                    /* of one picture: of a forward pass; to sample */
    struct interval *value[QUANTITIES];        /* NaN where there is none */
    struct interval *population[DISTANCES];    /* the distances without the offset of few pictures */
    int64_t *partners;                         /* pictures of the other split compared with */
    struct interval *real[PICTURE_QUANTITIES]; /* the same of real pictures */
    struct measured_with measured_with[PICTURE_QUANTITIES];

    /* per item of the split, [N, T]: squared errors, mean over the latent's elements; owned */
    double *loss, *distill_out, *teacher_loss;
    char *expert_ids;                    /* [K, SHA256_HEX_SIZE] content ids of the experts' files; owned */
    char samples_id[2][SHA256_HEX_SIZE]; /* of the samples, and of the teacher's */
};

const char *evaluate_split_name(enum evaluate_split split); /* "validation" */

/* "all", "expert 3", "teacher" */
void row_name(const struct evaluating *evaluating, int64_t row, char name[ROW_NAME_SIZE]);
/* The teacher's row, or -1. */
int64_t row_of_teacher(const struct evaluating *evaluating);

/* What every cache depends on: the program, data, split, precision of the computation. The caller frees it.
 */
char *evaluate_key(const struct evaluating *evaluating, enum dtype dtype);
/* "run/evaluate_cache_real.h5"; the caller frees it. */
char *evaluate_cache_path(const struct evaluating *evaluating, const char *name);

/* Parts of the phase, in their order; each collective, with the faults shared. */

/* evaluate_denoising.c: opens every expert and the teacher; fills loss, distill_out, teacher_loss, and of
 * each row parameters, macs and seconds (evaluate_cost.c). */
bool evaluate_models(struct evaluating *evaluating, struct fault *fault);
/* evaluate_pictures.c: fills sampling from samples.h5, and value, population and real of the pictures. */
bool evaluate_pictures(struct evaluating *evaluating, struct fault *fault);
/* evaluate_denoising.c: value of the losses. */
void evaluate_losses(struct evaluating *evaluating);

/* evaluate_cost.c: seconds to sample a picture with guidance, measured by rank 0 while the others sleep. */
double evaluate_time(struct evaluating *evaluating, const struct unet *unet,
                     const struct noise_schedule *schedule, struct fault *fault);

/* evaluate_file.c: metrics.h5 and the table. */
bool evaluate_write(const struct evaluating *evaluating, struct fault *fault);
void evaluate_report(const struct evaluating *evaluating);

#endif
