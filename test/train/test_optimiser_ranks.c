/* The optimiser of pretrain against the same steps in fp64, the gradient shared out over the ranks: warm-up,
 * clipping, AdamW, the moving average and its ramp. */
#include "train/gradient_buckets.h"
#include "train/optimiser.h"

#include "base/random.h"
#include "tensor/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { SIZE = 11, STEPS = 20 }; // elements of both parameters; enough steps for the ramp to end
static const struct optimiser_config config = {.learning_rate = 0.01,
                                               .warmup_steps = 4,
                                               .beta1 = 0.9,
                                               .beta2 = 0.95,
                                               .epsilon = 1e-8,
                                               .weight_decay = 0.1,
                                               .clip_norm = 2,
                                               .ema_decay = 0.6};

static void put(struct parameter_set *set, bool gradient, const float *values)
{
    for (int i = 0; i < set->count; i++) {
        struct tensor *tensor = gradient ? &set->items[i]->gradient : &set->items[i]->value;
        set->backend->ops->upload(set->backend, tensor->data, values, tensor_bytes(tensor));
        values += tensor_count(tensor);
    }
}

static void check(const struct parameter_set *set, const char *what, const double *expected)
{
    for (int i = 0; i < set->count; i++) {
        float found[SIZE];
        const struct tensor *value = &set->items[i]->value;
        set->backend->ops->download(set->backend, found, value->data, tensor_bytes(value));
        for (int64_t j = 0; j < tensor_count(value); j++) {
            if (!(fabs(found[j] - expected[j]) <= 3e-6)) // a few roundings of fp32 a step
                fail_msg("%s %d of parameter %d is %.9g, expected %.9g", what, (int)j, i, found[j],
                         expected[j]);
        }
        expected += tensor_count(value);
    }
}

/* The whole gradient of a step: every other one longer than the limit. */
static double make_gradient(int64_t step, float gradient[SIZE])
{
    double squares = 0, scale = step % 2 ? 2 : 0.2;
    random_normal((struct random_key){2, RANDOM_TEST, (uint64_t)step, 0}, SIZE, gradient);
    for (int i = 0; i < SIZE; i++) {
        gradient[i] *= (float)scale;
        squares += (double)gradient[i] * gradient[i];
    }
    return sqrt(squares);
}

/* What this rank has of it; all shares together are the whole. */
static void share(const struct comm *comm, const float whole[SIZE], float mine[SIZE])
{
    double ranks = comm_size(comm), part = 2 * (comm_rank(comm) + 1) / (ranks * (ranks + 1));
    for (int i = 0; i < SIZE; i++) mine[i] = (float)(part * whole[i]);
}

/* Step `step` (from 1) in fp64. */
static void expect_step(int64_t step, double norm, const float *gradient, double *value, double *m, double *v,
                        double *average)
{
    double rate = config.learning_rate * (step < config.warmup_steps ? (double)step / 4 : 1);
    double scale = norm > config.clip_norm ? config.clip_norm / norm : 1;
    double decay = fmin(config.ema_decay, (1.0 + (double)step) / (10.0 + (double)step));
    for (int i = 0; i < SIZE; i++) {
        double g = scale * gradient[i];
        m[i] = config.beta1 * m[i] + (1 - config.beta1) * g;
        v[i] = config.beta2 * v[i] + (1 - config.beta2) * g * g;
        double m_hat = m[i] / (1 - pow(config.beta1, (double)step));
        double v_hat = v[i] / (1 - pow(config.beta2, (double)step));
        value[i] *= 1 - rate * config.weight_decay;
        value[i] -= rate * m_hat / (sqrt(v_hat) + config.epsilon);
        average[i] = decay * average[i] + (1 - decay) * value[i];
    }
}

static void steps_are_those_of_the_formulas(void **state)
{
    const struct comm *comm = *state;
    struct backend *backend = backend_open(BACKEND_CPU);
    for (int deterministic = 0; deterministic < 2; deterministic++) {
        struct parameter_set set;
        parameter_set_init(&set, backend);
        parameter_add(&set, true, 2, (int64_t[]){2, 3}, "a.weight");
        parameter_add(&set, false, 1, (int64_t[]){5}, "a.bias");
        parameter_set_allocate(&set, true);
        float start[SIZE], gradient[SIZE], mine[SIZE];
        double value[SIZE], m[SIZE] = {0}, v[SIZE] = {0}, average[SIZE];
        random_normal((struct random_key){1, RANDOM_TEST, 0, 0}, SIZE, start);
        for (int i = 0; i < SIZE; i++) value[i] = average[i] = start[i];
        put(&set, false, start);
        struct optimiser optimiser;
        optimiser_init(&optimiser, &config, &set);
        struct gradient_buckets buckets;
        gradient_buckets_init(&buckets, comm, &set, 1, deterministic, false);
        for (int64_t step = 1; step <= STEPS; step++) {
            double norm = make_gradient(step, gradient);
            share(comm, gradient, mine);
            put(&set, true, mine);
            gradient_buckets_finish(&buckets);
            double found = optimiser_update(&optimiser, 0);
            assert_float_equal(found, norm, 1e-5 * norm);
            expect_step(step, norm, gradient, value, m, v, average);
            check(&set, "weight", value);
            optimiser_swap_average(&optimiser);
            check(&set, "average", average);
            optimiser_swap_average(&optimiser);
        }
        assert_int_equal(optimiser.step, STEPS);

        // a gradient that is not finite on one rank changes nothing on any
        if (comm_rank(comm) == comm_size(comm) - 1) mine[7] = NAN;
        put(&set, true, mine);
        gradient_buckets_finish(&buckets);
        assert_false(isfinite(optimiser_update(&optimiser, 0)));
        assert_int_equal(optimiser.skipped, 1);
        assert_int_equal(optimiser.step, STEPS);
        check(&set, "weight", value);

        // nor does a loss that is not, whatever its gradient
        parameter_set_zero_gradients(&set);
        assert_false(isfinite(optimiser_update(&optimiser, INFINITY)));
        assert_int_equal(optimiser.skipped, 2);
        assert_int_equal(optimiser.step, STEPS);
        check(&set, "weight", value);
        gradient_buckets_clear(&buckets);
        optimiser_clear(&optimiser);
        parameter_set_clear(&set);
    }
    backend_close(backend);
}

int main(int argc, char **argv)
{
    struct comm *comm = comm_start(&argc, &argv);
    struct CMUnitTest tests[] = {cmocka_unit_test(steps_are_those_of_the_formulas)};
    tests[0].initial_state = comm;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bool any = comm_any(comm, failed != 0);
    comm_stop(comm);
    return any;
}
