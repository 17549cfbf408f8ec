/* Gradient buckets of any size against plain sums of the same gradients: bit for bit in rank order, to
 * rounding else; with parameters that get no gradient, ranks that compute none, and ranks that complete them
 * in different orders. */
#include "train/cuda_aware.h"
#include "train/gradient_buckets.h"

#include "base/check.h"
#include "base/random.h"
#include "tensor/op.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A chain of square layers with biases, and parameters that no op uses. */
enum { B = 2, C = 5, LAYERS = 6, UNUSED = 2, PARAMETERS = 2 * LAYERS + UNUSED };
enum { TOTAL = LAYERS * (C * C + C) + UNUSED * C };

/* How the ranks use it. */
enum use { IN_ORDER, ORDER_OF_THE_RANK, LAST_RANK_IDLE, USES };

static const size_t bucket_bytes[] = {1, 50, 400, 1 << 20};
enum { BUCKET_SIZES = sizeof bucket_bytes / sizeof bucket_bytes[0] };

struct trial {
    const struct comm *comm;
    struct parameter_set set;
    struct tape *tape;
};

static void trial_init(struct trial *trial, const struct comm *comm, struct backend *backend)
{
    trial->comm = comm;
    trial->tape = tape_new(backend, DTYPE_F32);
    struct parameter_set *set = &trial->set;
    parameter_set_init(set, backend);
    for (int i = 0; i < LAYERS; i++) {
        parameter_add(set, true, 2, (int64_t[]){C, C}, "%d.weight", i);
        parameter_add(set, false, 1, (int64_t[]){C}, "%d.bias", i);
    }
    for (int i = 0; i < UNUSED; i++) parameter_add(set, false, 1, (int64_t[]){C}, "unused.%d", i);
    parameter_set_allocate(set, true);
    for (int i = 0; i < set->count; i++) {
        float values[C * C];
        random_normal((struct random_key){1, RANDOM_TEST, 0, (uint64_t)i}, C * C, values);
        parameter_part_upload(set, set->items[i], 0, values);
    }
}

static void trial_clear(struct trial *trial)
{
    tape_delete(trial->tape);
    parameter_set_clear(&trial->set);
}

/* One forward and backward pass, layers in order or turned round by the rank. */
static void run_pass(struct trial *trial, enum use use, int step, int pass, struct gradient_buckets *watched)
{
    int rank = comm_rank(trial->comm);
    float x[B * C], target[B * C] = {0}, seeds[B] = {1, 1};
    random_normal((struct random_key){2 + (uint64_t)pass, RANDOM_TEST, (uint64_t)step, (uint64_t)rank}, B * C,
                  x);
    struct tape *tape = trial->tape;
    tape_reset(tape, TAPE_RECORD);
    const int64_t dim[] = {B, C};
    struct tensor *h = tape_input(tape, DTYPE_F32, 2, dim, x);
    for (int i = 0; i < LAYERS; i++) {
        int layer = use == ORDER_OF_THE_RANK ? (i + rank) % LAYERS : i;
        h = op_linear(tape, h, trial->set.items[2 * layer], trial->set.items[2 * layer + 1], NULL);
        h = op_activation(tape, ACTIVATION_SILU, h); // keeps values near 1
    }
    struct tensor *loss = op_squared_error(tape, h, tape_input(tape, DTYPE_F32, 2, dim, target));
    if (watched) gradient_buckets_watch(watched, tape);
    tape_backward(tape, 1, &loss, (const float *const[]){seeds});
}

/* The gradients of two passes of this rank; the last pass is watched. */
static void run_passes(struct trial *trial, enum use use, int step, struct gradient_buckets *watched)
{
    parameter_set_zero_gradients(&trial->set);
    if (use == LAST_RANK_IDLE && comm_rank(trial->comm) == comm_size(trial->comm) - 1) return;
    run_pass(trial, use, step, 0, NULL);
    run_pass(trial, use, step, 1, watched);
}

static void read_gradients(const struct trial *trial, float *values)
{
    for (int i = 0; i < trial->set.count; i++) {
        const struct tensor *gradient = &trial->set.items[i]->gradient;
        trial->set.backend->ops->download(trial->set.backend, values, gradient->data, tensor_bytes(gradient));
        values += tensor_count(gradient);
    }
}

/* What the buckets must give, by plain sums over ranks of this rank's gradients. */
static void expect(const struct trial *trial, bool deterministic, float *values)
{
    if (deterministic) {
        double wide[TOTAL];
        for (int i = 0; i < TOTAL; i++) wide[i] = values[i];
        comm_sum_ordered(trial->comm, wide, TOTAL);
        for (int i = 0; i < TOTAL; i++) values[i] = (float)wide[i];
    } else {
        comm_sum(trial->comm, values, TOTAL);
    }
}

