/* Weights to files and back, and the files that do not fit a network. */
#define _XOPEN_SOURCE 700 // mkdtemp
#include "models/weights.h"

#include "io/hdf5_file.h"
#include "nn/layers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* One parameter of each kind: plain, stacked with biases, a matrix that files hold as a 1x1 convolution, a
 * convolution, a norm. */
struct network {
    struct parameter_set set;
    struct linear plain, stacked;
    struct conv pointwise, conv;
    struct layer_norm norm;
};

static void network_init(struct network *network, struct backend *backend, int64_t width, float scale)
{
    static const char *const parts[] = {"query", "key", "value"};
    struct parameter_set *set = &network->set;
    parameter_set_init(set, backend);
    linear_init(&network->plain, set, 4, 3, true, "plain");
    linear_init_stacked_bias(&network->stacked, set, 4, width, "attention", 3, parts);
    conv_init(&network->pointwise, set, 4, 3, 1, 1, 0, "pointwise");
    conv_init(&network->conv, set, 2, 3, 3, 1, 1, "conv");
    layer_norm_init(&network->norm, set, 5, 1e-5f, "norm");
    parameter_set_allocate(set, false);
    for (int i = 0; i < set->count; i++) {
        float *value = set->items[i]->value.data; // the CPU's memory
        for (int64_t j = 0; j < tensor_count(&set->items[i]->value); j++)
            value[j] = scale * ((float)i + (float)j / 1000);
    }
}

static const float *values(const struct network *network, int parameter)
{
    return network->set.items[parameter]->value.data;
}

static void expect_equal(const struct network *a, const struct network *b, double tolerance)
{
    for (int i = 0; i < a->set.count; i++)
        for (int64_t j = 0; j < tensor_count(&a->set.items[i]->value); j++)
            if (!(fabsf(values(a, i)[j] - values(b, i)[j]) <= tolerance))
                fail_msg("%s[%d]: %g, expected %g", a->set.items[i]->part[0].name, (int)j, values(a, i)[j],
                         values(b, i)[j]);
}

struct folder {
    char path[64], file[96];
};

static struct folder folder_make(const char *name)
{
    struct folder folder = {.path = "/tmp/aptp-test-XXXXXX"};
    assert_non_null(mkdtemp(folder.path));
    snprintf(folder.file, sizeof folder.file, "%s/%s", folder.path, name);
    return folder;
}

static void folder_remove(const struct folder *folder)
{
    unlink(folder->file);
    rmdir(folder->path);
}

/* Writes the network's weights, and as "ema" its parameters times two. */
static void write_teacher(const struct network *network, const char *path, bool half)
{
    const struct parameter_set *set = &network->set;
    float **doubled = malloc((size_t)set->count * sizeof *doubled);
    for (int i = 0; i < set->count; i++) {
        int64_t count = tensor_count(&set->items[i]->value);
        doubled[i] = malloc((size_t)count * sizeof **doubled);
        for (int64_t j = 0; j < count; j++) doubled[i][j] = 2 * values(network, i)[j];
    }
    struct fault fault = {0};
    struct h5_writer *writer = NULL;
    struct h5_provenance provenance = {.program = "test",
                                       .commit = "",
                                       .deck = "",
                                       .ranks = 1,
                                       .hosts = "",
                                       .backend = "cpu fp32",
                                       .time = "2000-01-01T00:00:00Z"};
    if (!h5_create(path, FILE_TEACHER, &writer, &fault) ||
        !weights_write_h5(set, NULL, writer, "weights", half, &fault) ||
        !weights_write_h5(set, doubled, writer, "ema", false, &fault) ||
        !h5_finish(writer, &provenance, NULL, &fault))
        fail_msg("%s", fault.text);
    for (int i = 0; i < set->count; i++) free(doubled[i]);
    free(doubled);
}

