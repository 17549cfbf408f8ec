/* tape_on_gradient: each trainable parameter that the step uses is told of once in a backward pass, after its
 * last contribution and right after it, whether blocks are computed again or not; frozen and unused ones
 * never. */
#include "base/random.h"
#include "tensor/op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { B = 2, T = 3, C = 4, SIZE = C * C };

/* Square linear layers without bias, but for `last`. */
enum place { SHARED, INNER, DEEP, TWICE, DEAD, DEAD_IN_BLOCK, UNUSED, LAST, LAST_BIAS, PARAMETERS };

struct network {
    struct parameter_set set, frozen_set;
    struct parameter *parameter[PARAMETERS], *frozen;
};

/* What the callback saw. */
struct heard {
    const struct network *network;
    int count;                        /* parameters told of */
    int silent;                       /* calls that told of none */
    struct parameter *order[64];      /* [count] */
    float gradient[PARAMETERS][SIZE]; /* as it was then */
    float ahead; /* of the gradient of DEEP, when told of TWICE, which the op behind it in the same block uses
                  */
};

static void fill(struct parameter_set *set, uint64_t stream)
{
    for (int i = 0; i < set->count; i++) {
        float values[SIZE];
        random_normal((struct random_key){stream, RANDOM_TEST, 0, (uint64_t)i}, SIZE, values);
        parameter_part_upload(set, set->items[i], 0, values);
    }
}

static void network_init(struct network *network, struct backend *backend)
{
    parameter_set_init(&network->set, backend);
    parameter_set_init(&network->frozen_set, backend);
    for (int i = 0; i < PARAMETERS; i++) {
        bool bias = i == LAST_BIAS;
        network->parameter[i] = parameter_add(&network->set, !bias, bias ? 1 : 2,
                                              (int64_t[]){C, bias ? 1 : C}, "parameter.%d", i);
        assert_int_equal(network->parameter[i]->place, i);
    }
    network->frozen = parameter_add(&network->frozen_set, true, 2, (int64_t[]){C, C}, "frozen");
    parameter_set_allocate(&network->set, true);
    parameter_set_allocate(&network->frozen_set, false);
    fill(&network->set, 1);
    fill(&network->frozen_set, 2);
}

static struct tensor *linear(struct tape *tape, struct tensor *x, struct parameter *weight)
{
    return op_linear(tape, x, weight, NULL, NULL);
}

static void deep_block(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct network *n = data;
    struct tensor *h = linear(tape, in[0], n->parameter[DEEP]);
    out[0] = linear(tape, h, n->parameter[TWICE]);
}

/* A block in the block, a parameter that others use before and after, one that no gradient reaches. */
static void inner_block(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct network *n = data;
    struct tensor *h = linear(tape, in[0], n->parameter[INNER]);
    linear(tape, h, n->parameter[DEAD_IN_BLOCK]);
    tape_block(tape, deep_block, n, 1, (struct tensor *[]){h}, 1, &h);
    out[0] = linear(tape, h, n->parameter[SHARED]);
}

static void dead_block(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct network *n = data;
    out[0] = linear(tape, in[0], n->parameter[DEAD]);
}

static void run_step(struct tape *tape, const struct network *n, enum tape_mode mode, int sample,
                     struct heard *heard, gradient_callback callback)
{
    float values[B * T * C], target[B * T * C] = {0}, seeds[B] = {1, 0.5f};
    random_normal((struct random_key){3, RANDOM_TEST, 0, (uint64_t)sample}, B * T * C, values);
    tape_reset(tape, mode);
    const int64_t dim[] = {B, T, C};
    struct tensor *x = tape_input(tape, DTYPE_F32, 3, dim, values), *dead;
    struct tensor *h = linear(tape, x, n->parameter[SHARED]);
    h = linear(tape, h, n->frozen);
    tape_block(tape, inner_block, n, 1, (struct tensor *[]){h}, 1, &h);
    tape_block(tape, dead_block, n, 1, (struct tensor *[]){h}, 1, &dead);
    h = linear(tape, h, n->parameter[TWICE]);
    h = op_linear(tape, h, n->parameter[LAST], n->parameter[LAST_BIAS], NULL);
    struct tensor *loss = op_squared_error(tape, h, tape_input(tape, DTYPE_F32, 3, dim, target));
    if (callback) tape_on_gradient(tape, callback, heard);
    tape_backward(tape, 1, &loss, (const float *const[]){seeds});
}

