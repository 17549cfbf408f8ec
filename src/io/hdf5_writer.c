#include "io/hdf5_private.h"

#include "io/atomic_file.h"
#include "io/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WHOLE_CHUNK_BYTES = 1 << 20,  // of datasets written at once: read as a whole mostly
    ROWS_CHUNK_BYTES = 256 << 10, // of datasets that grow
    COMPACT_ATTRIBUTES = 1000,    // attributes that stay in the (checksummed) object header
};

// A dataset being written, by rows or at once.
struct h5_rows {
    struct h5_writer *writer;
    char *name; // owned
    hid_t id, memory_type;
    enum h5_type type;
    int rank;
    int64_t shape[H5_MAX_RANK]; // shape[0]: rows so far
    int64_t row;                // elements of a row
    int64_t string_size;        // H5_STRING: bytes of one
    bool grows;                 // its extent is set with each append
    struct sha256 *hash;        // of its elements; owned
    struct h5_rows *next;       // of the writer's open ones
};

struct h5_writer {
    struct atomic_file *atomic; // owned
    enum file_kind kind;
    struct h5_output output;
    hid_t file;
    struct h5_rows *open; // streams, owned
    struct h5_digest *digests;
    int digest_count, digest_capacity;
};

// In the writer's calls only a write can fail that is not a defect, and the driver keeps that to itself: so
// each call must succeed, unless data were lost already and HDF5 has read back what is not there.
#define WRITE_CHECK(writer, call) write_checked((writer), (call), __FILE__, __LINE__, #call)
static hid_t write_checked(const struct h5_writer *writer, hid_t result, const char *file, int line,
                           const char *call)
{
    return writer->output.error ? result : h5_checked(result, file, line, call);
}

static bool writer_good(const struct h5_writer *writer, struct fault *fault)
{
    return !writer->output.error ||
           fault_raise(fault, EXIT_CODE_OUTPUT, "%s: cannot write: %s", atomic_file_path(writer->atomic),
                       strerror(writer->output.error));
}

bool h5_create(const char *path, enum file_kind kind, struct h5_writer **writer, struct fault *fault)
{
    *writer = NULL;
    struct atomic_file *atomic;
    if (!atomic_file_create(path, &atomic, fault)) return false;
    *writer = check_calloc(1, sizeof **writer);
    **writer = (struct h5_writer){.atomic = atomic, .kind = kind};
    (*writer)->output.descriptor = atomic_file_descriptor(atomic);

    h5_lock();
    hid_t access = H5_CHECK(H5Pcreate(H5P_FILE_ACCESS)), creation = H5_CHECK(H5Pcreate(H5P_FILE_CREATE));
    h5_use_output(access, &(*writer)->output);
    H5_CHECK(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG));
    // The format of HDF5 1.10: the first whose every piece of metadata that we use has a checksum.
    H5_CHECK(H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110));
    H5_CHECK(H5Pset_attr_phase_change(creation, COMPACT_ATTRIBUTES, 0));
    H5_CHECK(H5Pset_obj_track_times(creation, false));
    (*writer)->file = WRITE_CHECK(*writer, H5Fcreate(path, H5F_ACC_TRUNC, creation, access));
    H5_CHECK(H5Pclose(creation));
    H5_CHECK(H5Pclose(access));
    h5_unlock();

    const struct file_schema_kind *schema = file_schema_kind(kind);
    if (h5_write_attribute_string(*writer, "/", H5_ATTRIBUTE_SCHEMA, schema->name, fault) &&
        h5_write_attribute_int64(*writer, "/", H5_ATTRIBUTE_VERSION, schema->version, fault)) {
        return true;
    }
    h5_abandon(*writer);
    *writer = NULL;
    return false;
}

// ---- attributes ----

