/* Attention by products on blocks of scores: as many samples, heads and queries at a time as keep the fp32
 * scores in a set number of bytes, whatever the length of the sequences. q, k, v and y are used where they
 * lie, as columns of wider matrices. A block's matrices, one a sample and head, are two levels of stacks, and
 * cuBLASLt knows one: the products go over the larger level in stacks and over the other one by one. */
#include "kernel.h"
#include "softmax.h"

enum {
    SCORES_BYTES = 16 << 20, // of a block, with as many again beside them within the level 2 cache of sm_80
    ROWS_MULTIPLE = 64,      // of a block that has not all queries
};

/* A matrix [rows, columns] for each sample and head of a block. */
struct head_matrices {
    struct matrices first; /* stack unused */
    int64_t sample_stack, head_stack;
};

/* How a call is cut; sizes of a block, the last ones of each kind may have less. */
struct cut {
    int64_t samples, heads, rows;
};

/* Columns of a block's matrices in memory: rows begin at multiples of 16 bytes in both dtypes. */
static int64_t score_stride(int64_t keys)
{
    constexpr int64_t MULTIPLE = vector<__nv_bfloat16>::SIZE;
    return divide_up(keys, MULTIPLE) * MULTIPLE;
}

/* All queries of a head if they fit, then heads, then samples. The rows do not depend on the batch: over them
 * the gradients of keys and values are summed. */
static struct cut cut_of(const struct attention *attention, const struct tensor *q, const struct tensor *kv)
{
    int64_t queries = tensor_tokens(q);
    int64_t fitting = SCORES_BYTES / (score_stride(tensor_tokens(kv)) * (int64_t)sizeof(float));
    if (fitting < queries) {
        if (fitting > ROWS_MULTIPLE) fitting -= fitting % ROWS_MULTIPLE;
        return {1, 1, fitting > 0 ? fitting : 1};
    }
    int64_t heads = smaller(attention->heads, fitting / queries);
    int64_t samples = heads < attention->heads ? 1 : smaller(q->dim[0], fitting / (heads * queries));
    return {samples, heads, queries};
}

/* Calls `work` with each block: sample by sample, head by head, and the rows of these innermost. */
template <class Work>
static void for_each_block(const struct cut *cut, const struct attention *attention, const struct tensor *q,
                           const struct tensor *kv, const struct tensor *key_mask, struct gate gate,
                           Work work)
{
    struct score_block block = {};
    block.attention = attention;
    block.key_mask = key_mask;
    block.gate = gate;
    block.queries = tensor_tokens(q);
    block.keys = tensor_tokens(kv);
    block.stride = score_stride(block.keys);
    for (int64_t sample = 0; sample < q->dim[0]; sample += cut->samples)
        for (int64_t head = 0; head < attention->heads; head += cut->heads)
            for (int64_t row = 0; row < block.queries; row += cut->rows) {
                block.first_sample = sample, block.samples = smaller(cut->samples, q->dim[0] - sample);
                block.first_head = head, block.heads = smaller(cut->heads, attention->heads - head);
                block.first_row = row, block.rows = smaller(cut->rows, block.queries - row);
                work(&block);
            }
}

/* The block's heads in a tensor [B, T, C] whose heads begin at `column`: tokens [first, first + tokens). */
static struct head_matrices heads_of(const struct score_block *block, const struct tensor *tensor,
                                     int64_t column, int64_t first, int64_t tokens)
{
    int64_t channels = tensor_channels(tensor), size = block->attention->head_size;
    int64_t sample = tensor_tokens(tensor) * channels;
    int64_t place = block->first_sample * sample + first * channels + column + block->first_head * size;
    const void *data = static_cast<const char *>(tensor->data) + place * (int64_t)dtype_size(tensor->dtype);
    return {{data, tensor->dtype, tokens, size, channels, 0}, sample, size};
}

/* Those of the block's queries; all keys. */
static struct head_matrices queries_of(const struct score_block *block, const struct tensor *tensor,
                                       int64_t column)
{
    return heads_of(block, tensor, column, block->first_row, block->rows);
}

static struct head_matrices keys_of(const struct score_block *block, const struct tensor *tensor,
                                    int64_t column)
{
    return heads_of(block, tensor, column, 0, block->keys);
}

/* A block's own matrices [samples, heads, rows, columns], rows `stride` apart. */
static struct head_matrices dense(const struct score_block *block, const void *data, enum dtype dtype,
                                  int64_t rows, int64_t columns, int64_t stride)
{
    return {{data, dtype, rows, columns, stride, 0}, block->heads * rows * stride, rows * stride};
}

