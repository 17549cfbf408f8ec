/* Other sizes of pictures, as Pillow, torchvision, transformers and PyTorch make them. */
#ifndef IO_IMAGE_RESAMPLE_H
#define IO_IMAGE_RESAMPLE_H

#include "base/random.h"
#include "io/image.h"

/* The kernels. Scaling down, they are as wide as the scale (antialias). */
enum image_filter {
    IMAGE_BILINEAR, /* a triangle: Pillow's BILINEAR */
    IMAGE_BICUBIC,  /* Keys' cubic with a = -1/2: Pillow's BICUBIC */
};

/* Rows, then columns, both rounded to 8 bits: equal to the bit to Pillow before version 13, which begins with
 * the columns where a tall picture shrinks, so that other values are rounded. A side of that length already
 * is not resampled. */
struct image image_resize(const struct image *source, enum image_filter filter, int height, int width);

/* Where a crop begins if what is left over is odd. */
enum image_margin {
    IMAGE_MARGIN_EVEN, /* half of it, with ties to even: torchvision's CenterCrop */
    IMAGE_MARGIN_DOWN, /* half of it, cut to an integer: transformers' center_crop */
};

/* The shorter side scaled to `shorter`, the other by the same factor (cut to an integer), and of that the
 * middle [crop, crop]; 1 <= crop <= shorter. Only what is kept is computed, so that a long thin picture needs
 * little memory. */
struct image_crop {
    enum image_filter filter;
    int shorter, crop;
    enum image_margin margin;
};
struct image image_resize_crop(const struct image *source, struct image_crop crop);

/* The crop that pictures are trained with and judged by: bilinear, the shorter side scaled to `size`, of the
 * other the middle (torchvision's Resize and CenterCrop). */
struct image_crop image_training_crop(int size);

/* The same, of which the part that begins at a random place is kept: top and left, each uniform over all
 * places as in torchvision's RandomCrop, are elements 0 and 1 of the key's sequence. The margin is not used.
 */
struct image image_random_crop(const struct image *source, struct image_crop crop, struct random_key key);

/* Without antialias and rounding, values 0..255: out[height, width, 3] is
 * torch.nn.functional.interpolate(source, mode="bilinear", align_corners=False), with which clean-fid's mode
 * legacy_pytorch resizes for Inception. */
void image_interpolate(const struct image *source, int height, int width, float *out);

#endif
