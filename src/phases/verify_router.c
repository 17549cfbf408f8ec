/* References of the router's parts: host code in fp64. */
#include "base/check.h"
#include "phases/verify_models.h"
#include "router/contrastive.h"
#include "router/gumbel.h"
#include "router/resource.h"
#include "router/transport.h"

#include <stdlib.h>

enum { MAX_ROWS = 1 << 16, MAX_ROUNDS = 100000 };

/* Rows of a batch: bounded, as some losses take B x B numbers. */
static bool check_rows(struct verification *verification, int64_t rows, struct fault *fault)
{
    if (rows <= MAX_ROWS) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld rows, at most %d allowed",
                       h5_path(verification->reference), (long long)rows, MAX_ROWS);
}

// ---- transport

bool verify_transport(struct verification *verification, struct fault *fault)
{
    int64_t shape[2] = {-1, -1};
    double *similarity = NULL, eps, rounds;
    bool ok = verify_load_doubles(verification, "inputs/similarity", 2, shape, &similarity, shape, fault) &&
              check_rows(verification, shape[0], fault) &&
              verify_attribute(verification, "eps", 0.05, 1e-6, 1e6, &eps, fault) &&
              verify_attribute(verification, "iterations", 3, 0, MAX_ROUNDS, &rounds, fault);
    if (ok) {
        int64_t B = shape[0], K = shape[1];
        double *plan = check_malloc((size_t)(B * K) * sizeof *plan);
        int *expert = check_malloc((size_t)B * sizeof *expert);
        int64_t *wide = check_malloc((size_t)B * sizeof *wide);
        transport_plan(B, K, similarity, eps, (int)rounds, plan);
        transport_experts(B, K, plan, expert);
        for (int64_t b = 0; b < B; b++) wide[b] = expert[b];
        ok = verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/plan", 2, shape, plan, fault) &&
             verify_integers(verification, "outputs/expert", 1, &B, wide, fault);
        free(wide);
        free(expert);
        free(plan);
    }
    free(similarity);
    return ok;
}

// ---- losses

/* Compares a gradient that the reference may have. */
static bool optional_gradient(struct verification *verification, const char *name, int rank,
                              const int64_t *shape, const double *gradient, struct fault *fault)
{
    return !h5_exists(verification->reference, name) ||
           verify_doubles(verification, QUANTITY_ROUTER_GRADIENT, name, rank, shape, gradient, fault);
}

bool verify_contrastive(struct verification *verification, struct fault *fault)
{
    int64_t z_shape[2] = {-1, -1}, shape[2] = {-1, -1};
    double *z = NULL, *architecture = NULL, tau;
    bool ok =
        verify_load_doubles(verification, "inputs/z", 2, z_shape, &z, z_shape, fault) &&
        check_rows(verification, shape[0] = z_shape[0], fault) &&
        verify_load_doubles(verification, "inputs/architecture", 2, shape, &architecture, shape, fault) &&
        verify_attribute(verification, "tau", 0.03, 1e-6, 1e6, &tau, fault);
    if (ok) {
        double *gradient = check_malloc((size_t)(shape[0] * shape[1]) * sizeof *gradient);
        double loss = contrastive_loss(shape[0], z_shape[1], z, shape[1], architecture, tau, gradient);
        ok = verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/loss", 0, NULL, &loss, fault) &&
             optional_gradient(verification, "gradients/architecture", 2, shape, gradient, fault);
        free(gradient);
    }
    free(architecture);
    free(z);
    return ok;
}

bool verify_resource(struct verification *verification, struct fault *fault)
{
    static const char *const forms[] = {"log", "mae", "mse", NULL}; // as enum resource_form
    int64_t B = -1;
    int form;
    double *ratio = NULL, *target = NULL;
    bool ok = verify_load_doubles(verification, "inputs/ratio", 1, &B, &ratio, &B, fault) &&
              verify_load_doubles(verification, "inputs/target", 0, NULL, &target, NULL, fault) &&
              verify_choice(verification, "form", forms, RESOURCE_LOG, &form, fault);
    for (int64_t b = 0; ok && b < B; b++)
        if (!(ratio[b] > 0) || !(*target > 0))
            ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: a ratio or target is %g, more than 0 is allowed",
                             h5_path(verification->reference), ratio[b] > 0 ? *target : ratio[b]);
    if (ok) {
        double *gradient = check_malloc((size_t)B * sizeof *gradient);
        double loss = resource_loss(B, ratio, *target, (enum resource_form)form, gradient);
        ok = verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/loss", 0, NULL, &loss, fault) &&
             optional_gradient(verification, "gradients/ratio", 1, &B, gradient, fault);
        free(gradient);
    }
    free(target);
    free(ratio);
    return ok;
}

