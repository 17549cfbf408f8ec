/* Comparing quantities with a reference file (DESIGN section 9): what the files verify_*.c of the models
 * share.
 *
 * Layouts are those of the file: PyTorch's. References are untrusted: what does not have the expected shape
 * or type, or is not finite, is an EXIT_CODE_INPUT fault. Nothing here is collective. */
#ifndef PHASES_VERIFY_COMPARE_H
#define PHASES_VERIFY_COMPARE_H

#include "base/log.h"
#include "io/hdf5_file.h"
#include "phases/text_list.h"
#include "tensor/tape.h"

/* Elements of one array of a reference. */
enum { VERIFY_MAX_ELEMENTS = 1 << 28, VERIFY_MAX_ATTRIBUTE_TEXT = 4096 };

/* What decides the default tolerance, and what the error is measured against: outputs against the largest
 * value of the reference, gradients against the largest gradient of the model. */
enum quantity {
    QUANTITY_OUTPUT, /* of a network in fp32 or bf16 */
    QUANTITY_GRADIENT,
    QUANTITY_ROUTER_OUTPUT, /* of host code in fp64 */
    QUANTITY_ROUTER_GRADIENT,
    QUANTITY_METRIC, /* of host code in fp64, a difference of larger terms (verify_metric) */
};

struct verification {
    const struct log *log;
    struct h5_reader *reference;
    const char
        *folder; /* of the model: the root attribute `folder`, relative to the file; "" if it has none */
    struct backend *backend;
    enum dtype dtype;        /* of networks */
    double tolerance;        /* 0: the default of each quantity */
    bool check_only;         /* shapes are checked, values are not: the backend computes nothing */
    double largest_gradient; /* of the reference, once `gradient_known` */
    bool gradient_known;
    struct text_list names; /* of datasets that were compared */
    int compared, failed;
};

/* Compares an array with dataset `name`, which must have that shape (rank 0: a scalar), and prints the result
 * as one line. False only if the reference cannot be read. */
bool verify_floats(struct verification *verification, enum quantity quantity, const char *name, int rank,
                   const int64_t *shape, const float *values, struct fault *fault);
bool verify_doubles(struct verification *verification, enum quantity quantity, const char *name, int rank,
                    const int64_t *shape, const double *values, struct fault *fault);
/* One QUANTITY_METRIC. Where the reference is below `least_scale`, the error is measured against that
 * instead: a distance of a set from itself is rounding, on both sides. */
bool verify_metric(struct verification *verification, const char *name, double value, double least_scale,
                   struct fault *fault);
/* Pictures, which are judged by the mean of |difference|, allowed up to `limit`, whatever verify.tolerance
 * is; `label` is what is shown beside verify_floats' line of the same dataset, which compares the largest. */
bool verify_mean(struct verification *verification, const char *name, const char *label, double limit,
                 int rank, const int64_t *shape, const float *values, struct fault *fault);
/* The same for integers, which must be equal. */
bool verify_integers(struct verification *verification, const char *name, int rank, const int64_t *shape,
                     const int64_t *values, struct fault *fault);
/* The same for values that must be equal bit for bit. */
bool verify_equal(struct verification *verification, const char *name, int rank, const int64_t *shape,
                  const float *values, struct fault *fault);
/* Compares with dataset `name` something that is shown as `label`: another way to the same quantity. */
bool verify_again(struct verification *verification, enum quantity quantity, const char *name,
                  const char *label, int rank, const int64_t *shape, const float *values,
                  struct fault *fault);

/* Runs backwards from the mean of the samples' losses [B], and compares it with outputs/loss where there is
 * one. */
bool verify_loss(struct verification *verification, struct tape *tape, struct tensor *loss,
                 struct fault *fault);
/* The gradient of a weight, found by its name in the set, with gradients/NAME. */
bool verify_weight_gradient(struct verification *verification, const struct parameter_set *set,
                            const char *name, struct fault *fault);

/* Every dataset in outputs/, gradients/, gate_gradients/ and weights/ must have been compared: what the
 * program does not know would pass unseen. */
bool verify_nothing_left(struct verification *verification, struct fault *fault);

/* Says what a network needs, under check_only. */
void verify_report_memory(const struct verification *verification, const struct tape *tape);

// ---- inputs

/* An array of the reference; the caller frees it. -1 in shape: any length of at least 1; shape_found may be
 * NULL. */
bool verify_load_floats(struct verification *verification, const char *name, int rank, const int64_t *shape,
                        float **out, int64_t *shape_found, struct fault *fault);
bool verify_load_doubles(struct verification *verification, const char *name, int rank, const int64_t *shape,
                         double **out, int64_t *shape_found, struct fault *fault);
/* A map [B, C, H, W] as [B, H, W, C]; nchw: its shape, -1 as above, then as found. */
bool verify_load_map(struct verification *verification, const char *name, int64_t nchw[4], float **out,
                     struct fault *fault);
/* Integers in [least, most]. */
bool verify_load_integers(struct verification *verification, const char *name, int rank, const int64_t *shape,
                          int64_t least, int64_t most, int64_t **out, int64_t *shape_found,
                          struct fault *fault);

/* A root attribute in [least, most]; `usual` where the file has none, NAN: it must have one. */
bool verify_attribute(struct verification *verification, const char *name, double usual, double least,
                      double most, double *out, struct fault *fault);
/* A root attribute that is one of `names` (ends with NULL), as its index; `usual` where the file has none,
 * -1: it must have one. */
bool verify_choice(struct verification *verification, const char *name, const char *const *names, int usual,
                   int *out, struct fault *fault);

/* [B, C, H, W] to [B, H, W, C] and back; both arrays are the caller's. */
void verify_to_nhwc(const int64_t nchw[4], const float *from, float *to);
void verify_to_nchw(const int64_t nchw[4], const float *from, float *to);

#endif