static void expect_shape(struct h5_reader *reader, const char *name, int rank, const int64_t *shape)
{
    struct h5_info info;
    struct fault fault = {0};
    if (!h5_expect(reader, name, rank, shape, &info, &fault)) fail_msg("%s", fault.text);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct network written, read;
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct folder folder = folder_make("teacher.h5");
    network_init(&written, backend, 2, 1);
    network_init(&read, backend, 2, 0);
    write_teacher(&written, folder.file, false);
    if (!h5_open(folder.file, FILE_TEACHER, &reader, &fault) ||
        !weights_read_h5(&read.set, reader, "weights", &fault))
        fail_msg("%s", fault.text);
    expect_equal(&read, &written, 0);

    // PyTorch's names and shapes
    expect_shape(reader, "weights/plain.weight", 2, (int64_t[]){3, 4});
    expect_shape(reader, "weights/attention.key.weight", 2, (int64_t[]){2, 4});
    expect_shape(reader, "weights/attention.key.bias", 1, (int64_t[]){2});
    expect_shape(reader, "weights/pointwise.weight", 4, (int64_t[]){3, 4, 1, 1});
    expect_shape(reader, "weights/conv.weight", 4, (int64_t[]){3, 2, 3, 3});
    float key[8];
    assert_true(h5_read_float(reader, "weights/attention.key.weight", 0, 2, key, &fault));
    assert_memory_equal(key, values(&written, 2) + 8, sizeof key); // the second of three parts

    // values beside the masters
    struct network doubled, untouched;
    float *place[16];
    network_init(&doubled, backend, 2, 0);
    network_init(&untouched, backend, 2, 2);
    for (int i = 0; i < doubled.set.count; i++) place[i] = doubled.set.items[i]->value.data;
    if (!weights_read_values_h5(&read.set, place, reader, "ema", &fault)) fail_msg("%s", fault.text);
    expect_equal(&doubled, &untouched, 0);
    expect_equal(&read, &written, 0);

    h5_close(reader);
    folder_remove(&folder);
    parameter_set_clear(&written.set);
    parameter_set_clear(&read.set);
    parameter_set_clear(&doubled.set);
    parameter_set_clear(&untouched.set);
    backend_close(backend);
}

static void test_half(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct network written, read;
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct folder folder = folder_make("teacher.h5");
    network_init(&written, backend, 2, 1);
    network_init(&read, backend, 2, 0);
    write_teacher(&written, folder.file, true);
    if (!h5_open(folder.file, FILE_TEACHER, &reader, &fault) ||
        !weights_read_h5(&read.set, reader, "weights", &fault))
        fail_msg("%s", fault.text);
    expect_equal(&read, &written, 16 * 0x1p-12); // half a unit in the last of 11 digits, of values below 16
    h5_close(reader);
    folder_remove(&folder);
    parameter_set_clear(&written.set);
    parameter_set_clear(&read.set);
    backend_close(backend);
}

/* Reading the file into a network of another width, or of other layers, says what does not fit. */
static void test_misfits(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct network written, wider, before;
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct folder folder = folder_make("teacher.h5");
    network_init(&written, backend, 2, 1);
    write_teacher(&written, folder.file, false);
    assert_true(h5_open(folder.file, FILE_TEACHER, &reader, &fault));

    network_init(&wider, backend, 3, 5);
    network_init(&before, backend, 3, 5);
    assert_false(weights_read_h5(&wider.set, reader, "weights", &fault));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
    assert_non_null(strstr(fault.text, "teacher.h5: weights do not fit the network: 6 of another shape "
                                       "(attention.query.weight is [2, 4], allowed [3, 4], "));
    assert_null(strstr(fault.text, "missing"));
    expect_equal(&wider, &before, 0); // no value has moved

    struct parameter_set other;
    parameter_set_init(&other, backend);
    parameter_add(&other, true, 2, (int64_t[]){3, 4}, "plain.weight");
    parameter_add(&other, true, 2, (int64_t[]){3, 4}, "absent.weight");
    parameter_set_allocate(&other, false);
    fault = (struct fault){0};
    assert_false(weights_read_h5(&other, reader, "weights", &fault));
    assert_non_null(strstr(fault.text, "1 missing (absent.weight); 13 that the network does not have "
                                       "(attention.key.bias, attention.key.weight, attention.query.bias, "
                                       "attention.query.weight, ...)"));
    h5_close(reader);
    folder_remove(&folder);
    parameter_set_clear(&other);
    parameter_set_clear(&written.set);
    parameter_set_clear(&wider.set);
    parameter_set_clear(&before.set);
    backend_close(backend);
}

