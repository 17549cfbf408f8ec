/* The plan backend: the same calls count the same memory as on the CPU, and nothing is touched. */
#include "base/check.h"
#include "support/failing_check.h"
#include "tensor/op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { B = 2, H = 6, W = 5, C = 16, T = 13, D = 24, HEADS = 2, GATES = 9, ENTRIES = 11 };

/* Parameters of a small network that uses every op. */
struct network {
    struct parameter_set set;
    struct parameter *conv, *conv_bias, *norm_weight, *norm_bias, *layer_weight, *layer_bias;
    struct parameter *q, *kv, *proj, *down, *time, *table;
};

static void network_init(struct network *network, struct backend *backend, bool trainable)
{
    struct parameter_set *set = &network->set;
    static const char *const kv[] = {"k", "v"};
    parameter_set_init(set, backend);
    network->conv = parameter_add(set, true, 4, (int64_t[]){C, C, 3, 3}, "conv.weight");
    network->conv_bias = parameter_add(set, false, 1, (int64_t[]){C}, "conv.bias");
    network->norm_weight = parameter_add(set, false, 1, (int64_t[]){C}, "norm.weight");
    network->norm_bias = parameter_add(set, false, 1, (int64_t[]){C}, "norm.bias");
    network->layer_weight = parameter_add(set, false, 1, (int64_t[]){C}, "layer.weight");
    network->layer_bias = parameter_add(set, false, 1, (int64_t[]){C}, "layer.bias");
    network->q = parameter_add(set, true, 2, (int64_t[]){C, C}, "q");
    network->kv = parameter_add_stacked(set, C, D, "", 2, kv);
    network->proj = parameter_add(set, true, 2, (int64_t[]){8 * C, C}, "proj");
    network->down = parameter_add(set, true, 2, (int64_t[]){C, 4 * C}, "down");
    network->time = parameter_add(set, true, 2, (int64_t[]){C, C}, "time");
    network->table = parameter_add(set, false, 2, (int64_t[]){ENTRIES, D}, "table");
    parameter_set_allocate(set, trainable);
}

/* One step; returns the loss [B]. */
static struct tensor *network_step(struct tape *tape, const struct network *n)
{
    static float pixels[B * H * W * C], mask[B * T], gate_values[B * GATES], times[B];
    static int32_t ids[B * T];
    for (int i = 0; i < B * T; i++) mask[i] = 1;
    enum dtype dtype = tape_dtype(tape);
    struct tensor *x = tape_input(tape, dtype, 4, (int64_t[]){B, H, W, C}, pixels);
    struct tensor *target = tape_input(tape, dtype, 4, (int64_t[]){B, H, W, C}, pixels);
    struct tensor *key_mask = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, T}, mask);
    struct tensor *gates = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, GATES}, gate_values);
    struct tensor *timesteps = tape_input(tape, DTYPE_F32, 1, (int64_t[]){B}, times);
    struct tensor *tokens = tape_input(tape, DTYPE_I32, 2, (int64_t[]){B, T}, ids);
    gates->needs_grad = true;

    struct tensor *text = op_embedding(tape, tokens, n->table);
    struct tensor *shift = op_timestep_embedding(tape, timesteps, C, true, 0);
    shift = op_linear(tape, op_activation(tape, ACTIVATION_SILU, shift), n->time, NULL, NULL);
    struct pooling pooling = {true, 3, 3, {1, 1, 1, 1, 1}};
    target = op_pool(tape, pooling, target);
    struct tensor *f =
        op_convolution(tape, (struct convolution){1, 1, 1, 1, 1}, x, n->conv, n->conv_bias, NULL);
    f = op_group_norm(tape, f, shift, n->norm_weight, n->norm_bias, 4, 1e-5f, true,
                      (struct gate){gates, 0, 4});
    f = op_linear(tape, op_layer_norm(tape, f, n->layer_weight, n->layer_bias, 1e-5f), n->q, NULL, f);
    struct attention attention = {.heads = HEADS, .head_size = C / HEADS, .v_column = C, .scale = 0.3f};
    struct tensor *keys = op_linear(tape, text, n->kv, NULL, NULL);
    f = op_attention(tape, attention, f, keys, key_mask, (struct gate){gates, 4, HEADS});
    f = op_geglu(tape, op_linear(tape, f, n->proj, NULL, NULL), (struct gate){gates, 6, 2});
    f = op_linear(tape, f, n->down, NULL, NULL);
    f = op_depth_mix(tape, x, f, (struct gate){gates, 8, 1});
    f = op_add(tape, f, op_scale(tape, x, 0.5f));
    f = op_upsample(tape, op_concat(tape, f, x), 2 * H, 2 * W);
    struct tensor *wide = op_upsample(tape, op_concat(tape, target, x), 2 * H, 2 * W);
    return op_squared_error(tape, f, wide);
}

