/* Matrix products and convolutions of every backend against plain loops in fp64, in odd shapes, and what else
 * they promise: packed weights follow the master, frozen ones do without it, a seen step allocates nothing;
 * of the CPU, that the plan backend counts the same memory and no model falls back to reference kernels. */
#include "base/random.h"
#include "support/mirrored.h"
#include "tensor/cpu/dnnl_primitives.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Errors are measured against the sum of the magnitudes of all terms of an element: fp32 sums of n terms in
 * any order err by less than n 2^-24 of it, by sqrt(n) 2^-24 typically; n is at most a few thousand here.
 * A bf16 result is rounded once more, by up to 2^-8 of itself; on a GPU some terms are rounded before. */
static const double SUM_TOLERANCE = 2e-6, BF16_ROUNDING = 1.0 / 256;

static uint64_t seed = 1;

static bool is_plan(const struct backend *backend)
{
    return !backend->device && cpu_backend((struct backend *)backend)->plan;
}

static struct mirrored mirrored_random(struct backend *backend, enum dtype dtype, int rank,
                                       const int64_t *dim)
{
    struct mirrored mirrored = mirrored_new(backend, dtype, rank, dim);
    if (is_plan(backend)) return mirrored;
    int64_t count = tensor_count(&mirrored.tensor);
    float *values = check_malloc((unsigned long)count * sizeof *values);
    random_normal((struct random_key){.seed = seed++, .stream = RANDOM_TEST}, (uint64_t)count, values);
    for (int64_t i = 0; i < count; i++) mirrored_set(&mirrored, i, (double)values[i]);
    free(values);
    mirrored_put(backend, &mirrored);
    return mirrored;
}

/* A sum, the sum of its terms' magnitudes, and the magnitude of what is rounded to bf16 on the way. */
struct sum {
    double value, magnitude, rounded;
};

static void sum_add(struct sum *sum, double term)
{
    sum->value += term;
    sum->magnitude += fabs(term);
}

static void assert_near(const struct mirrored *found, int64_t i, struct sum expected)
{
    double limit = SUM_TOLERANCE * expected.magnitude + BF16_ROUNDING * expected.rounded;
    if (found->tensor.dtype == DTYPE_BF16) limit += BF16_ROUNDING * fabs(expected.value);
    double error = fabs(mirrored_at(found, i) - expected.value);
    if (!(error <= limit))
        fail_msg("element %ld: %.9g, expected %.9g, error %.3g, limit %.3g", (long)i, mirrored_at(found, i),
                 expected.value, error, limit);
}

/* A weight whose master is that of `master`, whose owner frees it. */
static struct parameter parameter_of(const struct mirrored *master)
{
    struct parameter weight = {.value = master->tensor, .product = true};
    snprintf(weight.part[0].name, sizeof weight.part[0].name, "weight");
    return weight;
}

static void packed_free(struct backend *backend, struct parameter *weight)
{
    for (int form = 0; form < PACKED_FORMS; form++) backend->ops->packed_free(backend, weight->packed[form]);
}

/* The weight as the product sees it: rounded to the compute dtype. */
static double weight_at(const struct mirrored *weight, enum dtype dtype, int64_t i)
{
    float value = ((float *)weight->host)[i];
    return (double)(dtype == DTYPE_BF16 ? float_from_bf16(bf16_from_float(value)) : value);
}

static bool skipped(struct backend *backend, enum dtype dtype)
{
    return !backend->ops->supports(backend, dtype);
}

/* ---- a convolution in general; a linear layer is one with a 1x1 kernel on a [rows, 1, 1, in] map */
struct shape {
    int64_t samples, height, width, in, out, kernel_height, kernel_width;
    struct convolution geometry;
};

static int64_t out_height(const struct shape *s)
{
    return (s->height + s->geometry.pad_top + s->geometry.pad_bottom - s->kernel_height) /
               s->geometry.stride +
           1;
}

static int64_t out_width(const struct shape *s)
{
    return (s->width + s->geometry.pad_left + s->geometry.pad_right - s->kernel_width) / s->geometry.stride +
           1;
}

