/* Functions of one float, written without branches and calls so that loops over them become vector code.
 * Inside src/tensor/cpu/ only.
 *
 * Largest relative errors (test/tensor/test_vector_math.c; half a unit of the last place is 6e-8): exp 1e-7,
 * sigmoid 2e-7, normal probability 5e-7, in its lower tail 1e-6. NaN stays NaN. */
#ifndef TENSOR_CPU_VECTOR_MATH_H
#define TENSOR_CPU_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* a b + c, in one rounding where the machine has an instruction for that. */
static inline float multiply_add(float a, float b, float c)
{
#ifdef FP_FAST_FMAF
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* exp(x): 0 below -87.3 (no denormal results), infinity above 88.3. */
static inline float vector_exp(float x)
{
    // n = round(x / log 2): adding 1.5 x 2^23 leaves the integer in the low bits of the float.
    const float round = 12582912.f;
    float shifted = multiply_add(x, 1.44269504f, round);
    float n = shifted - round;
    // r = x - n log 2 in [-0.35, 0.35]; the first part of log 2 has 15 bits, so its product with n is exact
    float r = multiply_add(n, -0.693145752f, x);
    r = multiply_add(n, -1.42860677e-6f, r);
    // exp(r) = 1 + r + r^2 q(r), q fitted for the least relative error (3e-9)
    float q = multiply_add(1.38145988e-3f, r, 8.36871658e-3f);
    q = multiply_add(q, r, 4.16683890e-2f);
    q = multiply_add(q, r, 1.66665211e-1f);
    q = multiply_add(q, r, 4.99999940e-1f);
    float power = multiply_add(q, r * r, r) + 1;
    // 2^n from its exponent bits
    uint32_t bits, round_bits;
    memcpy(&bits, &shifted, sizeof bits);
    memcpy(&round_bits, &round, sizeof round_bits);
    bits = (bits - round_bits + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    float result = power * scale;
    result = x < -87.3f ? 0.f : result;
    return x > 88.3f ? INFINITY : result;
}

/* 1 / (1 + exp(-x)) */
static inline float vector_sigmoid(float x)
{
    return 1 / (1 + vector_exp(-x));
}

/* The same as `value`, and 1 - value without cancellation as `rest`: the derivative is their product. */
struct sigmoid {
    float value, rest;
};

static inline struct sigmoid vector_sigmoid_and_rest(float x)
{
    float exponential = vector_exp(-fabsf(x)), larger = 1 / (1 + exponential);
    float smaller = exponential * larger;
    return (struct sigmoid){x < 0 ? smaller : larger, x < 0 ? larger : smaller};
}

/* The standard normal distribution's cumulative probability (1 + erf(x / sqrt 2)) / 2 and density: what GELU
 * and its derivative are made of. For x < 0 the probability comes without cancellation. */
struct normal {
    float probability, density;
};

static inline struct normal vector_normal(float x)
{
    // t = |x| / sqrt 2, w = 1 / (1 + 0.4 t); erfc(t) exp(t^2) = w p(w), p fitted for t in [0, 10] (6e-8)
    float w = 1 / multiply_add(0.4f * 0.707106781f, fabsf(x), 1);
    float p = multiply_add(4.12530415e-2f, w, -1.40319243e-1f);
    p = multiply_add(p, w, 8.39872956e-2f);
    p = multiply_add(p, w, 8.79643261e-2f);
    p = multiply_add(p, w, 7.97564983e-2f);
    p = multiply_add(p, w, 1.93393201e-1f);
    p = multiply_add(p, w, 2.01887593e-1f);
    p = multiply_add(p, w, 2.26443112e-1f);
    p = multiply_add(p, w, 2.25634202e-1f);
    float exponential = vector_exp(-0.5f * x * x);
    float tail = 0.5f * exponential * w * p; // of |x|
    return (struct normal){x < 0 ? tail : 1 - tail, 0.398942280f * exponential};
}

/* ---- activations and their derivatives */
static inline float silu(float x)
{
    return x * vector_sigmoid(x);
}

static inline float silu_derivative(float x)
{
    struct sigmoid s = vector_sigmoid_and_rest(x);
    return s.value * multiply_add(x, s.rest, 1);
}

static inline float gelu_erf(float x)
{
    return x * vector_normal(x).probability;
}

static inline float gelu_erf_derivative(float x)
{
    struct normal normal = vector_normal(x);
    return multiply_add(x, normal.density, normal.probability);
}

/* gelu_tanh is x (1 + tanh(u)) / 2 = x sigmoid(2 u) with 2 u = x (GELU_TANH_1 + GELU_TANH_3 x^2):
 * 2 sqrt(2 / pi), and 0.044715 times that. */
#define GELU_TANH_1 1.59576912f
#define GELU_TANH_3 0.0713548163f

static inline float gelu_tanh(float x)
{
    return x * vector_sigmoid(x * multiply_add(GELU_TANH_3, x * x, GELU_TANH_1));
}

static inline float gelu_tanh_derivative(float x)
{
    struct sigmoid s = vector_sigmoid_and_rest(x * multiply_add(GELU_TANH_3, x * x, GELU_TANH_1));
    float slope = multiply_add(3 * GELU_TANH_3, x * x, GELU_TANH_1);
    return s.value * multiply_add(x * s.rest, slope, 1);
}

static inline float gelu_quick(float x)
{
    return x * vector_sigmoid(1.702f * x);
}

static inline float gelu_quick_derivative(float x)
{
    struct sigmoid s = vector_sigmoid_and_rest(1.702f * x);
    return s.value * multiply_add(1.702f * x, s.rest, 1);
}

#endif
