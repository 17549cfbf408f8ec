#include "phases/verify_compare.h"

#include "base/check.h"
#include "models/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- limits

static double tolerance_of(const struct verification *verification, enum quantity quantity)
{
    if (verification->tolerance > 0) return verification->tolerance;
    if (quantity == QUANTITY_ROUTER_OUTPUT || quantity == QUANTITY_ROUTER_GRADIENT) return 1e-9;
    if (quantity == QUANTITY_METRIC) return 1e-6;
    if (verification->dtype == DTYPE_BF16) return 3e-2;
    return quantity == QUANTITY_GRADIENT ? 1e-3 : 1e-4;
}

static bool is_gradient(enum quantity quantity)
{
    return quantity == QUANTITY_GRADIENT || quantity == QUANTITY_ROUTER_GRADIENT;
}

static double largest_of(int64_t count, const double *values)
{
    double largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(values[i]));
    return largest;
}

/* A group's names; none if there is no such group. */
static bool list(struct verification *verification, const char *group, bool groups, struct h5_strings *names,
                 struct fault *fault)
{
    *names = (struct h5_strings){0};
    return !h5_exists(verification->reference, group) ||
           h5_list(verification->reference, group, groups, names, fault);
}

/* A whole dataset of floating type, whatever its shape, as doubles. */
static bool load_any(struct verification *verification, const char *name, double **values,
                     struct h5_info *info, struct fault *fault)
{
    struct h5_reader *reference = verification->reference;
    *values = NULL;
    if (!h5_describe(reference, name, info, fault)) return false;
    if (info->elements > VERIFY_MAX_ELEMENTS)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s has %lld elements, at most %d allowed",
                           h5_path(reference), name, (long long)info->elements, VERIFY_MAX_ELEMENTS);
    *values = check_malloc((size_t)info->elements * sizeof **values);
    int64_t rows = info->rank == 0 ? 1 : info->shape[0];
    if (info->elements > 0 && !h5_read_double(reference, name, 0, rows, *values, fault)) return false;
    for (int64_t i = 0; i < info->elements; i++)
        if (!isfinite((*values)[i]))
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: element %lld is not finite",
                               h5_path(reference), name, (long long)i);
    return true;
}

/* The largest gradient of the model, in the two groups that hold gradients. */
static bool know_largest_gradient(struct verification *verification, struct fault *fault)
{
    static const char *const groups[] = {"gradients", "gate_gradients"};
    if (verification->gradient_known) return true;
    bool ok = true;
    for (int g = 0; ok && g < 2; g++) {
        struct h5_strings names;
        if (!list(verification, groups[g], false, &names, fault)) return false;
        for (int64_t i = 0; ok && i < names.count; i++) {
            char *name = check_format("%s/%s", groups[g], names.item[i]);
            double *values;
            struct h5_info info;
            ok = load_any(verification, name, &values, &info, fault);
            if (ok)
                verification->largest_gradient =
                    fmax(verification->largest_gradient, largest_of(info.elements, values));
            free(values);
            free(name);
        }
        h5_strings_free(&names);
    }
    verification->gradient_known = ok;
    return ok;
}

// ---- comparing

/* Largest |a - b|; infinite where one is not finite. */
static double largest_error(int64_t count, const double *a, const double *b)
{
    double error = 0;
    for (int64_t i = 0; i < count; i++) {
        double difference = fabs(a[i] - b[i]);
        error = isfinite(difference) ? fmax(error, difference) : INFINITY;
    }
    return error;
}

/* One line of the report. The relative error is that over `scale`, from which the limit is taken: the largest
 * value, for a gradient the model's largest (some are zero by mathematics, and nothing is small beside them).
 */
static void report(struct verification *verification, const char *label, double error, double scale,
                   double limit)
{
    bool pass = error <= limit;
    double relative = error == 0 ? 0 : error / scale;
    log_info(verification->log, "%-72s error %9.3e  relative %9.3e  limit %9.3e  %s", label, error, relative,
             limit, pass ? "pass" : "FAIL");
    verification->compared++;
    verification->failed += !pass;
}