/* Calls `term` for every triple (element of x, of weight, of y) whose product the convolution sums. */
static void for_all_terms(const struct shape *s,
                          void (*term)(void *context, int64_t x, int64_t weight, int64_t y), void *context)
{
    int64_t rows = out_height(s), columns = out_width(s);
    for (int64_t b = 0; b < s->samples; b++)
        for (int64_t h = 0; h < rows; h++)
            for (int64_t w = 0; w < columns; w++)
                for (int64_t p = 0; p < s->kernel_height; p++)
                    for (int64_t q = 0; q < s->kernel_width; q++) {
                        int64_t row = h * s->geometry.stride + p - s->geometry.pad_top;
                        int64_t column = w * s->geometry.stride + q - s->geometry.pad_left;
                        if (row < 0 || row >= s->height || column < 0 || column >= s->width) continue;
                        for (int64_t o = 0; o < s->out; o++)
                            for (int64_t i = 0; i < s->in; i++)
                                term(context, ((b * s->height + row) * s->width + column) * s->in + i,
                                     ((o * s->in + i) * s->kernel_height + p) * s->kernel_width + q,
                                     ((b * rows + h) * columns + w) * s->out + o);
                    }
}

/* Everything that one product involves; sums of the expected results. */
struct product {
    struct shape shape;
    enum dtype dtype;
    struct mirrored x, y, residual, bias, dy, dx, dweight, dbias, master;
    struct parameter weight;
    struct sum *y_sum, *dx_sum, *dweight_sum;
    bool on_device;
};

static void add_term(void *context, int64_t x, int64_t weight, int64_t y)
{
    struct product *p = context;
    double w = weight_at(&p->master, p->dtype, weight);
    sum_add(&p->y_sum[y], mirrored_at(&p->x, x) * w);
    sum_add(&p->dx_sum[x], mirrored_at(&p->dy, y) * w);
    sum_add(&p->dweight_sum[weight], mirrored_at(&p->dy, y) * mirrored_at(&p->x, x));
}

static struct sum *sums_new(int64_t count)
{
    return check_calloc((unsigned long)count, sizeof(struct sum));
}

static struct product product_new(struct backend *backend, struct shape s, enum dtype dtype, bool linear)
{
    int64_t x[] = {s.samples, s.height, s.width, s.in},
            y[] = {s.samples, out_height(&s), out_width(&s), s.out};
    int64_t w[] = {s.out, s.in, s.kernel_height, s.kernel_width};
    struct product p = {
        .shape = s,
        .dtype = dtype,
        .x = mirrored_random(backend, dtype, 4, x),
        .y = mirrored_random(backend, dtype, 4, y),
        .residual = mirrored_random(backend, dtype, 4, y),
        .bias = mirrored_random(backend, DTYPE_F32, 1, &s.out),
        .dy = mirrored_random(backend, dtype, 4, y),
        .dx = mirrored_random(backend, dtype, 4, x),
        .dweight = mirrored_random(backend, DTYPE_F32, linear ? 2 : 4, w),
        .dbias = mirrored_random(backend, DTYPE_F32, 1, &s.out),
        .master = mirrored_random(backend, DTYPE_F32, linear ? 2 : 4, w),
        .on_device = backend->device,
    };
    p.weight = parameter_of(&p.master);
    return p;
}

/* A convolution on a GPU in bf16, if it is not a product: cuDNN rounds its result before more is added. */
static bool rounds_before_sum(const struct product *p)
{
    const struct shape *s = &p->shape;
    const struct convolution *g = &s->geometry;
    return p->on_device && p->dtype == DTYPE_BF16 &&
           (s->kernel_height * s->kernel_width * g->stride != 1 ||
            g->pad_top + g->pad_bottom + g->pad_left + g->pad_right != 0);
}

