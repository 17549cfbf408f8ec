// The table of files: patterns and shapes as documented.
#include "io/file_schema.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void names_and_patterns_are_found(void **state)
{
    (void)state;
    assert_string_equal(file_schema_find(FILE_DATA, "train/caption")->path, "*/caption");
    assert_null(file_schema_find(FILE_DATA, "caption"));
    assert_null(file_schema_find(FILE_DATA, "/caption"));
    assert_null(file_schema_find(FILE_DATA, "train/captions"));
    assert_null(file_schema_find(FILE_ROUTER, "train/caption"));
    // an exact line before a pattern, whatever their order
    assert_string_equal(file_schema_find(FILE_DATA, "empty/text_states")->path, "empty/text_states");
    assert_string_equal(file_schema_find(FILE_ROUTER, "history/step")->path, "history/step");
    assert_string_equal(file_schema_find(FILE_ROUTER, "history/loss")->path, "history/*");
    assert_string_equal(file_schema_find(FILE_TEACHER, "weights/down_blocks.0.x")->path, "weights/*");
    assert_null(file_schema_find(FILE_TEACHER, "weights/"));
}

static void types_and_shapes_are_checked(void **state)
{
    (void)state;
    const struct file_schema_entry *pixels = file_schema_find(FILE_DATA, "train/pixels");
    assert_true(file_schema_allows(pixels, H5_UINT8, 5, (int64_t[]){9, 2, 32, 32, 3}));
    assert_false(file_schema_allows(pixels, H5_UINT8, 5, (int64_t[]){9, 2, 32, 32, 4}));
    assert_false(file_schema_allows(pixels, H5_UINT8, 4, (int64_t[]){9, 32, 32, 3}));
    assert_false(file_schema_allows(pixels, H5_UINT8, 6, (int64_t[]){9, 2, 32, 32, 3, 1}));
    assert_false(file_schema_allows(pixels, H5_FLOAT32, 5, (int64_t[]){9, 2, 32, 32, 3}));
    const struct file_schema_entry *step = file_schema_find(FILE_ROUTER, "training/step");
    assert_true(file_schema_allows(step, H5_INT64, 0, NULL));
    assert_true(file_schema_allows(step, H5_INT64, 1, (int64_t[]){1}));
    assert_false(file_schema_allows(step, H5_INT64, 1, (int64_t[]){2}));
    const struct file_schema_entry *weights = file_schema_find(FILE_TEACHER, "weights/a");
    assert_true(file_schema_allows(weights, H5_FLOAT16, 4, (int64_t[]){1, 2, 3, 4}));
    assert_false(file_schema_allows(weights, H5_FLOAT64, 4, (int64_t[]){1, 2, 3, 4}));
    const struct file_schema_entry *inputs = file_schema_find(FILE_REFERENCE, "inputs/a");
    assert_true(file_schema_allows(inputs, H5_INT32, 1, (int64_t[]){1}));
    assert_false(file_schema_allows(inputs, H5_OTHER, 1, (int64_t[]){1}));
}

// Both forms of the printed table have a line for every dataset of every kind.
static void the_table_is_printed(void **state)
{
    (void)state;
    for (int markdown = 0; markdown < 2; markdown++) {
        char *text = NULL;
        size_t size;
        FILE *stream = tmpfile();
        file_schema_print(stream, markdown);
        size = (size_t)ftell(stream);
        rewind(stream);
        text = calloc(1, size + 1);
        assert_int_equal(fread(text, 1, size, stream), size);
        fclose(stream);
        for (int kind = 0; kind < FILE_KINDS; kind++) {
            assert_non_null(strstr(text, file_schema_kind(kind)->name));
            assert_true(file_schema_kind(kind)->version >= 1);
        }
        assert_non_null(strstr(text, "*/text_states"));
        assert_non_null(strstr(text, "[N, V, H, W, 3]"));
        assert_non_null(strstr(text, "float16/float32"));
        assert_null(strstr(text, "(null)"));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_patterns_are_found),
        cmocka_unit_test(types_and_shapes_are_checked),
        cmocka_unit_test(the_table_is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
