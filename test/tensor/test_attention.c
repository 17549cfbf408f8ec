/* Attention of every backend against plain loops in fp64: self and cross, masks, gates (zero among them),
 * any number of tokens; gradients also against finite differences. */
#include "base/check.h"
#include "base/random.h"
#include "support/failing_check.h"
#include "support/mirrored.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/op.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Of the largest magnitude of each result. fp32: sums of a few hundred terms, errors of 2^-24 each, and
 * exponents of up to ten. bf16: probabilities and results are rounded to 2^-9 of themselves, score gradients
 * too, and these partly cancel in their sums. */
static double tolerance_of(enum dtype dtype)
{
    return dtype == DTYPE_BF16 ? 1e-2 : 5e-6;
}

/* A case: shapes, options, values in fp64 and the plain loop's results. Self-attention has q, k and v in one
 * tensor [B, T, 3 C + 2]; else q in [B, Tq, C + 1] and k, v in [B, Tk, 2 C + 3]: columns that belong to
 * nobody are there to be left alone. */
struct shape {
    int64_t samples, heads, head_size, queries, keys; /* keys 0: self-attention */
    bool causal, masked;
    int gate; /* 0 none, 1 values, 2 values with zeros */
    int bias; /* 0 none, 1 for all heads alike, 2 a head; then without gradients */
};

struct values {
    struct attention attention;
    int64_t samples, queries, keys, q_stride, kv_stride;
    bool self;
    double *q, *kv, *mask, *gate, *dy; /* mask, gate NULL: none; kv is q in self-attention */
    double *bias;                      /* [bias_heads, queries, keys] or NULL */
    int64_t bias_heads;
    double *y, *log_sum, *dq, *dkv, *dgate, *probability; /* probability: of one query */
};

enum { GATE_ENTRIES_BEFORE = 2 }; /* gates of other units in the same vector */

static uint64_t seed = 1;

static double *random_values(int64_t count, bool bf16)
{
    float *values = check_malloc((unsigned long)count * sizeof *values);
    double *result = check_malloc((unsigned long)count * sizeof *result);
    random_normal((struct random_key){.seed = seed++, .stream = RANDOM_TEST}, (uint64_t)count, values);
    for (int64_t i = 0; i < count; i++)
        result[i] = (double)(bf16 ? float_from_bf16(bf16_from_float(values[i])) : values[i]);
    free(values);
    return result;
}

static double *zeros(int64_t count)
{
    return check_calloc((unsigned long)count, sizeof(double));
}

static int64_t q_count(const struct values *v)
{
    return v->samples * v->queries * v->q_stride;
}

static int64_t kv_count(const struct values *v)
{
    return v->samples * v->keys * v->kv_stride;
}

static int64_t y_count(const struct values *v)
{
    return v->samples * v->queries * v->attention.heads * v->attention.head_size;
}

static struct values values_new(struct shape shape, bool bf16)
{
    int64_t channels = shape.heads * shape.head_size;
    bool self = shape.keys == 0;
    struct values v = {
        .attention = {.heads = shape.heads,
                      .head_size = shape.head_size,
                      .q_column = 1,
                      .k_column = self ? 1 + channels : 0,
                      .v_column = self ? 1 + 2 * channels : channels + 3,
                      .scale = 1 / sqrtf((float)shape.head_size),
                      .causal = shape.causal},
        .samples = shape.samples,
        .queries = shape.queries,
        .keys = self ? shape.queries : shape.keys,
        .q_stride = self ? 3 * channels + 2 : channels + 1,
        .kv_stride = self ? 3 * channels + 2 : 2 * channels + 3,
        .self = self,
    };
    v.q = random_values(q_count(&v), bf16);
    v.kv = self ? v.q : random_values(kv_count(&v), bf16);
    v.dy = random_values(y_count(&v), bf16);
    if (shape.masked) {
        v.mask = zeros(v.samples * v.keys);
        for (int64_t i = 0; i < v.samples * v.keys; i++) // every sample sees key 0
            v.mask[i] = i % v.keys == 0 || (i * 7 + i / 3) % 3 != 0;
    }
    if (shape.gate) {
        v.gate = random_values(v.samples * v.attention.heads, false);
        for (int64_t i = 0; shape.gate == 2 && i < v.samples * v.attention.heads; i += 2) v.gate[i] = 0;
    }
    v.bias_heads = shape.bias == 2 ? shape.heads : 1;
    if (shape.bias) v.bias = random_values(v.bias_heads * v.queries * v.keys, false);
    v.y = zeros(y_count(&v));
    v.log_sum = zeros(v.samples * v.attention.heads * v.queries);
    v.dq = zeros(q_count(&v));
    v.dkv = self ? v.dq : zeros(kv_count(&v));
    v.dgate = zeros(v.samples * v.attention.heads);
    v.probability = zeros(2 * v.keys);
    return v;
}

