#define _GNU_SOURCE // memmem
// Published folders that lie: a small one that describes a huge network, weights of another type, files that
// are cut or have more than they should. Each must end in a fault, before memory is asked for.
#include "base/check.h"
#include "base/memory.h"
#include "models/sentence_encoder.h"
#include "models/unet_folder.h"
#include "support/files.h"
#include "tensor/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/faults.h"

enum { MOST_MEMORY = 100 << 20 }; // bytes beyond what is held before; the networks below have gigabytes

static struct fault fault;
static struct backend *backend;
static char *folder;

static bool load_unet(const char *path)
{
    struct unet_config config;
    if (!unet_folder_config(path, 32, &config, &fault)) return false;
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    bool done = unet_folder_load(path, unet, false, &fault);
    unet_delete(unet);
    return done;
}

static bool load_sentence_encoder(const char *path)
{
    struct sentence_encoder encoder;
    struct sentence_encoder_options options = {.batch = 1, .dtype = DTYPE_F32};
    bool done = sentence_encoder_open(&encoder, backend, path, options, &fault);
    if (done) sentence_encoder_close(&encoder);
    return done;
}

static const struct model {
    const char *fixture, *weights;
    bool (*load)(const char *path);
} unet = {"unet_sd1", "diffusion_pytorch_model.safetensors", load_unet},
  encoder = {"bert_small", "model.safetensors", load_sentence_encoder};

static void copy_fixture(const struct model *model)
{
    char *command = check_format("cp -r test/fixtures/%s/. %s", model->fixture, folder);
    assert_int_equal(system(command), 0);
    free(command);
}

// Replaces the first `old` of a file in the folder by as many or other bytes.
static void edit(const char *name, const char *old, const char *new)
{
    char *path = scratch_path(folder, name);
    size_t size;
    char *bytes = file_bytes(path, &size), *place = memmem(bytes, size, old, strlen(old));
    if (!place) fail_msg("%s has no %s", path, old);
    FILE *file = fopen(path, "wb");
    size_t before = (size_t)(place - bytes), behind = before + strlen(old);
    assert_int_equal(fwrite(bytes, 1, before, file), before);
    fputs(new, file);
    assert_int_equal(fwrite(bytes + behind, 1, size - behind, file), size - behind);
    fclose(file);
    free(bytes);
    free(path);
}

static void expect_refused(const struct model *model, const char *message)
{
    size_t before = memory_peak_reset() ? memory_peak() : SIZE_MAX - MOST_MEMORY;
    FAILS(model->load(folder), EXIT_CODE_INPUT, message);
    size_t more = memory_peak() - before;
    if (memory_peak() > before + MOST_MEMORY) fail_msg("%s: %zu MiB were taken", message, more >> 20);
}

static void huge_networks_are_refused(void **state)
{
    (void)state;
    copy_fixture(&unet);
    assert_true(unet.load(folder));
    edit("config.json", "\"cross_attention_dim\": 18", "\"cross_attention_dim\": 65536");
    expect_refused(&unet, "of another shape");
    copy_fixture(&unet);
    edit("config.json", "\"layers_per_block\": 2", "\"layers_per_block\": 15");
    edit("config.json", "\"block_out_channels\": [", "\"block_out_channels\": [65536, 65536], \"_\": [");
    expect_refused(&unet, "");
    copy_fixture(&encoder);
    assert_true(encoder.load(folder));
    edit("config.json", "\"intermediate_size\": 72", "\"intermediate_size\": 65536");
    edit("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 256");
    edit("config.json", "\"type_vocab_size\": 2", "\"type_vocab_size\": 1024");
    expect_refused(&encoder, "missing (encoder.layer.2.attention.self.query.weight, ");
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct model *const models[] = {&unet, &encoder};
    for (int i = 0; i < 2; i++) {
        const struct model *model = models[i];
        copy_fixture(model);
        edit(model->weights, "\"F32\"", "\"I32\"");
        expect_refused(model, "type is I32, allowed are F32, F16 and BF16");
        copy_fixture(model);
        edit(model->weights, "\"F32\"", "\"F64\"");
        expect_refused(model, "elements of F64 need");
        copy_fixture(model);
        char *path = scratch_path(folder, model->weights);
        size_t size;
        char *bytes = file_bytes(path, &size);
        assert_int_equal(truncate(path, (off_t)size - 1), 0);
        expect_refused(model, "");
        file_write(path, bytes, size + 1); // its last byte is the zero behind
        expect_refused(model, "tensors end at byte ");
        assert_int_equal(truncate(path, (off_t)1 << 40), 0); // sparse: a terabyte that takes no disk
        expect_refused(model, "tensors end at byte ");
        free(bytes);
        free(path);
    }
}

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    backend = backend_open(BACKEND_CPU);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    backend_close(backend);
    char *command = check_format("rm -r %s", folder);
    int status = system(command);
    free(command);
    free(folder);
    return status;
}

int main(void)
{
#ifndef __SANITIZE_ADDRESS__ // which reserves terabytes
    struct rlimit memory = {8ul << 30,
                            8ul << 30}; // a network that is allocated must not take the machine down
    setrlimit(RLIMIT_AS, &memory);
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(huge_networks_are_refused, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(weights_that_do_not_fit_are_refused, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