/* Errors are measured against the largest value, or against `least_scale` where that is more. */
static bool compare(struct verification *verification, enum quantity quantity, bool exact, double least_scale,
                    const char *name, const char *label, int rank, const int64_t *shape, const double *values,
                    struct fault *fault)
{
    struct h5_info info;
    double *expected = NULL;
    if (!h5_expect(verification->reference, name, rank, shape, &info, fault)) return false;
    if (label == name) text_list_add(&verification->names, name);
    if (verification->check_only) return true;
    if (is_gradient(quantity) && !know_largest_gradient(verification, fault)) return false;
    bool ok = load_any(verification, name, &expected, &info, fault);
    if (ok) {
        double largest = fmax(largest_of(info.elements, expected), least_scale);
        double scale = is_gradient(quantity) ? verification->largest_gradient : largest;
        double limit = exact ? 0 : tolerance_of(verification, quantity) * scale;
        report(verification, label, largest_error(info.elements, values, expected), scale, limit);
    }
    free(expected);
    return ok;
}

static int64_t elements_of(int rank, const int64_t *shape)
{
    int64_t elements = 1;
    for (int i = 0; i < rank; i++) elements *= shape[i];
    return elements;
}

static bool compare_floats(struct verification *verification, enum quantity quantity, bool exact,
                           const char *name, const char *label, int rank, const int64_t *shape,
                           const float *values, struct fault *fault)
{
    int64_t elements = elements_of(rank, shape);
    double *wide = check_malloc((size_t)elements * sizeof *wide);
    for (int64_t i = 0; i < elements; i++) wide[i] = values[i];
    bool ok = compare(verification, quantity, exact, 0, name, label, rank, shape, wide, fault);
    free(wide);
    return ok;
}

bool verify_floats(struct verification *verification, enum quantity quantity, const char *name, int rank,
                   const int64_t *shape, const float *values, struct fault *fault)
{
    return compare_floats(verification, quantity, false, name, name, rank, shape, values, fault);
}

bool verify_equal(struct verification *verification, const char *name, int rank, const int64_t *shape,
                  const float *values, struct fault *fault)
{
    return compare_floats(verification, QUANTITY_OUTPUT, true, name, name, rank, shape, values, fault);
}

bool verify_again(struct verification *verification, enum quantity quantity, const char *name,
                  const char *label, int rank, const int64_t *shape, const float *values, struct fault *fault)
{
    return compare_floats(verification, quantity, false, name, label, rank, shape, values, fault);
}

bool verify_doubles(struct verification *verification, enum quantity quantity, const char *name, int rank,
                    const int64_t *shape, const double *values, struct fault *fault)
{
    return compare(verification, quantity, false, 0, name, name, rank, shape, values, fault);
}

bool verify_metric(struct verification *verification, const char *name, double value, double least_scale,
                   struct fault *fault)
{
    return compare(verification, QUANTITY_METRIC, false, least_scale, name, name, 0, NULL, &value, fault);
}

static double mean_error(int64_t count, const float *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += fabs((double)a[i] - b[i]);
    return isfinite(sum) ? sum / (double)count : INFINITY;
}

bool verify_mean(struct verification *verification, const char *name, const char *label, double limit,
                 int rank, const int64_t *shape, const float *values, struct fault *fault)
{
    struct h5_info info;
    double *expected = NULL;
    if (!h5_expect(verification->reference, name, rank, shape, &info, fault)) return false;
    if (verification->check_only) return true;
    bool ok = load_any(verification, name, &expected, &info, fault);
    if (ok)
        report(verification, label, mean_error(info.elements, values, expected),
               largest_of(info.elements, expected), limit);
    free(expected);
    return ok;
}

bool verify_integers(struct verification *verification, const char *name, int rank, const int64_t *shape,
                     const int64_t *values, struct fault *fault)
{
    int64_t *expected = NULL;
    struct h5_info info;
    if (!h5_load_int64(verification->reference, name, rank, shape, VERIFY_MAX_ELEMENTS, &expected, &info,
                       fault))
        return false;
    text_list_add(&verification->names, name);
    double error = 0, largest = 0;
    for (int64_t i = 0; i < info.elements; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        if (values[i] != expected[i])
            error = fmax(error, fmax(1, fabs((double)values[i] - (double)expected[i])));
    }
    free(expected);
    if (!verification->check_only) report(verification, name, error, largest, 0);
    return true;
}

