#include "support/fixture.h"

#include "base/check.h"
#include "io/hdf5_file.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_ARRAYS = 64 };

struct fixture {
    struct h5_reader *reader;
    void *array[MAX_ARRAYS]; /* owned */
    int arrays;
};

static void require(bool done, const struct fault *fault)
{
    CHECK(done, "%s", fault->text);
}

static void *keep(struct fixture *fixture, void *array)
{
    CHECK(fixture->arrays < MAX_ARRAYS, "more than %d arrays of one fixture", MAX_ARRAYS);
    return fixture->array[fixture->arrays++] = array;
}

struct fixture *fixture_open(const char *name)
{
    struct fault fault = {0};
    struct fixture *fixture = check_calloc(1, sizeof *fixture);
    char *path = check_format("test/fixtures/%s.h5", name);
    require(h5_open(path, FILE_REFERENCE, &fixture->reader, &fault), &fault);
    free(path);
    return fixture;
}

void fixture_close(struct fixture *fixture)
{
    for (int i = 0; i < fixture->arrays; i++) free(fixture->array[i]);
    h5_close(fixture->reader);
    free(fixture);
}

bool fixture_has(struct fixture *fixture, const char *dataset)
{
    return h5_exists(fixture->reader, dataset);
}

static struct h5_info describe(struct fixture *fixture, const char *dataset)
{
    struct fault fault = {0};
    struct h5_info info;
    require(h5_describe(fixture->reader, dataset, &info, &fault), &fault);
    return info;
}

/* Rows to ask for: all of them. */
static int64_t all_rows(const struct h5_info *info)
{
    return info->rank == 0 ? 1 : info->shape[0];
}

int64_t fixture_length(struct fixture *fixture, const char *dataset, int dimension)
{
    struct h5_info info = describe(fixture, dataset);
    CHECK(dimension < info.rank, "%s has %d dimensions", dataset, info.rank);
    return info.shape[dimension];
}

double *fixture_doubles(struct fixture *fixture, const char *dataset)
{
    struct fault fault = {0};
    struct h5_info info = describe(fixture, dataset);
    double *values = keep(fixture, check_calloc((size_t)info.elements, sizeof *values));
    if (info.elements > 0)
        require(h5_read_double(fixture->reader, dataset, 0, all_rows(&info), values, &fault), &fault);
    return values;
}

int64_t *fixture_integers(struct fixture *fixture, const char *dataset)
{
    struct fault fault = {0};
    struct h5_info info = describe(fixture, dataset);
    int64_t *values = keep(fixture, check_calloc((size_t)info.elements, sizeof *values));
    if (info.elements > 0)
        require(h5_read_int64(fixture->reader, dataset, 0, all_rows(&info), values, &fault), &fault);
    return values;
}

double fixture_number(struct fixture *fixture, const char *dataset)
{
    struct h5_info info = describe(fixture, dataset);
    CHECK(info.elements == 1, "%s has %lld elements", dataset, (long long)info.elements);
    return fixture_doubles(fixture, dataset)[0];
}

double fixture_attribute(struct fixture *fixture, const char *name)
{
    struct fault fault = {0};
    double value = 0;
    require(h5_attribute_double(fixture->reader, "/", name, &value, &fault), &fault);
    return value;
}

const char *fixture_text(struct fixture *fixture, const char *name)
{
    struct fault fault = {0};
    char *text = NULL;
    require(h5_attribute_string(fixture->reader, "/", name, &text, &fault), &fault);
    return keep(fixture, text);
}
