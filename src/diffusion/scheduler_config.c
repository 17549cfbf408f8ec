#include "diffusion/scheduler_config.h"

#include "models/config_keys.h"

#include <string.h>

enum { MAX_BYTES = 1 << 20 };

static const struct config_key keys[] = {
    // the forward process
    {"beta_start", CONFIG_READ, NULL},
    {"beta_end", CONFIG_READ, NULL},
    {"beta_schedule", CONFIG_TEXT, "scaled_linear"},
    {"num_train_timesteps", CONFIG_READ, NULL},
    {"prediction_type", CONFIG_READ, NULL},
    {"rescale_betas_zero_snr", CONFIG_FALSE, NULL},
    {"trained_betas", CONFIG_EMPTY, NULL},
    {"use_flow_sigmas", CONFIG_FALSE, NULL},

    // sampling alone
    {"algorithm_type", CONFIG_IGNORED, NULL},
    {"clip_sample", CONFIG_IGNORED, NULL},
    {"clip_sample_range", CONFIG_IGNORED, NULL},
    {"disable_corrector", CONFIG_IGNORED, NULL},
    {"dynamic_thresholding_ratio", CONFIG_IGNORED, NULL},
    {"euler_at_final", CONFIG_IGNORED, NULL},
    {"final_sigmas_type", CONFIG_IGNORED, NULL},
    {"flow_shift", CONFIG_IGNORED, NULL},
    {"interpolation_type", CONFIG_IGNORED, NULL},
    {"lambda_min_clipped", CONFIG_IGNORED, NULL},
    {"lower_order_final", CONFIG_IGNORED, NULL},
    {"predict_x0", CONFIG_IGNORED, NULL},
    {"sample_max_value", CONFIG_IGNORED, NULL},
    {"set_alpha_to_one", CONFIG_IGNORED, NULL},
    {"sigma_max", CONFIG_IGNORED, NULL},
    {"sigma_min", CONFIG_IGNORED, NULL},
    {"skip_prk_steps", CONFIG_IGNORED, NULL},
    {"solver_order", CONFIG_IGNORED, NULL},
    {"solver_p", CONFIG_IGNORED, NULL},
    {"solver_type", CONFIG_IGNORED, NULL},
    {"steps_offset", CONFIG_IGNORED, NULL},
    {"thresholding", CONFIG_IGNORED, NULL},
    {"time_shift_type", CONFIG_IGNORED, NULL},
    {"timestep_spacing", CONFIG_IGNORED, NULL},
    {"timestep_type", CONFIG_IGNORED, NULL},
    {"use_beta_sigmas", CONFIG_IGNORED, NULL},
    {"use_dynamic_shifting", CONFIG_IGNORED, NULL},
    {"use_exponential_sigmas", CONFIG_IGNORED, NULL},
    {"use_karras_sigmas", CONFIG_IGNORED, NULL},
    {"use_lu_lambdas", CONFIG_IGNORED, NULL},
    {"variance_type", CONFIG_IGNORED, NULL},
};

static bool get_prediction(struct json root, enum prediction *prediction, struct fault *fault)
{
    struct json value;
    const char *name = "epsilon";
    if (json_member(root, "prediction_type", &value) && !json_get_string(value, &name, fault)) return false;
    bool v = strcmp(name, "v_prediction") == 0;
    *prediction = v ? PREDICTION_V : PREDICTION_EPSILON;
    return v || strcmp(name, "epsilon") == 0 ||
           json_fault(value, fault, "found \"%.100s\", allowed are \"epsilon\" and \"v_prediction\"", name);
}

static bool check_timesteps(struct json root, struct fault *fault)
{
    struct json value;
    int64_t timesteps;
    return !json_member(root, "num_train_timesteps", &value) ||
           json_get_int64(value, TRAIN_TIMESTEPS, TRAIN_TIMESTEPS, &timesteps, fault);
}

static bool get_beta(struct json root, const char *key, double *beta, struct fault *fault)
{
    struct json value;
    return json_require(root, key, &value, fault) && json_get_double(value, 1e-9, 1 - 1e-9, beta, fault);
}

static bool read_keys(struct json root, struct noise_schedule *schedule, struct fault *fault)
{
    enum prediction prediction;
    double start, end;
    struct json kind;
    if (!config_keys_check(root, keys, sizeof keys / sizeof *keys, fault) ||
        !json_require(root, "beta_schedule", &kind, fault) || !get_beta(root, "beta_start", &start, fault) ||
        !get_beta(root, "beta_end", &end, fault) || !get_prediction(root, &prediction, fault) ||
        !check_timesteps(root, fault))
        return false;
    *schedule = noise_schedule_of_betas(prediction, start, end);
    return true;
}

bool scheduler_config_read(const char *path, struct noise_schedule *schedule, struct fault *fault)
{
    struct json_document *document;
    if (!json_read(path, MAX_BYTES, &document, fault)) return false;
    bool ok = read_keys(json_root(document), schedule, fault);
    json_free(document);
    return ok;
}