/* What is expected, of the values now in the tensors: gradients of parameters add to what is there. */
static void product_expect(struct product *p)
{
    int64_t weights = tensor_count(&p->dweight.tensor);
    p->y_sum = sums_new(tensor_count(&p->y.tensor));
    p->dx_sum = sums_new(tensor_count(&p->x.tensor));
    p->dweight_sum = sums_new(weights);
    for_all_terms(&p->shape, add_term, p);
    for (int64_t i = 0; i < weights; i++) {
        if (rounds_before_sum(p)) p->dweight_sum[i].rounded = fabs(p->dweight_sum[i].value);
        sum_add(&p->dweight_sum[i], mirrored_at(&p->dweight, i));
    }
}

static void product_free(struct backend *backend, struct product *p)
{
    struct mirrored *all[] = {&p->x,  &p->y,       &p->residual, &p->bias,  &p->dy,
                              &p->dx, &p->dweight, &p->dbias,    &p->master};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mirrored_free(backend, all[i]);
    packed_free(backend, &p->weight);
    free(p->y_sum), free(p->dx_sum), free(p->dweight_sum);
}

static void forward(struct backend *backend, struct product *p, bool bias, bool residual)
{
    const struct tensor *b = bias ? &p->bias.tensor : NULL, *r = residual ? &p->residual.tensor : NULL;
    if (p->weight.value.rank == 2)
        backend->ops->linear_forward(backend, &p->x.tensor, &p->weight, b, r, &p->y.tensor);
    else
        backend->ops->convolution_forward(backend, &p->shape.geometry, &p->x.tensor, &p->weight, b, r,
                                          &p->y.tensor);
    mirrored_get(backend, &p->y);
}

static void backward_input(struct backend *backend, struct product *p)
{
    if (p->weight.value.rank == 2)
        backend->ops->linear_backward_input(backend, &p->dy.tensor, &p->weight, &p->dx.tensor);
    else
        backend->ops->convolution_backward_input(backend, &p->shape.geometry, &p->dy.tensor, &p->weight,
                                                 &p->dx.tensor);
    mirrored_get(backend, &p->dx);
}

static void backward(struct backend *backend, struct product *p, bool bias)
{
    struct tensor *dbias = bias ? &p->dbias.tensor : NULL;
    backward_input(backend, p);
    if (p->weight.value.rank == 2)
        backend->ops->linear_backward_weight(backend, &p->x.tensor, &p->dy.tensor, &p->dweight.tensor, dbias);
    else
        backend->ops->convolution_backward_weight(backend, &p->shape.geometry, &p->x.tensor, &p->dy.tensor,
                                                  &p->dweight.tensor, dbias);
    mirrored_get(backend, &p->dweight);
    mirrored_get(backend, &p->dbias);
}

static void assert_forward(const struct product *p, bool bias, bool residual)
{
    bool rounds_bias = p->on_device && p->dtype == DTYPE_BF16 && !rounds_before_sum(p);
    for (int64_t i = 0; i < tensor_count(&p->y.tensor); i++) {
        struct sum expected = p->y_sum[i];
        double added = bias ? mirrored_at(&p->bias, i % p->shape.out) : 0;
        if (rounds_before_sum(p)) expected.rounded = fabs(expected.value);
        if (rounds_bias) expected.rounded = fabs(added);
        sum_add(&expected, added);
        if (residual) sum_add(&expected, mirrored_at(&p->residual, i));
        assert_near(&p->y, i, expected);
    }
}

static void assert_backward_input(const struct product *p)
{
    for (int64_t i = 0; i < tensor_count(&p->x.tensor); i++) assert_near(&p->dx, i, p->dx_sum[i]);
}

static void assert_backward(const struct product *p, const struct sum *dbias)
{
    assert_backward_input(p);
    for (int64_t i = 0; i < tensor_count(&p->dweight.tensor); i++)
        assert_near(&p->dweight, i, p->dweight_sum[i]);
    for (int64_t i = 0; i < p->shape.out; i++) assert_near(&p->dbias, i, dbias[i]);
}

