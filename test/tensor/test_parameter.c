#include "base/check.h"
#include "tensor/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a failed check ends a test early: check_set_abort's function jumps back here */
static jmp_buf failed_check;

static void jump_back(int exit_code)
{
    (void)exit_code;
    longjmp(failed_check, 1);
}

#define ASSERT_CHECK_FAILS(statement)                                                                        \
    do {                                                                                                     \
        check_set_abort(jump_back, 0);                                                                       \
        if (setjmp(failed_check) == 0) {                                                                     \
            statement;                                                                                       \
            fail_msg("%s passed", #statement);                                                               \
        }                                                                                                    \
        check_set_abort(NULL, 0);                                                                            \
    } while (0)

/* Values that tell where they are. */
static float *numbered(int64_t count, float first)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = first + (float)i;
    return values;
}

static void test_names_and_shapes(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    parameter_set_init(&set, backend);
    struct parameter *weight =
        parameter_add(&set, true, 4, (int64_t[]){8, 4, 3, 3}, "down_blocks.%d.conv%d.weight", 1, 2);
    struct parameter *bias =
        parameter_add(&set, false, 1, (int64_t[]){8}, "down_blocks.%d.conv%d.bias", 1, 2);
    static const char *const suffix[] = {"to_q.weight", "to_k.weight", "to_v.weight"};
    struct parameter *stacked = parameter_add_stacked(&set, 6, 5, "attn1.", 3, suffix);

    assert_int_equal(set.count, 3);
    assert_ptr_equal(set.items[0], weight);
    assert_string_equal(weight->part[0].name, "down_blocks.1.conv2.weight");
    assert_true(weight->product && !bias->product && stacked->product);
    assert_int_equal(weight->value.rank, 4);
    assert_int_equal(bias->value.dim[1], 1);
    assert_int_equal(stacked->value.dim[0], 18);
    assert_int_equal(stacked->value.dim[1], 5);
    assert_int_equal(stacked->part_count, 3);
    assert_int_equal(stacked->part[2].first_row, 12);
    assert_int_equal(stacked->part[2].rows, 6);
    assert_int_equal(parameter_set_elements(&set), 8 * 4 * 9 + 8 + 18 * 5);

    int part = -1;
    assert_ptr_equal(parameter_find(&set, "attn1.to_k.weight", &part), stacked);
    assert_int_equal(part, 1);
    assert_ptr_equal(parameter_find(&set, "down_blocks.1.conv2.bias", &part), bias);
    assert_int_equal(part, 0);
    assert_null(parameter_find(&set, "attn1.to_k", &part));

    char name[200];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    ASSERT_CHECK_FAILS(parameter_add(&set, false, 1, (int64_t[]){8}, "%s", name));
    ASSERT_CHECK_FAILS(parameter_add(&set, false, 5, (int64_t[]){1, 1, 1, 1, 1}, "rank"));
    ASSERT_CHECK_FAILS(parameter_add(&set, false, 2, (int64_t[]){4, 0}, "empty"));
    parameter_set_clear(&set);
    backend_close(backend);
}

static void test_many_parameters_keep_their_address(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    parameter_set_init(&set, backend);
    struct parameter *first = parameter_add(&set, false, 1, (int64_t[]){1}, "first");
    for (int i = 0; i < 1000; i++) parameter_add(&set, false, 1, (int64_t[]){1}, "other %d", i);
    int part;
    assert_ptr_equal(parameter_find(&set, "first", &part), first);
    assert_ptr_equal(parameter_find(&set, "other 999", &part), set.items[1000]);
    parameter_set_clear(&set);
    backend_close(backend);
}

