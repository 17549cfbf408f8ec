/* Activations and their derivatives, of one value in fp32. NaN stays NaN. */
#ifndef CUDA_ACTIVATION_H
#define CUDA_ACTIVATION_H

#include "kernel.h"

#include <math.h>

/* 1 / (1 + exp(-x)) as `value`, and 1 - value without cancellation as `rest`: the derivative is their
 * product. */
struct sigmoid {
    float value, rest;
};

__device__ inline sigmoid sigmoid_of(float x)
{
    float exponential = expf(-fabsf(x)), larger = 1 / (1 + exponential);
    float smaller = exponential * larger;
    return {x < 0 ? smaller : larger, x < 0 ? larger : smaller};
}

/* The standard normal distribution's cumulative probability (without cancellation for x < 0) and density:
 * what GELU and its derivative are made of. */
struct normal {
    float probability, density;
};

__device__ inline normal normal_of(float x)
{
    return {0.5f * erfcf(-0.707106781f * x), 0.398942280f * expf(-0.5f * x * x)};
}

/* Each has value(x), and slope(x, dy): dy times the derivative at x. */
struct silu {
    __device__ static float value(float x)
    {
        return x / (1 + expf(-x));
    }
    __device__ static float slope(float x, float dy)
    {
        sigmoid s = sigmoid_of(x);
        return dy * (s.value * (x * s.rest + 1));
    }
};

struct gelu_erf {
    __device__ static float value(float x)
    {
        return x * normal_of(x).probability;
    }
    __device__ static float slope(float x, float dy)
    {
        normal n = normal_of(x);
        return dy * (x * n.density + n.probability);
    }
};

/* x (1 + tanh(u)) / 2 = x sigmoid(2 u) with 2 u = x (FIRST + THIRD x^2): 2 sqrt(2 / pi), and 0.044715 times
 * that. */
struct gelu_tanh {
    static constexpr float FIRST = 1.59576912f, THIRD = 0.0713548163f;

    __device__ static float value(float x)
    {
        return x / (1 + expf(-x * (THIRD * x * x + FIRST)));
    }
    __device__ static float slope(float x, float dy)
    {
        sigmoid s = sigmoid_of(x * (THIRD * x * x + FIRST));
        return dy * (s.value * (x * s.rest * (3 * THIRD * x * x + FIRST) + 1));
    }
};

struct gelu_quick {
    __device__ static float value(float x)
    {
        return x / (1 + expf(-1.702f * x));
    }
    __device__ static float slope(float x, float dy)
    {
        sigmoid s = sigmoid_of(1.702f * x);
        return dy * (s.value * (1.702f * x * s.rest + 1));
    }
};

struct relu {
    __device__ static float value(float x)
    {
        return x < 0 ? 0 : x;
    }
    __device__ static float slope(float x, float dy)
    {
        return x <= 0 ? 0 : dy;
    }
};

#endif