static void values_free(struct values *v)
{
    free(v->q), free(v->mask), free(v->gate), free(v->dy), free(v->y), free(v->log_sum), free(v->dq);
    free(v->dgate), free(v->probability), free(v->bias);
    if (!v->self) free(v->kv), free(v->dkv);
}

/* One query of one head. Gradients are added where `gradients` is set. */
static void plain_query(struct values *v, int64_t sample, int64_t head, int64_t query, bool gradients)
{
    int64_t size = v->attention.head_size, heads = v->attention.heads;
    int64_t q_at = (sample * v->queries + query) * v->q_stride + v->attention.q_column + head * size;
    int64_t y_at = ((sample * v->queries + query) * heads + head) * size;
    int64_t k_at = sample * v->keys * v->kv_stride + v->attention.k_column + head * size;
    int64_t v_at = sample * v->keys * v->kv_stride + v->attention.v_column + head * size;
    double *p = v->probability, *dp = p + v->keys, total = 0, largest = -INFINITY, dot = 0;
    double gate = v->gate ? v->gate[sample * heads + head] : 1;
    for (int64_t j = 0; j < v->keys; j++) {
        bool hidden = (v->attention.causal && j > query) || (v->mask && v->mask[sample * v->keys + j] == 0);
        p[j] = 0;
        for (int64_t d = 0; d < size; d++) p[j] += v->q[q_at + d] * v->kv[k_at + j * v->kv_stride + d];
        p[j] *= (double)v->attention.scale;
        if (v->bias) p[j] += v->bias[(head % v->bias_heads * v->queries + query) * v->keys + j];
        if (hidden) p[j] = -INFINITY;
        largest = fmax(largest, p[j]);
    }
    for (int64_t j = 0; j < v->keys; j++) total += p[j] = exp(p[j] - largest);
    v->log_sum[(sample * heads + head) * v->queries + query] = largest + log(total);
    for (int64_t d = 0; d < size; d++) v->y[y_at + d] = 0;
    for (int64_t j = 0; j < v->keys; j++) {
        p[j] /= total;
        dp[j] = 0;
        for (int64_t d = 0; d < size; d++) {
            v->y[y_at + d] += gate * p[j] * v->kv[v_at + j * v->kv_stride + d];
            dp[j] += v->dy[y_at + d] * v->kv[v_at + j * v->kv_stride + d];
        }
        dot += p[j] * dp[j];
    }
    if (!gradients) return;
    v->dgate[sample * heads + head] += dot;
    for (int64_t j = 0; j < v->keys; j++)
        for (int64_t d = 0; d < size; d++) {
            double ds = gate * (double)v->attention.scale * p[j] * (dp[j] - dot);
            v->dq[q_at + d] += ds * v->kv[k_at + j * v->kv_stride + d];
            v->dkv[k_at + j * v->kv_stride + d] += ds * v->q[q_at + d];
            v->dkv[v_at + j * v->kv_stride + d] += gate * p[j] * v->dy[y_at + d];
        }
}

