/* The softmax of attention. A team of threads has a row of scores (reduce.h), which it reads twice: the
 * second time from the caches. */
#include "softmax.h"

#include "reduce.h"

#include <math.h>

enum { PIECE = 4 /* keys */ };

/* A block of scores, for kernels. */
struct softmax_sizes {
    int64_t attention_heads, queries, keys;
    int first_sample, first_head, heads, first_row, rows, count; /* count: of all rows */
    int64_t stride;
    float scale;
    bool causal;
    const float *bias; /* [bias_heads, queries, keys] or nullptr */
    int64_t bias_heads;
    const float *mask; /* [B, keys] or nullptr */
    device_gate gate;
};

static softmax_sizes softmax_sizes_of(const struct score_block *block)
{
    const struct attention *attention = block->attention;
    CHECK(block->stride >= block->keys && block->stride % PIECE == 0,
          "scores of %lld keys in rows of %lld elements", (long long)block->keys, (long long)block->stride);
    return {.attention_heads = attention->heads,
            .queries = block->queries,
            .keys = block->keys,
            .first_sample = (int)block->first_sample,
            .first_head = (int)block->first_head,
            .heads = (int)block->heads,
            .first_row = (int)block->first_row,
            .rows = (int)block->rows,
            .count = (int)(block->samples * block->heads * block->rows),
            .stride = block->stride,
            .scale = attention->scale,
            .causal = attention->causal,
            .bias = values_of<float>(attention->bias),
            .bias_heads = attention->bias ? attention->bias->dim[0] : 0,
            .mask = values_of<float>(block->key_mask),
            .gate = device_gate_of(block->gate)};
}

/* One row of scores. */
struct score_row {
    const float *scores, *bias, *mask; /* bias, mask: of the row's keys, or nullptr */
    int64_t visible;                   /* keys before this one may be seen */
    int64_t index;                     /* in [B, heads, queries] */
    float gate;
};

__device__ static score_row score_row_of(const softmax_sizes &sizes, const float *scores, int row)
{
    int matrix = row / sizes.rows;
    int64_t query = sizes.first_row + row % sizes.rows;
    int64_t sample = sizes.first_sample + matrix / sizes.heads;
    int64_t head = sizes.first_head + matrix % sizes.heads, slice = sizes.bias_heads == 1 ? 0 : head;
    return {.scores = scores + row * sizes.stride,
            .bias = sizes.bias ? sizes.bias + (slice * sizes.queries + query) * sizes.keys : nullptr,
            .mask = sizes.mask ? sizes.mask + sample * sizes.keys : nullptr,
            .visible = sizes.causal && query + 1 < sizes.keys ? query + 1 : sizes.keys,
            .index = (sample * sizes.attention_heads + head) * sizes.queries + query,
            .gate = sizes.gate.of_channel(sample, head, sizes.attention_heads)};
}

/* The scores of PIECE keys from `key` on, scaled and with the bias; minus infinity where a key is hidden. */
__device__ static floats<PIECE> seen_scores(const softmax_sizes &sizes, const score_row &row, int64_t key)
{
    floats<PIECE> score = load_some<PIECE>(row.scores + key, row.visible - key, true);
    for (int i = 0; i < PIECE; i++) {
        bool seen = key + i < row.visible && !(row.mask && row.mask[key + i] == 0);
        float bias = seen && row.bias ? row.bias[key + i] : 0.f;
        score.value[i] = seen ? score.value[i] * sizes.scale + bias : -INFINITY;
    }
    return score;
}

/* The largest of some scores, and the sum of exp(score - largest). */
struct exponential_sum {
    float largest, sum;
};

/* What is subtracted from scores: no score is minus infinity minus itself. */
__device__ static float finite_largest(float largest)
{
    return largest == -INFINITY ? 0.f : largest;
}

/* Of a row, in each thread of its team. */
template <int TEAM>
__device__ static exponential_sum row_exponentials(const softmax_sizes &sizes, const score_row &row,
                                                   float *partial)
{
    float largest = -INFINITY, sum = 0;
    for (int64_t key = team_thread<TEAM>() * PIECE; key < row.visible; key += TEAM * PIECE) {
        floats<PIECE> score = seen_scores(sizes, row, key);
        float before = largest;
        for (int i = 0; i < PIECE; i++) largest = fmaxf(largest, score.value[i]);
        float shift = finite_largest(largest);
        sum *= expf(before - shift);
        for (int i = 0; i < PIECE; i++) sum += expf(score.value[i] - shift);
    }
    float of_row = finite_largest(team_largest<TEAM>(largest, partial));
    return {of_row, team_sum<TEAM>(sum * expf(largest - of_row), partial)};
}