// Writes an attribute of an open object; values NULL for none.
static void put_attribute(struct h5_writer *writer, hid_t object, const char *name, hid_t type, hid_t space,
                          const void *value)
{
    hid_t id = WRITE_CHECK(writer, H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
    WRITE_CHECK(writer, H5Awrite(id, type, value));
    WRITE_CHECK(writer, H5Aclose(id));
}

static hid_t make_string_type(size_t size)
{
    hid_t type = H5_CHECK(H5Tcopy(H5T_C_S1));
    H5_CHECK(H5Tset_size(type, size ? size : 1));
    H5_CHECK(H5Tset_strpad(type, H5T_STR_NULLPAD));
    H5_CHECK(H5Tset_cset(type, H5T_CSET_UTF8));
    return type;
}

static void put_string(struct h5_writer *writer, hid_t object, const char *name, const char *value)
{
    size_t length = strlen(value);
    CHECK(length <= H5_MAX_ATTRIBUTE, "%s: attribute %s has %zu bytes, at most %d are allowed",
          atomic_file_path(writer->atomic), name, length, H5_MAX_ATTRIBUTE);
    hid_t type = make_string_type(length), space = H5_CHECK(H5Screate(H5S_SCALAR));
    put_attribute(writer, object, name, type, space, value);
    H5_CHECK(H5Sclose(space));
    H5_CHECK(H5Tclose(type));
}

// A number attribute, or a text one where `text` is not NULL, of the object at a path.
static bool write_attribute(struct h5_writer *writer, const char *where, const char *name, hid_t type,
                            const void *value, const char *text, struct fault *fault)
{
    if (!writer_good(writer, fault)) return false;
    hid_t object = WRITE_CHECK(writer, H5Oopen(writer->file, where, H5P_DEFAULT));
    if (text) {
        put_string(writer, object, name, text);
    } else {
        hid_t space = H5_CHECK(H5Screate(H5S_SCALAR));
        put_attribute(writer, object, name, type, space, value);
        H5_CHECK(H5Sclose(space));
    }
    WRITE_CHECK(writer, H5Oclose(object));
    return writer_good(writer, fault);
}

bool h5_write_attribute_string(struct h5_writer *writer, const char *where, const char *name,
                               const char *value, struct fault *fault)
{
    h5_lock();
    bool good = write_attribute(writer, where, name, H5I_INVALID_HID, NULL, value, fault);
    h5_unlock();
    return good;
}

bool h5_write_attribute_double(struct h5_writer *writer, const char *where, const char *name, double value,
                               struct fault *fault)
{
    h5_lock();
    bool good = write_attribute(writer, where, name, H5T_IEEE_F64LE, &value, NULL, fault);
    h5_unlock();
    return good;
}

bool h5_write_attribute_int64(struct h5_writer *writer, const char *where, const char *name, int64_t value,
                              struct fault *fault)
{
    h5_lock();
    bool good = write_attribute(writer, where, name, H5T_STD_I64LE, &value, NULL, fault);
    h5_unlock();
    return good;
}

// ---- datasets ----

// Makes the groups on the way to a dataset that are not there yet.
static void make_groups(struct h5_writer *writer, const char *name)
{
    char *path = check_strdup(name);
    hid_t creation = H5_CHECK(H5Pcreate(H5P_GROUP_CREATE));
    H5_CHECK(H5Pset_attr_phase_change(creation, COMPACT_ATTRIBUTES, 0));
    H5_CHECK(H5Pset_obj_track_times(creation, false));
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (H5Lexists(writer->file, path, H5P_DEFAULT) <= 0) {
            hid_t group =
                WRITE_CHECK(writer, H5Gcreate2(writer->file, path, H5P_DEFAULT, creation, H5P_DEFAULT));
            WRITE_CHECK(writer, H5Gclose(group));
        }
        *slash = '/';
    }
    H5_CHECK(H5Pclose(creation));
    free(path);
}

// Chunk of about `bytes`, whole along the last dimensions as far as that goes.
static void choose_chunk(int rank, const int64_t *shape, int64_t element, int64_t bytes, hsize_t *chunk)
{
    int64_t left = bytes / element > 1 ? bytes / element : 1;
    for (int d = rank - 1; d >= 0; d--) {
        int64_t length = shape[d] > 0 ? shape[d] : 1;
        if (length > left) length = left;
        chunk[d] = (hsize_t)length;
        left /= length;
    }
}

// How the dataset is stored: chunked and checksummed; strings are compressed too, as most of one is padding.
static hid_t make_creation(int rank, const hsize_t *chunk, enum h5_type type)
{
    hid_t creation = H5_CHECK(H5Pcreate(H5P_DATASET_CREATE));
    H5_CHECK(H5Pset_chunk(creation, rank, chunk));
    if (type == H5_STRING && H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0) H5_CHECK(H5Pset_deflate(creation, 4));
    H5_CHECK(H5Pset_fletcher32(creation));
    H5_CHECK(H5Pset_fill_time(creation, H5D_FILL_TIME_ALLOC)); // zeros behind the last row of the last chunk
    H5_CHECK(H5Pset_attr_phase_change(creation, COMPACT_ATTRIBUTES, 0));
    H5_CHECK(H5Pset_obj_track_times(creation, false));
    return creation;
}

