// HDF5 layer: what is written is read back; broken files, wrong shapes, a full disk.
#define _GNU_SOURCE
#include "base/check.h"
#include "base/random.h"
#include "io/half.h"
#include "io/hdf5_private.h"
#include "support/files.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/faults.h"

static const struct h5_parent parents[] = {{"data.h5", "0123"}, {"teacher.h5", "4567"}};
static char deck[6001]; // longer than HDF5 keeps an attribute under a checksum unless told to
static const struct h5_provenance provenance = {
    .program = "1.0",
    .commit = "abc",
    .deck = deck,
    .seed = UINT64_MAX,
    .ranks = 2,
    .hosts = "a b",
    .backend = "cpu fp32",
    .time = "2026-01-01T00:00:00Z",
    .parent = parents,
    .parents = 2,
};

static struct fault fault;

static int make_folder(void **state)
{
    fault = (struct fault){0};
    memset(deck, 'd', sizeof deck - 1);
    *state = scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    scratch_remove(*state);
    return 0;
}

enum { N = 37, T = 5, D = 7 };

// A data.h5 with every type, streams and whole datasets.
static void write_sample(const char *path, int64_t block, char id[SHA256_HEX_SIZE])
{
    struct random_key key = {.seed = 1, .stream = RANDOM_TEST};
    static float states[N * T * D], embedding[N * D];
    static uint8_t pixels[N * 2 * 4 * 4 * 3];
    static char text[N][40];
    const char *captions[N];
    int32_t length[N];
    random_normal(key, N * T * D, states);
    random_normal(key, N * D, embedding);
    for (int i = 0; i < N * 2 * 4 * 4 * 3; i++) pixels[i] = (uint8_t)random_below(key, (uint64_t)i, 256);
    for (int i = 0; i < N; i++) {
        length[i] = i % T + 1;
        snprintf(text[i], sizeof text[i], i % 5 ? "caption %d, \xc3\xa9t\xc3\xa9 %.*s" : "", i, i % 9,
                 "xxxxxxxxx");
        captions[i] = text[i];
    }
    struct h5_writer *writer;
    struct h5_rows *state_rows, *pixel_rows, *caption_rows, *length_rows;
    GOOD(h5_create(path, FILE_DATA, &writer, &fault));
    GOOD(h5_rows_create(writer, "train/text_states", H5_FLOAT16, 3, (int64_t[]){0, T, D}, 4, 0, &state_rows,
                        &fault));
    GOOD(h5_rows_create(writer, "train/pixels", H5_UINT8, 5, (int64_t[]){0, 2, 4, 4, 3}, 8, 0, &pixel_rows,
                        &fault));
    GOOD(
        h5_rows_create(writer, "train/caption", H5_STRING, 1, (int64_t[]){0}, 16, 64, &caption_rows, &fault));
    GOOD(h5_rows_create(writer, "train/text_length", H5_INT32, 1, (int64_t[]){0}, 16, 0, &length_rows,
                        &fault));
    for (int64_t i = 0; i < N; i += block) {
        int64_t rows = N - i < block ? N - i : block;
        GOOD(h5_append_float(state_rows, rows, states + i * T * D, &fault));
        GOOD(h5_append_uint8(pixel_rows, rows, pixels + i * 96, &fault));
        GOOD(h5_append_strings(caption_rows, rows, captions + i, &fault));
        GOOD(h5_append_int32(length_rows, rows, length + i, &fault));
    }
    GOOD(h5_write_float(writer, "train/embedding", 2, (int64_t[]){N, D}, embedding, &fault));
    GOOD(h5_write_double(writer, "latent/scale", 1, (int64_t[]){3}, (double[]){0.5, 1e-300, -3}, &fault));
    GOOD(h5_write_text(writer, "latent/kind", "haar", &fault));
    GOOD(h5_write_int32(writer, "empty/text_length", 0, NULL, (int32_t[]){2}, &fault));
    GOOD(h5_write_strings(writer, "skipped/image", 1, (int64_t[]){0}, NULL, &fault));
    GOOD(h5_write_attribute_double(writer, "train", "note", 0.25, &fault));
    for (int i = 0; i < 40; i++) { // enough of them that HDF5 indexes the group by a tree
        char name[32];
        snprintf(name, sizeof name, "a%d/caption", i);
        GOOD(h5_write_text(writer, name, name, &fault));
    }
    GOOD(h5_finish(writer, &provenance, id, &fault));
}

