/* AdamW, moving averages and gradient norms: fp32 arrays. */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/tiles.h"

#include <math.h>
#include <string.h>

/* Loshchilov and Hutter 2019, in the order of torch.optim.AdamW: decay, moments, corrected step. */
void adamw_cpu(struct backend *backend, const struct adamw *adamw, int count,
               const struct trained_array *arrays)
{
    (void)backend;
    double correction1 = 1 - pow(adamw->beta1, (double)adamw->step);
    double correction2 = 1 - pow(adamw->beta2, (double)adamw->step);
    float decay = (float)(1 - (double)adamw->learning_rate * adamw->weight_decay);
    float step = (float)(adamw->learning_rate / correction1);
    float inverse_deviation = (float)(1 / sqrt(correction2));
    float beta1 = adamw->beta1, beta2 = adamw->beta2, epsilon = adamw->epsilon, scale = adamw->gradient_scale;
    float rest1 = (float)(1 - (double)beta1), rest2 = (float)(1 - (double)beta2);
    for (int array = 0; array < count; array++) {
        float *value = arrays[array].value;
        const float *gradient = arrays[array].gradient;
        float *first_moment = arrays[array].first_moment, *second_moment = arrays[array].second_moment;
        int64_t elements = arrays[array].count;
#pragma omp parallel for simd schedule(static) if (parallel : elements >= PARALLEL_MINIMUM)
        for (int64_t i = 0; i < elements; i++) {
            float g = scale * gradient[i];
            first_moment[i] = beta1 * first_moment[i] + rest1 * g;
            second_moment[i] = beta2 * second_moment[i] + rest2 * g * g;
            float deviation = sqrtf(second_moment[i]) * inverse_deviation + epsilon;
            value[i] = decay * value[i] - step * first_moment[i] / deviation;
        }
    }
}

void average_cpu(struct backend *backend, float decay, int count, const struct trained_array *arrays)
{
    (void)backend;
    float rest = (float)(1 - (double)decay);
    for (int array = 0; array < count; array++) {
        const float *value = arrays[array].value;
        float *average = arrays[array].average;
        int64_t elements = arrays[array].count;
#pragma omp parallel for simd schedule(static) if (parallel : elements >= PARALLEL_MINIMUM)
        for (int64_t i = 0; i < elements; i++) average[i] = decay * average[i] + rest * value[i];
    }
}

/* A part is a fixed number of elements, so that the order does not depend on the threads. */
static double squares_of(struct backend *backend, const float *values, int64_t count)
{
    enum { PART = 16384 };
    int64_t parts = (count + PART - 1) / PART;
    struct arena_block *block = arena_allocate(backend->scratch, (size_t)parts * sizeof(double));
    double sum = 0;
    if (!cpu_backend(backend)->plan) {
        double *partial = arena_address(block);
#pragma omp parallel for schedule(static)
        for (int64_t part = 0; part < parts; part++) {
            int64_t end = (part + 1) * PART < count ? (part + 1) * PART : count;
            double squares = 0;
#pragma omp simd reduction(+ : squares)
            for (int64_t i = part * PART; i < end; i++) squares += (double)values[i] * values[i];
            partial[part] = squares;
        }
        for (int64_t part = 0; part < parts; part++) sum += partial[part];
    }
    arena_free(backend->scratch, block);
    return sum;
}

double sum_of_squares_cpu(struct backend *backend, int count, const struct trained_array *arrays)
{
    double sum = 0;
    for (int array = 0; array < count; array++)
        sum += squares_of(backend, arrays[array].gradient, arrays[array].count);
    return sum;
}

void bucket_pack_cpu(struct backend *backend, int count, const struct trained_array *arrays, float *packed)
{
    (void)backend;
    for (int array = 0; array < count; packed += arrays[array++].count)
        memcpy(packed, arrays[array].gradient, (size_t)arrays[array].count * sizeof *packed);
}

void bucket_unpack_cpu(struct backend *backend, const float *packed, int count,
                       const struct trained_array *arrays)
{
    (void)backend;
    for (int array = 0; array < count; packed += arrays[array++].count)
        memcpy(arrays[array].gradient, packed, (size_t)arrays[array].count * sizeof *packed);
}