// Creates a dataset of the schema, empty. With `grows`, shape[0] is 0 and not bounded.
static struct h5_rows *dataset_create(struct h5_writer *writer, const char *name, enum h5_type type, int rank,
                                      const int64_t *shape, bool grows, int64_t chunk_rows,
                                      int64_t string_size)
{
    const char *path = atomic_file_path(writer->atomic);
    const struct file_schema_entry *entry = file_schema_find(writer->kind, name);
    CHECK(entry, "%s: dataset %s is not in the table of %s files", path, name,
          file_schema_kind(writer->kind)->name);
    CHECK(rank >= 1 && rank <= H5_MAX_RANK, "%s: dataset %s of rank %d", path, name, rank);
    CHECK(file_schema_allows(entry, type, rank, shape),
          "%s: dataset %s: %s of rank %d is not what the table says", path, name, h5_type_name(type), rank);
    CHECK(H5Lexists(writer->file, name, H5P_DEFAULT) <= 0, "%s: dataset %s written twice", path, name);

    struct h5_rows *rows = check_calloc(1, sizeof *rows);
    *rows = (struct h5_rows){.writer = writer, .name = check_strdup(name), .type = type, .rank = rank};
    rows->grows = grows;
    rows->string_size = string_size > 0 ? string_size : 1;
    rows->row = 1;
    rows->hash = sha256_new();
    hsize_t extent[H5_MAX_RANK], bound[H5_MAX_RANK], chunk[H5_MAX_RANK];
    for (int d = 0; d < rank; d++) {
        CHECK(shape[d] >= 0 && (!grows || d > 0 || shape[0] == 0), "%s: dataset %s: dimension %d is %lld",
              path, name, d, (long long)shape[d]);
        extent[d] = bound[d] = (hsize_t)shape[d];
        rows->shape[d] = shape[d];
        if (d > 0) rows->row *= shape[d];
    }
    if (grows) bound[0] = H5S_UNLIMITED;
    rows->shape[0] = 0;
    int64_t element = type == H5_STRING ? rows->string_size : (int64_t)h5_memory_size(type);
    int64_t unit[H5_MAX_RANK];
    memcpy(unit, shape, (size_t)rank * sizeof *unit);
    if (grows) unit[0] = chunk_rows > 0 ? chunk_rows : INT64_MAX;
    int64_t bytes = !grows ? WHOLE_CHUNK_BYTES : chunk_rows > 0 ? INT32_MAX : ROWS_CHUNK_BYTES;
    choose_chunk(rank, unit, element, bytes, chunk);

    make_groups(writer, name);
    rows->memory_type = type == H5_STRING ? make_string_type((size_t)element) : h5_make_memory_type(type);
    hid_t creation = make_creation(rank, chunk, type), access = H5_CHECK(H5Pcreate(H5P_DATASET_ACCESS));
    size_t chunk_bytes = (size_t)element;
    for (int d = 0; d < rank; d++) chunk_bytes *= chunk[d];
    H5_CHECK(H5Pset_chunk_cache(access, 521, 2 * chunk_bytes, 1.0)); // a chunk is filled by several appends
    hid_t space = H5_CHECK(H5Screate_simple(rank, extent, bound));
    rows->id = WRITE_CHECK(
        writer, H5Dcreate2(writer->file, name, rows->memory_type, space, H5P_DEFAULT, creation, access));
    H5_CHECK(H5Sclose(space));
    H5_CHECK(H5Pclose(access));
    H5_CHECK(H5Pclose(creation));
    put_string(writer, rows->id, "meaning", entry->meaning);
    put_string(writer, rows->id, "unit", entry->unit);
    if (entry->dimensions)
        put_string(writer, rows->id, "dimensions", *entry->dimensions ? entry->dimensions : "[1]");
    return rows;
}