static void what_is_written_is_read_back(void **state)
{
    char *path = scratch_path(*state, "data.h5"), id[SHA256_HEX_SIZE];
    write_sample(path, 10, id);
    assert_int_equal(folder_count(*state), 1);

    struct h5_reader *reader;
    struct h5_info info;
    GOOD(h5_open(path, FILE_DATA, &reader, &fault));
    assert_string_equal(h5_stored_content_id(reader), id);
    float *embedding, expected[N * T * D], row[2 * T * D];
    struct random_key key = {.seed = 1, .stream = RANDOM_TEST};
    random_normal(key, N * T * D, expected);
    GOOD(h5_load_float(reader, "train/embedding", 2, (int64_t[]){-1, D}, 1000, &embedding, &info, &fault));
    assert_int_equal(info.shape[0], N);
    assert_int_equal(info.type, H5_FLOAT32);
    assert_memory_equal(embedding, expected, N * D * sizeof(float));
    free(embedding);

    // halves, by rows, as floats, doubles and bits
    GOOD(h5_describe(reader, "train/text_states", &info, &fault));
    assert_int_equal(info.type, H5_FLOAT16);
    assert_int_equal(info.row, T * D);
    uint16_t half[2 * T * D], bits[2 * T * D];
    double wide[2 * T * D];
    half_from_float(expected + 9 * T * D, 2 * T * D, half);
    GOOD(h5_read_half(reader, "train/text_states", 9, 2, bits, &fault));
    assert_memory_equal(bits, half, sizeof half);
    GOOD(h5_read_float(reader, "train/text_states", 9, 2, row, &fault));
    GOOD(h5_read_double(reader, "train/text_states", 9, 2, wide, &fault));
    for (int i = 0; i < 2 * T * D; i++) {
        assert_true(fabsf(row[i] - expected[9 * T * D + i]) <= 0x1p-11f * fabsf(row[i]) + 0x1p-25f);
        assert_true(row[i] == wide[i]); // HDF5's own conversion
    }

    uint8_t pixels[N * 96];
    GOOD(h5_read_uint8(reader, "train/pixels", 0, N, pixels, &fault));
    for (int i = 0; i < N * 96; i++) assert_int_equal(pixels[i], random_below(key, (uint64_t)i, 256));
    int64_t lengths[N];
    GOOD(h5_read_int64(reader, "train/text_length", 0, N, lengths, &fault));
    for (int i = 0; i < N; i++) assert_int_equal(lengths[i], i % T + 1);
    struct h5_strings captions;
    GOOD(h5_read_strings(reader, "train/caption", 10, 3, 10000, &captions, &fault));
    assert_int_equal(captions.count, 3);
    assert_string_equal(captions.item[0], "");
    assert_string_equal(captions.item[1], "caption 11, \xc3\xa9t\xc3\xa9 xx");
    h5_strings_free(&captions);
    GOOD(h5_read_strings(reader, "skipped/image", 0, 0, 10000, &captions, &fault));
    assert_int_equal(captions.count, 0);
    h5_strings_free(&captions);
    double scale[3], note;
    GOOD(h5_read_double(reader, "latent/scale", 0, 3, scale, &fault));
    assert_true(scale[0] == 0.5 && scale[1] == 1e-300 && scale[2] == -3);
    char *text;
    GOOD(h5_load_text(reader, "latent/kind", 100, &text, &fault));
    assert_string_equal(text, "haar");
    free(text);
    int64_t number;
    GOOD(h5_read_one_int64(reader, "empty/text_length", &number, &fault));
    assert_int_equal(number, 2);
    GOOD(h5_attribute_double(reader, "train", "note", &note, &fault));
    assert_true(note == 0.25);
    GOOD(h5_attribute_string(reader, "train/embedding", "dimensions", &text, &fault));
    assert_string_equal(text, "[N, D]");
    free(text);
    GOOD(h5_attribute_string(reader, "/", "deck", &text, &fault));
    assert_string_equal(text, provenance.deck);
    free(text);

    struct h5_strings names;
    GOOD(h5_list(reader, "train", false, &names, &fault));
    assert_int_equal(names.count, 5);
    assert_string_equal(names.item[0], "caption");
    assert_string_equal(names.item[4], "text_states");
    h5_strings_free(&names);
    GOOD(h5_list(reader, "/", true, &names, &fault));
    assert_int_equal(names.count, 44);
    h5_strings_free(&names);
    assert_true(h5_exists(reader, "train/pixels"));
    assert_false(h5_exists(reader, "train/latents"));
    assert_false(h5_exists(reader, "nothing/at/all"));
    h5_close(reader);
    free(path);
}

