/* CLIP score: how well images fit their captions (METHOD section 8). Local. */
#ifndef METRICS_CLIP_SCORE_H
#define METRICS_CLIP_SCORE_H

#include <stdint.h>

/* 100 x mean cosine of image [N, F] and text [N, F] features of any length above 0 (features_check with
 * `directions`); row i of one belongs to row i of the other. N >= 1. A negative cosine counts as it is. If
 * score [N] is not NULL it receives each pair's 100 x cosine, which bootstrap_mean takes. */
double clip_score(int64_t N, int64_t F, const double *image, const double *text, double *score);

#endif