static bool is_compared(const struct verification *verification, const char *name)
{
    for (int64_t i = 0; i < verification->names.count; i++)
        if (strcmp(verification->names.item[i], name) == 0) return true;
    return false;
}

/* Datasets of a group and of the groups in it. */
static bool nothing_left_in(struct verification *verification, const char *group, struct fault *fault)
{
    struct h5_strings names;
    bool ok = true;
    for (int groups = 0; ok && groups < 2; groups++) {
        ok = list(verification, group, groups == 1, &names, fault);
        for (int64_t i = 0; ok && i < names.count; i++) {
            char *name = check_format("%s/%s", group, names.item[i]);
            if (groups == 1)
                ok = nothing_left_in(verification, name, fault);
            else if (!is_compared(verification, name))
                ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is nothing that this model has",
                                 h5_path(verification->reference), name);
            free(name);
        }
        h5_strings_free(&names);
    }
    return ok;
}

bool verify_loss(struct verification *verification, struct tape *tape, struct tensor *loss,
                 struct fault *fault)
{
    int64_t B = loss->dim[0];
    float *values = check_malloc((size_t)B * sizeof *values);
    for (int64_t b = 0; b < B; b++) values[b] = 1.0f / (float)B;
    tape_backward(tape, 1, &loss, (const float *const[]){values});
    tape_read(tape, loss, values);
    double mean = 0;
    for (int64_t b = 0; b < B; b++) mean += values[b] / (double)B;
    free(values);
    return !h5_exists(verification->reference, "outputs/loss") ||
           verify_doubles(verification, QUANTITY_OUTPUT, "outputs/loss", 0, NULL, &mean, fault);
}

bool verify_weight_gradient(struct verification *verification, const struct parameter_set *set,
                            const char *name, struct fault *fault)
{
    int part;
    const struct parameter *parameter = parameter_find(set, name, &part);
    if (!parameter)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: gradients/%s is of no input or weight of this network",
                           h5_path(verification->reference), name);
    int64_t shape[TENSOR_MAX_RANK], elements = 1;
    int rank = weights_file_shape(parameter, part, shape);
    for (int i = 0; i < rank; i++) elements *= shape[i];
    int64_t first = parameter->part[part].first_row * (elements / shape[0]);
    float *values = check_malloc((size_t)elements * sizeof *values);
    verification->backend->ops->download(verification->backend, values,
                                         (const float *)parameter->gradient.data + first,
                                         (size_t)elements * sizeof *values);
    char *dataset = check_format("gradients/%s", name);
    bool ok = verify_floats(verification, QUANTITY_GRADIENT, dataset, rank, shape, values, fault);
    free(dataset);
    free(values);
    return ok;
}

bool verify_nothing_left(struct verification *verification, struct fault *fault)
{
    return nothing_left_in(verification, "outputs", fault) &&
           nothing_left_in(verification, "gradients", fault) &&
           nothing_left_in(verification, "gate_gradients", fault) &&
           nothing_left_in(verification, "weights", fault);
}

void verify_report_memory(const struct verification *verification, const struct tape *tape)
{
    if (verification->check_only)
        log_info(verification->log, "memory: %.1f MiB of weights and scratch, %.1f MiB of activations",
                 (double)backend_bytes(verification->backend) / (1 << 20),
                 (double)arena_peak(tape_arena(tape)) / (1 << 20));
}

// ---- inputs

/* What h5_load_* has found: a fault where a dimension is empty. */
static bool accept_shape(struct verification *verification, const char *name, const struct h5_info *info,
                         int64_t *shape_found, struct fault *fault)
{
    for (int i = 0; i < info->rank; i++) {
        if (info->shape[i] < 1)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s has no elements",
                               h5_path(verification->reference), name);
        if (shape_found) shape_found[i] = info->shape[i];
    }
    return true;
}

static bool not_finite(struct verification *verification, const char *name, int64_t index,
                       struct fault *fault)
{
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: element %lld is not finite",
                       h5_path(verification->reference), name, (long long)index);
}

