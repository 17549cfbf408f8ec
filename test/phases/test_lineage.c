/* Which files of a chain belong together. */
#include "phases/lineage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct lineage example(void)
{
    struct lineage lineage = {
        .latent.kind = LATENT_HAAR, .text_encoder = "text", .sentence_encoder = "sentence"};
    for (int c = 0; c < latent_channels(LATENT_HAAR); c++) lineage.latent.scale[c] = 1 + c;
    return lineage;
}

static void expect_refused(const struct lineage *a, const struct lineage *b, const char *message)
{
    struct fault fault = {0};
    assert_false(lineage_check(a, "a.h5", b, "b.h5", &fault));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
    assert_non_null(strstr(fault.text, message));
    assert_non_null(strstr(fault.text, "a.h5"));
    assert_non_null(strstr(fault.text, "b.h5"));
}

static void expect_accepted(const struct lineage *a, const struct lineage *b)
{
    struct fault fault = {0};
    assert_true(lineage_check(a, "a.h5", b, "b.h5", &fault));
    assert_int_equal(fault.code, EXIT_CODE_OK);
}

static void the_same(void **state)
{
    (void)state;
    struct lineage a = example(), b = example();
    expect_accepted(&a, &b);
}

static void other_latents(void **state)
{
    (void)state;
    struct lineage a = example(), b = example();
    b.latent.kind = LATENT_PIXEL;
    expect_refused(&a, &b, "a.h5 has haar latents, b.h5 has pixel latents");
}

/* Every channel counts, either way; the limit of 1 % is the one that lineage.h states. */
static void other_factors(void **state)
{
    (void)state;
    for (int c = 0; c < latent_channels(LATENT_HAAR); c++) {
        struct lineage a = example(), b = example();
        b.latent.scale[c] *= 1.009;
        expect_accepted(&a, &b);
        expect_accepted(&b, &a);
        b.latent.scale[c] *= 1.003;
        expect_refused(&a, &b, "belong together");
        expect_refused(&b, &a, "belong together");
    }
}

static void other_encoders(void **state)
{
    (void)state;
    struct lineage a = example(), b = example();
    b.text_encoder = "another";
    expect_refused(&a, &b, "different text encoders");
    b = example();
    b.sentence_encoder = "another";
    expect_refused(&a, &b, "different sentence encoders");
    b.sentence_encoder = ""; // a teacher has none
    expect_accepted(&a, &b);
    expect_accepted(&b, &a);
}

/* The id counts for a VAE's latents alone. */
static void other_vaes(void **state)
{
    (void)state;
    struct lineage a = example(), b = example();
    a.latent.kind = b.latent.kind = LATENT_VAE;
    strcpy(a.vae, "one");
    strcpy(b.vae, "one");
    expect_accepted(&a, &b);
    strcpy(b.vae, "another");
    expect_refused(&a, &b, "different VAEs (one, another)");
}

/* A VAE's latents are no pictures for this program; the others are. */
static void pictures_of_latents(void **state)
{
    (void)state;
    for (int kind = 0; kind < LATENT_KINDS; kind++) {
        struct lineage lineage = {.latent.kind = (enum latent_kind)kind};
        struct fault fault = {0};
        assert_int_equal(lineage_check_pictures(&lineage, "data.h5", "do another thing", &fault),
                         kind != LATENT_VAE);
        if (kind != LATENT_VAE) continue;
        assert_non_null(strstr(fault.text, "data.h5 has latents of a VAE"));
        assert_non_null(strstr(fault.text, ": do another thing"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same),      cmocka_unit_test(other_latents),
        cmocka_unit_test(other_factors), cmocka_unit_test(other_encoders),
        cmocka_unit_test(other_vaes),    cmocka_unit_test(pictures_of_latents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