static void compare(const float *found, const float *expected, bool deterministic)
{
    float largest = 0;
    for (int i = 0; i < TOTAL; i++) largest = fmaxf(largest, fabsf(expected[i]));
    for (int i = 0; i < TOTAL; i++) {
        // a few roundings of fp32, of sums in another order
        double limit = deterministic ? 0 : 1e-6 * largest;
        if (!(fabs(found[i] - expected[i]) <= limit))
            fail_msg("element %d is %.9g, expected %.9g", i, found[i], expected[i]);
    }
}

static void run_trial(struct trial *trial, enum use use, size_t bytes, bool deterministic, bool cuda_aware)
{
    struct gradient_buckets buckets;
    gradient_buckets_init(&buckets, trial->comm, &trial->set, bytes, deterministic, cuda_aware);
    bool alone = comm_size(trial->comm) == 1;
    assert_int_equal(buckets.buckets, alone ? 0 : bytes == 1 ? PARAMETERS : buckets.buckets);
    assert_true(bytes < sizeof(float[TOTAL]) || buckets.buckets == !alone);
    bool on_device = trial->set.backend->device && cuda_aware && !deterministic;
    assert_int_equal(gradient_buckets_bytes(&buckets),
                     alone || on_device ? 0 : sizeof(float[TOTAL]) * (deterministic ? 2 : 1));
    for (int step = 0; step < 2; step++) { // the second begins where the first ended
        float expected[TOTAL], found[TOTAL];
        run_passes(trial, use, step, NULL);
        read_gradients(trial, expected);
        expect(trial, deterministic, expected);
        run_passes(trial, use, step, &buckets);
        assert_int_equal(buckets.sent, 0); // the unused parameters are last in the set, so first to be sent
        gradient_buckets_finish(&buckets);
        read_gradients(trial, found);
        compare(found, expected, deterministic);
        for (int i = TOTAL - UNUSED * C; i < TOTAL; i++) assert_true(found[i] == 0);
    }
    gradient_buckets_clear(&buckets);
}

static void run_trials(const struct comm *comm, enum backend_kind kind, bool cuda_aware)
{
    struct backend *backend = backend_open(kind);
    struct trial trial;
    trial_init(&trial, comm, backend);
    for (enum use use = 0; use < USES; use++)
        for (int size = 0; size < BUCKET_SIZES; size++)
            for (int deterministic = 0; deterministic < 2; deterministic++)
                run_trial(&trial, use, bucket_bytes[size], deterministic, cuda_aware);
    trial_clear(&trial);
    backend_close(backend);
}

/* On the host, and on a GPU through the host and, where MPI can, in the GPU's memory. */
static void sums_are_those_of_plain_sums(void **state)
{
    const struct comm *comm = *state;
    run_trials(comm, BACKEND_CPU, false);
    if (!backend_available(BACKEND_CUDA)) return;
    run_trials(comm, BACKEND_CUDA, false);
    struct backend *backend = backend_open(BACKEND_CUDA);
    struct fault fault = {0};
    bool cuda_aware;
    assert_true(cuda_aware_find(comm, backend, CUDA_AWARE_AUTO, &cuda_aware, &fault));
    backend_close(backend);
    assert_false(cuda_aware && !comm_claims_cuda());
    if (cuda_aware) run_trials(comm, BACKEND_CUDA, true);
}

/* Without unused parameters all sums are under way when the backward pass ends; with one rank none is. */
static void sums_start_in_the_backward_pass(void **state)
{
    const struct comm *comm = *state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct trial trial;
    trial_init(&trial, comm, backend);
    struct parameter_set used = trial.set; // the same parameters, without the unused ones
    used.count = 2 * LAYERS;
    for (int size = 0; size < BUCKET_SIZES; size++) {
        struct gradient_buckets buckets;
        gradient_buckets_init(&buckets, comm, &used, bucket_bytes[size], true, false);
        run_passes(&trial, IN_ORDER, 0, &buckets);
        assert_int_equal(buckets.sent, buckets.buckets);
        assert_int_equal(buckets.buckets > 0, comm_size(comm) > 1);
        gradient_buckets_finish(&buckets);
        gradient_buckets_clear(&buckets);
    }
    trial_clear(&trial);
    backend_close(backend);
}

int main(int argc, char **argv)
{
    struct comm *comm = comm_start(&argc, &argv);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_plain_sums),
        cmocka_unit_test(sums_start_in_the_backward_pass),
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) tests[i].initial_state = comm;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bool any = comm_any(comm, failed != 0);
    comm_stop(comm);
    return any;
}