bool verify_load_floats(struct verification *verification, const char *name, int rank, const int64_t *shape,
                        float **out, int64_t *shape_found, struct fault *fault)
{
    struct h5_info info;
    if (!h5_load_float(verification->reference, name, rank, shape, VERIFY_MAX_ELEMENTS, out, &info, fault))
        return false;
    for (int64_t i = 0; i < info.elements; i++)
        if (!isfinite((*out)[i])) return not_finite(verification, name, i, fault);
    return accept_shape(verification, name, &info, shape_found, fault);
}

bool verify_load_doubles(struct verification *verification, const char *name, int rank, const int64_t *shape,
                         double **out, int64_t *shape_found, struct fault *fault)
{
    struct h5_info info;
    if (!h5_load_double(verification->reference, name, rank, shape, VERIFY_MAX_ELEMENTS, out, &info, fault))
        return false;
    for (int64_t i = 0; i < info.elements; i++)
        if (!isfinite((*out)[i])) return not_finite(verification, name, i, fault);
    return accept_shape(verification, name, &info, shape_found, fault);
}

bool verify_load_integers(struct verification *verification, const char *name, int rank, const int64_t *shape,
                          int64_t least, int64_t most, int64_t **out, int64_t *shape_found,
                          struct fault *fault)
{
    struct h5_info info;
    if (!h5_load_int64(verification->reference, name, rank, shape, VERIFY_MAX_ELEMENTS, out, &info, fault))
        return false;
    for (int64_t i = 0; i < info.elements; i++)
        if ((*out)[i] < least || (*out)[i] > most)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: element %lld is %lld, %lld to %lld allowed",
                               h5_path(verification->reference), name, (long long)i, (long long)(*out)[i],
                               (long long)least, (long long)most);
    return accept_shape(verification, name, &info, shape_found, fault);
}

bool verify_attribute(struct verification *verification, const char *name, double usual, double least,
                      double most, double *out, struct fault *fault)
{
    *out = usual;
    if (!isnan(usual) && !h5_has_attribute(verification->reference, "/", name)) return true;
    if (!h5_attribute_double(verification->reference, "/", name, out, fault)) return false;
    if (*out >= least && *out <= most) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: attribute %s = %g, %g to %g allowed",
                       h5_path(verification->reference), name, *out, least, most);
}

bool verify_choice(struct verification *verification, const char *name, const char *const *names, int usual,
                   int *out, struct fault *fault)
{
    char *text;
    *out = usual;
    if (usual >= 0 && !h5_has_attribute(verification->reference, "/", name)) return true;
    if (!h5_attribute_string(verification->reference, "/", name, &text, fault)) return false;
    for (*out = 0; names[*out] && strcmp(names[*out], text) != 0;) ++*out;
    bool known = names[*out];
    if (!known)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: attribute %s = \"%.100s\" is none of %s, %s%s%s ...",
                    h5_path(verification->reference), name, text, names[0], names[1], names[2] ? ", " : "",
                    names[2] ? names[2] : "");
    free(text);
    return known;
}

bool verify_load_map(struct verification *verification, const char *name, int64_t nchw[4], float **out,
                     struct fault *fault)
{
    float *planes = NULL;
    bool ok = verify_load_floats(verification, name, 4, nchw, &planes, nchw, fault);
    if (ok) {
        *out = check_malloc((size_t)(nchw[0] * nchw[1] * nchw[2] * nchw[3]) * sizeof **out);
        verify_to_nhwc(nchw, planes, *out);
    }
    free(planes);
    return ok;
}

void verify_to_nhwc(const int64_t nchw[4], const float *from, float *to)
{
    int64_t channels = nchw[1], pixels = nchw[2] * nchw[3];
    for (int64_t b = 0; b < nchw[0]; b++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < pixels; p++)
                to[(b * pixels + p) * channels + c] = from[(b * channels + c) * pixels + p];
}

void verify_to_nchw(const int64_t nchw[4], const float *from, float *to)
{
    int64_t channels = nchw[1], pixels = nchw[2] * nchw[3];
    for (int64_t b = 0; b < nchw[0]; b++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < pixels; p++)
                to[(b * channels + c) * pixels + p] = from[(b * pixels + p) * channels + c];
}