/* <A x, y> = <x, A' y>, with A x and A' y as the backend made them */
static void assert_adjoint(const struct product *p)
{
    struct sum left = {0}, right = {0};
    for (int64_t i = 0; i < tensor_count(&p->y.tensor); i++)
        sum_add(&left, mirrored_at(&p->y, i) * mirrored_at(&p->dy, i));
    for (int64_t i = 0; i < tensor_count(&p->x.tensor); i++)
        sum_add(&right, mirrored_at(&p->dx, i) * mirrored_at(&p->x, i));
    double tolerance = p->dtype == DTYPE_BF16 ? BF16_ROUNDING : SUM_TOLERANCE;
    assert_true(fabs(left.value - right.value) <= tolerance * (left.magnitude + right.magnitude));
}

static void check_product(struct backend *backend, struct shape shape, enum dtype dtype, bool linear)
{
    if (skipped(backend, dtype)) return;
    struct product p = product_new(backend, shape, dtype, linear);
    struct sum *dbias = sums_new(shape.out);
    product_expect(&p);
    for (int64_t i = 0; i < shape.out; i++) sum_add(&dbias[i], mirrored_at(&p.dbias, i));
    for (int64_t i = 0; i < tensor_count(&p.dy.tensor); i++)
        sum_add(&dbias[i % shape.out], mirrored_at(&p.dy, i));
    for (int variant = 3; variant >= 0; variant--) {
        forward(backend, &p, variant & 1, variant & 2);
        assert_forward(&p, variant & 1, variant & 2);
    }
    backward(backend, &p, true);
    assert_backward(&p, dbias);
    assert_adjoint(&p);
    free(dbias);
    product_free(backend, &p);
}

static const struct shape linears[] = {
    {1, 1, 1, 1, 1, 1, 1, {1, 0, 0, 0, 0}},    {1, 1, 13, 77, 5, 1, 1, {1, 0, 0, 0, 0}},
    {4, 1, 1, 320, 64, 1, 1, {1, 0, 0, 0, 0}}, {2, 3, 5, 17, 130, 1, 1, {1, 0, 0, 0, 0}},
    {2, 1, 77, 64, 96, 1, 1, {1, 0, 0, 0, 0}}, {1, 1, 200, 1, 3, 1, 1, {1, 0, 0, 0, 0}},
    {3, 9, 11, 2, 1, 1, 1, {1, 0, 0, 0, 0}},   {8, 8, 8, 64, 192, 1, 1, {1, 0, 0, 0, 0}},
};

static void linear_is_the_plain_loop(void **state)
{
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            check_product(*state, linears[i], dtype, true);
}

static const struct shape convolutions[] = {
    {1, 1, 1, 1, 1, 1, 1, {1, 0, 0, 0, 0}},    {1, 3, 3, 1, 1, 3, 3, {1, 1, 1, 1, 1}},
    {2, 8, 8, 4, 64, 3, 3, {1, 1, 1, 1, 1}},   {1, 8, 8, 64, 4, 3, 3, {1, 1, 1, 1, 1}},
    {2, 7, 5, 12, 48, 3, 3, {2, 1, 1, 1, 1}},  {1, 9, 8, 3, 17, 3, 3, {2, 0, 1, 0, 1}},
    {2, 6, 7, 33, 31, 3, 3, {1, 2, 0, 1, 3}},  {1, 13, 11, 5, 7, 5, 3, {3, 2, 1, 0, 2}},
    {2, 6, 6, 40, 24, 1, 1, {1, 0, 0, 0, 0}},  {1, 7, 7, 16, 16, 1, 1, {2, 0, 0, 0, 0}},
    {1, 14, 14, 3, 32, 7, 7, {7, 0, 0, 0, 0}}, {4, 4, 4, 64, 64, 3, 3, {1, 1, 1, 1, 1}},
    {1, 12, 10, 6, 10, 1, 7, {1, 0, 0, 3, 3}}, {1, 9, 9, 64, 96, 2, 2, {2, 0, 0, 0, 0}},
    {5, 6, 5, 20, 36, 3, 3, {1, 1, 1, 1, 1}},  {3, 8, 8, 32, 12, 3, 3, {2, 1, 1, 1, 1}},
};

