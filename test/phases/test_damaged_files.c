/* Flipped bits in the files of a small chain: readers of the phases give a fault, or every value is as it was
 * (DESIGN section 6). Needs the program and the Python environment: the chain is made by
 * test/support/chain.py. */
#include "base/check.h"
#include "phases/clip_file.h"
#include "phases/router_file.h"
#include "phases/teacher.h"
#include "support/files.h"
#include "train/dataset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef __SANITIZE_ADDRESS__
enum { FLIPS = 20, CUTS = 4 }; // each takes seconds there; the plain build does them all
#else
enum { FLIPS = 200, CUTS = 20 };
#endif

/* All that pretrain and prune read: every item of both splits, with its mirror image and the empty prompt. */
static bool read_data(const char *path, struct sha256 *hash, struct fault *fault)
{
    static const char *const splits[] = {"train", "validation"};
    struct lineage lineage;
    if (!lineage_open(path, FILE_DATA, &lineage, fault)) return false;
    sha256_add(hash, &lineage.latent.kind, sizeof lineage.latent.kind);
    sha256_add(hash, lineage.latent.scale, (size_t)latent_channels(lineage.latent.kind) * sizeof(double));
    sha256_add(hash, lineage.text_encoder, strlen(lineage.text_encoder));
    lineage_clear(&lineage);
    bool ok = true;
    for (int s = 0; ok && s < 2; s++) {
        struct dataset *dataset;
        if (!dataset_open(path, splits[s], NULL, &dataset, fault)) return false;
        const struct dataset_info info = *dataset_info(dataset);
        for (int64_t item = 0; ok && item < info.items; item++) {
            struct batch batch;
            dataset_ask(dataset, 3, (int64_t[]){item, item, item}, (int[]){0, (int)info.views - 1, 0},
                        (bool[]){false, false, true});
            ok = dataset_take(dataset, &batch, fault);
            if (!ok) break;
            size_t floats = 3 * sizeof(float);
            sha256_add(hash, batch.latents, floats * (size_t)(info.channels * info.height * info.width));
            sha256_add(hash, batch.text_states, floats * (size_t)(info.tokens * info.text_width));
            sha256_add(hash, batch.text_mask, floats * (size_t)info.tokens);
            sha256_add(hash, batch.embeddings, floats * (size_t)info.embedding_width);
        }
        dataset_close(dataset);
    }
    return ok;
}

static bool read_teacher(const char *path, struct sha256 *hash, struct fault *fault)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct teacher teacher;
    bool ok = teacher_read(path, backend, DTYPE_F32, (struct teacher_gates){32, true}, true, &teacher, fault);
    if (ok) teacher_clear(&teacher);
    backend_close(backend);
    return ok &&
           read_whole_h5(path, hash, fault); // frozen weights are packed: their values are those of the file
}

static bool read_clip(const char *path, struct sha256 *hash, struct fault *fault)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct clip_file file;
    bool ok = clip_file_read(path, backend, DTYPE_F32, &file, fault);
    if (ok) {
        sha256_add(hash, file.text_weight, (size_t)(file.width * file.embedding_width) * sizeof(float));
        sha256_add(hash, file.clip->mean, sizeof file.clip->mean);
        sha256_add(hash, file.clip->deviation, sizeof file.clip->deviation);
        sha256_add(hash, file.sentence_encoder, strlen(file.sentence_encoder));
        clip_file_clear(&file);
    }
    backend_close(backend);
    return ok && read_whole_h5(path, hash, fault); // frozen weights, as above
}

static bool read_router(const char *path, struct sha256 *hash, struct fault *fault)
{
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct routing routing;
    bool ok = routing_open(path, backend, &routing, fault);
    if (ok) {
        const struct router *router = routing.router;
        size_t n = (size_t)router->n, K = (size_t)router->config.K, D = (size_t)router->config.D;
        sha256_add(hash, router->weight, n * D * sizeof(double));
        sha256_add(hash, router->bias, n * sizeof(double));
        sha256_add(hash, router->codes, K * n * sizeof(double));
        sha256_add(hash, router->draw, K * n * sizeof(double));
        sha256_add(hash, routing.config_text, strlen(routing.config_text));
        sha256_add(hash, routing.teacher_id, strlen(routing.teacher_id));
        sha256_add(hash, &routing.budget, sizeof routing.budget);
        routing_clear(&routing);
    }
    backend_close(backend);
    return ok;
}

static int make_chain(void **state)
{
    const char *program = getenv("APTP_PROGRAM");
    char *folder = scratch_make();
    char *command = check_format("build/venv/bin/python test/support/chain.py %s %s",
                                 program ? program : "./aptp", folder);
    int status = system(command);
    free(command);
    *state = folder;
    return status;
}

static int remove_chain(void **state)
{
    char *command = check_format("rm -r %s/pictures", (char *)*state);
    int status = system(command);
    free(command);
    scratch_remove(*state);
    return status;
}

static void expect_safe(void **state, const char *name, file_reader reader, uint64_t seed)
{
    char *path = scratch_path(*state, name);
    struct damage flips = damage_flips(path, reader, 0, 0, FLIPS, seed),
                  cuts = damage_cuts(path, reader, CUTS, seed);
    print_message("%s: of %d flips %d faults, %d same; of %d cuts %d faults\n", name, FLIPS, flips.faults,
                  flips.same, CUTS, cuts.faults);
    assert_int_equal(flips.wrong + cuts.wrong, 0);
    assert_int_equal(flips.crashes + cuts.crashes, 0);
    assert_int_equal(flips.faults + flips.same, FLIPS);
    assert_int_equal(cuts.faults, CUTS);
    assert_true(flips.faults > 0);
    free(path);
}

static void data_by_the_phases_reader(void **state)
{
    expect_safe(state, "data.h5", read_data, 1);
}

static void data_whole(void **state)
{
    expect_safe(state, "data.h5", read_whole_h5, 2);
}

static void teacher_by_the_phases_reader(void **state)
{
    expect_safe(state, "teacher.h5", read_teacher, 3);
}

static void teacher_checkpoint(void **state)
{
    expect_safe(state, "pretrain.checkpoint.h5", read_whole_h5, 4);
}

static void router_by_the_phases_reader(void **state)
{
    expect_safe(state, "router.h5", read_router, 5);
}

static void router_checkpoint(void **state)
{
    expect_safe(state, "prune.checkpoint.h5", read_whole_h5, 6);
}

static void clip_by_the_phases_reader(void **state)
{
    expect_safe(state, "clip.h5", read_clip, 8);
}

static void assignment_whole(void **state)
{
    expect_safe(state, "assignment.h5", read_whole_h5, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_by_the_phases_reader),    cmocka_unit_test(data_whole),
        cmocka_unit_test(teacher_by_the_phases_reader), cmocka_unit_test(teacher_checkpoint),
        cmocka_unit_test(router_by_the_phases_reader),  cmocka_unit_test(router_checkpoint),
        cmocka_unit_test(clip_by_the_phases_reader),    cmocka_unit_test(assignment_whole),
    };
    return cmocka_run_group_tests(tests, make_chain, remove_chain);
}
