#define _XOPEN_SOURCE 700 // symlink, mkfifo
// safetensors: tensors of three types, and every way in which a file can lie.
#include "base/check.h"
#include "base/random.h"
#include "io/half.h"
#include "io/safetensors.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static char *folder, *path;

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    path = scratch_path(folder, "model.safetensors");
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    free(path);
    scratch_remove(folder);
    return 0;
}

// A file of that header, whose length may be told wrong, and `bytes` bytes of data 0, 1, 2, ...
static void write_file(const char *name, const char *header, uint64_t told, size_t bytes)
{
    uint64_t length = strlen(header), field = told ? told : length;
    size_t size = 8 + length + bytes;
    unsigned char *file = malloc(size);
    memcpy(file, &field, 8);
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < bytes; i++) file[8 + length + i] = (unsigned char)i;
    file_write(name, file, size);
    free(file);
}

static void write_model(const char *header, uint64_t told, size_t bytes)
{
    write_file(path, header, told, bytes);
}

static void tensors_are_read_as_float(void **state)
{
    (void)state;
    // 2 floats, 3 halves, 2 bfloat16, an empty tensor, a scalar integer; names out of order
    const char *header = "{\"__metadata__\": {\"format\": \"pt\"},"
                         "\"z\": {\"dtype\": \"F32\", \"shape\": [1, 2], \"data_offsets\": [0, 8]},"
                         "\"h\": {\"dtype\": \"F16\", \"shape\": [3], \"data_offsets\": [8, 14]},"
                         "\"b\": {\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [14, 18]},"
                         "\"e\": {\"dtype\": \"F32\", \"shape\": [0, 4], \"data_offsets\": [18, 18]},"
                         "\"i\": {\"dtype\": \"I64\", \"shape\": [], \"data_offsets\": [18, 26]}}   ";
    const float z[2] = {1.5f, -3e38f};
    const uint16_t h[3] = {0x3c00, 0x0001, 0xfbff}, b[2] = {0x3f80, 0xc040};
    size_t length = strlen(header);
    char file[1024];
    uint64_t told = length;
    memcpy(file, &told, 8);
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length, z, 8);
    memcpy(file + 16 + length, h, 6);
    memcpy(file + 22 + length, b, 4);
    memset(file + 26 + length, 1, 8);
    file_write(path, file, length + 34);

    struct safetensors *model;
    GOOD(safetensors_open(path, &model, &fault));
    assert_int_equal(safetensors_count(model), 5);
    assert_string_equal(safetensors_info(model, 0)->name, "b");
    assert_string_equal(safetensors_info(model, 4)->name, "z");
    assert_null(safetensors_find(model, "__metadata__"));
    assert_int_equal(safetensors_find(model, "z")->rank, 2);
    assert_int_equal(safetensors_find(model, "i")->elements, 1);
    float out[4];
    GOOD(safetensors_read(model, "z", 2, (int64_t[]){1, 2}, out, &fault));
    assert_true(out[0] == 1.5f && out[1] == -3e38f);
    GOOD(safetensors_read(model, "h", 1, (int64_t[]){-1}, out, &fault));
    assert_true(out[0] == 1 && out[1] == 0x1p-24f && out[2] == -65504);
    GOOD(safetensors_read(model, "b", 1, (int64_t[]){2}, out, &fault));
    assert_true(out[0] == 1 && out[1] == -3);
    GOOD(safetensors_read(model, "e", 2, (int64_t[]){0, 4}, out, &fault));
    FAILS(safetensors_read(model, "i", 0, NULL, out, &fault), EXIT_CODE_INPUT,
          "i: type is I64, allowed are F32, F16 and BF16");
    FAILS(safetensors_read(model, "z", 2, (int64_t[]){2, 1}, out, &fault), EXIT_CODE_INPUT,
          "z: shape is [1, 2], expected [2, 1]");
    FAILS(safetensors_read(model, "z", 1, (int64_t[]){2}, out, &fault), EXIT_CODE_INPUT,
          "z: shape is [1, 2]");
    FAILS(safetensors_read(model, "none", 1, (int64_t[]){2}, out, &fault), EXIT_CODE_INPUT, "no tensor none");
    // cut while it is open
    file_write(path, file, length + 20);
    FAILS(safetensors_read(model, "b", 1, (int64_t[]){2}, out, &fault), EXIT_CODE_INPUT,
          "the file ends there");
    safetensors_close(model);
}