/* What a run held at most. */
struct held {
    size_t tape, backend;
};

static struct held measure(enum backend_kind kind, enum dtype dtype, enum tape_mode mode, bool freeze)
{
    struct backend *backend = backend_open(kind);
    struct network network;
    network_init(&network, backend, !freeze);
    if (freeze) parameter_set_freeze(&network.set, dtype, true);
    struct tape *tape = tape_new(backend, dtype);
    for (int step = 0; step < 2; step++) {
        tape_reset(tape, mode);
        struct tensor *loss = network_step(tape, &network);
        float values[B] = {-1, -1}, seeds[B] = {1, 1};
        const float *seed = seeds;
        tape_read(tape, loss, values);
        if (kind == BACKEND_PLAN)
            for (int i = 0; i < B; i++) assert_true(values[i] == 0);
        if (mode != TAPE_NO_GRADIENT) tape_backward(tape, 1, &loss, &seed);
    }
    struct held held = {arena_peak(tape_arena(tape)), backend_bytes(backend)};
    tape_delete(tape);
    parameter_set_clear(&network.set);
    backend_close(backend);
    return held;
}

static void test_counts_what_the_cpu_takes(void **state)
{
    (void)state;
    const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const enum tape_mode modes[] = {TAPE_NO_GRADIENT, TAPE_RECORD};
    for (int i = 0; i < 8; i++) {
        enum dtype dtype = dtypes[i % 2];
        enum tape_mode mode = modes[i / 2 % 2];
        bool freeze = i / 4 != 0;
        struct backend *cpu = backend_open(BACKEND_CPU);
        bool supported = cpu->ops->supports(cpu, dtype);
        backend_close(cpu);
        if (!supported) continue;
        struct held real = measure(BACKEND_CPU, dtype, mode, freeze);
        struct held planned = measure(BACKEND_PLAN, dtype, mode, freeze);
        print_message("%s, %s, %s: step %zu bytes, program %zu bytes\n", dtype_name(dtype),
                      mode == TAPE_RECORD ? "recorded" : "forward", freeze ? "frozen" : "trainable",
                      real.tape, real.backend);
        assert_int_equal(real.tape, planned.tape);
        assert_int_equal(real.backend, planned.backend);
        assert_true(real.tape > 0 && real.backend > 0);
    }
}

/* ---- scratch memory of the kernels that take some, each in a backend of its own: in a step the largest
 * hides the others */

/* x, y, dx of one shape, for ops on [B, T, C]; geglu's x is twice as wide. */
struct operands {
    struct tensor x, wide, y, gates, statistics, channels, loss;
};

static struct tensor operand(struct backend *backend, int rank, const int64_t *dim)
{
    struct tensor tensor = {.dtype = DTYPE_F32, .rank = rank, .dim = {1, 1, 1, 1}};
    for (int i = 0; i < rank; i++) tensor.dim[i] = dim[i];
    tensor.data = backend->ops->memory_new(backend, tensor_bytes(&tensor));
    return tensor;
}

static void group_norm_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->group_norm_forward(backend, &o->x, NULL, &o->channels, &o->channels, 4, 1e-5f, true,
                                     (struct gate){&o->gates, 0, 4}, &o->y, &o->statistics);
}

static void group_norm_backward_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->group_norm_backward(backend, &o->x, NULL, &o->channels, &o->channels, 4, true,
                                      (struct gate){&o->gates, 0, 4}, &o->statistics, &o->x, &o->y, NULL,
                                      NULL, NULL, &o->gates);
}

static void layer_norm_backward_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->layer_norm_backward(backend, &o->x, &o->channels, &o->statistics, &o->x, NULL, &o->channels,
                                      NULL);
}

static void geglu_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->geglu_forward(backend, &o->wide, (struct gate){&o->gates, 0, 4}, &o->y);
}

static void geglu_backward_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->geglu_backward(backend, &o->wide, (struct gate){&o->gates, 0, 4}, &o->x, NULL, &o->gates);
}

static void depth_mix_backward_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->depth_mix_backward(backend, &o->x, &o->x, (struct gate){&o->gates, 0, 1}, &o->x, NULL, NULL,
                                     &o->gates);
}