// Frees a dataset; keeps its digest with the writer.
static void dataset_close(struct h5_rows *rows)
{
    struct h5_writer *writer = rows->writer;
    WRITE_CHECK(writer, H5Dclose(rows->id));
    H5_CHECK(H5Tclose(rows->memory_type));
    if (writer->digest_count == writer->digest_capacity) {
        writer->digest_capacity = writer->digest_capacity ? 2 * writer->digest_capacity : 64;
        writer->digests =
            check_realloc(writer->digests, (size_t)writer->digest_capacity * sizeof *writer->digests);
    }
    struct h5_digest *digest = &writer->digests[writer->digest_count++];
    *digest = (struct h5_digest){.path = rows->name, .type = rows->type, .rank = rows->rank};
    memcpy(digest->shape, rows->shape, sizeof digest->shape);
    sha256_finish(rows->hash, digest->elements);
    free(rows);
}

// Appends rows in the form of the file (halves, strings of fixed length).
static void put_rows(struct h5_rows *rows, int64_t count, const void *values)
{
    struct h5_writer *writer = rows->writer;
    hsize_t start[H5_MAX_RANK] = {(hsize_t)rows->shape[0]}, block[H5_MAX_RANK] = {(hsize_t)count};
    hsize_t extent[H5_MAX_RANK] = {(hsize_t)(rows->shape[0] + count)};
    for (int d = 1; d < rows->rank; d++) extent[d] = block[d] = (hsize_t)rows->shape[d];
    rows->shape[0] += count;
    if (rows->grows) WRITE_CHECK(writer, H5Dset_extent(rows->id, extent));
    if (count * rows->row == 0) return;
    hid_t file_space = WRITE_CHECK(writer, H5Dget_space(rows->id));
    hid_t memory_space = H5_CHECK(H5Screate_simple(rows->rank, block, NULL));
    WRITE_CHECK(writer, H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, block, NULL));
    WRITE_CHECK(writer, H5Dwrite(rows->id, rows->memory_type, memory_space, file_space, H5P_DEFAULT, values));
    WRITE_CHECK(writer, H5Sclose(file_space));
    H5_CHECK(H5Sclose(memory_space));
}

static bool append_half(struct h5_rows *rows, int64_t count, const float *values, struct fault *fault)
{
    int64_t elements = count * rows->row;
    uint16_t *half = check_malloc((size_t)elements * sizeof *half);
    int64_t overflow = half_from_float(values, elements, half);
    if (overflow < 0) {
        h5_digest_add(rows->hash, H5_FLOAT16, elements, half);
        put_rows(rows, count, half);
    } else {
        fault_raise(fault, EXIT_CODE_OUTPUT, "%s: %s: %g does not fit a 16-bit float (at most 65504)",
                    atomic_file_path(rows->writer->atomic), rows->name, values[overflow]);
    }
    free(half);
    return overflow < 0;
}

static void append_strings(struct h5_rows *rows, int64_t count, const char *const *values)
{
    int64_t elements = count * rows->row, size = rows->string_size;
    char *padded = check_calloc((size_t)elements, (size_t)size);
    for (int64_t i = 0; i < elements; i++) {
        size_t length = strlen(values[i]);
        CHECK((int64_t)length <= size, "%s: %s: a string of %zu bytes, at most %lld are allowed",
              atomic_file_path(rows->writer->atomic), rows->name, length, (long long)size);
        memcpy(padded + i * size, values[i], length);
    }
    h5_digest_add(rows->hash, H5_STRING, elements, values);
    put_rows(rows, count, padded);
    free(padded);
}

// Appends values as they are in memory; `type` is what the caller's function stands for.
static bool append(struct h5_rows *rows, enum h5_type type, int64_t count, const void *values,
                   struct fault *fault)
{
    struct h5_writer *writer = rows->writer;
    CHECK(rows->type == type || (rows->type == H5_FLOAT16 && type == H5_FLOAT32),
          "%s: %s holds %s, appended is %s", atomic_file_path(writer->atomic), rows->name,
          h5_type_name(rows->type), h5_type_name(type));
    CHECK(count >= 0, "%s: %lld rows", rows->name, (long long)count);
    h5_lock();
    bool good = writer_good(writer, fault);
    if (good && rows->type == H5_FLOAT16) {
        good = append_half(rows, count, values, fault);
    } else if (good && type == H5_STRING) {
        append_strings(rows, count, values);
    } else if (good) {
        h5_digest_add(rows->hash, type, count * rows->row, values);
        put_rows(rows, count, values);
    }
    good = good && writer_good(writer, fault);
    h5_unlock();
    return good;
}