// ---- gates

/* The keep order [n]: indices, which may count from the end. */
static bool read_order(struct verification *verification, int64_t n, int **order, struct fault *fault)
{
    int64_t *indices = NULL;
    bool ok = verify_load_integers(verification, "inputs/order", 1, &n, -n, n - 1, &indices, NULL, fault);
    bool *used = check_calloc((size_t)n, sizeof *used);
    *order = check_malloc((size_t)n * sizeof **order);
    for (int64_t i = 0; ok && i < n; i++) {
        int64_t index = (indices[i] + n) % n;
        if (used[index])
            ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: inputs/order has entry %lld twice",
                             h5_path(verification->reference), (long long)index);
        used[index] = true;
        (*order)[i] = (int)index;
    }
    free(used);
    free(indices);
    return ok;
}

/* Gates of each row, and the gradient of the mean of their squares. order NULL: a width unit. */
static bool compare_gates(struct verification *verification, struct gumbel gumbel, const int64_t shape[2],
                          const int *order, const double *logits, const double *noise, struct fault *fault)
{
    int64_t count = shape[0] * shape[1];
    int n = (int)shape[1];
    double *gates = check_malloc((size_t)count * sizeof *gates);
    double *gate_gradient = check_malloc((size_t)n * sizeof *gate_gradient);
    double *gradient = check_malloc((size_t)count * sizeof *gradient);
    for (int64_t at = 0; at < count; at += n) {
        if (order)
            gumbel_depth(gumbel, n, order, logits + at, noise + at, gates + at);
        else
            gumbel_width(gumbel, n, logits + at, noise + at, gates + at);
        for (int i = 0; i < n; i++) gate_gradient[i] = 2 * gates[at + i] / (double)count;
        if (order)
            gumbel_depth_backward(gumbel, n, order, logits + at, noise + at, gate_gradient, gradient + at);
        else
            gumbel_width_backward(gumbel, n, logits + at, noise + at, gate_gradient, gradient + at);
    }
    bool ok = verify_doubles(verification, QUANTITY_ROUTER_OUTPUT, "outputs/gate", 2, shape, gates, fault) &&
              optional_gradient(verification, "gradients/logits", 2, shape, gradient, fault);
    free(gradient);
    free(gate_gradient);
    free(gates);
    return ok;
}

static bool verify_gumbel(struct verification *verification, bool depth, struct fault *fault)
{
    int64_t shape[2] = {-1, -1};
    struct gumbel gumbel;
    double *logits = NULL, *noise = NULL;
    int *order = NULL;
    bool ok = verify_load_doubles(verification, "inputs/logits", 2, shape, &logits, shape, fault) &&
              check_rows(verification, shape[1], fault) &&
              verify_load_doubles(verification, "inputs/gumbel", 2, shape, &noise, NULL, fault) &&
              (!depth || read_order(verification, shape[1], &order, fault)) &&
              verify_attribute(verification, "gamma", 0.4, 1e-6, 1e6, &gumbel.temperature, fault) &&
              verify_attribute(verification, "b", 3, -1e6, 1e6, &gumbel.offset, fault) &&
              compare_gates(verification, gumbel, shape, order, logits, noise, fault);
    free(order);
    free(noise);
    free(logits);
    return ok;
}

bool verify_gumbel_width(struct verification *verification, struct fault *fault)
{
    return verify_gumbel(verification, false, fault);
}

bool verify_gumbel_depth(struct verification *verification, struct fault *fault)
{
    return verify_gumbel(verification, true, fault);
}