static void convolution_is_the_plain_loop(void **state)
{
    for (size_t i = 0; i < sizeof convolutions / sizeof *convolutions; i++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            check_product(*state, convolutions[i], dtype, false);
}

/* The same convolution on one sample, then on more: a thread that does one sample alone must not get the
 * primitive that all threads share for one. (oneDNN's own cache once gave it that.) */
static void batch_sizes_do_not_mix(void **state)
{
    struct shape shape = {1, 4, 4, 16, 32, 3, 3, {1, 1, 1, 1, 1}};
    for (shape.samples = 1; shape.samples <= 5; shape.samples++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            check_product(*state, shape, dtype, false);
}

/* After the master changed and the form was marked stale, the product is that of the new weight. */
static void packed_weight_follows_the_master(void **state)
{
    struct backend *backend = *state;
    for (int linear = 0; linear < 2; linear++) {
        struct product p = product_new(backend, linear ? linears[4] : convolutions[6], DTYPE_F32, linear);
        forward(backend, &p, false, false);
        backward(backend, &p, false);
        void *packed = p.weight.packed[PACKED_FORWARD];
        for (int64_t i = 0; i < tensor_count(&p.weight.value); i++) ((float *)p.master.host)[i] *= -3;
        mirrored_put(backend, &p.master);
        for (int form = 0; form < PACKED_FORMS; form++) p.weight.packed_stale[form] = true;
        product_expect(&p);
        forward(backend, &p, false, false);
        assert_forward(&p, false, false);
        backward_input(backend, &p);
        assert_backward_input(&p);
        assert_ptr_equal(packed, p.weight.packed[PACKED_FORWARD]);
        assert_false(p.weight.packed_stale[PACKED_FORWARD]);
        product_free(backend, &p);
    }
}

/* A frozen weight has no master; its form serves activations of any shape, whatever layouts these want. */
static void frozen_weight_needs_no_master(void **state)
{
    struct backend *backend = *state;
    const struct shape shapes[] = {{1, 16, 16, 96, 160, 3, 3, {1, 1, 1, 1, 1}},
                                   {4, 8, 8, 96, 160, 3, 3, {1, 1, 1, 1, 1}},
                                   {1, 3, 5, 96, 160, 3, 3, {1, 1, 1, 1, 1}},
                                   {1, 16, 16, 96, 160, 3, 3, {1, 1, 1, 1, 1}}};
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        if (skipped(backend, dtype)) continue;
        struct mirrored master = {0};
        struct parameter frozen = {0};
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            struct product p = product_new(backend, shapes[i], dtype, false);
            if (i == 0) {
                frozen = p.weight;
                for (enum packing form = PACKED_FORWARD; form < PACKED_FORMS; form++)
                    frozen.packed[form] = backend->ops->pack(backend, &frozen, dtype, form, NULL);
                master.host = p.master.host; // what is expected is of these values, all the time
                p.master.host = NULL;
                frozen.value.data = NULL;
            }
            mirrored_free(backend, &p.master);
            p.master.host = master.host;
            p.weight = frozen;
            product_expect(&p);
            forward(backend, &p, true, true);
            assert_forward(&p, true, true);
            backward_input(backend, &p);
            assert_backward_input(&p);
            frozen = p.weight;
            p.weight = (struct parameter){0};
            p.master.host = NULL;
            product_free(backend, &p);
        }
        packed_free(backend, &frozen);
        mirrored_free(backend, &master);
    }
}

/* Bit for bit. */
static void sample_does_not_depend_on_the_others(void **state)
{
    struct backend *backend = *state;
    for (int linear = 0; linear < 2; linear++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            if (skipped(backend, dtype)) continue;
            struct product p = product_new(backend, linear ? linears[7] : convolutions[11], dtype, linear);
            size_t first = tensor_bytes(&p.y.tensor) / (size_t)p.shape.samples;
            void *before = check_malloc(first);
            forward(backend, &p, true, true);
            memcpy(before, p.y.host, first);
            size_t sample = tensor_bytes(&p.x.tensor) / (size_t)p.shape.samples;
            memset((char *)p.x.host + sample, 0x3f, sample * (size_t)(p.shape.samples - 1));
            mirrored_put(backend, &p.x);
            forward(backend, &p, true, true);
            assert_memory_equal(before, p.y.host, first);
            free(before);
            product_free(backend, &p);
        }
}