bool h5_rows_create(struct h5_writer *writer, const char *name, enum h5_type type, int rank,
                    const int64_t *shape, int64_t chunk_rows, int64_t string_size, struct h5_rows **rows,
                    struct fault *fault)
{
    *rows = NULL;
    CHECK(type != H5_STRING || (string_size >= 1 && string_size <= H5_MAX_STRING),
          "%s: strings of %lld bytes", name, (long long)string_size);
    h5_lock();
    bool good = writer_good(writer, fault);
    if (good) {
        *rows = dataset_create(writer, name, type, rank, shape, true, chunk_rows, string_size);
        (*rows)->next = writer->open;
        writer->open = *rows;
        good = writer_good(writer, fault);
    }
    h5_unlock();
    return good;
}

bool h5_append_float(struct h5_rows *rows, int64_t count, const float *values, struct fault *fault)
{
    return append(rows, H5_FLOAT32, count, values, fault);
}

bool h5_append_double(struct h5_rows *rows, int64_t count, const double *values, struct fault *fault)
{
    return append(rows, H5_FLOAT64, count, values, fault);
}

bool h5_append_int32(struct h5_rows *rows, int64_t count, const int32_t *values, struct fault *fault)
{
    return append(rows, H5_INT32, count, values, fault);
}

bool h5_append_int64(struct h5_rows *rows, int64_t count, const int64_t *values, struct fault *fault)
{
    return append(rows, H5_INT64, count, values, fault);
}

bool h5_append_uint8(struct h5_rows *rows, int64_t count, const uint8_t *values, struct fault *fault)
{
    return append(rows, H5_UINT8, count, values, fault);
}

bool h5_append_strings(struct h5_rows *rows, int64_t count, const char *const *values, struct fault *fault)
{
    return append(rows, H5_STRING, count, values, fault);
}

// A whole dataset: one append of all rows. `values` as in memory (float for H5_FLOAT16).
static bool write_whole(struct h5_writer *writer, const char *name, enum h5_type type, int rank,
                        const int64_t *shape, int64_t string_size, const void *values, struct fault *fault)
{
    const int64_t one = 1;
    if (rank == 0) {
        rank = 1;
        shape = &one;
    }
    h5_lock();
    bool good = writer_good(writer, fault);
    if (good) {
        struct h5_rows *rows = dataset_create(writer, name, type, rank, shape, false, 0, string_size);
        good = append(rows, type == H5_FLOAT16 ? H5_FLOAT32 : type, shape[0], values, fault);
        dataset_close(rows);
        good = good && writer_good(writer, fault);
    }
    h5_unlock();
    return good;
}

bool h5_write_half(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                   const float *values, struct fault *fault)
{
    return write_whole(writer, name, H5_FLOAT16, rank, shape, 0, values, fault);
}

bool h5_write_float(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const float *values, struct fault *fault)
{
    return write_whole(writer, name, H5_FLOAT32, rank, shape, 0, values, fault);
}

bool h5_write_double(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                     const double *values, struct fault *fault)
{
    return write_whole(writer, name, H5_FLOAT64, rank, shape, 0, values, fault);
}

bool h5_write_int32(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const int32_t *values, struct fault *fault)
{
    return write_whole(writer, name, H5_INT32, rank, shape, 0, values, fault);
}

bool h5_write_int64(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const int64_t *values, struct fault *fault)
{
    return write_whole(writer, name, H5_INT64, rank, shape, 0, values, fault);
}

bool h5_write_uint8(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const uint8_t *values, struct fault *fault)
{
    return write_whole(writer, name, H5_UINT8, rank, shape, 0, values, fault);
}

bool h5_write_strings(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                      const char *const *values, struct fault *fault)
{
    int64_t count = 1;
    size_t longest = 1;
    for (int d = 0; d < rank; d++) count *= shape[d];
    for (int64_t i = 0; i < count; i++) {
        size_t length = strlen(values[i]);
        if (length > longest) longest = length;
    }
    CHECK(longest <= H5_MAX_STRING, "%s: a string of %zu bytes", name, longest);
    return write_whole(writer, name, H5_STRING, rank, shape, (int64_t)longest, values, fault);
}

bool h5_write_text(struct h5_writer *writer, const char *name, const char *text, struct fault *fault)
{
    return h5_write_strings(writer, name, 0, NULL, &text, fault);
}

bool h5_write_one_double(struct h5_writer *writer, const char *name, double value, struct fault *fault)
{
    return h5_write_double(writer, name, 0, NULL, &value, fault);
}

