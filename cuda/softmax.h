/* The softmax of attention, forward and backward, on blocks of scores that products have made. With s = scale
 * q k' + bias of the keys that are seen, p = softmax(s), E = dy v' and a head's gate g, y = g p v, so dv = (g
 * p)' dy,  D = rowsum(p E),  dS = g scale p (E - D),  dq = dS k,  dk = dS' q,  dg = sum(D): y is not needed,
 * so a gate of zero needs no care. */
#ifndef CUDA_SOFTMAX_H
#define CUDA_SOFTMAX_H

#include "device.h"

/* A stack of score matrices [samples x heads, rows, keys] fp32: of queries [first_row, first_row + rows) in
 * heads [first_head, first_head + heads) of samples [first_sample, first_sample + samples); a sample's heads
 * follow each other. Rows lie `stride` >= keys elements apart, a multiple of 4, matrices rows x stride.
 * Every matrix over queries and keys below has this shape and this stride, in elements of its dtype, and
 * begins at a multiple of 16 bytes. The columns from `keys` on are neither read nor written. */
struct score_block {
    const struct attention *attention; /* heads, scale, causal and bias */
    const struct tensor *key_mask;     /* [B, keys] or NULL */
    struct gate gate;                  /* count = attention->heads, or none */
    int64_t queries, keys;             /* of the whole sequences */
    int64_t first_sample, samples;
    int64_t first_head, heads;
    int64_t first_row, rows;
    int64_t stride;
};

/* probabilities (`dtype`) = g p of scores = q k', which are not scaled yet; log_sum [B, attention->heads,
 * queries] fp32, of the whole call: the block's entries are written. A hidden key's probability is exactly
 * 0; all are where a query sees no key, and log_sum is 0. In fp32, probabilities may be the scores. */
void softmax_forward(struct cuda_backend *cuda, const struct score_block *block, const float *scores,
                     enum dtype dtype, void *probabilities, float *log_sum);

/* Of the scores q k' and gradients = E (fp32), without a bias: probabilities = g p (what dv wants) and
 * score_gradients = dS in `dtype`, and the block's entries of dots [B, attention->heads, queries] fp32 = D.
 * Each of the three may be NULL. In fp32, probabilities may be the scores and score_gradients the
 * gradients. */
void softmax_backward(struct cuda_backend *cuda, const struct score_block *block, const float *scores,
                      const float *gradients, const float *log_sum, enum dtype dtype, void *probabilities,
                      void *score_gradients, float *dots);

#endif
