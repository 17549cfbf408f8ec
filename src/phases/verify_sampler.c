/* References of samplers: diffusers' schedulers stepping through given model outputs. */
#include "base/check.h"
#include "diffusion/sampler.h"
#include "phases/verify_models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* inputs/sample [...], of any rank, and inputs/model_output [calls, ...] */
struct sampler_case {
    int rank;                   /* of samples [calls, ...] */
    int64_t shape[H5_MAX_RANK]; /* [calls, ...] */
    int64_t count;              /* elements of one sample */
    float *sample, *output;
};

static bool read_case(struct verification *verification, int64_t calls, struct sampler_case *c,
                      struct fault *fault)
{
    struct h5_info info;
    if (!h5_describe(verification->reference, "inputs/sample", &info, fault)) return false;
    if (info.rank < 1 || info.rank >= H5_MAX_RANK)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: inputs/sample has %d dimensions, 1 to %d allowed",
                           h5_path(verification->reference), info.rank, H5_MAX_RANK - 1);
    c->rank = info.rank + 1;
    c->shape[0] = calls;
    c->count = info.elements;
    memcpy(c->shape + 1, info.shape, (size_t)info.rank * sizeof *c->shape);
    return verify_load_floats(verification, "inputs/sample", info.rank, info.shape, &c->sample, NULL,
                              fault) &&
           verify_load_floats(verification, "inputs/model_output", c->rank, c->shape, &c->output, NULL,
                              fault);
}

static bool verify_sampler(struct verification *verification, enum sampler_kind kind, struct fault *fault)
{
    static const char *const predictions[] = {"v_prediction", "epsilon", NULL}; // as enum prediction
    int prediction;
    double steps;
    if (!verify_choice(verification, "prediction_type", predictions, PREDICTION_V, &prediction, fault) ||
        !verify_attribute(verification, "steps", NAN, 1, sampler_most_steps(kind), &steps, fault))
        return false;
    int64_t calls = sampler_calls(kind, (int)steps);
    struct sampler_case c = {0};
    bool ok = read_case(verification, calls, &c, fault);
    if (ok) {
        struct noise_schedule schedule = noise_schedule_scaled_linear((enum prediction)prediction);
        int64_t *timesteps = check_malloc((size_t)calls * sizeof *timesteps);
        float *samples = check_malloc((size_t)(calls * c.count) * sizeof *samples);
        struct sampler sampler;
        sampler_init(&sampler, kind, &schedule, (int)steps, c.count);
        for (int64_t call = 0; call < calls; call++) {
            timesteps[call] = sampler_timestep(&sampler, (int)call);
            sampler_step(&sampler, c.output + call * c.count, c.sample);
            memcpy(samples + call * c.count, c.sample, (size_t)c.count * sizeof *samples);
        }
        ok = verify_integers(verification, "outputs/timesteps", 1, &calls, timesteps, fault) &&
             verify_floats(verification, QUANTITY_OUTPUT, "outputs/samples", c.rank, c.shape, samples, fault);
        sampler_clear(&sampler);
        free(samples);
        free(timesteps);
    }
    free(c.output);
    free(c.sample);
    return ok;
}

bool verify_pndm(struct verification *verification, struct fault *fault)
{
    return verify_sampler(verification, SAMPLER_PNDM, fault);
}

bool verify_ddim(struct verification *verification, struct fault *fault)
{
    return verify_sampler(verification, SAMPLER_DDIM, fault);
}

bool verify_dpmpp(struct verification *verification, struct fault *fault)
{
    return verify_sampler(verification, SAMPLER_DPMPP, fault);
}