static void plain_attention_of(struct values *v, bool gradients)
{
    for (int64_t sample = 0; sample < v->samples; sample++)
        for (int64_t head = 0; head < v->attention.heads; head++)
            for (int64_t query = 0; query < v->queries; query++)
                plain_query(v, sample, head, query, gradients);
}

/* ---- the plain gradients themselves: of sum(y dy), by central differences */
static double objective(struct values *v)
{
    double sum = 0;
    plain_attention_of(v, false);
    for (int64_t i = 0; i < y_count(v); i++) sum += v->y[i] * v->dy[i];
    return sum;
}

static void assert_derivatives(struct values *v, double *values, const double *gradient, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        double value = values[i], step = 1e-5;
        values[i] = value + step;
        double above = objective(v);
        values[i] = value - step;
        double below = objective(v);
        values[i] = value;
        double difference = (above - below) / (2 * step);
        if (!(fabs(difference - gradient[i]) < 1e-7 * (1 + fabs(difference)))) // step^2 and 1e-16 / step
            fail_msg("element %ld: gradient %.12g, difference quotient %.12g", (long)i, gradient[i],
                     difference);
    }
}

static void plain_gradients_are_derivatives(void **state)
{
    (void)state;
    const struct shape shapes[] = {{2, 2, 3, 5, 4, false, true, 1, 0}, {1, 2, 2, 4, 0, true, false, 2, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct values v = values_new(shapes[i], false);
        plain_attention_of(&v, true);
        assert_derivatives(&v, v.q, v.dq, q_count(&v));
        if (!v.self) assert_derivatives(&v, v.kv, v.dkv, kv_count(&v));
        assert_derivatives(&v, v.gate, v.dgate, v.samples * v.attention.heads);
        values_free(&v);
    }
}

/* ---- the backend */
static struct mirrored mirrored_of(struct backend *backend, enum dtype dtype, int64_t a, int64_t b, int64_t c,
                                   const double *values)
{
    struct mirrored mirrored = mirrored_new(backend, dtype, 3, (int64_t[]){a, b, c});
    for (int64_t i = 0; values && i < a * b * c; i++) mirrored_set(&mirrored, i, values[i]);
    mirrored_put(backend, &mirrored);
    return mirrored;
}

static void assert_close(const char *what, const struct mirrored *found, const double *expected,
                         double tolerance)
{
    double largest = 1;
    int64_t count = tensor_count(&found->tensor);
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(mirrored_at(found, i) - expected[i]) <= tolerance * largest))
            fail_msg("%s[%ld]: %.9g, expected %.9g, largest %.3g", what, (long)i, mirrored_at(found, i),
                     expected[i], largest);
}

struct tensors {
    struct mirrored q, kv, mask, bias, gates, y, log_sum, dy, dq, dkv, dgates;
    struct gate gate;
};

static struct tensors tensors_new(struct backend *backend, enum dtype dtype, const struct values *v)
{
    int64_t heads = v->attention.heads, entries = GATE_ENTRIES_BEFORE + heads + 1;
    double *gates = zeros(v->samples * entries);
    for (int64_t i = 0; v->gate && i < v->samples * heads; i++)
        gates[i / heads * entries + GATE_ENTRIES_BEFORE + i % heads] = v->gate[i];
    struct tensors t = {
        .q = mirrored_of(backend, dtype, v->samples, v->queries, v->q_stride, v->q),
        .kv = mirrored_of(backend, dtype, v->samples, v->keys, v->kv_stride, v->kv),
        .mask = mirrored_of(backend, DTYPE_F32, v->samples, v->keys, 1, v->mask),
        .bias = mirrored_of(backend, DTYPE_F32, v->bias_heads, v->queries, v->keys, v->bias),
        .gates = mirrored_of(backend, DTYPE_F32, v->samples, entries, 1, gates),
        .y = mirrored_of(backend, dtype, v->samples, v->queries, heads * v->attention.head_size, NULL),
        .log_sum = mirrored_of(backend, DTYPE_F32, v->samples, heads, v->queries, NULL),
        .dy = mirrored_of(backend, dtype, v->samples, v->queries, heads * v->attention.head_size, v->dy),
        .dq = mirrored_of(backend, dtype, v->samples, v->queries, v->q_stride, NULL),
        .dkv = mirrored_of(backend, dtype, v->samples, v->keys, v->kv_stride, NULL),
        .dgates = mirrored_of(backend, DTYPE_F32, v->samples, entries, 1, NULL),
    };
    t.mask.tensor.rank = t.gates.tensor.rank = t.dgates.tensor.rank = 2;
    free(gates);
    return t;
}

