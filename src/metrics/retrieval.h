/* Retrieval: how often a picture finds its prompt among all, and a prompt its picture. Local. */
#ifndef METRICS_RETRIEVAL_H
#define METRICS_RETRIEVAL_H

#include <stdint.h>

/* Of N pictures and their prompts, features image, text [N, P] of any length above 0 (features_check with
 * `directions`): the share of pictures whose prompt has one of the `top` largest cosines among the N prompts,
 * and the other way round. Rows with the same group[i] are right for each other (metrics/clip_loss.h,
 * clip_groups); of equal cosines the wrong ones come first. Guessing gives top/N where no prompt occurs
 * twice. */
void retrieval_accuracy(int64_t N, int64_t P, const double *image, const double *text, const int32_t *group,
                        int64_t top, double *image_to_text, double *text_to_image);

#endif
