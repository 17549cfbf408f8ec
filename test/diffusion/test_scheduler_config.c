/* Published scheduler configurations: what they say of training, and what is refused by name. */
#include "base/check.h"
#include "diffusion/scheduler_config.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

#define BETAS "\"beta_start\": 0.00085, \"beta_end\": 0.012, "
#define SCALED BETAS "\"beta_schedule\": \"scaled_linear\""

static struct fault fault;
static char *folder, *path;

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    path = scratch_path(folder, "scheduler_config.json");
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    free(path);
    scratch_remove(folder);
    return 0;
}

static bool read_text(const char *text, struct noise_schedule *schedule)
{
    file_write(path, text, strlen(text));
    return scheduler_config_read(path, schedule, &fault);
}

static bool same(const struct noise_schedule *a, const struct noise_schedule *b)
{
    return a->prediction == b->prediction && memcmp(a->alpha_bar, b->alpha_bar, sizeof a->alpha_bar) == 0;
}

/* As published with Stable Diffusion 1.5 (which says nothing of the prediction), 2.1 and 2.1-base. */
static void published_ones(void **state)
{
    (void)state;
    struct noise_schedule schedule, epsilon = noise_schedule_scaled_linear(PREDICTION_EPSILON),
                                    v = noise_schedule_scaled_linear(PREDICTION_V);
    GOOD(read_text("{\"_class_name\": \"PNDMScheduler\", \"_diffusers_version\": \"0.6.0\", " SCALED
                   ", \"num_train_timesteps\": 1000, \"set_alpha_to_one\": false, \"skip_prk_steps\": true, "
                   "\"steps_offset\": 1, \"trained_betas\": null, \"clip_sample\": false}",
                   &schedule));
    assert_true(same(&schedule, &epsilon));
    GOOD(read_text("{\"_class_name\": \"DDIMScheduler\", " SCALED
                   ", \"clip_sample\": false, \"num_train_timesteps\": 1000, \"prediction_type\": "
                   "\"v_prediction\", \"set_alpha_to_one\": false, \"skip_prk_steps\": true, "
                   "\"steps_offset\": 1, \"trained_betas\": null}",
                   &schedule));
    assert_true(same(&schedule, &v));
    GOOD(read_text("{" SCALED ", \"prediction_type\": \"epsilon\"}", &schedule));
    assert_true(same(&schedule, &epsilon));
}

static void other_betas(void **state)
{
    (void)state;
    struct noise_schedule schedule, expected = noise_schedule_of_betas(PREDICTION_EPSILON, 0.002, 0.03);
    GOOD(read_text("{\"beta_start\": 0.002, \"beta_end\": 0.03, \"beta_schedule\": \"scaled_linear\"}",
                   &schedule));
    assert_true(same(&schedule, &expected));
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[]", "allowed an object"},
        {"{" SCALED ", \"prediction_type\": \"sample\"}",
         "prediction_type: found \"sample\", allowed are \"epsilon\" and \"v_prediction\""},
        {"{" SCALED ", \"prediction_type\": null}", "prediction_type"},
        {"{" BETAS "\"beta_schedule\": \"linear\"}",
         "beta_schedule: this value is not supported, only \"scaled_linear\""},
        {"{\"beta_start\": 0.00085, \"beta_end\": 0.012}", "beta_schedule"},
        {"{\"beta_end\": 0.012, \"beta_schedule\": \"scaled_linear\"}", "beta_start"},
        {"{\"beta_start\": 0.012, \"beta_schedule\": \"scaled_linear\"}", "beta_end"},
        {"{\"beta_start\": 0, \"beta_end\": 0.012, \"beta_schedule\": \"scaled_linear\"}", "beta_start"},
        {"{\"beta_start\": 0.1, \"beta_end\": 1, \"beta_schedule\": \"scaled_linear\"}", "beta_end"},
        {"{" SCALED ", \"num_train_timesteps\": 500}", "num_train_timesteps"},
        {"{" SCALED ", \"trained_betas\": [0.1]}", "trained_betas: not supported, only null"},
        {"{" SCALED ", \"rescale_betas_zero_snr\": true}",
         "rescale_betas_zero_snr: this value is not supported, only false"},
        {"{" SCALED ", \"use_flow_sigmas\": true}", "use_flow_sigmas: this value is not supported"},
        {"{" SCALED ", \"sigma_data\": 0.5}", "sigma_data: unknown key"},
    };
    struct noise_schedule schedule;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(read_text(cases[i].text, &schedule), EXIT_CODE_INPUT, cases[i].message);
    remove(path);
    FAILS(scheduler_config_read(path, &schedule, &fault), EXIT_CODE_INPUT, "scheduler_config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_ones),
        cmocka_unit_test(other_betas),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
