/* The tape: seeds of any shape, and the ops that have no slot of their own in the backends' table. */
#include "base/check.h"
#include "support/router_check.h"
#include "tensor/op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { B = 3, TA = 1, H = 2, W = 3, C = 5, T = TA + H * W, ENTRIES = 4 };

/* Values that bf16 holds. */
static float *numbers(int64_t count, int first)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = (float)((first + 7 * i) % 101 - 50) / 4;
    return values;
}

static void expect_equal(struct tape *tape, const struct tensor *tensor, const float *expected)
{
    size_t count = (size_t)tensor_count(tensor);
    float *found = check_malloc(count * sizeof *found);
    tape_read(tape, tensor, found);
    assert_memory_equal(found, expected, count * sizeof *found);
    free(found);
}

/* Tokens of a sequence and then those of a map, sample by sample; the gradient is taken apart the same way.
 */
static void tokens_side_by_side(enum dtype dtype)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    if (!backend->ops->supports(backend, dtype)) {
        backend_close(backend);
        return;
    }
    struct tape *tape = tape_new(backend, dtype);
    float *a = numbers(B * TA * C, 1), *b = numbers(B * H * W * C, 2), *seed = numbers(B * T * C, 3);
    float expected[B * T * C], da[B * TA * C], db[B * H * W * C];
    for (int s = 0; s < B; s++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                int place = (s * T + t) * C + c, in_a = (s * TA + t) * C + c,
                    in_b = (s * H * W + t - TA) * C + c;
                expected[place] = t < TA ? a[in_a] : b[in_b];
                *(t < TA ? &da[in_a] : &db[in_b]) = seed[place];
            }
    for (int wanted = 1; wanted < 4; wanted++) { // gradients of a, of b, of both
        tape_reset(tape, TAPE_RECORD);
        struct tensor *left = tape_input(tape, dtype, 3, (int64_t[]){B, TA, C}, a);
        struct tensor *right = tape_input(tape, dtype, 4, (int64_t[]){B, H, W, C}, b);
        left->needs_grad = wanted & 1;
        right->needs_grad = wanted & 2;
        struct tensor *y = op_concat_tokens(tape, left, right);
        assert_true(y->rank == 3 && y->dim[0] == B && y->dim[1] == T && y->dim[2] == C && y->dtype == dtype);
        expect_equal(tape, y, expected);
        tape_backward(tape, 1, &y, (const float *const[]){seed});
        if (wanted & 1) expect_equal(tape, left->grad, da);
        if (wanted & 2) expect_equal(tape, right->grad, db);
        assert_true(!left->grad == !(wanted & 1) && !right->grad == !(wanted & 2));
    }
    free(a);
    free(b);
    free(seed);
    tape_delete(tape);
    backend_close(backend);
}

static void tokens_in_fp32(void **state)
{
    (void)state;
    tokens_side_by_side(DTYPE_F32);
}

static void tokens_in_bf16(void **state)
{
    (void)state;
    tokens_side_by_side(DTYPE_BF16);
}

/* Two outputs that share an input: each seed [B, C] counts, once. */
static void seeds_of_several_tensors(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct tape *tape = tape_new(backend, DTYPE_F32);
    float *x = numbers(B * C, 1), *seed_a = numbers(B * C, 5), *seed_b = numbers(B * C, 6), expected[B * C];
    for (int i = 0; i < B * C; i++) expected[i] = 2 * seed_a[i] - 0.5f * seed_b[i];
    tape_reset(tape, TAPE_RECORD);
    struct tensor *input = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, C}, x);
    input->needs_grad = true;
    struct tensor *out[] = {op_scale(tape, input, 2), op_scale(tape, input, -0.5f)};
    tape_backward(tape, 2, out, (const float *const[]){seed_a, seed_b});
    expect_equal(tape, input->grad, expected);
    for (int i = 0; i < B * C; i++) expected[i] = 2 * x[i];
    expect_equal(tape, out[0], expected); // kept
    free(x);
    free(seed_a);
    free(seed_b);
    tape_delete(tape);
    backend_close(backend);
}

/* Memory that is dropped comes back at once, but not while a gradient may need it. */
static void dropped_memory_comes_back(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct tape *tape = tape_new(backend, DTYPE_F32);
    float *x = numbers(B * C, 1), *seed = numbers(B * C, 5), expected[B * C];
    for (int i = 0; i < B * C; i++) expected[i] = 6 * seed[i];
    for (enum tape_mode mode = TAPE_NO_GRADIENT; mode <= TAPE_RECOMPUTE; mode++) {
        tape_reset(tape, mode);
        struct tensor *input = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, C}, x);
        input->needs_grad = true;
        struct tensor *middle = op_scale(tape, input, 2), *out = op_scale(tape, middle, 3);
        size_t before = arena_in_use(tape_arena(tape));
        tape_drop(tape, middle);
        tape_drop(tape, middle); // no harm
        assert_true((arena_in_use(tape_arena(tape)) < before) == (mode == TAPE_NO_GRADIENT));
        if (mode == TAPE_NO_GRADIENT) continue;
        tape_backward(tape, 1, &out, (const float *const[]){seed});
        expect_equal(tape, input->grad, expected);
    }
    free(x);
    free(seed);
    tape_delete(tape);
    backend_close(backend);
}

/* A table [C] is one entry: every row is it, and its gradient is the sum over rows. */
static void table_of_one_entry(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct tape *tape = tape_new(backend, DTYPE_F32);
    struct parameter_set set;
    parameter_set_init(&set, backend);
    struct parameter *table = parameter_add(&set, false, 1, (int64_t[]){C}, "table");
    parameter_set_allocate(&set, true);
    float *values = numbers(C, 9), *seed = numbers(B * ENTRIES * C, 4);
    parameter_part_upload(&set, table, 0, values);
    int32_t ids[B * ENTRIES] = {0};
    float expected[B * ENTRIES * C], sum[C] = {0};
    for (int i = 0; i < B * ENTRIES * C; i++) {
        expected[i] = values[i % C];
        sum[i % C] += seed[i]; // quarters: exact
    }
    tape_reset(tape, TAPE_RECORD);
    struct tensor *rows = tape_input(tape, DTYPE_I32, 2, (int64_t[]){B, ENTRIES}, ids);
    struct tensor *y = op_embedding(tape, rows, table);
    expect_equal(tape, y, expected);
    tape_backward(tape, 1, &y, (const float *const[]){seed});
    expect_equal(tape, &table->gradient, sum);
    free(values);
    free(seed);
    tape_delete(tape);
    parameter_set_clear(&set);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_in_fp32),           cmocka_unit_test(tokens_in_bf16),
        cmocka_unit_test(seeds_of_several_tensors), cmocka_unit_test(dropped_memory_comes_back),
        cmocka_unit_test(table_of_one_entry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
