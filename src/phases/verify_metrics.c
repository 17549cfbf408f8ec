/* References of the metrics: host code in fp64. */
#include "metrics/cmmd.h"
#include "metrics/features.h"
#include "metrics/frechet.h"
#include "phases/verify_models.h"

#include <stdlib.h>

/* Rows bound the time, features the memory: some matrices have F x F numbers. */
enum { MAX_ROWS = 1 << 17, MAX_FEATURES = 8192 };

/* Two sets of features: inputs/a [N, F] and inputs/b [M, F]. */
struct feature_sets {
    int64_t N, M, F;
    double *a, *b; /* owned */
};

static bool read_set(struct verification *verification, const char *name, int64_t least_rows, bool directions,
                     int64_t shape[2], double **features, struct fault *fault)
{
    const char *path = h5_path(verification->reference);
    if (!verify_load_doubles(verification, name, 2, shape, features, shape, fault)) return false;
    if (shape[0] > MAX_ROWS || shape[1] > MAX_FEATURES)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: %s has %lld rows of %lld features, at most %d of %d allowed", path, name,
                           (long long)shape[0], (long long)shape[1], MAX_ROWS, MAX_FEATURES);
    return features_check(name, shape[0], shape[1], *features, least_rows, directions, fault) ||
           fault_prefix(fault, "%s: ", path);
}

static bool read_sets(struct verification *verification, int64_t least_rows, bool directions,
                      struct feature_sets *sets, struct fault *fault)
{
    int64_t a[2] = {-1, -1}, b[2] = {-1, -1};
    bool ok = read_set(verification, "inputs/a", least_rows, directions, a, &sets->a, fault);
    b[1] = a[1];
    ok = ok && read_set(verification, "inputs/b", least_rows, directions, b, &sets->b, fault);
    sets->N = a[0];
    sets->M = b[0];
    sets->F = a[1];
    return ok;
}

static void free_sets(struct feature_sets *sets)
{
    free(sets->b);
    free(sets->a);
}

bool verify_frechet(struct verification *verification, struct fault *fault)
{
    struct feature_sets sets = {0};
    bool ok = read_sets(verification, 2, false, &sets, fault);
    if (ok) {
        double distance = 0, terms = 0;
        if (!verification->check_only) {
            struct moments a = moments_of(sets.N, sets.F, sets.a, NULL);
            struct moments b = moments_of(sets.M, sets.F, sets.b, NULL);
            distance = frechet_distance(&a, &b);
            terms = frechet_terms(&a, &b);
            moments_free(&b);
            moments_free(&a);
        }
        // Of singular covariances scipy's sqrtm leaves 1e-8 of the terms: the limit is at least 1e-7 of them.
        ok = verify_metric(verification, "outputs/distance", distance, 0.1 * terms, fault);
    }
    free_sets(&sets);
    return ok;
}

bool verify_cmmd(struct verification *verification, struct fault *fault)
{
    struct feature_sets sets = {0};
    bool ok = read_sets(verification, 1, true, &sets, fault);
    if (ok) {
        double distance = 0;
        if (!verification->check_only) distance = cmmd_distance(sets.N, sets.M, sets.F, sets.a, sets.b);
        ok = verify_metric(verification, "outputs/distance", distance, 1,
                           fault); // x1000: most are of the order of 1
    }
    free_sets(&sets);
    return ok;
}