static void files_that_lie_are_refused(void **state)
{
    (void)state;
#define TENSOR(name, type, shape, offsets)                                                                   \
    "\"" name "\": {\"dtype\": \"" type "\", \"shape\": " shape ", \"data_offsets\": " offsets "}"
    static const struct {
        const char *header;
        uint64_t told;
        size_t bytes;
        const char *text;
    } cases[] = {
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 0, 7, "allowed an integer in 0..7"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 0, 9, "tensors end at byte 8 of the data, which has 9"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 100000001, 8, "header of 100000001 bytes"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", UINT64_MAX, 8, "header of 18446744073709551615 bytes"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 1000, 8, "header of 1000 bytes"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 1, 8, "header of 1 bytes"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 20, 8, "not valid JSON"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") ", " TENSOR("a", "F32", "[2]", "[8, 16]") "}", 0, 16,
         "duplicate"},
        {"{" TENSOR("a", "F32", "[1]", "[0, 4]") ", " TENSOR("b", "F32", "[1]", "[8, 12]") "}", 0, 12,
         "a hole"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") ", " TENSOR("b", "F32", "[2]", "[4, 12]") "}", 0, 12,
         "overlaps"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8]") ", " TENSOR("b", "F32", "[2]", "[0, 8]") "}", 0, 8,
         "overlaps"},
        {"{" TENSOR("a", "F32", "[3]", "[0, 8]") "}", 0, 8, "8 bytes from 0 to 8, but 3 elements"},
        {"{" TENSOR("a", "F32", "[2]", "[8, 0]") "}", 0, 8, "-8 bytes"},
        {"{" TENSOR("a", "F32", "[-2]", "[0, 8]") "}", 0, 8, "found -2"},
        {"{" TENSOR("a", "F32", "[4294967296, 4294967296]", "[0, 0]") "}", 0, 0, "too large"},
        {"{" TENSOR("a", "F32", "[4611686018427387904]", "[0, 0]") "}", 0, 0, "elements of F32"},
        {"{" TENSOR("a", "Q4", "[2]", "[0, 8]") "}", 0, 8, "a.dtype: unknown type Q4"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0, 8]") "}", 0, 8, "allowed at most 8"},
        {"{" TENSOR("a", "F32", "[2]", "[0, 8, 9]") "}", 0, 8, "found 3 elements"},
        {"{" TENSOR("a", "F32", "[2]", "[0]") "}", 0, 8, "found 1 offsets"},
        {"{" TENSOR("a", "F32", "2", "[0, 8]") "}", 0, 8, "a.shape: found an integer, allowed an array"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [2]}}", 0, 8, "`data_offsets` is missing"},
        {"{\"a\": 1}", 0, 8, "a: found an integer, allowed an object"},
        {"[]", 0, 8, "not an object"},
    };
    struct safetensors *model;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_model(cases[i].header, cases[i].told, cases[i].bytes);
        FAILS(safetensors_open(path, &model, &fault), EXIT_CODE_INPUT, cases[i].text);
    }
    write_model("{}", 0, 0);
    GOOD(safetensors_open(path, &model, &fault));
    assert_int_equal(safetensors_count(model), 0);
    safetensors_close(model);
    FAILS(safetensors_open("none.safetensors", &model, &fault), EXIT_CODE_INPUT,
          "none.safetensors: No such file");
    FAILS(safetensors_open(folder, &model, &fault), EXIT_CODE_INPUT, "not a regular file");
    file_write(path, "1234567", 7);
    FAILS(safetensors_open(path, &model, &fault), EXIT_CODE_INPUT, "7 bytes are too few");
}

static bool read_all(const char *name, struct sha256 *hash, struct fault *found)
{
    struct safetensors *model;
    float out[64];
    if (!safetensors_open(name, &model, found)) return false;
    bool good = true;
    for (int i = 0; i < safetensors_count(model) && good; i++) {
        const struct safetensors_info *info = safetensors_info(model, i);
        if (info->elements > 64) break;
        good = safetensors_read(model, info->name, info->rank, info->shape, out, found);
        sha256_add(hash, out, good ? (size_t)info->elements * sizeof(float) : 0);
    }
    safetensors_close(model);
    return good;
}

// The format has no checksum: damage may give other values, but never a crash.
static void damage_never_crashes(void **state)
{
    (void)state;
    write_model("{" TENSOR("a", "F32", "[2, 2]", "[0, 16]") ", " TENSOR("b", "F16", "[4]", "[16, 24]") "}", 0,
                24);
    struct damage damage = damage_flips(path, read_all, 0, 0, 300, 5);
    assert_int_equal(damage.crashes, 0);
    assert_true(damage.faults > 100);
    damage = damage_cuts(path, read_all, 50, 6);
    assert_int_equal(damage.faults, 50);
}

// ---- folders

static void write_part(const char *parts, const char *name, const char *header, size_t bytes)
{
    char *file = scratch_path(parts, name);
    write_file(file, header, 0, bytes);
    free(file);
}

static void write_index(const char *parts, const char *name, const char *text)
{
    char *file = scratch_path(parts, name);
    file_write(file, text, strlen(text));
    free(file);
}