/* With tf32, fp32 operands keep 10 bits of mantissa: each term errs by up to 2^-10, and some do so by more
 * than fp32 would. Without it (again) they do not. */
static void tf32_is_a_switch(void **state)
{
    struct backend *backend = *state;
    if (!backend->device) return;
    for (int linear = 0; linear < 2; linear++) {
        struct product p = product_new(backend, linear ? linears[7] : convolutions[11], DTYPE_F32, linear);
        product_expect(&p);
        backend->tf32 = true;
        forward(backend, &p, false, false);
        backend->tf32 = false;
        double largest = 0;
        for (int64_t i = 0; i < tensor_count(&p.y.tensor); i++)
            largest = fmax(largest, fabs(mirrored_at(&p.y, i) - p.y_sum[i].value) / p.y_sum[i].magnitude);
        assert_true(largest > SUM_TOLERANCE && largest < 1.0 / 1024);
        forward(backend, &p, false, false);
        assert_forward(&p, false, false);
        product_free(backend, &p);
    }
}

static void count_primitives(const struct primitive *primitive, void *count)
{
    (void)primitive;
    ++*(int *)count;
}

/* A second step of the same shapes makes no primitive and takes no memory; the plan backend, going through
 * the same calls, says beforehand what the CPU's first one takes. */
static void second_step_allocates_nothing(void **state)
{
    (void)state;
    enum { KINDS = BACKEND_CUDA + 1 };
    size_t bytes[KINDS] = {0}, scratch[KINDS] = {0};
    for (int kind = BACKEND_CPU; kind < KINDS; kind++) {
        if (!backend_available((enum backend_kind)kind)) continue;
        struct backend *backend = backend_open((enum backend_kind)kind);
        struct product p = product_new(backend, convolutions[2], DTYPE_F32, false);
        struct product q = product_new(backend, linears[3], DTYPE_F32, true);
        int primitives[2] = {0};
        size_t held[2], growths[2];
        for (int step = 0; step < 2; step++) {
            forward(backend, &p, true, true);
            backward(backend, &p, true);
            forward(backend, &q, true, true);
            backward(backend, &q, true);
            for (int form = 0; form < PACKED_FORMS; form++)
                p.weight.packed_stale[form] = q.weight.packed_stale[form] = true;
            if (!backend->device) primitives_visit(cpu_backend(backend), count_primitives, &primitives[step]);
            held[step] = backend->bytes;
            growths[step] = arena_growths(backend->scratch);
        }
        assert_int_equal(primitives[0], primitives[1]);
        assert_int_equal(held[0], held[1]);
        assert_int_equal(growths[0], growths[1]);
        assert_int_equal(arena_in_use(backend->scratch), 0);
        bytes[kind] = backend->bytes_peak;
        scratch[kind] = arena_peak(backend->scratch);
        product_free(backend, &p);
        product_free(backend, &q);
        backend_close(backend);
    }
    assert_int_equal(bytes[BACKEND_CPU], bytes[BACKEND_PLAN]);
    assert_int_equal(scratch[BACKEND_CPU], scratch[BACKEND_PLAN]);
}

static void assert_optimised(const struct primitive *primitive, void *context)
{
    (void)context;
    if (strncmp(primitive->implementation, "ref", 3) == 0)
        fail_msg("kind %d of %ld x %ld x %ld x %ld in %s runs on %s", primitive->key.kind,
                 (long)primitive->key.number[0], (long)primitive->key.number[1],
                 (long)primitive->key.number[2], (long)primitive->key.number[3],
                 dtype_name((enum dtype)primitive->key.dtype), primitive->implementation);
}