static void listen(void *context, struct parameter *complete)
{
    struct heard *heard = context;
    if (!complete) {
        heard->silent++;
        return;
    }
    assert_in_range(complete->place, 0, PARAMETERS - 1);
    if (complete->place == TWICE)
        heard->ahead = *(const float *)heard->network->parameter[DEEP]->gradient.data;
    memcpy(heard->gradient[complete->place], complete->gradient.data, tensor_bytes(&complete->gradient));
    heard->order[heard->count++] = complete;
}

/* The order in which gradients are complete; within one op the bias comes first, as it is noted last. TWICE
 * is used last by an op behind the block, and is complete with its use in the block. */
static const enum place expected[] = {LAST_BIAS, LAST, DEAD, TWICE, DEEP, DEAD_IN_BLOCK, INNER, SHARED};
enum { TOLD = sizeof expected / sizeof expected[0] };

static void check(const struct network *network, const struct heard *heard)
{
    assert_int_equal(heard->count, TOLD);
    for (int i = 0; i < TOLD; i++) {
        const struct parameter *parameter = network->parameter[expected[i]];
        assert_ptr_equal(heard->order[i], parameter);
        assert_memory_equal(heard->gradient[expected[i]], parameter->gradient.data,
                            tensor_bytes(&parameter->gradient));
        bool reached = expected[i] != DEAD && expected[i] != DEAD_IN_BLOCK;
        assert_true((*(const float *)parameter->gradient.data != 0) == reached);
    }
    assert_true(heard->silent > 0);
}

static void each_is_told_of_once_when_it_is_complete(void **state)
{
    struct backend *backend = *state;
    struct network network;
    network_init(&network, backend);
    const enum tape_mode modes[] = {TAPE_RECORD, TAPE_RECOMPUTE};
    struct tape *tape = tape_new(backend, DTYPE_F32);
    for (int i = 0; i < 2; i++) {
        parameter_set_zero_gradients(&network.set);
        struct heard heard = {.network = &network};
        run_step(tape, &network, modes[i], 0, &heard, listen);
        check(&network, &heard);
        assert_true(heard.ahead == 0); // not at the end of the block, but at once
        int silent = heard.silent;

        // Two passes are summed: the first is not listened to, as the reset before it forgot the callback.
        parameter_set_zero_gradients(&network.set);
        run_step(tape, &network, modes[i], 1, &heard, NULL);
        assert_int_equal(heard.count, TOLD);
        assert_int_equal(heard.silent, silent);
        heard.count = 0;
        run_step(tape, &network, modes[i], 2, &heard, listen);
        check(&network, &heard);
    }
    tape_delete(tape);
    parameter_set_clear(&network.set);
    parameter_set_clear(&network.frozen_set);
}

/* A forward pass whose tape is never run backwards leaves nothing behind. */
static void a_pass_that_is_given_up(void **state)
{
    struct backend *backend = *state;
    struct network network;
    network_init(&network, backend);
    struct tape *tape = tape_new(backend, DTYPE_F32);
    tape_reset(tape, TAPE_RECORD);
    struct tensor *x = tape_input(tape, DTYPE_F32, 3, (int64_t[]){B, T, C}, (float[B * T * C]){0});
    linear(tape, x, network.parameter[UNUSED]);
    struct heard heard = {.network = &network};
    run_step(tape, &network, TAPE_RECORD, 0, &heard, listen);
    check(&network, &heard);
    tape_delete(tape);
    parameter_set_clear(&network.set);
    parameter_set_clear(&network.frozen_set);
}

int main(void)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_told_of_once_when_it_is_complete),
        cmocka_unit_test(a_pass_that_is_given_up),
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) tests[i].initial_state = backend;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(backend);
    return failed;
}