static void content_id_is_of_the_content_alone(void **state)
{
    char *a = scratch_path(*state, "a.h5"), *b = scratch_path(*state, "b.h5");
    char id_a[SHA256_HEX_SIZE], id_b[SHA256_HEX_SIZE], again[SHA256_HEX_SIZE];
    write_sample(a, 10, id_a);
    write_sample(b, 1, id_b); // other blocks of rows, the same rows
    assert_string_equal(id_a, id_b);
    GOOD(h5_content_id(a, again, &fault));
    assert_string_equal(id_a, again);

    // One value, one name, one shape, one type: each gives another id.
    const char *const names[] = {"weights/a", "weights/a", "weights/b", "weights/a", "weights/a"};
    const int64_t shapes[][2] = {{2, 3}, {2, 3}, {2, 3}, {3, 2}, {2, 3}};
    char ids[5][SHA256_HEX_SIZE];
    for (int i = 0; i < 5; i++) {
        float values[6] = {1, 2, 3, 4, 5, i == 1 ? 7.0f : 6.0f};
        struct h5_writer *writer;
        GOOD(h5_create(a, FILE_TEACHER, &writer, &fault));
        GOOD((i == 4 ? h5_write_half : h5_write_float)(writer, names[i], 2, shapes[i], values, &fault));
        GOOD(h5_finish(writer, &provenance, ids[i], &fault));
        for (int j = 0; j < i; j++) assert_string_not_equal(ids[i], ids[j]);
    }
    free(a);
    free(b);
}

static void wrong_requests_are_faults(void **state)
{
    char *path = scratch_path(*state, "data.h5");
    write_sample(path, 10, NULL);
    struct h5_reader *reader;
    FAILS(h5_open(path, FILE_ROUTER, &reader, &fault), EXIT_CODE_INPUT,
          "is a data file; a router file is needed");
    GOOD(h5_open(path, FILE_DATA, &reader, &fault));
    struct h5_info info;
    float *values;
    int64_t number;
    int32_t small[N];
    char *text;
    struct h5_strings strings;
    FAILS(h5_describe(reader, "train/nothing", &info, &fault), EXIT_CODE_INPUT,
          "train/nothing: no such dataset");
    FAILS(h5_describe(reader, "train", &info, &fault), EXIT_CODE_INPUT,
          "train: cannot be opened as a dataset");
    FAILS(h5_load_float(reader, "train/embedding", 2, (int64_t[]){-1, 8}, 1000, &values, NULL, &fault),
          EXIT_CODE_INPUT, "train/embedding: shape is [37, 7], expected [any, 8]");
    FAILS(h5_load_float(reader, "train/embedding", 2, (int64_t[]){-1, -1}, 258, &values, NULL, &fault),
          EXIT_CODE_INPUT, "259 elements, at most 258 are allowed");
    FAILS(h5_load_float(reader, "train/caption", 1, (int64_t[]){-1}, 1000, &values, NULL, &fault),
          EXIT_CODE_INPUT, "holds string, which cannot be read as float32");
    FAILS(h5_read_int32(reader, "latent/scale", 0, 3, small, &fault), EXIT_CODE_INPUT,
          "holds float64, which cannot be read as int32");
    FAILS(h5_read_one_int64(reader, "train/text_length", &number, &fault), EXIT_CODE_INPUT,
          "shape is [37], expected [1]");
    FAILS(h5_read_strings(reader, "train/caption", 0, N, 100, &strings, &fault), EXIT_CODE_INPUT,
          "at most 100 bytes are allowed");
    FAILS(h5_read_strings(reader, "latent/scale", 0, 3, 100, &strings, &fault), EXIT_CODE_INPUT,
          "not strings");
    FAILS(h5_attribute_string(reader, "/", "nothing", &text, &fault), EXIT_CODE_INPUT,
          "attribute nothing of /");
    FAILS(h5_attribute_int64(reader, "/", "deck", &number, &fault), EXIT_CODE_INPUT, "is not an integer");
    FAILS(h5_list(reader, "nothing", false, &strings, &fault), EXIT_CODE_INPUT, "nothing: no such group");
    h5_close(reader);

    FAILS(h5_open("does-not-exist.h5", FILE_DATA, &reader, &fault), EXIT_CODE_INPUT,
          "does-not-exist.h5: No such file");
    FAILS(h5_open(*state, FILE_DATA, &reader, &fault), EXIT_CODE_INPUT, "not a regular file");
    file_write(path, "plain text", 10);
    FAILS(h5_open(path, FILE_DATA, &reader, &fault), EXIT_CODE_INPUT, "cannot be read as HDF5");
    struct h5_writer *writer;
    FAILS(h5_create("no-such-folder/a.h5", FILE_DATA, &writer, &fault), EXIT_CODE_OUTPUT,
          "no-such-folder/a.h5");
    FAILS(h5_create(*state, FILE_DATA, &writer, &fault), EXIT_CODE_OUTPUT, "not a regular file");
    free(path);
}