#define PART_1 "{" TENSOR("a", "F32", "[2]", "[0, 8]") ", " TENSOR("c", "F16", "[1]", "[8, 10]") "}"
#define PART_2 "{" TENSOR("b", "U8", "[3]", "[0, 3]") "}"
#define MAP(text) "{\"metadata\": {\"total_size\": 13}, \"weight_map\": {" text "}}"

static void parts_are_read_as_one_file(void **state)
{
    (void)state;
    char *parts = scratch_make();
    struct safetensors *model;
    float out[2];
    FAILS(safetensors_open_folder(parts, "model", &model, &fault), EXIT_CODE_INPUT, "no weights here");

    // from the last to the first of the forms: each comes before those written so far
    write_part(parts, "one", PART_1, 10);
    write_part(parts, "two", PART_2, 3);
    write_index(parts, "model.safetensors.index.fp16.json",
                MAP("\"b\": \"two\", \"c\": \"one\", \"a\": \"one\""));
    GOOD(safetensors_open_folder(parts, "model", &model, &fault));
    assert_int_equal(safetensors_count(model), 3);
    assert_int_equal(safetensors_parts(model), 2);
    assert_string_equal(safetensors_info(model, 1)->name, "b");
    assert_string_equal(safetensors_info(model, 1)->type, "U8");
    GOOD(safetensors_read(model, "c", 1, (int64_t[]){1}, out, &fault)); // bytes 8 and 9 of the second part
    uint16_t half = 0x0908;
    float expected;
    half_to_float(&half, 1, &expected);
    assert_true(out[0] == expected);
    assert_non_null(strstr(safetensors_path(model), "model.safetensors.index.fp16.json"));
    safetensors_close(model);

    static const struct {
        const char *name, *header; // of a part, or an index
        size_t bytes;
        const char *path; // of what is opened
    } forms[] = {
        {"model.fp16.safetensors", PART_2, 3, "model.fp16.safetensors"},
        {"model.safetensors.index.json", NULL, 0, "model.safetensors.index.json"},
        {"model.safetensors", PART_2, 3, "model.safetensors"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (forms[i].header)
            write_part(parts, forms[i].name, forms[i].header, forms[i].bytes);
        else
            write_index(parts, forms[i].name, MAP("\"b\": \"two\""));
        GOOD(safetensors_open_folder(parts, "model", &model, &fault));
        assert_non_null(strstr(safetensors_path(model), forms[i].path));
        assert_int_equal(safetensors_count(model), 1);
        safetensors_close(model);
    }
    scratch_remove(parts);
}

static void indexes_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index, *text;
    } cases[] = {
        {"{}", "`weight_map` is missing"},
        {"{\"weight_map\": []}", "weight_map: allowed is an object"},
        {"{\"weight_map\": {}}", "weight_map: allowed is an object"},
        {"{\"weight_map\": {\"a\": 1}}", "weight_map.a: found an integer"},
        {MAP("\"a\": \"/one\""), "found \"/one\", allowed is the name of a file in the folder"},
        {MAP("\"a\": \"../one\""), "allowed is the name of a file in the folder"},
        {MAP("\"a\": \"x/one\""), "allowed is the name of a file in the folder"},
        {MAP("\"a\": \"..\""), "allowed is the name of a file in the folder"},
        {MAP("\"a\": \"\""), "allowed is the name of a file in the folder"},
        {MAP("\"a\": \"none\""), "No such file"},
        {MAP("\"a\": \"loop\""), "symbolic links"},
        {MAP("\"a\": \"pipe\""), "not a regular file"},
        {MAP("\"a\": \"one\", \"c\": \"one\", \"d\": \"two\", \"b\": \"two\""), "weight_map.d: "},
        {MAP("\"a\": \"one\", \"c\": \"two\", \"b\": \"two\""), "weight_map.c: it stands in "},
        {MAP("\"a\": \"one\", \"b\": \"two\""), "holds c, which is not named here"},
        {MAP("\"a\": \"one\", \"c\": \"one\", \"b\": \"three\""), "a stands in "},
    };
    char *parts = scratch_make(), *loop = scratch_path(parts, "loop"), *pipe = scratch_path(parts, "pipe");
    struct safetensors *model;
    write_part(parts, "one", PART_1, 10);
    write_part(parts, "two", PART_2, 3);
    write_part(parts, "three",
               "{" TENSOR("a", "U8", "[1]", "[0, 1]") ", " TENSOR("b", "U8", "[2]", "[1, 3]") "}", 3);
    assert_int_equal(symlink("loop", loop), 0);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_index(parts, "model.safetensors.index.json", cases[i].index);
        FAILS(safetensors_open_folder(parts, "model", &model, &fault), EXIT_CODE_INPUT, cases[i].text);
    }
    free(loop);
    free(pipe);
    scratch_remove(parts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_read_as_float),    cmocka_unit_test(files_that_lie_are_refused),
        cmocka_unit_test(damage_never_crashes),         cmocka_unit_test(parts_are_read_as_one_file),
        cmocka_unit_test(indexes_that_lie_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