/* A safetensors file of the weight plain.weight [1, 2] and a buffer of integers. */
static void write_safetensors(const char *path, float first, float second)
{
    static const char header[] =
        "{\"buffer\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]},"
        "\"plain.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}}";
    uint64_t bytes = sizeof header - 1;
    int64_t buffer = 7;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&bytes, sizeof bytes, 1, file), 1); // little-endian, as the machines we run on
    assert_int_equal(fwrite(header, 1, bytes, file), bytes);
    assert_int_equal(fwrite((float[]){first, second}, sizeof(float), 2, file), 2);
    assert_int_equal(fwrite(&buffer, sizeof buffer, 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

static void open_set(struct parameter_set *set, struct backend *backend, const char *name)
{
    parameter_set_init(set, backend);
    parameter_add(set, true, 2, (int64_t[]){1, 2}, "%s", name);
}

static void expect_loaded(const struct folder *folder, const char *name, const struct weight_names *names)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    struct fault fault = {0};
    open_set(&set, backend, name);
    if (!weights_load_folder(&set, folder->path, "model", names, false, &fault)) fail_msg("%s", fault.text);
    assert_memory_equal(set.items[0]->value.data, ((float[]){3, 4}), 2 * sizeof(float));
    parameter_set_clear(&set);
    backend_close(backend);
}

static void expect_refused(const struct folder *folder, const char *name, const struct weight_names *names,
                           const char *text)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    struct fault fault = {0};
    open_set(&set, backend, name);
    assert_false(weights_load_folder(&set, folder->path, "model", names, false, &fault));
    if (!strstr(fault.text, text)) fail_msg("%s\ndoes not say: %s", fault.text, text);
    parameter_set_clear(&set);
    backend_close(backend);
}

static void test_published_folder(void **state)
{
    (void)state;
    static const char *const ignored[] = {"another", "buffer", NULL};
    static const char *const hidden[] = {"model.buffer", NULL};
    static const char *const old[][2] = {{".other.", ".new."}, {"plain.", "simple."}, {NULL, NULL}};
    static const char *const twice[][2] = {{"buffer", "plain.weight"}, {NULL, NULL}};
    struct folder folder = folder_make("model.safetensors");
    write_safetensors(folder.file, 3, 4);
    expect_loaded(&folder, "plain.weight", &(struct weight_names){.ignored = ignored});
    expect_refused(&folder, "plain.weight", NULL, "1 that the network does not have (buffer)");
    // names without a prefix, of parameters and of what is passed over; those of older versions
    expect_loaded(&folder, "model.plain.weight",
                  &(struct weight_names){.ignored = hidden, .optional_prefix = "model."});
    expect_loaded(&folder, "plain.weight",
                  &(struct weight_names){.ignored = ignored, .optional_prefix = "model."});
    expect_refused(&folder, "model.plain.weight", &(struct weight_names){.ignored = ignored},
                   "1 missing (model.plain.weight); 1 that the network does not have (plain.weight)");
    expect_loaded(&folder, "simple.weight", &(struct weight_names){.ignored = ignored, .renamed = old});
    expect_refused(&folder, "plain.weight", &(struct weight_names){.renamed = twice},
                   "1 there under another name too (plain.weight)");

    write_safetensors(folder.file, 5, NAN);
    expect_refused(&folder, "plain.weight", &(struct weight_names){.ignored = ignored},
                   "plain.weight: element 1 is not finite");
    folder_remove(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_half),
        cmocka_unit_test(test_misfits),
        cmocka_unit_test(test_published_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