// A file made by other programs with the plain library: what PyTorch users' h5py writes.
static void foreign_files_are_read(void **state)
{
    char *path = scratch_path(*state, "foreign.h5");
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t scalar = H5Screate(H5S_SCALAR), text_type = H5Tcopy(H5T_C_S1), one;
    H5Tset_size(text_type, H5T_VARIABLE);
    H5Tset_cset(text_type, H5T_CSET_UTF8);
    const char *texts[2] = {"variable \xe2\x82\xac", ""};
    one = H5Acreate2(file, "model", text_type, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(one, text_type, texts);
    H5Aclose(one);
    one = H5Acreate2(file, "steps", H5T_STD_I16BE, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(one, H5T_NATIVE_SHORT, (short[]){-7});
    H5Aclose(one);
    hid_t two = H5Screate_simple(1, (hsize_t[]){2}, NULL);
    one = H5Dcreate2(file, "text", text_type, two, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(one, text_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, texts);
    H5Dclose(one);
    hid_t boolean = H5Tenum_create(H5T_STD_I8LE);
    H5Tenum_insert(boolean, "FALSE", (int8_t[]){0});
    H5Tenum_insert(boolean, "TRUE", (int8_t[]){1});
    one = H5Dcreate2(file, "mask", boolean, two, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(one, boolean, H5S_ALL, H5S_ALL, H5P_DEFAULT, (int8_t[]){0, 1});
    H5Dclose(one);
    one = H5Dcreate2(file, "loss", H5T_IEEE_F64BE, scalar, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(one, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, (double[]){1.5});
    H5Dclose(one);
    one = H5Dcreate2(file, "ids", H5T_STD_U64LE, two, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(one, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, (uint64_t[]){1, UINT64_MAX});
    H5Dclose(one);
    one = H5Dcreate2(file, "unwritten", H5T_STD_I32LE, two, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dclose(one);
    hid_t huge = H5Screate_simple(2, (hsize_t[]){1ull << 40, 1ull << 20}, NULL),
          plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(plist, 2, (hsize_t[]){16, 16});
    one = H5Dcreate2(file, "huge", H5T_STD_I32LE, huge, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Dclose(one);
    H5Pclose(plist);
    plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(plist, "/etc/passwd", 0, 8);
    one = H5Dcreate2(file, "external", H5T_STD_I32LE, two, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Dclose(one);
    H5Lcreate_external("other.h5", "/x", file, "link", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/text", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Pclose(plist);
    H5Sclose(scalar), H5Sclose(two), H5Sclose(huge), H5Tclose(text_type), H5Tclose(boolean);
    H5Fclose(file);

    struct h5_reader *reader;
    FAILS(h5_open(path, FILE_DATA, &reader, &fault), EXIT_CODE_INPUT, "not written by this program");
    GOOD(h5_open(path, FILE_REFERENCE, &reader, &fault));
    char *text;
    GOOD(h5_attribute_string(reader, "/", "model", &text, &fault));
    assert_string_equal(text, texts[0]);
    free(text);
    int64_t steps;
    double number;
    GOOD(h5_attribute_int64(reader, "/", "steps", &steps, &fault));
    assert_int_equal(steps, -7);
    GOOD(h5_attribute_double(reader, "/", "steps", &number, &fault));
    assert_true(number == -7);
    GOOD(h5_read_one_double(reader, "loss", &number, &fault));
    assert_true(number == 1.5);
    float *loss;
    GOOD(h5_load_float(reader, "loss", 0, NULL, 1, &loss, NULL, &fault));
    assert_true(*loss == 1.5f);
    free(loss);
    struct h5_strings strings;
    GOOD(h5_read_strings(reader, "text", 0, 2, 1000, &strings, &fault));
    assert_string_equal(strings.item[0], texts[0]);
    assert_string_equal(strings.item[1], "");
    h5_strings_free(&strings);
    GOOD(h5_read_strings(reader, "text", 1, 1, 1000, &strings, &fault));
    assert_int_equal(strings.count, 1);
    h5_strings_free(&strings);
    FAILS(h5_read_strings(reader, "text", 0, 2, 3, &strings, &fault), EXIT_CODE_INPUT,
          "at most 3 are allowed");
    uint8_t mask[2];
    int64_t wide[2];
    GOOD(h5_read_uint8(reader, "mask", 0, 2, mask, &fault));
    assert_true(mask[0] == 0 && mask[1] == 1);
    GOOD(h5_read_int64(reader, "mask", 0, 2, wide, &fault));
    assert_true(wide[0] == 0 && wide[1] == 1);
    FAILS(h5_read_int64(reader, "ids", 0, 2, wide, &fault), EXIT_CODE_INPUT, "cannot be read as int64");
    struct h5_info info;
    FAILS(h5_describe(reader, "unwritten", &info, &fault), EXIT_CODE_INPUT, "missing from the file");
    FAILS(h5_describe(reader, "huge", &info, &fault), EXIT_CODE_INPUT, "huge: ");
    FAILS(h5_describe(reader, "external", &info, &fault), EXIT_CODE_INPUT, "another file");
    FAILS(h5_describe(reader, "link", &info, &fault), EXIT_CODE_INPUT, "no such dataset");
    FAILS(h5_describe(reader, "soft", &info, &fault), EXIT_CODE_INPUT, "no such dataset");
    h5_close(reader);
    free(path);
}

static void half_agrees_with_hdf5(void **state)
{
    (void)state;
    h5_lock();
    static uint16_t half[65536], back[65536];
    static float value[65536], reference[65536];
    for (int i = 0; i < 65536; i++) half[i] = (uint16_t)i;
    for (int i = 0; i < 65536; i++) memcpy((uint16_t *)reference + i, half + i, 2);
    hid_t type = h5_make_half_type();
    assert_true(H5Tconvert(type, H5T_IEEE_F32LE, 65536, reference, NULL, H5P_DEFAULT) >= 0);
    H5Tclose(type);
    h5_unlock();
    half_to_float(half, 65536, value);
    for (int i = 0; i < 65536; i++) {
        if (isnan(reference[i])) {
            assert_true(isnan(value[i]));
        } else {
            assert_memory_equal(&value[i], &reference[i], 4);
        }
    }
    // Every finite half survives the way back; values between two halves go to the nearer, ties to even.
    for (int sign = 0; sign < 65536; sign += 32768) {
        assert_int_equal(half_from_float(value + sign, 0x7c00, back), -1);
        assert_memory_equal(back, half + sign, 0x7c00 * 2);
        for (int i = 0; i + 1 < 0x7c00; i++) {
            float low = value[sign + i], high = value[sign + i + 1], middle = 0.5f * (low + high);
            float cases[3] = {nextafterf(middle, low), middle, nextafterf(middle, high)};
            uint16_t found[3];
            assert_int_equal(half_from_float(cases, 3, found), -1);
            assert_int_equal(found[0], sign + i);
            assert_int_equal(found[1], sign + (i % 2 ? i + 1 : i));
            assert_int_equal(found[2], sign + i + 1);
        }
    }
    assert_int_equal(half_from_float((float[]){1, 65519.996f, 65520}, 3, back), 2);
    assert_int_equal(half_from_float((float[]){1, NAN}, 2, back), 1);
    assert_int_equal(half_from_float((float[]){-INFINITY}, 1, back), 0);
    // In place: many values, and up to one that does not fit.
    enum { MANY = 3000 };
    static float many[MANY], expected[MANY];
    static uint16_t halves[MANY];
    for (int i = 0; i < MANY; i++) many[i] = sinf((float)i) * (float)i;
    half_from_float(many, MANY, halves);
    half_to_float(halves, MANY, expected);
    assert_memory_not_equal(many, expected, sizeof many);
    assert_int_equal(half_round(many, MANY), -1);
    assert_memory_equal(many, expected, sizeof many);
    many[2500] = 70000;
    assert_int_equal(half_round(many, MANY), 2500);
}

static void halves_that_overflow_are_refused(void **state)
{
    char *path = scratch_path(*state, "teacher.h5");
    struct h5_writer *writer;
    GOOD(h5_create(path, FILE_TEACHER, &writer, &fault));
    FAILS(h5_write_half(writer, "weights/a", 1, (int64_t[]){2}, (float[]){1, 1e6f}, &fault), EXIT_CODE_OUTPUT,
          "weights/a: 1e+06 does not fit a 16-bit float");
    h5_abandon(writer);
    assert_int_equal(folder_count(*state), 0);
    free(path);
}

static void an_abandoned_file_leaves_the_old_one(void **state)
{
    char *path = scratch_path(*state, "data.h5"), id[SHA256_HEX_SIZE], now[SHA256_HEX_SIZE];
    write_sample(path, 10, id);
    struct h5_writer *writer, *second;
    struct h5_rows *rows;
    GOOD(h5_create(path, FILE_DATA, &writer, &fault));
    GOOD(h5_rows_create(writer, "train/embedding", H5_FLOAT32, 2, (int64_t[]){0, 3}, 0, 0, &rows, &fault));
    GOOD(h5_append_float(rows, 1, (float[]){1, 2, 3}, &fault));
    FAILS(h5_create(path, FILE_DATA, &second, &fault), EXIT_CODE_OUTPUT,
          "another process is writing this file");
    h5_abandon(writer);
    assert_int_equal(folder_count(*state), 1);
    GOOD(h5_content_id(path, now, &fault));
    assert_string_equal(id, now);
    free(path);
}

// Writes a file with a limit on its size, in a process of its own; exits with the fault's code.
static void write_limited(const char *path, rlim_t limit, bool streams)
{
    struct rlimit size = {limit, limit};
    setrlimit(RLIMIT_FSIZE, &size);
    struct h5_writer *writer;
    struct fault found = {0};
    if (!h5_create(path, FILE_TEACHER, &writer, &found)) exit(found.code);
    static float values[300000];
    bool good = true;
    if (streams) {
        struct h5_rows *rows;
        good = h5_rows_create(writer, "weights/a", H5_FLOAT32, 2, (int64_t[]){0, 1000}, 0, 0, &rows, &found);
        for (int i = 0; i < 300 && good; i++) good = h5_append_float(rows, 1, values, &found);
    }
    for (int i = 0; i < 20 && good; i++) {
        char name[32];
        snprintf(name, sizeof name, "ema/%d", i);
        good = h5_write_float(writer, name, 1, (int64_t[]){i % 2 ? 100 : 60000}, values, &found);
    }
    if (good) {
        good = h5_finish(writer, &provenance, NULL, &found);
    } else {
        h5_abandon(writer);
    }
    if (!good && (!strstr(found.text, path) || !strstr(found.text, "File too large"))) exit(99);
    exit(good ? 0 : (int)found.code);
}

static void a_full_disk_is_a_fault(void **state)
{
    char *path = scratch_path(*state, "teacher.h5");
    int failures = 0, successes = 0;
    // From nothing at all, through the middle of data and metadata, to enough.
    for (rlim_t limit = 0; limit < 5000000; limit = limit < 4000 ? limit + 500 : limit + limit / 4) {
        for (int streams = 0; streams < 2; streams++) {
            pid_t child = fork();
            if (child == 0) write_limited(path, limit, streams);
            int status;
            waitpid(child, &status, 0);
            assert_true(WIFEXITED(status));
            if (WEXITSTATUS(status) == 0) {
                successes++;
                assert_int_equal(folder_count(*state), 1);
                char id[SHA256_HEX_SIZE];
                GOOD(h5_content_id(path, id, &fault));
                remove(path);
            } else {
                failures++;
                assert_int_equal(WEXITSTATUS(status), EXIT_CODE_OUTPUT);
                assert_int_equal(folder_count(*state), 0);
            }
        }
    }
    assert_true(failures >= 50 && successes >= 2);
    free(path);
}

static void damaged_files_are_faults(void **state)
{
    char *path = scratch_path(*state, "data.h5");
    write_sample(path, 10, NULL);
    struct damage damage = damage_flips(path, read_whole_h5, 0, 0, 200, 1);
    print_message("flips: %d faults, %d same\n", damage.faults, damage.same);
    assert_int_equal(damage.wrong + damage.crashes, 0);
    // the superblock, the root group and its attributes
    damage = damage_flips(path, read_whole_h5, 0, 2048, 200, 2);
    print_message("flips at the start: %d faults, %d same\n", damage.faults, damage.same);
    assert_int_equal(damage.wrong + damage.crashes, 0);
    assert_true(damage.faults > 0);
    damage = damage_cuts(path, read_whole_h5, 50, 3);
    assert_int_equal(damage.faults, 50);
    free(path);
}

static void *write_and_read(void *folder)
{
    struct fault own = {0};
    char name[64];
    snprintf(name, sizeof name, "%lx.h5", (unsigned long)pthread_self());
    char *path = scratch_path(folder, name);
    double values[100], *back;
    bool good = true;
    for (int i = 0; i < 3 && good; i++) {
        for (int k = 0; k < 100; k++) values[k] = i + k;
        struct h5_writer *writer;
        good = h5_create(path, FILE_ROUTER, &writer, &own) &&
               h5_write_double(writer, "history/loss", 1, (int64_t[]){100}, values, &own) &&
               h5_finish(writer, &provenance, NULL, &own);
        for (int again = 0; again < 100 && good; again++) {
            struct h5_reader *reader;
            good = h5_open(path, FILE_ROUTER, &reader, &own) &&
                   h5_load_double(reader, "history/loss", 1, (int64_t[]){100}, 100, &back, NULL, &own);
            if (!good) break;
            good = memcmp(back, values, sizeof values) == 0;
            free(back);
            h5_close(reader);
        }
    }
    free(path);
    return good ? NULL : "wrong";
}

static void threads_may_share_the_library(void **state)
{
    pthread_t thread[3];
    void *wrong;
    for (int i = 0; i < 3; i++) pthread_create(&thread[i], NULL, write_and_read, *state);
    for (int i = 0; i < 3; i++) {
        pthread_join(thread[i], &wrong);
        assert_null(wrong);
    }
}

// Misuse by the program ends it: the exit code of a failed CHECK.
static void misuse_fails_a_check(void **state)
{
    char *path = scratch_path(*state, "teacher.h5");
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct h5_writer *writer;
            struct fault own = {0};
            fclose(stderr);
            float values[6] = {0};
            h5_create(path, FILE_TEACHER, &writer, &own);
            h5_write_float(writer, "weights/a", 1, (int64_t[]){2}, values, &own);
            if (i == 0) h5_write_float(writer, "weight/a", 1, (int64_t[]){2}, values, &own);
            if (i == 1) h5_write_float(writer, "weights/a", 1, (int64_t[]){2}, values, &own);
            if (i == 2) h5_write_int32(writer, "weights/b", 1, (int64_t[]){2}, (int32_t[]){1, 2}, &own);
            if (i == 3) h5_write_double(writer, "history/loss", 2, (int64_t[]){1, 1}, (double[]){1}, &own);
            _exit(i == 4 ? 77 : 0);
        }
        int status;
        waitpid(child, &status, 0);
        assert_int_equal(WEXITSTATUS(status), i == 4 ? 77 : EXIT_CODE_INTERNAL);
    }
    free(path);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read_back),
        TEST(content_id_is_of_the_content_alone),
        TEST(wrong_requests_are_faults),
        TEST(foreign_files_are_read),
        TEST(half_agrees_with_hdf5),
        TEST(halves_that_overflow_are_refused),
        TEST(an_abandoned_file_leaves_the_old_one),
        TEST(a_full_disk_is_a_fault),
        TEST(damaged_files_are_faults),
        TEST(threads_may_share_the_library),
        TEST(misuse_fails_a_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