template <class T, int TEAM>
__global__ void softmax_rows(softmax_sizes sizes, const float *scores, T *probabilities, float *log_sum)
{
    SHARED(float, partial, WARP);
    int64_t index = team_row<TEAM>();
    if (index >= sizes.count) return;
    score_row row = score_row_of(sizes, scores, (int)index);
    exponential_sum total = row_exponentials<TEAM>(sizes, row, partial);
    float factor = total.sum == 0 ? 0.f : row.gate / total.sum;
    if (team_thread<TEAM>() == 0) log_sum[row.index] = total.sum == 0 ? 0.f : logf(total.sum) + total.largest;
    for (int64_t key = team_thread<TEAM>() * PIECE; key < sizes.keys; key += TEAM * PIECE) {
        floats<PIECE> value = seen_scores(sizes, row, key);
        for (int i = 0; i < PIECE; i++) value.value[i] = factor * expf(value.value[i] - total.largest);
        store_some(probabilities + index * sizes.stride + key, value, sizes.keys - key, true);
    }
}

void softmax_forward(struct cuda_backend *cuda, const struct score_block *block, const float *scores,
                     enum dtype dtype, void *probabilities, float *log_sum)
{
    softmax_sizes sizes = softmax_sizes_of(block);
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        with_team(sizes.keys, [&]<int TEAM>() {
            LAUNCH((softmax_rows<T, TEAM>), team_blocks<TEAM>(sizes.count), THREADS, cuda->compute, sizes,
                   scores, static_cast<T *>(probabilities), log_sum);
        });
    });
}

/* The probabilities of PIECE keys from `key` on. */
__device__ static floats<PIECE> seen_probabilities(const softmax_sizes &sizes, const score_row &row,
                                                   int64_t key, float log_sum)
{
    floats<PIECE> value = seen_scores(sizes, row, key);
    for (int i = 0; i < PIECE; i++) value.value[i] = expf(value.value[i] - log_sum);
    return value;
}

template <class T, int TEAM>
__global__ void softmax_gradients(softmax_sizes sizes, const float *scores, const float *gradients,
                                  const float *log_sums, T *probabilities, T *score_gradients, float *dots)
{
    SHARED(float, partial, WARP);
    int64_t index = team_row<TEAM>();
    if (index >= sizes.count) return;
    score_row row = score_row_of(sizes, scores, (int)index);
    const float *gradient_row = gradients + index * sizes.stride;
    float log_sum = log_sums[row.index], dot = 0;
    for (int64_t key = team_thread<TEAM>() * PIECE; key < row.visible; key += TEAM * PIECE) {
        floats<PIECE> p = seen_probabilities(sizes, row, key, log_sum);
        floats<PIECE> gradient = load_some<PIECE>(gradient_row + key, row.visible - key, true);
        for (int i = 0; i < PIECE; i++) dot += p.value[i] * gradient.value[i];
    }
    dot = team_sum<TEAM>(dot, partial);
    if (dots && team_thread<TEAM>() == 0) dots[row.index] = dot;
    for (int64_t key = team_thread<TEAM>() * PIECE; key < sizes.keys; key += TEAM * PIECE) {
        floats<PIECE> p = seen_probabilities(sizes, row, key, log_sum);
        floats<PIECE> gradient = load_some<PIECE>(gradient_row + key, row.visible - key, true);
        for (int i = 0; i < PIECE; i++) {
            p.value[i] *= row.gate;
            gradient.value[i] = sizes.scale * p.value[i] * (gradient.value[i] - dot);
        }
        int64_t at = index * sizes.stride + key, count = sizes.keys - key;
        if (probabilities) store_some(probabilities + at, p, count, true);
        if (score_gradients) store_some(score_gradients + at, gradient, count, true);
    }
}

void softmax_backward(struct cuda_backend *cuda, const struct score_block *block, const float *scores,
                      const float *gradients, const float *log_sum, enum dtype dtype, void *probabilities,
                      void *score_gradients, float *dots)
{
    softmax_sizes sizes = softmax_sizes_of(block);
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        with_team(sizes.keys, [&]<int TEAM>() {
            LAUNCH((softmax_gradients<T, TEAM>), team_blocks<TEAM>(sizes.count), THREADS, cuda->compute,
                   sizes, scores, gradients, log_sum, static_cast<T *>(probabilities),
                   static_cast<T *>(score_gradients), dots);
        });
    });
}
