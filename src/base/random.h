/* Counter-based random numbers (Random123's Philox4x64-10).
 *
 * A number is a function of (seed, stream, step, sample, index) and of nothing else: not of the rank, the
 * batch size or what was drawn before. So runs agree whatever the number of ranks, and restarts need no
 * generator state. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

/* What a draw is for; two uses never share a stream. The values are part of every result: append, never
 * renumber. */
enum random_stream {
    RANDOM_WEIGHTS = 1,          /* initial weights; sample = index of the parameter */
    RANDOM_ORDER = 2,            /* order of the samples; step = epoch */
    RANDOM_TIMESTEP = 3,         /* diffusion timestep; step, global sample index in the batch */
    RANDOM_NOISE = 4,            /* diffusion noise; the same */
    RANDOM_FLIP = 5,             /* which flip or crop of a picture; the same */
    RANDOM_PROMPT_DROPOUT = 6,   /* prompts replaced by the empty one; the same */
    RANDOM_GUMBEL_PREDICTED = 7, /* Gumbel noise of a predicted vector; step, global sample index */
    RANDOM_GUMBEL_CODES = 8,     /* Gumbel noise of the codes; step, sample = code */
    RANDOM_LATENT = 9,           /* VAE sampling noise; step, global sample index */
    RANDOM_SAMPLING = 10,        /* initial noise of a sampled image; sample = image */
    RANDOM_SPLIT = 11,           /* train/validation split; sample = hash of the caption's tokens */
    RANDOM_TEST = 12,            /* tests */
    RANDOM_BENCH = 13,           /* inputs of `bench` */
    RANDOM_ROUTER = 14,     /* initial predictor and codes; sample = block of the predictor, then the codes */
    RANDOM_BOOTSTRAP = 15,  /* resampled rows; step = replicate, sample = set */
    RANDOM_BASELINE = 16,   /* order in which entries are removed by prune.method = "random" */
    RANDOM_EVALUATION = 17, /* noise of the denoising loss; step = timestep, sample = item of the split */
    RANDOM_SOURCE = 18, /* which pictures (step 0), captions (step 1) are used; sample = hash of the name */
    RANDOM_CROP = 19,   /* top and left of a stored crop; step = crop, sample = item of the source */
    RANDOM_EVALUATION_LATENT = 20, /* VAE sampling noise of the denoising loss; sample = item of the split */
};

/* The address of a sequence of numbers. */
struct random_key {
    uint64_t seed;
    enum random_stream stream;
    uint64_t step;
    uint64_t sample;
};

/* Uniform in the open interval (0, 1), 53 random bits: element `index` of the sequence. */
double random_uniform(struct random_key key, uint64_t index);

/* Element `index` of the sequence as an integer in [0, bound), bound >= 1; unbiased to 2^-53. */
uint64_t random_below(struct random_key key, uint64_t index, uint64_t bound);

/* out[0..count): standard normal numbers (Box-Muller on the sequence's uniforms), elements 0..count of the
 * sequence. */
void random_normal(struct random_key key, uint64_t count, float *out);

/* out[0..count): standard Gumbel numbers -log(-log(U)) (METHOD section 3a), elements 0..count of the
 * sequence. */
void random_gumbel(struct random_key key, uint64_t count, double *out);

/* order[0..count): a uniformly random permutation of 0..count-1 (Fisher-Yates on the sequence). */
void random_permutation(struct random_key key, uint64_t count, uint64_t *order);

#endif
