/* The contrastive loss: PyTorch, the formula as it stands, finite differences, properties. */
#include "router/contrastive.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void loss_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"contrastive_b5", "contrastive_b2", "contrastive_b1", "contrastive_near"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        int64_t B = fixture_length(fixture, "inputs/z", 0), D = fixture_length(fixture, "inputs/z", 1);
        int64_t n = fixture_length(fixture, "inputs/architecture", 1);
        double *gradient = check_malloc((size_t)(B * n) * sizeof *gradient);
        double loss = contrastive_loss(B, D, fixture_doubles(fixture, "inputs/z"), n,
                                       fixture_doubles(fixture, "inputs/architecture"),
                                       fixture_attribute(fixture, "tau"), gradient);
        // Absolute limits: where prompts and architectures are hardly alike both are next to 0, and PyTorch
        // keeps 16 digits of log A only when counted from 1.
        assert_within(loss, fixture_number(fixture, "outputs/loss"), 1e-14);
        assert_true(largest_difference(B * n, gradient, fixture_doubles(fixture, "gradients/architecture")) <
                    5e-14);
        free(gradient);
        fixture_close(fixture);
    }
}

enum { B = 7, D = 5, N = 6 };

struct problem {
    double z[B * D], form[B * N], tau;
};

static void normalise(int64_t rows, int64_t width, double *x)
{
    for (int64_t r = 0; r < rows; r++) {
        double square = 0;
        for (int64_t i = 0; i < width; i++) square += x[r * width + i] * x[r * width + i];
        for (int64_t i = 0; i < width; i++) x[r * width + i] /= sqrt(square);
    }
}

/* Prompts alike and architectures alike, so that a row's softmax is not all its own. */
static struct problem problem_make(double tau)
{
    struct problem problem = {.tau = tau};
    double *z = random_normals(40, B * D), *form = random_normals(41, B * N);
    for (int i = 0; i < B * D; i++) problem.z[i] = z[i] + 3 * z[i % D];
    for (int i = 0; i < B * N; i++) problem.form[i] = form[i] + 3 * form[i % N];
    normalise(B, N, problem.form);
    free(form);
    free(z);
    return problem;
}

static double loss_of(const double *form, const void *context)
{
    const struct problem *p = context;
    return contrastive_loss(B, D, p->z, N, form, p->tau, NULL);
}

/* -(1/B^2) sum [T log A + (1-T) log(1-A)], the formula as METHOD writes it; good only where A is not next
 * to 1. */
static double naive_loss(const struct problem *p)
{
    double z[B * D], loss = 0;
    for (int i = 0; i < B * D; i++) z[i] = p->z[i];
    normalise(B, D, z);
    for (int i = 0; i < B; i++) {
        double T[B], A[B], sum_T = 0, sum_A = 0;
        for (int j = 0; j < B; j++) {
            double cos_z = 0, cos_a = 0;
            for (int d = 0; d < D; d++) cos_z += z[i * D + d] * z[j * D + d];
            for (int d = 0; d < N; d++) cos_a += p->form[i * N + d] * p->form[j * N + d];
            sum_T += T[j] = exp(cos_z / p->tau);
            sum_A += A[j] = exp(cos_a / p->tau);
        }
        for (int j = 0; j < B; j++)
            loss -= T[j] / sum_T * log(A[j] / sum_A) + (1 - T[j] / sum_T) * log(1 - A[j] / sum_A);
    }
    return loss / (B * B);
}

static void loss_is_the_formula_where_that_is_good(void **state)
{
    (void)state;
    struct problem problem = problem_make(0.5);
    assert_within(loss_of(problem.form, &problem), naive_loss(&problem), 1e-13);
}

static void gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    const double taus[] = {0.5, 0.1, 0.03};
    for (int t = 0; t < 3; t++) {
        struct problem problem = problem_make(taus[t]);
        double gradient[B * N];
        contrastive_loss(B, D, problem.z, N, problem.form, problem.tau, gradient);
        // truncation h^2 / tau^3
        double error = finite_difference_error(loss_of, &problem, B * N, problem.form, gradient, 1e-6);
        assert_true(error < 1e-7 * fmax(1, largest(B * N, gradient)));
        assert_true(largest(B * N, gradient) > 1e-3);
    }
}

/* z counts by its direction alone. */
static void length_of_z_does_not_matter(void **state)
{
    (void)state;
    struct problem problem = problem_make(0.03), scaled = problem;
    for (int i = 0; i < B * D; i++) scaled.z[i] *= 1 + 100 * (i / D);
    assert_within(loss_of(problem.form, &problem), loss_of(problem.form, &scaled), 1e-12);
}

