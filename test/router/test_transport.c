/* Optimal transport: PyTorch, marginals, symmetries. */
#include "router/transport.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void plan_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"transport_b64_k16", "transport_b7_k3", "transport_b5_k8", "transport_b1_k3",
                           "transport_b9_k1"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        const double *similarity = fixture_doubles(fixture, "inputs/similarity");
        int64_t B = fixture_length(fixture, "inputs/similarity", 0),
                K = fixture_length(fixture, "inputs/similarity", 1);
        double *plan = check_malloc((size_t)(B * K) * sizeof *plan);
        int *expert = check_malloc((size_t)B * sizeof *expert);
        transport_plan(B, K, similarity, fixture_attribute(fixture, "eps"),
                       (int)fixture_attribute(fixture, "iterations"), plan);
        transport_experts(B, K, plan, expert);
        assert_near(B * K, plan, fixture_doubles(fixture, "outputs/plan"),
                    1e-12); // logarithms here, plain there
        const int64_t *expected = fixture_integers(fixture, "outputs/expert");
        for (int64_t b = 0; b < B; b++) assert_int_equal(expert[b], expected[b]);
        free(expert);
        free(plan);
        fixture_close(fixture);
    }
}

enum { B = 24, K = 4 };

/* Similarities of which code 0 is every prompt's favourite. */
static double *tempting_similarity(void)
{
    double *similarity = random_uniforms(30, B * K, 0.5, 0.9);
    for (int b = 0; b < B; b++) similarity[b * K] += 0.45;
    return similarity;
}

static void marginals_are_met(void **state)
{
    (void)state;
    double *similarity = tempting_similarity(), plan[B * K];
    for (int rounds = 1; rounds <= 200; rounds += 199) {
        transport_plan(B, K, similarity, 0.05, rounds, plan);
        for (int b = 0; b < B; b++) {
            double sum = 0;
            for (int k = 0; k < K; k++) {
                assert_true(plan[b * K + k] > 0);
                sum += plan[b * K + k];
            }
            assert_within(sum, 1, 1e-14); // the last thing done: prompts
        }
    }
    for (int k = 0; k < K; k++) { // after many rounds codes too
        double sum = 0;
        for (int b = 0; b < B; b++) sum += plan[b * K + k];
        assert_within(sum, B / (double)K, 1e-9);
    }
    free(similarity);
}

/* What it is for: no code starves, where plain argmax gives all to one. */
static void codes_are_used_alike(void **state)
{
    (void)state;
    double *similarity = tempting_similarity(), plan[B * K], use[K];
    int expert[B];
    transport_experts(B, K, similarity, expert);
    assert_within(transport_use(B, K, expert, use), 0, 1e-14);
    assert_within(use[0], 1, 1e-14);

    transport_plan(B, K, similarity, 0.05, 3, plan);
    transport_experts(B, K, plan, expert);
    double entropy = transport_use(B, K, expert, use), sum = 0;
    for (int k = 0; k < K; k++) {
        assert_true(use[k] > 0.1 && use[k] < 0.5);
        sum += use[k];
    }
    assert_within(sum, 1, 1e-14);
    assert_true(entropy > 0.9 * log(K) && entropy <= log(K) + 1e-14);
    free(similarity);
}

static void a_constant_changes_nothing(void **state)
{
    (void)state;
    double *similarity = tempting_similarity(), plan[B * K], shifted[B * K];
    transport_plan(B, K, similarity, 0.05, 3, plan);
    for (int b = 0; b < B; b++) // a code's own constant is undone by its first division
        for (int k = 0; k < K; k++) similarity[b * K + k] += 0.2 * k - 0.7;
    transport_plan(B, K, similarity, 0.05, 3, shifted);
    assert_near(B * K, shifted, plan, 1e-12);
    free(similarity);
}

static void order_of_prompts_and_codes_does_not_matter(void **state)
{
    (void)state;
    double *similarity = tempting_similarity(), plan[B * K], moved[B * K], moved_plan[B * K];
    transport_plan(B, K, similarity, 0.05, 3, plan);
    for (int b = 0; b < B; b++)
        for (int k = 0; k < K; k++) moved[((7 * b + 3) % B) * K + (3 * k + 1) % K] = similarity[b * K + k];
    transport_plan(B, K, moved, 0.05, 3, moved_plan);
    for (int b = 0; b < B; b++)
        for (int k = 0; k < K; k++)
            assert_within(moved_plan[((7 * b + 3) % B) * K + (3 * k + 1) % K], plan[b * K + k], 1e-13);
    free(similarity);
}

static void a_small_eps_stays_finite(void **state)
{
    (void)state;
    double *similarity = tempting_similarity(), plan[B * K];
    int expert[B];
    transport_plan(B, K, similarity, 1e-5, 3, plan); // exp(1/eps) is beyond a double
    for (int i = 0; i < B * K; i++) assert_true(plan[i] >= 0 && plan[i] <= 1);
    transport_experts(B, K, plan, expert);
    for (int b = 0; b < B; b++) assert_true(plan[b * K + expert[b]] > 0.2);
    free(similarity);
}

static void no_rounds_is_a_softmax_of_all(void **state)
{
    (void)state;
    double *similarity = tempting_similarity(), plan[B * K], sum = 0;
    transport_plan(B, K, similarity, 0.05, 0, plan);
    for (int i = 0; i < B * K; i++) sum += plan[i];
    assert_within(sum, B, 1e-12);
    assert_within(plan[5] / plan[17], exp((similarity[5] - similarity[17]) / 0.05), 1e-11);
    free(similarity);
}

static void the_first_of_equal_scores_wins(void **state)
{
    (void)state;
    int expert[3];
    transport_experts(3, 3, (double[]){1, 1, 1, 0, 2, 2, -1, -3, 0}, expert);
    assert_int_equal(expert[0], 0);
    assert_int_equal(expert[1], 1);
    assert_int_equal(expert[2], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_pytorchs),
        cmocka_unit_test(marginals_are_met),
        cmocka_unit_test(codes_are_used_alike),
        cmocka_unit_test(a_constant_changes_nothing),
        cmocka_unit_test(order_of_prompts_and_codes_does_not_matter),
        cmocka_unit_test(a_small_eps_stays_finite),
        cmocka_unit_test(no_rounds_is_a_softmax_of_all),
        cmocka_unit_test(the_first_of_equal_scores_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
