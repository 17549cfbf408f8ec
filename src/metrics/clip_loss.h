/* What the metric network is trained by: CLIP's loss over a batch of pictures and their prompts (Radford et
 * al. 2021, figure 3), with gradients. fp64. Local. */
#ifndef METRICS_CLIP_LOSS_H
#define METRICS_CLIP_LOSS_H

#include <stdint.h>

/* The rows of z [B, D] that are equal bit for bit get the same number: prompts that nothing can tell apart.
 * group[b] is the first such row. */
void clip_groups(int64_t B, int64_t D, const float *z, int32_t *group);

/* Symmetric InfoNCE: the mean, over the pictures and over the prompts, of
 *
 *     - sum over j of target[i, j] log softmax_j(exp(log_scale) cos(image[i], text[j])),
 *
 * target the same for all j with group[j] == group[i], 0 elsewhere: a prompt that occurs more than once is
 * right for each of its pictures. image, text [B, P]: features of any length but 0. Fills the gradients
 * d_image, d_text [B, P] and d_log_scale [1]. */
double clip_loss(int64_t B, int64_t P, const double *image, const double *text, const int32_t *group,
                 double log_scale, double *d_image, double *d_text, double *d_log_scale);

#endif