bool h5_write_one_int64(struct h5_writer *writer, const char *name, int64_t value, struct fault *fault)
{
    return h5_write_int64(writer, name, 0, NULL, &value, fault);
}

// ---- the end ----

static void put_parents(struct h5_writer *writer, hid_t root, const struct h5_provenance *provenance)
{
    if (provenance->parents == 0) return;
    size_t count = (size_t)provenance->parents, longest = 1;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(provenance->parent[i].name);
        if (length > longest) longest = length;
    }
    CHECK(count * (longest + SHA256_HEX_SIZE) <= H5_MAX_ATTRIBUTE, "%zu parents", count);
    char *names = check_calloc(count, longest), *ids = check_calloc(count, SHA256_HEX_SIZE - 1);
    for (size_t i = 0; i < count; i++) {
        const struct h5_parent *parent = &provenance->parent[i];
        CHECK(strlen(parent->content_id) < SHA256_HEX_SIZE, "content id %s", parent->content_id);
        memcpy(names + i * longest, parent->name, strlen(parent->name));
        memcpy(ids + i * (SHA256_HEX_SIZE - 1), parent->content_id, strlen(parent->content_id));
    }
    hsize_t extent = count;
    hid_t name_type = make_string_type(longest), id_type = make_string_type(SHA256_HEX_SIZE - 1);
    hid_t space = H5_CHECK(H5Screate_simple(1, &extent, NULL));
    put_attribute(writer, root, "parents", name_type, space, names);
    put_attribute(writer, root, "parent_content_ids", id_type, space, ids);
    H5_CHECK(H5Sclose(space));
    H5_CHECK(H5Tclose(name_type));
    H5_CHECK(H5Tclose(id_type));
    free(names);
    free(ids);
}

static void put_provenance(struct h5_writer *writer, const struct h5_provenance *provenance,
                           const char *content_id)
{
    hid_t root = WRITE_CHECK(writer, H5Oopen(writer->file, "/", H5P_DEFAULT));
    hid_t space = H5_CHECK(H5Screate(H5S_SCALAR));
    const int64_t ranks = provenance->ranks;
    put_string(writer, root, H5_ATTRIBUTE_CONTENT_ID, content_id);
    put_string(writer, root, "program", provenance->program);
    put_string(writer, root, "commit", provenance->commit);
    put_string(writer, root, "deck", provenance->deck);
    put_attribute(writer, root, "seed", H5T_STD_U64LE, space, &provenance->seed);
    put_attribute(writer, root, "ranks", H5T_STD_I64LE, space, &ranks);
    put_string(writer, root, "hosts", provenance->hosts);
    put_string(writer, root, "backend", provenance->backend);
    put_string(writer, root, "time", provenance->time);
    put_parents(writer, root, provenance);
    H5_CHECK(H5Sclose(space));
    WRITE_CHECK(writer, H5Oclose(root));
}

static void close_streams(struct h5_writer *writer)
{
    while (writer->open) {
        struct h5_rows *rows = writer->open;
        writer->open = rows->next;
        dataset_close(rows);
    }
}

static void writer_free(struct h5_writer *writer)
{
    for (int i = 0; i < writer->digest_count; i++) free(writer->digests[i].path);
    free(writer->digests);
    free(writer);
}

bool h5_finish(struct h5_writer *writer, const struct h5_provenance *provenance,
               char content_id[SHA256_HEX_SIZE], struct fault *fault)
{
    char id[SHA256_HEX_SIZE];
    h5_lock();
    close_streams(writer);
    h5_digest_combine(writer->digests, writer->digest_count, id);
    put_provenance(writer, provenance, id);
    WRITE_CHECK(writer, H5Fclose(writer->file));
    h5_unlock();
    bool good = writer_good(writer, fault);
    if (good) {
        good = atomic_file_commit(writer->atomic, fault);
    } else {
        atomic_file_abandon(writer->atomic);
    }
    if (good && content_id) strcpy(content_id, id);
    writer_free(writer);
    return good;
}

void h5_abandon(struct h5_writer *writer)
{
    if (!writer) return;
    h5_lock();
    writer->output.error = -1; // nothing of what is still in HDF5's memory needs to be written
    close_streams(writer);
    H5Fclose(writer->file);
    h5_unlock();
    atomic_file_abandon(writer->atomic);
    writer_free(writer);
}
