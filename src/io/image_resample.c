#include "io/image_resample.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- weights

// A line of `in` pixels scaled to `out`, of which the `count` pixels from `first` on are wanted. The last two
// matter for crops: a line of a long thin picture may be scaled to more pixels than there is memory for.
struct scaling {
    int in;
    int64_t out, first;
    int count;
    int skipped; // source pixels before the first that there is memory for
};

// A symmetric function of the distance in pixels, zero from `support` on.
struct kernel {
    double (*value)(double distance);
    double support;
    bool antialias; // stretched by the scale where that is above 1
};

static double triangle(double distance)
{
    return distance < 1 ? 1 - distance : 0;
}

static double cubic(double distance)
{
    const double a = -0.5;
    if (distance < 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
    if (distance < 2) return (((distance - 5) * distance + 8) * distance - 4) * a;
    return 0;
}

static struct kernel kernel_of(enum image_filter filter)
{
    return filter == IMAGE_BICUBIC ? (struct kernel){cubic, 2, true} : (struct kernel){triangle, 1, true};
}

// What source pixels make those of a scaled line. For its pixel x: source pixels [first[x], first[x] +
// count[x]) of those that there is memory for, with weight[x * most + i], which sum to 1.
struct weights {
    int *first, *count;
    double *weight;
    int most;
};

// The middle of a scaled line's pixel x, in source pixels.
static double centre_of(const struct scaling *scaling, bool antialias, int64_t x)
{
    if (antialias) return ((double)x + 0.5) * ((double)scaling->in / (double)scaling->out);
    // PyTorch's is in single precision, which at 2000 pixels a side is off by 1e-4 of a pixel.
    float scale = (float)scaling->in / (float)scaling->out;
    return fmaxf(scale * ((float)x + 0.5f) - 0.5f, 0) + 0.5;
}

// Half the width of the kernel that makes one scaled pixel, in source pixels.
static double support_of(const struct scaling *scaling, struct kernel kernel)
{
    return kernel.antialias ? kernel.support * fmax((double)scaling->in / (double)scaling->out, 1)
                            : kernel.support;
}

// The kernel of scaled pixel first + x: its centre, and the source pixels [*begin, *end) that it weighs.
static double place_kernel(const struct scaling *scaling, struct kernel kernel, int x, int *begin, int *end)
{
    double centre = centre_of(scaling, kernel.antialias, scaling->first + x),
           support = support_of(scaling, kernel);
    *begin = (int)fmax(centre - support + 0.5, 0);
    *end = (int)fmin(centre + support + 0.5, scaling->in);
    return centre;
}

static struct weights weights_new(const struct scaling *scaling, struct kernel kernel)
{
    double support = support_of(scaling, kernel), shrink = 1 / (support / kernel.support);
    size_t pixels = (size_t)scaling->count;
    struct weights weights = {.first = check_malloc(pixels * sizeof(int)),
                              .count = check_malloc(pixels * sizeof(int)),
                              .most = 2 * (int)ceil(support) + 1};
    weights.weight = check_malloc(pixels * (size_t)weights.most * sizeof(double));
    for (int x = 0; x < scaling->count; x++) {
        int first, end;
        double centre = place_kernel(scaling, kernel, x, &first, &end), sum = 0;
        double *weight = weights.weight + (size_t)x * (size_t)weights.most;
        for (int i = 0; i < end - first; i++) {
            weight[i] = kernel.value(fabs((first + i - centre + 0.5) * shrink));
            sum += weight[i];
        }
        for (int i = 0; i < end - first; i++) weight[i] /= sum;
        weights.first[x] = first - scaling->skipped;
        weights.count[x] = end - first;
    }
    return weights;
}

static void weights_free(struct weights *weights)
{
    free(weights->first);
    free(weights->count);
    free(weights->weight);
}

// ---- one axis

// out [outer, count, inner] from in [outer, in, inner]. Along a row, outer are the rows and inner the
// colours; along a column, there is one outer, and inner are the values of a row.

static void resample_floats(const float *in, const struct scaling *scaling, struct kernel kernel, float *out,
                            size_t outer, size_t inner)
{
    struct weights weights = weights_new(scaling, kernel);
    for (size_t o = 0; o < outer; o++) {
        for (int x = 0; x < scaling->count; x++) {
            const double *weight = weights.weight + (size_t)x * (size_t)weights.most;
            const float *source = in + (o * (size_t)scaling->in + (size_t)weights.first[x]) * inner;
            for (size_t k = 0; k < inner; k++) {
                double sum = 0;
                for (int i = 0; i < weights.count[x]; i++) sum += source[(size_t)i * inner + k] * weight[i];
                *out++ = (float)sum;
            }
        }
    }
    weights_free(&weights);
}

// Weights in units of 2^-WEIGHT_BITS: fixed point as in Pillow, so that results are equal to the bit.
enum { WEIGHT_BITS = 22 };

static int *fixed_point(const struct scaling *scaling, const struct weights *weights)
{
    size_t count = (size_t)scaling->count * (size_t)weights->most;
    int *fixed = check_calloc(count, sizeof *fixed);
    for (int x = 0; x < scaling->count; x++)
        for (int i = 0; i < weights->count[x]; i++) {
            size_t at = (size_t)x * (size_t)weights->most + (size_t)i;
            fixed[at] = (int)lround(weights->weight[at] * (1 << WEIGHT_BITS));
        }
    return fixed;
}

static void resample_bytes(const uint8_t *in, const struct scaling *scaling, struct kernel kernel,
                           uint8_t *out, size_t outer, size_t inner)
{
    size_t in_bytes = (size_t)scaling->in * inner, out_bytes = (size_t)scaling->count * inner;
    if (scaling->out == scaling->in) {
        for (size_t o = 0; o < outer; o++)
            memcpy(out + o * out_bytes,
                   in + o * in_bytes + (size_t)(scaling->first - scaling->skipped) * inner, out_bytes);
        return;
    }
    struct weights weights = weights_new(scaling, kernel);
    int *fixed = fixed_point(scaling, &weights);
    for (size_t o = 0; o < outer; o++) {
        for (int x = 0; x < scaling->count; x++) {
            const int *weight = fixed + (size_t)x * (size_t)weights.most;
            const uint8_t *source = in + o * in_bytes + (size_t)weights.first[x] * inner;
            for (size_t k = 0; k < inner; k++) {
                int sum = 1 << (WEIGHT_BITS - 1);
                for (int i = 0; i < weights.count[x]; i++) sum += source[(size_t)i * inner + k] * weight[i];
                int value = sum >> WEIGHT_BITS;
                *out++ = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
            }
        }
    }
    free(fixed);
    weights_free(&weights);
}

// ---- pictures

// Only rows that the result is made of: all those of a tall picture, each scaled to many columns, may be more
// than there is memory for.
static struct image resample_both(const struct image *source, struct kernel kernel,
                                  const struct scaling *down, const struct scaling *across)
{
    int top, bottom, unused;
    place_kernel(down, kernel, 0, &top, &unused);
    place_kernel(down, kernel, down->count - 1, &unused, &bottom);
    struct scaling kept = *down;
    kept.skipped = top;
    struct image wide = image_new(bottom - top, across->count);
    struct image result = image_new(down->count, across->count);
    const uint8_t *rows = source->rgb + (size_t)top * (size_t)source->width * 3;
    resample_bytes(rows, across, kernel, wide.rgb, (size_t)wide.height, 3);
    resample_bytes(wide.rgb, &kept, kernel, result.rgb, 1, (size_t)across->count * 3);
    image_free(&wide);
    return result;
}

struct image image_resize(const struct image *source, enum image_filter filter, int height, int width)
{
    CHECK(height >= 1 && width >= 1, "resize to %d x %d", width, height);
    struct scaling down = {.in = source->height, .out = height, .count = height},
                   across = {.in = source->width, .out = width, .count = width};
    return resample_both(source, kernel_of(filter), &down, &across);
}

// A side whose crop begins at 0.
static struct scaling scale_side(int side, const struct image *source, const struct image_crop *crop)
{
    CHECK(crop->crop >= 1 && crop->crop <= crop->shorter, "resize to %d, crop to %d", crop->shorter,
          crop->crop);
    int shorter = source->height < source->width ? source->height : source->width;
    int64_t out = side == shorter ? crop->shorter : (int64_t)crop->shorter * side / shorter;
    return (struct scaling){.in = side, .out = out, .count = crop->crop};
}

static int64_t middle_of(const struct scaling *side, enum image_margin margin)
{
    double half = (double)(side->out - side->count) / 2;
    return (int64_t)(margin == IMAGE_MARGIN_EVEN ? rint(half) : floor(half));
}

struct image_crop image_training_crop(int size)
{
    return (struct image_crop){IMAGE_BILINEAR, size, size, IMAGE_MARGIN_EVEN};
}

struct image image_resize_crop(const struct image *source, struct image_crop crop)
{
    struct scaling down = scale_side(source->height, source, &crop);
    struct scaling across = scale_side(source->width, source, &crop);
    down.first = middle_of(&down, crop.margin);
    across.first = middle_of(&across, crop.margin);
    return resample_both(source, kernel_of(crop.filter), &down, &across);
}

struct image image_random_crop(const struct image *source, struct image_crop crop, struct random_key key)
{
    struct scaling down = scale_side(source->height, source, &crop);
    struct scaling across = scale_side(source->width, source, &crop);
    down.first = (int64_t)random_below(key, 0, (uint64_t)(down.out - down.count + 1));
    across.first = (int64_t)random_below(key, 1, (uint64_t)(across.out - across.count + 1));
    return resample_both(source, kernel_of(crop.filter), &down, &across);
}

void image_interpolate(const struct image *source, int height, int width, float *out)
{
    CHECK(height >= 1 && width >= 1, "resize to %d x %d", width, height);
    const struct kernel kernel = {triangle, 1, false};
    struct scaling down = {.in = source->height, .out = height, .count = height},
                   across = {.in = source->width, .out = width, .count = width};
    size_t values = (size_t)source->height * (size_t)source->width * 3;
    float *in = check_malloc(values * sizeof *in);
    float *wide = check_malloc((size_t)source->height * (size_t)width * 3 * sizeof *wide);
    for (size_t i = 0; i < values; i++) in[i] = source->rgb[i];
    resample_floats(in, &across, kernel, wide, (size_t)source->height, 3);
    resample_floats(wide, &down, kernel, out, 1, (size_t)width * 3);
    free(wide);
    free(in);
}