static void squared_error_scratch(struct backend *backend, struct operands *o)
{
    backend->ops->squared_error_forward(backend, &o->x, &o->y, &o->loss);
}

static void sum_of_squares_scratch(struct backend *backend, struct operands *o)
{
    struct trained_array array = {.gradient = o->x.data, .count = tensor_count(&o->x)};
    backend->ops->sum_of_squares(backend, 1, &array);
}

static size_t scratch_of(enum backend_kind kind,
                         void (*run)(struct backend *backend, struct operands *operands))
{
    enum { TOKENS = 700 };
    struct backend *backend = backend_open(kind);
    struct operands o = {.x = operand(backend, 3, (int64_t[]){B, TOKENS, C}),
                         .wide = operand(backend, 3, (int64_t[]){B, TOKENS, 2 * C}),
                         .y = operand(backend, 3, (int64_t[]){B, TOKENS, C}),
                         .gates = operand(backend, 2, (int64_t[]){B, GATES}),
                         .statistics = operand(backend, 2, (int64_t[]){B * TOKENS, 2}),
                         .channels = operand(backend, 1, (int64_t[]){C}),
                         .loss = operand(backend, 1, (int64_t[]){B})};
    run(backend, &o);
    size_t peak = arena_peak(backend->scratch);
    assert_int_equal(arena_in_use(backend->scratch), 0);
    struct tensor *const all[] = {&o.x, &o.wide, &o.y, &o.gates, &o.statistics, &o.channels, &o.loss};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        backend->ops->memory_free(backend, all[i]->data, tensor_bytes(all[i]));
    backend_close(backend);
    return peak;
}

static void test_scratch_of_each_kernel(void **state)
{
    (void)state;
    void (*const runs[])(struct backend * backend, struct operands * operands) = {
        group_norm_scratch,    group_norm_backward_scratch, layer_norm_backward_scratch,
        geglu_scratch,         geglu_backward_scratch,      depth_mix_backward_scratch,
        squared_error_scratch, sum_of_squares_scratch};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        size_t real = scratch_of(BACKEND_CPU, runs[i]);
        assert_true(real > 0);
        assert_int_equal(real, scratch_of(BACKEND_PLAN, runs[i]));
    }
}

static void test_memory(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_PLAN);
    size_t before = backend_bytes(backend), huge = (size_t)1 << 50;
    void *memory = backend->ops->memory_new(backend, huge);
    assert_non_null(memory);
    assert_int_equal(backend_bytes(backend) - before, huge);
    unsigned char bytes[8] = "1234567";
    backend->ops->upload(backend, memory, bytes, sizeof bytes);
    backend->ops->fill_zero(backend, memory, huge);
    backend->ops->download(backend, bytes, memory, sizeof bytes);
    assert_memory_equal(bytes, ((unsigned char[8]){0}), sizeof bytes);
    struct trained_array array = {.gradient = memory, .count = 1 << 20};
    assert_true(backend->ops->sum_of_squares(backend, 1, &array) == 0);
    backend->ops->memory_free(backend, memory, huge);
    assert_true(backend_bytes(backend) - before >= huge); // the largest ever held
    backend_close(backend);
}

/* A window of 3x3 that slides over a map [1, side, side, 1] in steps of 2. */
static void pool_map(int64_t side, bool needs_grad, int64_t pad)
{
    struct tape *tape = tape_new(backend_open(BACKEND_PLAN), DTYPE_F32);
    tape_reset(tape, TAPE_RECORD);
    struct tensor *x = tape_tensor(tape, DTYPE_F32, 4, (int64_t[]){1, side, side, 1});
    x->needs_grad = needs_grad;
    op_pool(tape, (struct pooling){false, 3, 3, {2, pad, 0, 0, 0}}, x);
}

static void pool_for_a_gradient(void)
{
    pool_map(5, true, 0);
}

static void pool_small_map(void)
{
    pool_map(2, false, 0);
}

static void pool_padding(void)
{
    pool_map(5, false, 3);
}

static void test_pool_is_refused(void **state)
{
    (void)state;
    assert_check_fails(pool_for_a_gradient, "needs a gradient: there is none");
    assert_check_fails(pool_small_map, "by a larger window, 3 x 3");
    assert_check_fails(pool_padding, "a pad as large as the kernel of 3 x 3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_is_refused),
        cmocka_unit_test(test_counts_what_the_cpu_takes),
        cmocka_unit_test(test_scratch_of_each_kernel),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