static struct head_matrices scores_of(const struct score_block *block, const void *data, enum dtype dtype)
{
    return dense(block, data, dtype, block->rows, block->keys, block->stride);
}

/* The matrices of the `at`th sample (or head) as a stack over heads (or samples). */
static struct matrices stack_at(const struct head_matrices *matrices, bool over_samples, int64_t at)
{
    struct matrices stack = matrices->first;
    int64_t place = at * (over_samples ? matrices->head_stack : matrices->sample_stack);
    stack.data = static_cast<const char *>(stack.data) + place * (int64_t)dtype_size(stack.dtype);
    stack.stack = over_samples ? matrices->sample_stack : matrices->head_stack;
    return stack;
}

/* c = op(a) op(b) + beta c for each sample and head of the block */
static void multiply_heads(struct cuda_backend *cuda, const struct score_block *block, struct head_matrices a,
                           bool transpose_a, struct head_matrices b, bool transpose_b, float beta,
                           struct head_matrices c)
{
    bool over_samples = block->samples > block->heads;
    int64_t stacks = over_samples ? block->heads : block->samples;
    int64_t count = over_samples ? block->samples : block->heads;
    for (int64_t i = 0; i < stacks; i++)
        multiply(cuda, count, 1, stack_at(&a, over_samples, i), transpose_a, stack_at(&b, over_samples, i),
                 transpose_b, beta, nullptr, nullptr, stack_at(&c, over_samples, i));
}

/* Elements of a block's scores. */
static size_t score_count(const struct cut *cut, const struct tensor *kv)
{
    return (size_t)(cut->samples * cut->heads * cut->rows * score_stride(tensor_tokens(kv)));
}

/* Bytes beside the fp32 values for the same in the compute dtype; in fp32 these take their place. */
static size_t rounded_bytes(size_t count, enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 0 : count * dtype_size(dtype);
}

void attention_forward_cuda(struct backend *backend, const struct attention *attention,
                            const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                            struct gate gate, struct tensor *y, struct tensor *log_sum)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    struct cut cut = cut_of(attention, q, kv);
    size_t count = score_count(&cut, kv);
    struct scratch score_memory(backend, count * sizeof(float));
    struct scratch probability_memory(backend, rounded_bytes(count, q->dtype));
    float *scores = score_memory.of<float>();
    void *probabilities = q->dtype == DTYPE_F32 ? scores : probability_memory.of<void>();
    for_each_block(&cut, attention, q, kv, key_mask, gate, [&](const struct score_block *block) {
        multiply_heads(cuda, block, queries_of(block, q, attention->q_column), false,
                       keys_of(block, kv, attention->k_column), true, 0, scores_of(block, scores, DTYPE_F32));
        softmax_forward(cuda, block, scores, q->dtype, probabilities, values_of<float>(log_sum));
        multiply_heads(cuda, block, scores_of(block, probabilities, q->dtype), false,
                       keys_of(block, kv, attention->v_column), false, 0, queries_of(block, y, 0));
    });
}

/* ---- backward: the same blocks again. With several blocks of queries, dk and dv are summed over them in
 * fp32.
 */

struct backward {
    struct cuda_backend *cuda;
    const struct tensor *q, *kv, *log_sum, *dy;
    struct tensor *dq, *dkv; /* or NULL */
    float *scores, *gradients;
    void *probabilities, *score_gradients; /* in the compute dtype */
    float *dots;                           /* [B, heads, queries] or NULL */
    float *dk, *dv;                        /* [keys, head_size], or NULL: summed in dkv itself */
};

/* to [rows, columns] with rows `stride` apart = from [rows, columns] */
template <class T>
__global__ void store_rows(const float *from, T *to, int64_t rows, int64_t columns, int64_t stride)
{
    for (int64_t i = grid_thread(); i < rows * columns; i += grid_threads())
        to[i / columns * stride + i % columns] = from_float<T>(from[i]);
}

static void store_sums(const struct backward *backward, const struct score_block *block, const float *sums,
                       int64_t column)
{
    struct matrices to = keys_of(block, backward->dkv, column).first;
    with_type(to.dtype, [&](auto zero) {
        using T = decltype(zero);
        LAUNCH((store_rows<T>), grid_for(backward->cuda, to.rows * to.columns, THREADS), THREADS,
               backward->cuda->compute, sums, static_cast<T *>(const_cast<void *>(to.data)), to.rows,
               to.columns, to.stride);
    });
}

