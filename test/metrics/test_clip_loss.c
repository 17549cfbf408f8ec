/* CLIP's loss: PyTorch's cross-entropy with soft targets, finite differences, properties. */
#include "metrics/clip_loss.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* fp64 sums of a few terms, scores up to 20: PyTorch's own are in another order. */
static const double TOLERANCE = 1e-13;

static void loss_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"clip_loss", "clip_loss_repeats", "clip_loss_one"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        int64_t B = fixture_length(fixture, "inputs/image", 0),
                P = fixture_length(fixture, "inputs/image", 1);
        const int64_t *group64 = fixture_integers(fixture, "inputs/group");
        int32_t *group = check_malloc((size_t)B * sizeof *group);
        for (int64_t b = 0; b < B; b++) group[b] = (int32_t)group64[b];
        double *d_image = check_malloc((size_t)(B * P) * sizeof *d_image);
        double *d_text = check_malloc((size_t)(B * P) * sizeof *d_text), d_scale;
        double loss =
            clip_loss(B, P, fixture_doubles(fixture, "inputs/image"), fixture_doubles(fixture, "inputs/text"),
                      group, fixture_number(fixture, "inputs/log_scale"), d_image, d_text, &d_scale);
        assert_within(loss, fixture_number(fixture, "outputs/loss"), TOLERANCE);
        assert_within(d_scale, fixture_number(fixture, "gradients/log_scale"), TOLERANCE);
        const double *image = fixture_doubles(fixture, "gradients/image"),
                     *text = fixture_doubles(fixture, "gradients/text");
        double limit = TOLERANCE * (1 + largest(B * P, image) + largest(B * P, text));
        assert_true(largest_difference(B * P, d_image, image) <= limit);
        assert_true(largest_difference(B * P, d_text, text) <= limit);
        free(d_image);
        free(d_text);
        free(group);
        fixture_close(fixture);
    }
}

enum { B = 5, P = 4 };
static const int32_t groups[B] = {0, 1, 1, 3, 0};
static const double log_scale = 1.5;

/* x: image [B, P], text [B, P], log scale */
static double loss_of(const double *x, const void *context)
{
    (void)context;
    double d_image[B * P], d_text[B * P], d_scale;
    return clip_loss(B, P, x, x + B * P, groups, x[2 * B * P], d_image, d_text, &d_scale);
}

static void gradients_are_differences(void **state)
{
    (void)state;
    double *x = random_normals(60, 2 * B * P + 1), gradient[2 * B * P + 1];
    x[2 * B * P] = log_scale;
    clip_loss(B, P, x, x + B * P, groups, log_scale, gradient, gradient + B * P, gradient + 2 * B * P);
    // h^2 of the third derivative, and rounding of the loss over h
    assert_true(finite_difference_error(loss_of, NULL, 2 * B * P + 1, x, gradient, 1e-5) < 1e-8);
    free(x);
}

/* The length of a feature does not matter; a batch in another order has the same loss, its gradient with it.
 */
static void only_directions_and_pairs_count(void **state)
{
    (void)state;
    double *x = random_normals(61, 2 * B * P), turned[2 * B * P];
    double d[2][2 * B * P], d_scale[2];
    int32_t turned_group[B];
    for (int b = 0; b < B; b++) {
        int from = (b + 2) % B;
        memcpy(turned + b * P, x + from * P, P * sizeof *x);
        memcpy(turned + (B + b) * P, x + (B + from) * P, P * sizeof *x);
        for (int i = 0; i < P; i++) turned[b * P + i] *= 1 << b;
        turned_group[b] = (groups[from] + B - 2) % B;
    }
    double loss = clip_loss(B, P, x, x + B * P, groups, log_scale, d[0], d[0] + B * P, &d_scale[0]);
    double again =
        clip_loss(B, P, turned, turned + B * P, turned_group, log_scale, d[1], d[1] + B * P, &d_scale[1]);
    assert_within(again, loss, TOLERANCE);
    assert_within(d_scale[1], d_scale[0], TOLERANCE);
    for (int b = 0; b < B; b++)
        for (int i = 0; i < P; i++) {
            int from = (b + 2) % B;
            assert_within(d[1][b * P + i] * (1 << b), d[0][from * P + i], TOLERANCE);
            assert_within(d[1][(B + b) * P + i], d[0][(B + from) * P + i], TOLERANCE);
        }
    free(x);
}

/* All prompts the same: nothing can be learned. Each prompt at its picture alone, and a large scale: nothing
 * is left to learn. */
static void the_ends(void **state)
{
    (void)state;
    double *image = random_normals(62, B * P), text[B * P], d_image[B * P], d_text[B * P], d_scale;
    const int32_t one[B] = {0}, apart[4] = {0, 1, 2, 3};
    for (int i = 0; i < B * P; i++) text[i] = image[i % P];
    double loss = clip_loss(B, P, image, text, one, 4.0, d_image, d_text, &d_scale);
    assert_true(loss > log(B) - 1e-12);       // the prompt cannot tell the pictures apart
    assert_true(largest(B * P, d_image) > 0); // but back, pictures may come as near to it as the others

    double axes[16] = {[0] = 3, [5] = 3, [10] = 3, [15] = 3}, d_axes[16], d_pairs[16];
    loss = clip_loss(4, 4, axes, axes, apart, log(100.0), d_axes, d_pairs, &d_scale);
    assert_within(loss, 0, 1e-20);
    assert_true(largest(16, d_axes) < 1e-20 && largest(16, d_pairs) < 1e-20 && fabs(d_scale) < 1e-20);
    free(image);
}

static void equal_prompts_are_one_group(void **state)
{
    (void)state;
    const float z[6][2] = {{1, 2}, {1, 3}, {1, 2}, {2, 1}, {1, 3}, {1, 2}};
    const int32_t expected[6] = {0, 1, 0, 3, 1, 0};
    int32_t group[6];
    clip_groups(6, 2, &z[0][0], group);
    assert_memory_equal(group, expected, sizeof group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_is_pytorchs),
        cmocka_unit_test(gradients_are_differences),
        cmocka_unit_test(only_directions_and_pairs_count),
        cmocka_unit_test(the_ends),
        cmocka_unit_test(equal_prompts_are_one_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
