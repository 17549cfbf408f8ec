/* Retrieval on directions that are known, and against sorting. */
#include "metrics/retrieval.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect(int64_t N, int64_t P, const double *image, const double *text, const int32_t *group,
                   int64_t top, double forth, double back)
{
    double image_to_text, text_to_image;
    retrieval_accuracy(N, P, image, text, group, top, &image_to_text, &text_to_image);
    assert_within(image_to_text, forth, 1e-15);
    assert_within(text_to_image, back, 1e-15);
}

/* Angles of 0, 40, 80 degrees for pictures; of 10, 30, 90 for prompts. The second picture is nearest to its
 * prompt; back, the second prompt is as well. */
static void angles(void **state)
{
    (void)state;
    const double pictures[3] = {0, 40, 80}, prompts[3] = {10, 30, 90}, crossed[3] = {30, 10, 90};
    const int32_t apart[3] = {0, 1, 2}, pair[3] = {0, 0, 2};
    double image[6], text[6], other[6];
    for (int i = 0; i < 3; i++) {
        double length = i + 0.5, degree = acos(-1) / 180;
        image[2 * i] = length * cos(pictures[i] * degree),
                  image[2 * i + 1] = length * sin(pictures[i] * degree);
        text[2 * i] = cos(prompts[i] * degree), text[2 * i + 1] = sin(prompts[i] * degree);
        other[2 * i] = cos(crossed[i] * degree), other[2 * i + 1] = sin(crossed[i] * degree);
    }
    expect(3, 2, image, text, apart, 1, 1, 1);
    // Prompts 0 and 1 exchanged: picture 0 is nearest to 10 degrees, picture 1 to 30, so both find the
    // other's.
    expect(3, 2, image, other, apart, 1, 1.0 / 3, 1.0 / 3);
    expect(3, 2, image, other, apart, 2, 1, 1);
    expect(3, 2, image, other, pair, 1, 1, 1); // one prompt for both
}

/* A wrong one that is as near counts first. */
static void ties_are_not_found(void **state)
{
    (void)state;
    const double image[4] = {1, 0, 0, 1}, text[4] = {1, 1, 1, 1};
    const int32_t apart[2] = {0, 1}, pair[2] = {0, 0};
    expect(2, 2, image, text, apart, 1, 0, 0);
    expect(2, 2, image, text, apart, 2, 1, 1);
    expect(2, 2, image, text, pair, 1, 1, 1);
}

enum { N = 40, P = 6 };

static void as_sorting_says(void **state)
{
    (void)state;
    double *image = random_normals(70, N * P), *text = random_normals(71, N * P);
    int32_t group[N];
    for (int i = 0; i < N; i++) group[i] = i % 7 == 6 ? i - 6 : i;
    for (int i = 0; i < N * P; i++) text[i] += image[i];
    for (int64_t top = 1; top <= 10; top += 3) {
        double found[2] = {0, 0};
        for (int way = 0; way < 2; way++)
            for (int i = 0; i < N; i++) {
                double cosine[N];
                int rank = 0, best = -1;
                for (int j = 0; j < N; j++) {
                    const double *x = (way ? text : image) + i * P, *y = (way ? image : text) + j * P;
                    double xy = 0, xx = 0, yy = 0;
                    for (int k = 0; k < P; k++) xy += x[k] * y[k], xx += x[k] * x[k], yy += y[k] * y[k];
                    cosine[j] = xy / sqrt(xx * yy);
                    if (group[j] == group[i] && (best < 0 || cosine[j] > cosine[best])) best = j;
                }
                for (int j = 0; j < N; j++) rank += group[j] != group[i] && cosine[j] > cosine[best];
                found[way] += rank < top;
            }
        expect(N, P, image, text, group, top, found[0] / N, found[1] / N);
        assert_true(top > 1 || (found[0] < N && found[1] < N)); // else nothing is told apart
    }
    free(image);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(angles),
        cmocka_unit_test(ties_are_not_found),
        cmocka_unit_test(as_sorting_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