static void tensors_free(struct backend *backend, struct tensors *t)
{
    struct mirrored *all[] = {&t->q,       &t->kv, &t->mask, &t->bias, &t->gates, &t->y,
                              &t->log_sum, &t->dy, &t->dq,   &t->dkv,  &t->dgates};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mirrored_free(backend, all[i]);
}

static struct gate gate_of(struct tensors *t, const struct values *v)
{
    return v->gate ? (struct gate){&t->gates.tensor, GATE_ENTRIES_BEFORE, v->attention.heads}
                   : (struct gate){0};
}

static void forward(struct backend *backend, struct tensors *t, const struct values *v)
{
    struct attention attention = v->attention;
    attention.bias = v->bias ? &t->bias.tensor : NULL;
    backend->ops->attention_forward(backend, &attention, &t->q.tensor, v->self ? &t->q.tensor : &t->kv.tensor,
                                    v->mask ? &t->mask.tensor : NULL, gate_of(t, v), &t->y.tensor,
                                    &t->log_sum.tensor);
    mirrored_get(backend, &t->y);
    mirrored_get(backend, &t->log_sum);
}

/* What the caller does not want is NULL. */
static void backward(struct backend *backend, struct tensors *t, const struct values *v, bool q, bool kv,
                     bool gate)
{
    struct tensor *dkv = v->self ? &t->dq.tensor : &t->dkv.tensor;
    backend->ops->attention_backward(
        backend, &v->attention, &t->q.tensor, v->self ? &t->q.tensor : &t->kv.tensor,
        v->mask ? &t->mask.tensor : NULL, gate_of(t, v), &t->y.tensor, &t->log_sum.tensor, &t->dy.tensor,
        q ? &t->dq.tensor : NULL, kv ? dkv : NULL, gate ? &t->dgates.tensor : NULL);
    mirrored_get(backend, &t->dq);
    mirrored_get(backend, &t->dkv);
    mirrored_get(backend, &t->dgates);
}

static void fill(struct backend *backend, struct mirrored *mirrored, double value)
{
    for (int64_t i = 0; i < tensor_count(&mirrored->tensor); i++) mirrored_set(mirrored, i, value);
    mirrored_put(backend, mirrored);
}

static void check_gradients(struct backend *backend, struct tensors *t, const struct values *v,
                            double tolerance)
{
    fill(backend, &t->dgates, 0.5);
    backward(backend, t, v, true, true, v->gate);
    assert_close("dq", &t->dq, v->dq, tolerance);
    if (!v->self) assert_close("dkv", &t->dkv, v->dkv, tolerance);
    int64_t heads = v->attention.heads, entries = t->dgates.tensor.dim[1];
    double *dgates = zeros(v->samples * entries);
    for (int64_t i = 0; i < v->samples * entries; i++) dgates[i] = 0.5;
    for (int64_t i = 0; v->gate && i < v->samples * heads; i++)
        dgates[i / heads * entries + GATE_ENTRIES_BEFORE + i % heads] += v->dgate[i];
    assert_close("dgates", &t->dgates, dgates, tolerance);
    free(dgates);
}

