/* CLIP score on angles that are known. */
#include "metrics/clip_score.h"

#include "support/failing_check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void no_pairs(void)
{
    const double x[2] = {1, 2};
    clip_score(0, 2, x, x, NULL);
}

static void zero_row(void)
{
    const double x[4] = {1, 2, 0, 0}, y[4] = {1, 2, 3, 4};
    clip_score(2, 2, x, y, NULL);
}

static void not_finite(void)
{
    const double x[4] = {1, 2, NAN, 0}, y[4] = {1, 2, 3, 4};
    clip_score(2, 2, y, x, NULL);
}

static void broken_contracts_fail(void **state)
{
    (void)state;
    assert_check_fails(no_pairs, "CLIP score of 0 pairs");
    assert_check_fails(zero_row, "CLIP score of pair 1 is");
    assert_check_fails(not_finite, "CLIP score of pair 1 is");
}

/* Lengths far from 1, at which a product of lengths has no room; and a cosine below 0 stays. */
static void score_is_of_the_angle(void **state)
{
    (void)state;
    const double image[8] = {3, 4, 1e90, 0, -5e-200, 0, 2, 2}, text[8] = {4, 3, 0, 7, 1e-200, 0, 0, 1e99};
    const double expected[4] = {96, 0, -100, 100 / sqrt(2)};
    double score[4];
    assert_within(clip_score(4, 2, image, text, score), (96 - 100 + 100 / sqrt(2)) / 4, 1e-13);
    assert_near(4, score, expected, 1e-15);
    assert_within(clip_score(4, 2, image, text, NULL), (96 - 100 + 100 / sqrt(2)) / 4, 1e-13);
}

enum { N = 50, F = 30 };

static void score_is_that_of_plain_loops(void **state)
{
    (void)state;
    double *image = random_normals(90, N * F), *text = random_normals(91, N * F), sum = 0;
    for (int i = 0; i < N * F; i++) text[i] += image[i];
    for (int row = 0; row < N; row++) {
        double product = 0, image_square = 0, text_square = 0;
        for (int i = row * F; i < (row + 1) * F; i++) {
            product += image[i] * text[i];
            image_square += image[i] * image[i];
            text_square += text[i] * text[i];
        }
        sum += product / sqrt(image_square * text_square);
    }
    assert_true(sum > N / 2.);
    assert_within(clip_score(N, F, image, text, NULL), 100 * sum / N, 1e-12);
    free(text);
    free(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_contracts_fail),
        cmocka_unit_test(score_is_of_the_angle),
        cmocka_unit_test(score_is_that_of_plain_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