/* The layers of the SD 2.1 UNet, of its VAE's ends and of a small pixel UNet, on the plan backend. */
static void no_model_runs_on_reference_kernels(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_PLAN);
    const struct convolution same = {1, 1, 1, 1, 1}, half = {2, 1, 1, 1, 1}, vae_half = {2, 0, 1, 0, 1};
    const struct convolution one = {1, 0, 0, 0, 0};
    const struct shape shapes[] = {
        {4, 32, 32, 4, 320, 3, 3, same},       {4, 32, 32, 320, 320, 3, 3, same},
        {4, 32, 32, 320, 4, 3, 3, same},       {4, 32, 32, 960, 320, 3, 3, same},
        {4, 32, 32, 640, 320, 1, 1, one},      {4, 32, 32, 320, 320, 3, 3, half},
        {4, 16, 16, 1280, 640, 3, 3, same},    {4, 8, 8, 2560, 1280, 3, 3, same},
        {4, 8, 8, 2560, 1280, 1, 1, one},      {4, 4, 4, 1280, 1280, 3, 3, same},
        {1, 64, 64, 3, 128, 3, 3, same},       {1, 64, 64, 128, 3, 3, 3, same},
        {1, 64, 64, 128, 128, 3, 3, vae_half}, {64, 16, 16, 12, 64, 3, 3, same},
        {64, 16, 16, 64, 12, 3, 3, same},      {64, 8, 8, 320, 128, 3, 3, same},
        {64, 4, 4, 192, 192, 3, 3, same},      {8, 16, 16, 50, 30, 3, 3, same},
    };
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        if (skipped(backend, dtype)) continue;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            struct product p = product_new(backend, shapes[i], dtype, false);
            forward(backend, &p, true, true);
            backward(backend, &p, true);
            product_free(backend, &p);
            struct shape linear = shapes[i];
            linear.kernel_height = linear.kernel_width = 1;
            linear.geometry = one;
            p = product_new(backend, linear, dtype, true);
            forward(backend, &p, true, true);
            backward(backend, &p, true);
            product_free(backend, &p);
        }
    }
    primitives_visit(cpu_backend(backend), assert_optimised, NULL);
    backend_close(backend);
}

/* No times here: the roof is a positive, finite number, of each kind, and gives its memory back. */
static void roof_is_measured(void **state)
{
    struct backend *backend = *state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        if (skipped(backend, dtype)) continue;
        for (enum roof kind = ROOF_MATMUL; kind <= ROOF_COPY; kind++) {
            double rate = backend->ops->roof(backend, kind, dtype, 0);
            assert_true(rate > 0 && isfinite(rate));
            assert_int_equal(arena_in_use(backend->scratch), 0);
        }
    }
}

static enum backend_kind tested; /* of the tests that run on each */

static int open_backend(void **state)
{
    *state = backend_open(tested);
    return 0;
}

static int close_backend(void **state)
{
    backend_close(*state);
    return 0;
}

/* The last test: what the others took. */
static void memory_is_given_back(void **state)
{
    struct backend *backend = *state;
    assert_int_equal(backend->bytes, 0);
    assert_int_equal(arena_in_use(backend->scratch), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_the_plain_loop),
        cmocka_unit_test(convolution_is_the_plain_loop),
        cmocka_unit_test(batch_sizes_do_not_mix),
        cmocka_unit_test(packed_weight_follows_the_master),
        cmocka_unit_test(frozen_weight_needs_no_master),
        cmocka_unit_test(sample_does_not_depend_on_the_others),
        cmocka_unit_test(roof_is_measured),
        cmocka_unit_test(tf32_is_a_switch),
        cmocka_unit_test(memory_is_given_back),
    };
    const struct CMUnitTest more[] = {
        cmocka_unit_test(second_step_allocates_nothing),
        cmocka_unit_test(no_model_runs_on_reference_kernels),
    };
    int failed = cmocka_run_group_tests_name("cpu", tests, open_backend, close_backend);
    failed += cmocka_run_group_tests_name("memory and kernels", more, open_backend, close_backend);
    tested = BACKEND_CUDA;
    if (backend_available(tested))
        failed += cmocka_run_group_tests_name("cuda", tests, open_backend, close_backend);
    return failed;
}
