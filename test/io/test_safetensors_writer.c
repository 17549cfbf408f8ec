// safetensors that are written: read back by our reader, and byte by byte; what a half cannot hold; what is
// left of a failure.
#include "io/safetensors_writer.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static char *folder, *path;

// Of several ranks, one a scalar, one empty; an odd number of elements before the last.
static const struct safetensors_plan plan[] = {
    {"conv.weight", 4, {2, 1, 3, 1}}, {"scalar", 0, {0}}, {"empty", 2, {0, 5}}, {"bias", 1, {3}}};
enum { TENSORS = sizeof plan / sizeof *plan };
static const float conv[6] = {1.5f, -2, 0, 65504, 6e-8f, 0.1f}, scalar[1] = {-7}, bias[3] = {1, 2, 3};

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    path = scratch_path(folder, "made.safetensors");
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    free(path);
    scratch_remove(folder);
    return 0;
}

static void write_floats(enum safetensors_type type)
{
    struct safetensors_writer *writer;
    GOOD(safetensors_create(path, type, TENSORS, plan, &writer, &fault));
    GOOD(safetensors_append_float(writer, conv, &fault));
    GOOD(safetensors_append_float(writer, scalar, &fault));
    GOOD(safetensors_append_float(writer, NULL, &fault));
    GOOD(safetensors_append_float(writer, bias, &fault));
    GOOD(safetensors_finish(writer, &fault));
}

static void check_floats(const char *type, const float *expected_conv)
{
    struct safetensors *file;
    float values[6];
    GOOD(safetensors_open(path, &file, &fault));
    assert_int_equal(safetensors_count(file), TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        const struct safetensors_info *info = safetensors_find(file, plan[i].name);
        assert_non_null(info);
        assert_string_equal(info->type, type);
        assert_int_equal(info->rank, plan[i].rank);
        assert_memory_equal(info->shape, plan[i].shape, (size_t)info->rank * sizeof *info->shape);
    }
    GOOD(safetensors_read(file, "conv.weight", 4, plan[0].shape, values, &fault));
    assert_memory_equal(values, expected_conv, sizeof conv);
    GOOD(safetensors_read(file, "scalar", 0, NULL, values, &fault));
    assert_memory_equal(values, scalar, sizeof scalar);
    GOOD(safetensors_read(file, "bias", 1, plan[3].shape, values, &fault));
    assert_memory_equal(values, bias, sizeof bias);
    safetensors_close(file);
}

static void floats_come_back(void **state)
{
    (void)state;
    write_floats(SAFETENSORS_F32);
    check_floats("F32", conv);
}

static void halves_are_the_nearest(void **state)
{
    (void)state;
    const float nearest[6] = {1.5f, -2, 0, 65504, 0x1p-24f, 0x1.998p-4f}; // of 6e-8 and 0.1
    write_floats(SAFETENSORS_F16);
    check_floats("F16", nearest);
}

// The whole file, as the format's description has it: length, header in blanks up to a multiple of 8, data.
static void doubles_lie_as_told(void **state)
{
    (void)state;
    const struct safetensors_plan two[] = {{"b", 2, {1, 2}}, {"a", 1, {1}}};
    const double b[2] = {0.1, -1e300}, a[1] = {3};
    struct safetensors_writer *writer;
    GOOD(safetensors_create(path, SAFETENSORS_F64, 2, two, &writer, &fault));
    GOOD(safetensors_append_double(writer, b, &fault));
    GOOD(safetensors_append_double(writer, a, &fault));
    GOOD(safetensors_finish(writer, &fault));

    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"F64\",\"shape\":[1,2],\"data_offsets\":[0,16]},"
                         "\"a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[16,24]}}";
    size_t size;
    char *bytes = file_bytes(path, &size);
    uint64_t length;
    memcpy(&length, bytes, 8);
    assert_true(length >= strlen(header) && length < strlen(header) + 8 && length % 8 == 0);
    assert_int_equal(size, 8 + length + 24);
    assert_memory_equal(bytes + 8, header, strlen(header));
    for (size_t i = strlen(header); i < length; i++) assert_int_equal(bytes[8 + i], ' ');
    assert_memory_equal(bytes + 8 + length, b, 16);
    assert_memory_equal(bytes + 24 + length, a, 8);
    free(bytes);
}

static void too_large_for_a_half(void **state)
{
    (void)state;
    float large[6] = {0, 0, 0, 70000, 0, 0};
    struct safetensors_writer *writer;
    write_floats(SAFETENSORS_F32);
    GOOD(safetensors_create(path, SAFETENSORS_F16, TENSORS, plan, &writer, &fault));
    FAILS(safetensors_append_float(writer, large, &fault), EXIT_CODE_OUTPUT,
          "conv.weight: element 3 is 70000, which a half cannot hold");
    safetensors_abandon(writer);
    check_floats("F32", conv);                 // the file is as it was,
    assert_int_equal(folder_count(folder), 1); // and nothing lies beside it
}

static void no_folder_no_file(void **state)
{
    (void)state;
    char *nowhere = scratch_path(folder, "missing/made.safetensors");
    struct safetensors_writer *writer;
    FAILS(safetensors_create(nowhere, SAFETENSORS_F32, TENSORS, plan, &writer, &fault), EXIT_CODE_OUTPUT,
          "No such file");
    safetensors_abandon(writer);
    free(nowhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_come_back),    cmocka_unit_test(halves_are_the_nearest),
        cmocka_unit_test(doubles_lie_as_told), cmocka_unit_test(too_large_for_a_half),
        cmocka_unit_test(no_folder_no_file),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