static void check_attention(struct backend *backend, struct shape shape, enum dtype dtype)
{
    struct values v = values_new(shape, dtype == DTYPE_BF16);
    struct tensors t = tensors_new(backend, dtype, &v);
    double tolerance = tolerance_of(dtype);
    plain_attention_of(&v, !v.bias);
    forward(backend, &t, &v);
    assert_close("y", &t.y, v.y, tolerance);
    assert_close("log_sum", &t.log_sum, v.log_sum, 5e-6); // fp32 whatever the dtype
    if (!v.bias) check_gradients(backend, &t, &v, tolerance);
    tensors_free(backend, &t);
    values_free(&v);
}

static const struct shape shapes[] = {
    {1, 1, 1, 1, 0, false, false, 0, 0},
    {1, 1, 1, 3, 2, false, false, 2, 0},
    {2, 3, 8, 13, 0, false, false, 1, 0},
    {1, 2, 40, 77, 0, true, false, 0, 0},
    {2, 2, 64, 77, 0, true, true, 2, 0},
    {3, 5, 16, 16, 77, false, true, 2, 0},
    {1, 4, 160, 33, 77, false, false, 1, 0},
    {2, 1, 64, 1, 77, false, true, 1, 0},
    {2, 8, 24, 150, 1, false, false, 0, 0},
    {1, 1, 32, 1100, 0, false, false, 2, 0},
    {1, 2, 16, 130, 1500, false, true, 1, 0},
    {1, 1, 512, 90, 0, false, false, 0, 0}, // as in a VAE: one wide head
    // more scores than a GPU takes at once (16 MiB): two blocks of queries, of heads, of samples
    {1, 1, 3, 2101, 0, true, true, 1, 0},
    {1, 9, 2, 700, 0, false, false, 1, 0},
    {9, 1, 2, 690, 710, false, false, 1, 0},
    // with a bias: alone, with masks, with a gate; several heads or a part of one head in a block
    {1, 1, 1, 1, 0, false, false, 0, 2},
    {3, 4, 8, 13, 0, false, true, 0, 2},
    {2, 3, 24, 77, 0, true, true, 1, 2},
    {2, 5, 16, 7, 33, false, true, 0, 1},
    {1, 2, 16, 131, 1501, false, true, 2, 2},
};

static void attention_is_the_plain_loop(void **state)
{
    struct backend *backend = *state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (size_t i = 0; backend->ops->supports(backend, dtype) && i < sizeof shapes / sizeof *shapes; i++)
            check_attention(backend, shapes[i], dtype);
}

/* Gradients that nobody wants are not touched, and leave the others as they are. */
static void unwanted_gradients_may_be_null(void **state)
{
    struct backend *backend = *state;
    struct values v = values_new((struct shape){2, 3, 8, 20, 30, false, true, 1, 0}, false);
    struct tensors t = tensors_new(backend, DTYPE_F32, &v);
    double *none = zeros(kv_count(&v) + q_count(&v));
    plain_attention_of(&v, true);
    forward(backend, &t, &v);
    backward(backend, &t, &v, true, false, false);
    assert_close("dq", &t.dq, v.dq, tolerance_of(DTYPE_F32));
    assert_close("dkv", &t.dkv, none, 0);
    fill(backend, &t.dq, 0);
    backward(backend, &t, &v, false, true, false);
    assert_close("dkv", &t.dkv, v.dkv, tolerance_of(DTYPE_F32));
    assert_close("dq", &t.dq, none, 0);
    assert_close("dgates", &t.dgates, none, 0);
    backward(backend, &t, &v, false, false, true);
    for (int64_t i = 0; i < v.samples * v.attention.heads; i++) {
        int64_t entry =
            i / v.attention.heads * t.dgates.tensor.dim[1] + GATE_ENTRIES_BEFORE + i % v.attention.heads;
        assert_true(fabs(mirrored_at(&t.dgates, entry) - v.dgate[i]) < 1e-4);
    }
    free(none);
    tensors_free(backend, &t);
    values_free(&v);
}