/* Adds a block's part to the gradients of its keys and values: its first rows begin them. */
static void backward_keys(const struct backward *backward, const struct score_block *block)
{
    const struct attention *attention = block->attention;
    enum dtype dtype = backward->q->dtype;
    int64_t size = attention->head_size;
    float beta = block->first_row > 0 ? 1.f : 0.f;
    multiply_heads(backward->cuda, block, scores_of(block, backward->score_gradients, dtype), true,
                   queries_of(block, backward->q, attention->q_column), false, beta,
                   backward->dk ? dense(block, backward->dk, DTYPE_F32, block->keys, size, size)
                                : keys_of(block, backward->dkv, attention->k_column));
    multiply_heads(backward->cuda, block, scores_of(block, backward->probabilities, dtype), true,
                   queries_of(block, backward->dy, 0), false, beta,
                   backward->dv ? dense(block, backward->dv, DTYPE_F32, block->keys, size, size)
                                : keys_of(block, backward->dkv, attention->v_column));
    if (!backward->dk || block->first_row + block->rows < block->queries) return;
    store_sums(backward, block, backward->dk, attention->k_column);
    store_sums(backward, block, backward->dv, attention->v_column);
}

static void backward_block(const struct backward *backward, const struct score_block *block)
{
    struct cuda_backend *cuda = backward->cuda;
    const struct attention *attention = block->attention;
    enum dtype dtype = backward->q->dtype;
    struct head_matrices keys = keys_of(block, backward->kv, attention->k_column);
    multiply_heads(cuda, block, queries_of(block, backward->q, attention->q_column), false, keys, true, 0,
                   scores_of(block, backward->scores, DTYPE_F32));
    multiply_heads(cuda, block, queries_of(block, backward->dy, 0), false,
                   keys_of(block, backward->kv, attention->v_column), true, 0,
                   scores_of(block, backward->gradients, DTYPE_F32));
    softmax_backward(cuda, block, backward->scores, backward->gradients, values_of<float>(backward->log_sum),
                     dtype, backward->dkv ? backward->probabilities : nullptr,
                     backward->dq || backward->dkv ? backward->score_gradients : nullptr, backward->dots);
    if (backward->dq)
        multiply_heads(cuda, block, scores_of(block, backward->score_gradients, dtype), false, keys, false, 0,
                       queries_of(block, backward->dq, attention->q_column));
    if (backward->dkv) backward_keys(backward, block);
}

void attention_backward_cuda(struct backend *backend, const struct attention *attention,
                             const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                             struct gate gate, const struct tensor *, const struct tensor *log_sum,
                             const struct tensor *dy, struct tensor *dq, struct tensor *dkv,
                             struct tensor *dgates)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    struct cut cut = cut_of(attention, q, kv);
    int64_t queries = tensor_tokens(q);
    size_t count = score_count(&cut, kv);
    bool sums = dkv && cut.rows < queries && q->dtype != DTYPE_F32; // then a block is of one head
    size_t sum_bytes = sums ? (size_t)(tensor_tokens(kv) * attention->head_size) * sizeof(float) : 0;
    size_t dot_bytes = (size_t)(q->dim[0] * attention->heads * queries) * sizeof(float);
    struct scratch scores(backend, count * sizeof(float)), gradients(backend, count * sizeof(float));
    struct scratch probabilities(backend, rounded_bytes(count, q->dtype));
    struct scratch score_gradients(backend, rounded_bytes(count, q->dtype));
    struct scratch dots(backend, dgates ? dot_bytes : 0), dk(backend, sum_bytes), dv(backend, sum_bytes);
    bool in_place = q->dtype == DTYPE_F32;
    const struct backward backward = {
        .cuda = cuda,
        .q = q,
        .kv = kv,
        .log_sum = log_sum,
        .dy = dy,
        .dq = dq,
        .dkv = dkv,
        .scores = scores.of<float>(),
        .gradients = gradients.of<float>(),
        .probabilities = (in_place ? scores : probabilities).of<void>(),
        .score_gradients = (in_place ? gradients : score_gradients).of<void>(),
        .dots = dgates ? dots.of<float>() : nullptr,
        .dk = sums ? dk.of<float>() : nullptr,
        .dv = sums ? dv.of<float>() : nullptr,
    };
    for_each_block(&cut, attention, q, kv, key_mask, gate,
                   [&](const struct score_block *block) { backward_block(&backward, block); });
    int64_t row = attention->heads * queries;
    if (dgates) add_gate_gradient(cuda, backward.dots, row, 1, row, gate, dgates);
}