static void order_of_the_batch_does_not_matter(void **state)
{
    (void)state;
    struct problem problem = problem_make(0.03), moved = problem;
    double gradient[B * N], moved_gradient[B * N];
    for (int b = 0; b < B; b++) {
        for (int i = 0; i < D; i++) moved.z[(3 * b + 2) % B * D + i] = problem.z[b * D + i];
        for (int i = 0; i < N; i++) moved.form[(3 * b + 2) % B * N + i] = problem.form[b * N + i];
    }
    double loss = contrastive_loss(B, D, problem.z, N, problem.form, 0.03, gradient);
    assert_within(contrastive_loss(B, D, moved.z, N, moved.form, 0.03, moved_gradient), loss, 1e-13);
    for (int b = 0; b < B; b++)
        for (int i = 0; i < N; i++)
            assert_within(moved_gradient[(3 * b + 2) % B * N + i], gradient[b * N + i], 1e-12);
}

/* Where architectures are alike as prompts are, A = T: nothing pulls. */
static void the_goal_is_a_stationary_point(void **state)
{
    (void)state;
    struct problem problem = problem_make(0.03);
    double form[B * D], gradient[B * D];
    for (int i = 0; i < B * D; i++) form[i] = problem.z[i];
    normalise(B, D, form);
    contrastive_loss(B, D, problem.z, D, form, 0.03, gradient);
    assert_true(largest(B * D, gradient) < 1e-13);
}

/* 1 - A is exp(-2/tau) here, far below a rounding of A. */
static void digits_survive_next_to_one(void **state)
{
    (void)state;
    const double z[4] = {1, 0, 0, 1},
                 form[4] = {1, 0, -1, 0}; // two prompts; T = softmax(1/tau, 0), A = (1/tau, -1/tau)
    double gradient[4], tau = 0.01;
    double loss = contrastive_loss(2, 2, z, 2, form, tau, gradient);
    double t = exp(-1 / tau), a = exp(-2 / tau); // T and A of the other prompt; also 1 - T, 1 - A of the own
    double expected = (2 * t * (2 / tau) + 2 * a) / 2; // (1/B^2) B rows of [t log(1/a) + ... ] twice
    assert_true(fabs(loss - expected) < 1e-9 * expected);
    assert_true(largest(4, gradient) > 0 && largest(4, gradient) < 1e-30);
    const double twins[4] = {1, 0, 1, 0};
    loss = contrastive_loss(2, 2, z, 2, twins, 1e-4, gradient); // prompts apart, architectures the same
    assert_true(fabs(loss - log(2)) < 1e-12);
    for (int i = 0; i < 4; i++) assert_true(isfinite(gradient[i]));
    loss = contrastive_loss(2, 2, twins, 2, form, 1e-4, gradient); // the other way round
    assert_true(fabs(loss - 1e4) < 1e-6); // half of pairs off by 2/tau, each with T = 1/2, twice
    for (int i = 0; i < 4; i++) assert_true(isfinite(gradient[i]));
}

/* Loss and largest gradient of this fixture in arithmetic of 60 digits; PyTorch's are off by 7e-8 and 2e-4 of
 * it. */
static void small_numbers_have_all_their_digits(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_open("contrastive_b5");
    double gradient[5 * 30];
    double loss = contrastive_loss(5, 12, fixture_doubles(fixture, "inputs/z"), 30,
                                   fixture_doubles(fixture, "inputs/architecture"), 0.03, gradient);
    const double true_loss = 1.0518202733861127e-10, true_gradient = 5.602600545677343e-11;
    double found = largest(5 * 30, gradient);
    assert_near(1, &loss, &true_loss, 1e-13); // cosines are rounded to 1e-16, then divided by tau
    assert_near(1, &found, &true_gradient, 1e-13);
    fixture_close(fixture);
}

static void one_prompt_has_no_loss(void **state)
{
    (void)state;
    struct problem problem = problem_make(0.03);
    double gradient[N] = {1, 2, 3};
    assert_true(contrastive_loss(1, D, problem.z, N, problem.form, 0.03, gradient) == 0);
    assert_true(largest(N, gradient) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_is_pytorchs),
        cmocka_unit_test(loss_is_the_formula_where_that_is_good),
        cmocka_unit_test(gradient_is_that_of_finite_differences),
        cmocka_unit_test(length_of_z_does_not_matter),
        cmocka_unit_test(order_of_the_batch_does_not_matter),
        cmocka_unit_test(the_goal_is_a_stationary_point),
        cmocka_unit_test(digits_survive_next_to_one),
        cmocka_unit_test(small_numbers_have_all_their_digits),
        cmocka_unit_test(one_prompt_has_no_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