/* Columns of the tensors that are neither q, k nor v stay as they are. */
static void other_columns_are_left_alone(void **state)
{
    struct backend *backend = *state;
    struct values v = values_new((struct shape){1, 2, 4, 9, 7, false, false, 0, 0}, false);
    struct tensors t = tensors_new(backend, DTYPE_F32, &v);
    fill(backend, &t.dq, 7);
    fill(backend, &t.dkv, 7);
    forward(backend, &t, &v);
    backward(backend, &t, &v, true, true, false);
    for (int64_t row = 0; row < v.queries; row++) assert_true(mirrored_at(&t.dq, row * v.q_stride) == 7);
    for (int64_t row = 0; row < v.keys; row++)
        for (int64_t c = 8; c < 11; c++) assert_true(mirrored_at(&t.dkv, row * v.kv_stride + c) == 7);
    tensors_free(backend, &t);
    values_free(&v);
}

/* Bit for bit, forward and backward. */
static void sample_does_not_depend_on_the_others(void **state)
{
    struct backend *backend = *state;
    struct values v = values_new((struct shape){3, 4, 16, 64, 0, false, false, 1, 0}, false);
    struct tensors t = tensors_new(backend, DTYPE_F32, &v);
    size_t y = tensor_bytes(&t.y.tensor) / 3, dq = tensor_bytes(&t.dq.tensor) / 3, q = dq;
    char *before = check_malloc(y + dq);
    for (int round = 0; round < 2; round++) {
        forward(backend, &t, &v);
        backward(backend, &t, &v, true, true, true);
        if (round == 1) {
            assert_memory_equal(before, t.y.host, y);
            assert_memory_equal(before + y, t.dq.host, dq);
        }
        memcpy(before, t.y.host, y);
        memcpy(before + y, t.dq.host, dq);
        memset((char *)t.q.host + q, 0x3f, 2 * q);
        mirrored_put(backend, &t.q);
    }
    free(before);
    tensors_free(backend, &t);
    values_free(&v);
}

/* A query whose keys are all hidden gives zero, not NaN; a NaN in the input is not hidden. */
static void hidden_rows_and_nan(void **state)
{
    struct backend *backend = *state;
    struct values v = values_new((struct shape){1, 1, 4, 6, 0, true, true, 0, 0}, false);
    v.mask[0] = 0;
    for (int64_t i = 1; i < v.keys; i++) v.mask[i] = 1;
    struct tensors t = tensors_new(backend, DTYPE_F32, &v);
    forward(backend, &t, &v);
    backward(backend, &t, &v, true, true, false);
    for (int64_t d = 0; d < 4; d++) assert_true(mirrored_at(&t.y, d) == 0);
    for (int64_t i = 0; i < q_count(&v); i++) assert_true(isfinite(mirrored_at(&t.dq, i)));
    mirrored_set(&t.q, 2 * v.q_stride + 1, NAN); // q of token 2
    mirrored_put(backend, &t.q);
    forward(backend, &t, &v);
    for (int64_t d = 0; d < 4; d++)
        assert_true(isnan(mirrored_at(&t.y, 2 * 4 + d)) && isfinite(mirrored_at(&t.y, 3 * 4 + d)));
    tensors_free(backend, &t);
    values_free(&v);
}