static void test_parts(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    parameter_set_init(&set, backend);
    static const char *const suffix[] = {"q", "k"};
    struct parameter *stacked = parameter_add_stacked(&set, 2, 3, "attn.", 2, suffix);
    ASSERT_CHECK_FAILS(parameter_part_upload(&set, stacked, 0, (float[6]){0}));
    parameter_set_allocate(&set, true);
    assert_true(stacked->trainable && stacked->value.needs_grad && stacked->gradient.data);
    stacked->packed_stale[PACKED_FORWARD] = stacked->packed_stale[PACKED_BACKWARD] = false;

    float *q = numbered(6, 0), *k = numbered(6, 100), back[6];
    parameter_part_upload(&set, stacked, 1, k);
    parameter_part_upload(&set, stacked, 0, q);
    assert_true(stacked->packed_stale[PACKED_FORWARD] && stacked->packed_stale[PACKED_BACKWARD]);
    const float *master = stacked->value.data;
    assert_true(master[0] == 0 && master[5] == 5 && master[6] == 100 && master[11] == 105);
    parameter_part_download(&set, stacked, 1, back);
    assert_memory_equal(back, k, sizeof back);
    ASSERT_CHECK_FAILS(parameter_part_download(&set, stacked, 2, back));
    ASSERT_CHECK_FAILS(parameter_set_allocate(&set, true));

    float *gradient = stacked->gradient.data;
    for (int i = 0; i < 12; i++) assert_true(gradient[i] == 0);
    gradient[0] = gradient[11] = 1;
    parameter_set_zero_gradients(&set);
    assert_true(gradient[0] == 0 && gradient[11] == 0);
    free(q);
    free(k);
    parameter_set_clear(&set);
    assert_int_equal(set.count, 0);
    backend_close(backend);
}

/* y of x [3, 8] by the weight and the bias, and dx */
static void compute(struct backend *backend, struct parameter *weight, struct parameter *bias, float *y,
                    float *dx)
{
    float *values = numbered(24, -10);
    struct tensor x = {.dtype = DTYPE_F32, .rank = 2, .dim = {3, 8, 1, 1}, .data = values};
    struct tensor out = {.dtype = DTYPE_F32, .rank = 2, .dim = {3, 4, 1, 1}, .data = y};
    struct tensor in = {.dtype = DTYPE_F32, .rank = 2, .dim = {3, 8, 1, 1}, .data = dx};
    backend->ops->linear_forward(backend, &x, weight, &bias->value, NULL, &out);
    backend->ops->linear_backward_input(backend, &out, weight, &in);
    free(values);
}

static void test_freeze(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    parameter_set_init(&set, backend);
    struct parameter *weight = parameter_add(&set, true, 2, (int64_t[]){4, 8}, "weight");
    struct parameter *bias = parameter_add(&set, false, 1, (int64_t[]){4}, "bias");
    parameter_set_allocate(&set, true);
    float *weights = numbered(32, 1), *biases = numbered(4, -3), y[2][12], dx[2][24];
    parameter_part_upload(&set, weight, 0, weights);
    parameter_part_upload(&set, bias, 0, biases);
    compute(backend, weight, bias, y[0], dx[0]);
    parameter_set_freeze(&set, DTYPE_F32, true);

    assert_null(weight->value.data);
    assert_null(weight->gradient.data);
    assert_null(bias->gradient.data);
    assert_non_null(bias->value.data); // no product: used as it is
    assert_non_null(weight->packed[PACKED_FORWARD]);
    assert_non_null(weight->packed[PACKED_BACKWARD]);
    assert_false(weight->trainable || weight->value.needs_grad || bias->trainable || bias->value.needs_grad);
    assert_int_equal(parameter_set_elements(&set), 36);
    compute(backend, weight, bias, y[1], dx[1]);
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);

    parameter_set_zero_gradients(&set); // there are none: nothing to do
    ASSERT_CHECK_FAILS(parameter_part_upload(&set, weight, 0, weights));
    ASSERT_CHECK_FAILS(parameter_part_download(&set, weight, 0, weights));
    ASSERT_CHECK_FAILS(parameter_set_freeze(&set, DTYPE_F32, true));
    free(weights);
    free(biases);
    parameter_set_clear(&set);
    backend_close(backend);
}

static void test_freeze_for_forward_passes_alone(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    parameter_set_init(&set, backend);
    struct parameter *weight = parameter_add(&set, true, 2, (int64_t[]){4, 8}, "weight");
    parameter_set_allocate(&set, false);
    assert_false(weight->trainable || weight->value.needs_grad);
    assert_null(weight->gradient.data);
    parameter_set_freeze(&set, DTYPE_F32, false);
    assert_non_null(weight->packed[PACKED_FORWARD]);
    assert_null(weight->packed[PACKED_BACKWARD]);
    parameter_set_clear(&set);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_shapes),
        cmocka_unit_test(test_many_parameters_keep_their_address),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_freeze_for_forward_passes_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