/* Scratch memory of one forward and backward pass of self-attention, 2 samples of 5 heads. */
static size_t scratch_of(enum backend_kind kind, int64_t tokens)
{
    struct backend *backend = backend_open(kind);
    struct tensor q = {.dtype = DTYPE_F32, .rank = 3, .dim = {2, tokens, 3 * 5 * 64, 1}};
    struct tensor y = {.dtype = DTYPE_F32, .rank = 3, .dim = {2, tokens, 5 * 64, 1}};
    struct tensor log_sum = {.dtype = DTYPE_F32, .rank = 3, .dim = {2, 5, tokens, 1}};
    struct tensor dq = q, dy = y, *all[] = {&q, &y, &log_sum, &dq, &dy};
    const struct attention attention = {5, 64, 0, 5 * 64, 2 * 5 * 64, 0.125f, false, NULL};
    const struct gate none = {0};
    for (size_t i = 0; i < 5; i++) all[i]->data = backend->ops->memory_new(backend, tensor_bytes(all[i]));
    backend->ops->attention_forward(backend, &attention, &q, &q, NULL, none, &y, &log_sum);
    backend->ops->attention_backward(backend, &attention, &q, &q, NULL, none, &y, &log_sum, &dy, &dq, &dq,
                                     NULL);
    for (size_t i = 0; i < 5; i++) backend->ops->memory_free(backend, all[i]->data, tensor_bytes(all[i]));
    size_t peak = arena_peak(backend->scratch);
    backend_close(backend);
    return peak;
}

/* The scratch memory of long sequences stays far below that of their scores, and is what the plan says. */
static void scratch_is_small_and_planned(void **state)
{
    (void)state;
    size_t scores = (size_t)2 * 5 * 9216 * 9216 * sizeof(float);
    assert_true(scratch_of(BACKEND_PLAN, 9216) < scores / 100 * (size_t)omp_get_max_threads());
    assert_int_equal(scratch_of(BACKEND_PLAN, 130), scratch_of(BACKEND_CPU, 130));
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

/* A step on the plan backend: attention with a bias of this shape. */
static void run_biased(enum tape_mode mode, int64_t bias_heads, int64_t bias_keys)
{
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct tape *tape = tape_new(backend, DTYPE_F32);
    tape_reset(tape, mode);
    struct tensor *qkv = tape_tensor(tape, DTYPE_F32, 3, (int64_t[]){2, 7, 36});
    qkv->needs_grad = true;
    struct attention attention = {.heads = 3, .head_size = 4, .k_column = 12, .v_column = 24, .scale = 0.5f};
    attention.bias = tape_tensor(tape, DTYPE_F32, 3, (int64_t[]){bias_heads, 7, bias_keys});
    op_attention(tape, attention, qkv, qkv, NULL, GATE_NONE);
    tape_delete(tape);
    backend_close(backend);
}

static void bias_in_a_recorded_step(void)
{
    run_biased(TAPE_RECORD, 3, 7);
}

static void bias_of_two_heads(void)
{
    run_biased(TAPE_NO_GRADIENT, 2, 7);
}

static void bias_of_other_keys(void)
{
    run_biased(TAPE_NO_GRADIENT, 1, 6);
}

static void bias_is_checked(void **state)
{
    (void)state;
    run_biased(TAPE_NO_GRADIENT, 3, 7);
    assert_check_fails(bias_in_a_recorded_step, "attention with a bias has no gradient");
    assert_check_fails(bias_of_two_heads, "attention bias: ");
    assert_check_fails(bias_of_other_keys, "attention bias: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_the_plain_loop),
        cmocka_unit_test(unwanted_gradients_may_be_null),
        cmocka_unit_test(other_columns_are_left_alone),
        cmocka_unit_test(sample_does_not_depend_on_the_others),
        cmocka_unit_test(hidden_rows_and_nan),
        cmocka_unit_test(memory_is_given_back),
    };
    const struct CMUnitTest more[] = {
        cmocka_unit_test(bias_is_checked), // first: it forks
        cmocka_unit_test(plain_gradients_are_derivatives),
        cmocka_unit_test(scratch_is_small_and_planned),
    };
    int failed = cmocka_run_group_tests_name("checks, plain loops and memory", more, NULL, NULL);
    failed += cmocka_run_group_tests_name("cpu", tests, open_backend, close_backend);
    tested = BACKEND_CUDA;
    if (backend_available(tested))
        failed += cmocka_run_group_tests_name("cuda", tests, open_backend, close_backend);
    return failed;
}
