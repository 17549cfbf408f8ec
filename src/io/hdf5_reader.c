#define _GNU_SOURCE // strnlen
#include "io/hdf5_private.h"

#include "io/half.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAX_CHUNK_BYTES = 1 << 30, // read as a whole by the library
    MAX_DEFLATE = 1100,        // deflate makes data at most 1032 times smaller
    MAX_LISTED = 1 << 20,      // names in a group
    ROW_CACHE_BYTES = 1 << 22, // at least this much of a dataset read by rows is kept decoded
};

// An open dataset.
struct dataset {
    char *name; // owned
    hid_t id;
    struct h5_info info;
    struct dataset *next;
};

struct h5_reader {
    char *path; // owned
    hid_t file;
    int64_t file_bytes;
    char content_id[SHA256_HEX_SIZE];
    struct dataset *by_rows; // datasets that rows are being read from
};

void h5_strings_free(struct h5_strings *strings)
{
    free(strings->item);
    *strings = (struct h5_strings){0};
}

// Packs strings and the pointers to them into one block. lengths[i] bytes from text[i].
static struct h5_strings strings_pack(int64_t count, const char *const *text, const size_t *lengths)
{
    size_t bytes = (size_t)count * sizeof(char *);
    for (int64_t i = 0; i < count; i++) bytes += lengths[i] + 1;
    struct h5_strings packed = {check_malloc(bytes), count};
    char *next = (char *)(packed.item + count);
    for (int64_t i = 0; i < count; i++) {
        packed.item[i] = memcpy(next, text[i], lengths[i]);
        next[lengths[i]] = '\0';
        next += lengths[i] + 1;
    }
    return packed;
}

static bool input_fault(const struct h5_reader *reader, const char *name, const char *what,
                        struct fault *fault)
{
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: %s", reader->path, name, what);
}

// The same with the library's reason.
static bool library_fault(const struct h5_reader *reader, const char *name, const char *what,
                          struct fault *fault)
{
    char text[H5_MESSAGE_SIZE];
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: %s (HDF5: %s)", reader->path, name, what,
                       h5_message(text));
}

const char *h5_path(const struct h5_reader *reader)
{
    return reader->path;
}

const char *h5_stored_content_id(const struct h5_reader *reader)
{
    return reader->content_id;
}

// ---- opening ----

static hid_t make_reading_access(void)
{
    hid_t access = H5_CHECK(H5Pcreate(H5P_FILE_ACCESS));
    H5_CHECK(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG));
#if H5_VERSION_GE(1, 10, 7)
    H5_CHECK(H5Pset_file_locking(access, false, true)); // many cluster file systems have no locks
#endif
    return access;
}

// Schema, version and content id: what a file of ours says of itself.
static bool check_schema(struct h5_reader *reader, enum file_kind kind, struct fault *fault)
{
    const struct file_schema_kind *expected = file_schema_kind(kind);
    char *schema = NULL, *id = NULL;
    int64_t version = 0;
    bool good = false;
    if (!h5_has_attribute(reader, "/", H5_ATTRIBUTE_SCHEMA)) {
        fault_raise(fault, EXIT_CODE_INPUT,
                    "%s: not written by this program (no attribute `%s`); a %s file is needed", reader->path,
                    H5_ATTRIBUTE_SCHEMA, expected->name);
        goto done;
    }
    if (!h5_attribute_string(reader, "/", H5_ATTRIBUTE_SCHEMA, &schema, fault) ||
        !h5_attribute_int64(reader, "/", H5_ATTRIBUTE_VERSION, &version, fault) ||
        !h5_attribute_string(reader, "/", H5_ATTRIBUTE_CONTENT_ID, &id, fault)) {
        goto done;
    }
    if (strcmp(schema, expected->name) != 0) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: is a %.40s file; a %s file is needed", reader->path, schema,
                    expected->name);
    } else if (version != expected->version) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s file of version %lld; this program reads version %d",
                    reader->path, schema, (long long)version, expected->version);
    } else if (strlen(id) != SHA256_HEX_SIZE - 1) {
        input_fault(reader, "/", "content id is not a SHA-256", fault);
    } else {
        strcpy(reader->content_id, id);
        good = true;
    }
done:
    free(schema);
    free(id);
    return good;
}

bool h5_open(const char *path, enum file_kind kind, struct h5_reader **reader, struct fault *fault)
{
    *reader = NULL;
    struct stat status;
    if (stat(path, &status) != 0) return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode)) return fault_raise(fault, EXIT_CODE_INPUT, "%s: not a regular file", path);

    h5_lock();
    hid_t access = make_reading_access();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    char text[H5_MESSAGE_SIZE];
    if (file < 0) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot be read as HDF5: %s", path, h5_message(text));
    }
    H5_CHECK(H5Pclose(access));
    if (file >= 0) {
        *reader = check_calloc(1, sizeof **reader);
        **reader = (struct h5_reader){.path = check_strdup(path), .file = file, .file_bytes = status.st_size};
        if (kind != FILE_REFERENCE && !check_schema(*reader, kind, fault)) {
            h5_close(*reader);
            *reader = NULL;
        }
    }
    h5_unlock();
    return *reader != NULL;
}

// Closes the dataset that was last opened for reading rows, and gives its cache back.
static void close_last_dataset(struct h5_reader *reader)
{
    struct dataset *dataset = reader->by_rows;
    reader->by_rows = dataset->next;
    H5Dclose(dataset->id);
    free(dataset->name);
    free(dataset);
}

void h5_close(struct h5_reader *reader)
{
    if (!reader) return;
    h5_lock();
    while (reader->by_rows) close_last_dataset(reader);
    H5Fclose(reader->file); // a broken file may refuse; there is nothing left to do with it
    h5_unlock();
    free(reader->path);
    free(reader);
}

// ---- what is there ----

// Whether every part of the path is a hard link: others could lead out of the file.
static bool path_is_plain(const struct h5_reader *reader, const char *name)
{
    if (strcmp(name, "/") == 0) return true;
    char *part = check_strdup(name);
    bool plain = *name != '\0';
    for (char *slash = part; plain && slash;) {
        slash = strchr(slash + 1, '/');
        if (slash) *slash = '\0';
        H5L_info_t link;
        plain = H5Lexists(reader->file, part, H5P_DEFAULT) > 0 &&
                H5Lget_info(reader->file, part, &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD;
        if (slash) *slash = '/';
    }
    free(part);
    return plain;
}

bool h5_exists(struct h5_reader *reader, const char *name)
{
    h5_lock();
    bool exists = path_is_plain(reader, name);
    h5_unlock();
    return exists;
}

struct listing {
    char **name; // owned
    int64_t count, capacity;
};

static herr_t add_name(hid_t group, const char *name, const H5L_info_t *link, void *data)
{
    (void)group;
    struct listing *listing = data;
    if (link->type != H5L_TYPE_HARD) return 0; // leads elsewhere: not there for us, as in path_is_plain
    if (listing->count == MAX_LISTED) return -1;
    if (listing->count == listing->capacity) {
        listing->capacity = listing->capacity ? 2 * listing->capacity : 64;
        listing->name = check_realloc(listing->name, (size_t)listing->capacity * sizeof(char *));
    }
    listing->name[listing->count++] = check_strdup(name);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool h5_list(struct h5_reader *reader, const char *group, bool groups, struct h5_strings *names,
             struct fault *fault)
{
    *names = (struct h5_strings){0};
    h5_lock();
    struct listing listing = {0};
    bool good = false;
    hid_t id = path_is_plain(reader, group) ? H5Gopen2(reader->file, group, H5P_DEFAULT) : -1;
    if (id < 0) {
        input_fault(reader, group, "no such group", fault);
        goto done;
    }
    hsize_t start = 0;
    if (H5Literate(id, H5_INDEX_NAME, H5_ITER_NATIVE, &start, add_name, &listing) < 0) {
        library_fault(reader, group, "cannot be listed", fault);
        goto done;
    }
    int64_t kept = 0;
    size_t *lengths = check_malloc((size_t)listing.count * sizeof *lengths);
    good = true;
    for (int64_t i = 0; i < listing.count && good; i++) {
        hid_t object = H5Oopen(id, listing.name[i], H5P_DEFAULT);
        H5I_type_t type = object < 0 ? H5I_BADID : H5Iget_type(object);
        if (object < 0) good = library_fault(reader, listing.name[i], "cannot be opened", fault);
        if (object >= 0) H5Oclose(object);
        if (type != (groups ? H5I_GROUP : H5I_DATASET)) continue;
        char *keep = listing.name[i];
        listing.name[i] = listing.name[kept];
        listing.name[kept++] = keep;
    }
    if (good) {
        if (kept > 0) qsort(listing.name, (size_t)kept, sizeof(char *), by_name);
        for (int64_t i = 0; i < kept; i++) lengths[i] = strlen(listing.name[i]);
        *names = strings_pack(kept, (const char *const *)listing.name, lengths);
    }
    free(lengths);
done:
    if (id >= 0) H5Gclose(id);
    for (int64_t i = 0; i < listing.count; i++) free(listing.name[i]);
    free(listing.name);
    h5_unlock();
    return good;
}

// h5py stores bool as an enumeration of one byte.
static bool is_bool(hid_t type)
{
    return H5Tget_class(type) == H5T_ENUM && H5Tget_size(type) == 1 && H5Tget_nmembers(type) == 2;
}

static enum h5_type classify(hid_t type, int64_t *string_size)
{
    *string_size = 0;
    size_t size = H5Tget_size(type);
    switch (H5Tget_class(type)) {
    case H5T_STRING:
        if (H5Tis_variable_str(type) == 0) *string_size = (int64_t)size;
        return H5_STRING;
    case H5T_FLOAT: {
        if (H5Tequal(type, H5T_IEEE_F32LE) > 0 || H5Tequal(type, H5T_IEEE_F32BE) > 0) return H5_FLOAT32;
        if (H5Tequal(type, H5T_IEEE_F64LE) > 0 || H5Tequal(type, H5T_IEEE_F64BE) > 0) return H5_FLOAT64;
        hid_t half = h5_make_half_type();
        bool is_half = H5Tequal(type, half) > 0;
        H5Tclose(half);
        return is_half ? H5_FLOAT16 : H5_OTHER;
    }
    case H5T_INTEGER:
        if (H5Tget_precision(type) != 8 * size) return H5_OTHER;
        if (H5Tget_sign(type) == H5T_SGN_NONE) return size == 1 ? H5_UINT8 : H5_OTHER;
        return size == 4 ? H5_INT32 : size == 8 ? H5_INT64 : H5_OTHER;
    case H5T_ENUM:
        return is_bool(type) ? H5_UINT8 : H5_OTHER;
    default:
        return H5_OTHER;
    }
}

// Rank, shape and products; false if they are not what this program can hold.
static bool read_shape(hid_t space, struct h5_info *info)
{
    H5S_class_t class = H5Sget_simple_extent_type(space);
    info->rank = H5Sget_simple_extent_ndims(space);
    if ((class != H5S_SCALAR && class != H5S_SIMPLE) || info->rank < 0 || info->rank > H5_MAX_RANK)
        return false;
    hsize_t shape[H5_MAX_RANK] = {0};
    if (info->rank > 0 && H5Sget_simple_extent_dims(space, shape, NULL) < 0) return false;
    info->elements = info->row = 1;
    for (int d = 0; d < info->rank; d++) {
        if (shape[d] > INT64_MAX) return false;
        info->shape[d] = (int64_t)shape[d];
        if (__builtin_mul_overflow(info->elements, info->shape[d], &info->elements)) return false;
        if (d > 0 && __builtin_mul_overflow(info->row, info->shape[d], &info->row)) return false;
    }
    int64_t bytes; // of any type this program reads, in memory
    return !__builtin_mul_overflow(info->elements, (int64_t)32, &bytes);
}

// A chunked dataset: chunks of a reasonable size, all there, through filters that are no surprise.
static const char *check_chunks(const struct h5_reader *reader, hid_t id, hid_t plist, hid_t space,
                                int64_t element, const struct h5_info *info)
{
    bool deflated = false;
    int filters = H5Pget_nfilters(plist);
    for (int i = 0; i < filters; i++) {
        unsigned flags;
        size_t values = 0;
        H5Z_filter_t filter = H5Pget_filter2(plist, (unsigned)i, &flags, &values, NULL, 0, NULL, NULL);
        if (filter == H5Z_FILTER_DEFLATE) {
            deflated = true;
        } else if (filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32) {
            return "uses a filter other than deflate, shuffle and fletcher32";
        }
    }
    hsize_t chunk[H5_MAX_RANK], chunks = 0;
    int rank = H5Pget_chunk(plist, H5_MAX_RANK, chunk);
    if (rank != info->rank) return "chunk and dataset differ in rank";
    int64_t expected = info->elements > 0, chunk_bytes = element;
    for (int d = 0; d < rank; d++) {
        if (chunk[d] == 0 || chunk[d] > MAX_CHUNK_BYTES) return "chunks are too large";
        chunk_bytes *= (int64_t)chunk[d];
        if (chunk_bytes > MAX_CHUNK_BYTES) return "chunks are larger than 1 GiB";
        expected *= (info->shape[d] + (int64_t)chunk[d] - 1) / (int64_t)chunk[d];
    }
    int64_t stored = (int64_t)H5Dget_storage_size(id);
    if (stored > reader->file_bytes) return "is larger than the file";
    if (deflated ? info->elements * element / MAX_DEFLATE > stored : info->elements * element > stored) {
        return "parts of it are missing from the file";
    }
#if H5_VERSION_GE(1, 10, 5)
    if (info->elements > 0 && (H5Dget_num_chunks(id, space, &chunks) < 0 || (int64_t)chunks != expected)) {
        return "parts of it are missing from the file";
    }
#endif
    return NULL;
}

// Fills info->type, shape and sizes of an open dataset; NULL or what is wrong with it.
static const char *inspect(const struct h5_reader *reader, hid_t id, struct h5_info *info)
{
    *info = (struct h5_info){0};
    const char *wrong = NULL;
    hid_t type = H5Dget_type(id), space = H5Dget_space(id), plist = H5Dget_create_plist(id);
    if (type < 0 || space < 0 || plist < 0) {
        wrong = "its description is broken";
        goto done;
    }
    info->type = classify(type, &info->string_size);
    int64_t element = (int64_t)H5Tget_size(type), bytes;
    H5D_layout_t layout = H5Pget_layout(plist);
    if (!read_shape(space, info) || __builtin_mul_overflow(info->elements, element, &bytes)) {
        wrong = "its shape is not one that this program reads (rank at most 6)";
    } else if (element > H5_MAX_STRING) {
        wrong = "its elements are larger than 1 MiB";
    } else if (layout == H5D_CHUNKED) {
        wrong = check_chunks(reader, id, plist, space, element, info);
    } else if ((layout != H5D_CONTIGUOUS && layout != H5D_COMPACT) || H5Pget_external_count(plist) != 0) {
        wrong = "its data lie in another file, which is not supported";
    } else if (bytes > reader->file_bytes) {
        wrong = "is larger than the file";
    } else if ((int64_t)H5Dget_storage_size(id) < bytes) {
        wrong = "parts of it are missing from the file";
    }
done:
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (plist >= 0) H5Pclose(plist);
    return wrong;
}

// Opens and inspects; the caller closes the result. -1 with a fault.
static hid_t open_dataset(struct h5_reader *reader, const char *name, struct h5_info *info,
                          struct fault *fault)
{
    H5Eclear2(H5E_DEFAULT);
    if (!path_is_plain(reader, name)) {
        input_fault(reader, name, "no such dataset", fault);
        return -1;
    }
    hid_t id = H5Dopen2(reader->file, name, H5P_DEFAULT);
    if (id < 0) {
        library_fault(reader, name, "cannot be opened as a dataset", fault);
        return -1;
    }
    const char *wrong = inspect(reader, id, info);
    if (!wrong) return id;
    H5Dclose(id);
    input_fault(reader, name, wrong, fault);
    return -1;
}

bool h5_describe(struct h5_reader *reader, const char *name, struct h5_info *info, struct fault *fault)
{
    h5_lock();
    hid_t id = open_dataset(reader, name, info, fault);
    if (id >= 0) H5Dclose(id);
    h5_unlock();
    return id >= 0;
}

// "[3, any, 4]"
static void write_shape(char *text, size_t size, int rank, const int64_t *shape)
{
    size_t length = (size_t)snprintf(text, size, "[");
    for (int d = 0; d < rank && length < size; d++) {
        const char *comma = d ? ", " : "";
        length += (size_t)(shape[d] < 0 ? snprintf(text + length, size - length, "%sany", comma)
                                        : snprintf(text + length, size - length, "%s%lld", comma,
                                                   (long long)shape[d]));
    }
    if (length < size) snprintf(text + length, size - length, "]");
}

static bool shape_is(const struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                     const struct h5_info *info, struct fault *fault)
{
    bool equal = rank == info->rank;
    for (int d = 0; d < rank && equal; d++) equal = shape[d] < 0 || shape[d] == info->shape[d];
    if (equal) return true;
    char found[160], expected[160];
    write_shape(found, sizeof found, info->rank, info->shape);
    write_shape(expected, sizeof expected, rank, shape);
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: shape is %s, expected %s", reader->path, name, found,
                       expected);
}

bool h5_expect(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
               struct h5_info *info, struct fault *fault)
{
    struct h5_info ignored;
    if (!info) info = &ignored;
    return h5_describe(reader, name, info, fault) && shape_is(reader, name, rank, shape, info, fault);
}

// ---- reading ----

// Whether a stored type may be read as `wanted` without losing anything but digits of a float.
static bool converts(hid_t type, enum h5_type stored, enum h5_type wanted)
{
    size_t size = H5Tget_size(type);
    bool integer = H5Tget_class(type) == H5T_INTEGER && H5Tget_precision(type) == 8 * size;
    bool sign = integer && H5Tget_sign(type) == H5T_SGN_2;
    switch (wanted) {
    case H5_FLOAT16:
        return stored == H5_FLOAT16;
    case H5_FLOAT32:
    case H5_FLOAT64:
        return stored == H5_FLOAT16 || stored == H5_FLOAT32 || stored == H5_FLOAT64;
    case H5_INT32:
        return stored == H5_UINT8 || (integer && (sign ? size <= 4 : size < 4));
    case H5_INT64:
        return stored == H5_UINT8 || (integer && (sign ? size <= 8 : size < 8));
    case H5_UINT8:
        return stored == H5_UINT8;
    default:
        return false;
    }
}

// The dataset for reading rows, kept open with a cache that holds a chunk: found again, or opened.
static struct dataset *dataset_by_rows(struct h5_reader *reader, const char *name, struct fault *fault)
{
    for (struct dataset *dataset = reader->by_rows; dataset; dataset = dataset->next) {
        if (strcmp(dataset->name, name) == 0) return dataset;
    }
    struct h5_info info;
    hid_t id = open_dataset(reader, name, &info, fault);
    if (id < 0) return NULL;
    hid_t plist = H5_CHECK(H5Dget_create_plist(id)), type = H5_CHECK(H5Dget_type(id));
    hsize_t chunk[H5_MAX_RANK];
    size_t bytes = H5Tget_size(type);
    int rank = H5Pget_layout(plist) == H5D_CHUNKED ? H5Pget_chunk(plist, H5_MAX_RANK, chunk) : 0;
    for (int d = 0; d < rank; d++) bytes *= chunk[d];
    hid_t access = H5_CHECK(H5Pcreate(H5P_DATASET_ACCESS));
    H5_CHECK(H5Pset_chunk_cache(access, 521, bytes > ROW_CACHE_BYTES ? bytes : ROW_CACHE_BYTES, 1.0));
    H5_CHECK(H5Dclose(id)); // an open dataset would keep the cache it was opened with
    id = H5Dopen2(reader->file, name, access);
    H5_CHECK(H5Pclose(access));
    H5_CHECK(H5Pclose(plist));
    H5_CHECK(H5Tclose(type));
    if (id < 0) {
        library_fault(reader, name, "cannot be opened as a dataset", fault);
        return NULL;
    }
    struct dataset *dataset = check_malloc(sizeof *dataset);
    *dataset = (struct dataset){check_strdup(name), id, info, reader->by_rows};
    return reader->by_rows = dataset;
}

// Reads rows of an open dataset into memory of the given type.
static bool transfer(struct h5_reader *reader, const char *name, hid_t id, const struct h5_info *info,
                     int64_t first, int64_t rows, hid_t memory_type, void *out, struct fault *fault)
{
    int64_t all = info->rank ? info->shape[0] : 1;
    CHECK(first >= 0 && rows >= 0 && rows <= all && first <= all - rows,
          "%s: %s: rows %lld to %lld of %lld asked for", reader->path, name, (long long)first,
          (long long)(first + rows), (long long)all);
    if (rows * info->row == 0) return true;
    hid_t file_space = H5_CHECK(H5Dget_space(id)), memory_space = H5S_ALL;
    if (rows != all) {
        hsize_t start[H5_MAX_RANK] = {(hsize_t)first}, count[H5_MAX_RANK] = {(hsize_t)rows};
        for (int d = 1; d < info->rank; d++) count[d] = (hsize_t)info->shape[d];
        H5_CHECK(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL));
        memory_space = H5_CHECK(H5Screate_simple(info->rank, count, NULL));
    }
    bool good = H5Dread(id, memory_type, memory_space, file_space, H5P_DEFAULT, out) >= 0 ||
                library_fault(reader, name, "cannot be read", fault);
    if (memory_space != H5S_ALL) H5_CHECK(H5Sclose(memory_space));
    H5_CHECK(H5Sclose(file_space));
    return good;
}

// Floats from stored halves, much faster than by the library's general conversion.
static bool transfer_half_to_float(struct h5_reader *reader, const char *name, hid_t id,
                                   const struct h5_info *info, int64_t first, int64_t rows, float *out,
                                   struct fault *fault)
{
    uint16_t *half = check_malloc((size_t)(rows * info->row) * sizeof *half);
    hid_t type = h5_make_half_type();
    bool good = transfer(reader, name, id, info, first, rows, type, half, fault);
    if (good) half_to_float(half, rows * info->row, out);
    H5_CHECK(H5Tclose(type));
    free(half);
    return good;
}

static bool read_typed(struct h5_reader *reader, const char *name, hid_t id, const struct h5_info *info,
                       enum h5_type wanted, int64_t first, int64_t rows, void *out, struct fault *fault)
{
    hid_t type = H5_CHECK(H5Dget_type(id));
    bool convertible = converts(type, info->type, wanted);
    H5_CHECK(H5Tclose(type));
    if (!convertible) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: holds %s, which cannot be read as %s",
                           reader->path, name, h5_type_name(info->type), h5_type_name(wanted));
    }
    if (info->type == H5_FLOAT16 && wanted == H5_FLOAT32) {
        return transfer_half_to_float(reader, name, id, info, first, rows, out, fault);
    }
    type = h5_make_memory_type(wanted);
    bool good = transfer(reader, name, id, info, first, rows, type, out, fault);
    H5_CHECK(H5Tclose(type));
    return good;
}

static bool read_rows(struct h5_reader *reader, const char *name, enum h5_type wanted, int64_t first,
                      int64_t rows, void *out, struct fault *fault)
{
    h5_lock();
    struct dataset *dataset = dataset_by_rows(reader, name, fault);
    bool good =
        dataset && read_typed(reader, name, dataset->id, &dataset->info, wanted, first, rows, out, fault);
    h5_unlock();
    return good;
}

bool h5_read_float(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, float *out,
                   struct fault *fault)
{
    return read_rows(reader, name, H5_FLOAT32, first, rows, out, fault);
}

bool h5_read_half(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, uint16_t *out,
                  struct fault *fault)
{
    return read_rows(reader, name, H5_FLOAT16, first, rows, out, fault);
}

bool h5_read_double(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, double *out,
                    struct fault *fault)
{
    return read_rows(reader, name, H5_FLOAT64, first, rows, out, fault);
}

bool h5_read_int32(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, int32_t *out,
                   struct fault *fault)
{
    return read_rows(reader, name, H5_INT32, first, rows, out, fault);
}

bool h5_read_int64(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, int64_t *out,
                   struct fault *fault)
{
    return read_rows(reader, name, H5_INT64, first, rows, out, fault);
}

bool h5_read_uint8(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, uint8_t *out,
                   struct fault *fault)
{
    return read_rows(reader, name, H5_UINT8, first, rows, out, fault);
}

// Strings of fixed length: read as they are stored, then cut at the padding (a zero, or blanks from Fortran).
static bool read_fixed_strings(struct h5_reader *reader, const char *name, const struct dataset *dataset,
                               hid_t type, int64_t first, int64_t rows, struct h5_strings *out,
                               struct fault *fault)
{
    size_t size = (size_t)dataset->info.string_size, count = (size_t)(rows * dataset->info.row);
    bool blanks = H5Tget_strpad(type) == H5T_STR_SPACEPAD;
    char *raw = check_malloc(count * size);
    const char **text = check_malloc(count * sizeof *text);
    size_t *lengths = check_malloc(count * sizeof *lengths);
    bool good = transfer(reader, name, dataset->id, &dataset->info, first, rows, type, raw, fault);
    for (size_t i = 0; i < count && good; i++) {
        text[i] = raw + i * size;
        lengths[i] = strnlen(text[i], size);
        while (blanks && lengths[i] > 0 && text[i][lengths[i] - 1] == ' ') lengths[i]--;
    }
    if (good) *out = strings_pack((int64_t)count, text, lengths);
    free(lengths);
    free(text);
    free(raw);
    return good;
}

// Strings of variable length, of foreign files: the library allocates each.
static bool read_variable_strings(struct h5_reader *reader, const char *name, const struct dataset *dataset,
                                  hid_t type, int64_t first, int64_t rows, int64_t max_bytes,
                                  struct h5_strings *out, struct fault *fault)
{
    size_t count = (size_t)(rows * dataset->info.row);
    hid_t space = H5_CHECK(H5Dget_space(dataset->id));
    hsize_t bytes = 0;
    bool sized = count == 0 || H5Dvlen_get_buf_size(dataset->id, type, space, &bytes) >= 0;
    H5_CHECK(H5Sclose(space));
    if (!sized) return library_fault(reader, name, "cannot be read", fault);
    if (bytes > (hsize_t)max_bytes) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: %llu bytes of text, at most %lld are allowed",
                           reader->path, name, (unsigned long long)bytes, (long long)max_bytes);
    }
    char **text = check_calloc(count, sizeof *text);
    size_t *lengths = check_malloc(count * sizeof *lengths);
    bool good = transfer(reader, name, dataset->id, &dataset->info, first, rows, type, text, fault);
    for (size_t i = 0; i < count && good; i++) lengths[i] = text[i] ? strlen(text[i]) : 0;
    if (good) *out = strings_pack((int64_t)count, (const char *const *)text, lengths);
    for (size_t i = 0; i < count; i++) H5free_memory(text[i]);
    free(lengths);
    free(text);
    return good;
}

bool h5_read_strings(struct h5_reader *reader, const char *name, int64_t first, int64_t rows,
                     int64_t max_bytes, struct h5_strings *out, struct fault *fault)
{
    *out = (struct h5_strings){0};
    h5_lock();
    bool good = false;
    hid_t type = -1;
    struct dataset *dataset = dataset_by_rows(reader, name, fault);
    if (!dataset) goto done;
    const struct h5_info *info = &dataset->info;
    if (info->type != H5_STRING) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: holds %s, not strings", reader->path, name,
                    h5_type_name(info->type));
        goto done;
    }
    type = H5_CHECK(H5Dget_type(dataset->id));
    if (info->string_size == 0) {
        good = read_variable_strings(reader, name, dataset, type, first, rows, max_bytes, out, fault);
    } else if (rows * info->row > max_bytes / info->string_size) {
        fault_raise(fault, EXIT_CODE_INPUT,
                    "%s: %s: %lld strings of %lld bytes, at most %lld bytes are allowed", reader->path, name,
                    (long long)(rows * info->row), (long long)info->string_size, (long long)max_bytes);
    } else {
        good = read_fixed_strings(reader, name, dataset, type, first, rows, out, fault);
    }
done:
    if (type >= 0) H5_CHECK(H5Tclose(type));
    h5_unlock();
    return good;
}

// A whole dataset into fresh memory.
static bool load(struct h5_reader *reader, const char *name, enum h5_type wanted, int rank,
                 const int64_t *shape, int64_t max_elements, void **out, struct h5_info *info,
                 struct fault *fault)
{
    *out = NULL;
    h5_lock();
    struct h5_info own;
    if (!info) info = &own;
    hid_t id = open_dataset(reader, name, info, fault);
    bool good = id >= 0 && shape_is(reader, name, rank, shape, info, fault);
    if (good && info->elements > max_elements) {
        good = fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: %lld elements, at most %lld are allowed",
                           reader->path, name, (long long)info->elements, (long long)max_elements);
    }
    if (good) {
        *out = check_malloc((size_t)info->elements * h5_memory_size(wanted));
        good = read_typed(reader, name, id, info, wanted, 0, info->rank ? info->shape[0] : 1, *out, fault);
    }
    if (id >= 0) H5Dclose(id);
    h5_unlock();
    if (!good) {
        free(*out);
        *out = NULL;
    }
    return good;
}

bool h5_load_float(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, float **out, struct h5_info *info, struct fault *fault)
{
    return load(reader, name, H5_FLOAT32, rank, shape, max_elements, (void **)out, info, fault);
}

bool h5_load_double(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                    int64_t max_elements, double **out, struct h5_info *info, struct fault *fault)
{
    return load(reader, name, H5_FLOAT64, rank, shape, max_elements, (void **)out, info, fault);
}

bool h5_load_int32(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, int32_t **out, struct h5_info *info, struct fault *fault)
{
    return load(reader, name, H5_INT32, rank, shape, max_elements, (void **)out, info, fault);
}

bool h5_load_int64(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, int64_t **out, struct h5_info *info, struct fault *fault)
{
    return load(reader, name, H5_INT64, rank, shape, max_elements, (void **)out, info, fault);
}

bool h5_load_uint8(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, uint8_t **out, struct h5_info *info, struct fault *fault)
{
    return load(reader, name, H5_UINT8, rank, shape, max_elements, (void **)out, info, fault);
}

// The one element of a dataset: a scalar, or shape [1].
static bool one_element(struct h5_reader *reader, const char *name, struct fault *fault)
{
    struct h5_info info;
    if (!h5_describe(reader, name, &info, fault)) return false;
    return info.elements == 1 || shape_is(reader, name, 1, (int64_t[]){1}, &info, fault);
}

bool h5_load_text(struct h5_reader *reader, const char *name, int64_t max_bytes, char **out,
                  struct fault *fault)
{
    *out = NULL;
    struct h5_strings strings;
    if (!one_element(reader, name, fault) ||
        !h5_read_strings(reader, name, 0, 1, max_bytes, &strings, fault)) {
        return false;
    }
    *out = check_strdup(strings.item[0]);
    h5_strings_free(&strings);
    return true;
}

bool h5_read_one_double(struct h5_reader *reader, const char *name, double *out, struct fault *fault)
{
    return one_element(reader, name, fault) && h5_read_double(reader, name, 0, 1, out, fault);
}

bool h5_read_one_int64(struct h5_reader *reader, const char *name, int64_t *out, struct fault *fault)
{
    return one_element(reader, name, fault) && h5_read_int64(reader, name, 0, 1, out, fault);
}

// ---- attributes ----

bool h5_has_attribute(struct h5_reader *reader, const char *where, const char *name)
{
    h5_lock();
    bool has = path_is_plain(reader, where) && H5Aexists_by_name(reader->file, where, name, H5P_DEFAULT) > 0;
    h5_unlock();
    return has;
}

static bool attribute_fault(const struct h5_reader *reader, const char *where, const char *name,
                            const char *what, struct fault *fault)
{
    char text[H5_MESSAGE_SIZE];
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: attribute %s of %s: %s (HDF5: %s)", reader->path, name,
                       where, what, h5_message(text));
}

// Opens an attribute of one element and gives its type; -1 with a fault.
static hid_t open_attribute(struct h5_reader *reader, const char *where, const char *name, hid_t *type,
                            struct fault *fault)
{
    H5Eclear2(H5E_DEFAULT);
    hid_t id = path_is_plain(reader, where)
                   ? H5Aopen_by_name(reader->file, where, name, H5P_DEFAULT, H5P_DEFAULT)
                   : -1;
    if (id < 0) {
        attribute_fault(reader, where, name, "is missing or broken", fault);
        return -1;
    }
    hid_t space = H5Aget_space(id);
    *type = H5Aget_type(id);
    if (space >= 0 && *type >= 0 && H5Sget_simple_extent_npoints(space) == 1) {
        H5Sclose(space);
        return id;
    }
    attribute_fault(reader, where, name, "is not one element", fault);
    if (space >= 0) H5Sclose(space);
    if (*type >= 0) H5Tclose(*type);
    H5Aclose(id);
    return -1;
}

bool h5_attribute_string(struct h5_reader *reader, const char *where, const char *name, char **out,
                         struct fault *fault)
{
    *out = NULL;
    h5_lock();
    hid_t type, id = open_attribute(reader, where, name, &type, fault);
    if (id < 0) goto done;
    size_t size = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING) {
        attribute_fault(reader, where, name, "is not a string", fault);
    } else if (H5Tis_variable_str(type) > 0) {
        char *text = NULL;
        if (H5Aread(id, type, &text) >= 0 && text) *out = check_strdup(text);
        H5free_memory(text);
    } else if (size <= H5_MAX_STRING) {
        char *text = check_calloc(1, size + 1);
        if (H5Aread(id, type, text) >= 0) *out = check_strdup(text);
        free(text);
    }
    if (!*out) attribute_fault(reader, where, name, "cannot be read", fault);
    H5Tclose(type);
    H5Aclose(id);
done:
    h5_unlock();
    return *out != NULL;
}

// One number of the wanted type (H5_FLOAT64 or H5_INT64).
static bool attribute_number(struct h5_reader *reader, const char *where, const char *name,
                             enum h5_type wanted, void *out, struct fault *fault)
{
    h5_lock();
    bool good = false;
    hid_t type, id = open_attribute(reader, where, name, &type, fault);
    if (id >= 0) {
        int64_t string_size;
        enum h5_type stored = classify(type, &string_size);
        bool allowed =
            converts(type, stored, wanted) || (wanted == H5_FLOAT64 && converts(type, stored, H5_INT64));
        hid_t memory_type = h5_make_memory_type(wanted);
        if (!allowed) {
            attribute_fault(reader, where, name, wanted == H5_INT64 ? "is not an integer" : "is not a number",
                            fault);
        } else {
            good = H5Aread(id, memory_type, out) >= 0 ||
                   attribute_fault(reader, where, name, "cannot be read", fault);
        }
        H5_CHECK(H5Tclose(memory_type));
        H5Tclose(type);
        H5Aclose(id);
    }
    h5_unlock();
    return good;
}

bool h5_attribute_double(struct h5_reader *reader, const char *where, const char *name, double *out,
                         struct fault *fault)
{
    return attribute_number(reader, where, name, H5_FLOAT64, out, fault);
}

bool h5_attribute_int64(struct h5_reader *reader, const char *where, const char *name, int64_t *out,
                        struct fault *fault)
{
    return attribute_number(reader, where, name, H5_INT64, out, fault);
}

// The strings of a root attribute that put_parents of the writer has written: [count, *size] characters.
static char *read_parents(struct h5_reader *reader, const char *name, size_t *size, size_t *count)
{
    char *text = NULL;
    hid_t id = H5Aopen(reader->file, name, H5P_DEFAULT);
    if (id < 0) return NULL;
    hid_t type = H5Aget_type(id), space = H5Aget_space(id);
    if (type >= 0 && space >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0) {
        hssize_t points = H5Sget_simple_extent_npoints(space);
        *size = H5Tget_size(type);
        *count = points > 0 ? (size_t)points : 0;
        if (*count > 0 && *count <= H5_MAX_ATTRIBUTE && *size <= H5_MAX_ATTRIBUTE / *count) {
            text = check_calloc(*count, *size);
            if (H5Aread(id, type, text) < 0) {
                free(text);
                text = NULL;
            }
        }
    }
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    H5Aclose(id);
    return text;
}

bool h5_parent_content_id(struct h5_reader *reader, const char *parent, char content_id[SHA256_HEX_SIZE],
                          struct fault *fault)
{
    enum { ID = SHA256_HEX_SIZE - 1 };
    h5_lock();
    size_t size, names_count, id_size, ids_count, length = strlen(parent);
    char *names = read_parents(reader, "parents", &size, &names_count);
    char *ids = names ? read_parents(reader, "parent_content_ids", &id_size, &ids_count) : NULL;
    bool found = false;
    for (size_t i = 0; ids && !found && i < names_count && i < ids_count && id_size == ID; i++) {
        const char *name = names + i * size;
        found = size >= length && memcmp(name, parent, length) == 0 && (size == length || name[length] == 0);
        if (found) {
            memcpy(content_id, ids + i * ID, ID);
            content_id[ID] = '\0';
        }
    }
    h5_unlock();
    free(names);
    free(ids);
    return found || fault_raise(fault, EXIT_CODE_INPUT, "%s: does not say which %s it was made from",
                                reader->path, parent);
}

// ---- the content id of what is there ----

// Hashes all elements of a dataset in blocks of rows.
static bool digest_elements(struct h5_reader *reader, const char *name, const struct h5_info *info,
                            struct sha256 *hash, struct fault *fault)
{
    enum { BLOCK_ELEMENTS = 1 << 20 };
    int64_t all = info->rank ? info->shape[0] : 1, row = info->row ? info->row : 1;
    int64_t block = row < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / row : 1;
    void *values =
        info->type == H5_STRING
            ? NULL
            : check_malloc((size_t)(block < all ? block : all) * (size_t)row * h5_memory_size(info->type));
    bool good = true;
    for (int64_t first = 0; first < all && good; first += block) {
        int64_t rows = all - first < block ? all - first : block;
        if (info->type == H5_STRING) {
            struct h5_strings strings;
            good = h5_read_strings(reader, name, first, rows, INT64_MAX, &strings, fault);
            if (good) h5_digest_add(hash, H5_STRING, strings.count, strings.item);
            if (good) h5_strings_free(&strings);
        } else {
            good = read_rows(reader, name, info->type, first, rows, values, fault);
            if (good) h5_digest_add(hash, info->type, rows * info->row, values);
        }
    }
    free(values);
    h5_lock();
    while (reader->by_rows) close_last_dataset(reader);
    h5_unlock();
    return good;
}

struct digests {
    struct h5_digest *item;
    int count, capacity;
};

static bool digest_group(struct h5_reader *reader, const char *group, int depth, struct digests *digests,
                         struct fault *fault)
{
    enum { MAX_DEPTH = 16 }; // a group may be linked into itself
    if (depth == MAX_DEPTH) return input_fault(reader, group, "groups are nested too deeply", fault);
    struct h5_strings names, groups;
    const char *slash = *group ? "/" : "", *here = *group ? group : "/";
    if (!h5_list(reader, here, false, &names, fault)) return false;
    bool good = true;
    for (int64_t i = 0; i < names.count && good; i++) {
        struct h5_info info;
        char *path = check_format("%s%s%s", group, slash, names.item[i]);
        good = h5_describe(reader, path, &info, fault);
        if (good && info.type == H5_OTHER)
            good = input_fault(reader, path, "its type is not one of ours", fault);
        struct sha256 *hash = good ? sha256_new() : NULL;
        good = good && digest_elements(reader, path, &info, hash, fault);
        if (!good) {
            sha256_free(hash);
            free(path);
            break;
        }
        if (digests->count == digests->capacity) {
            digests->capacity = digests->capacity ? 2 * digests->capacity : 64;
            digests->item = check_realloc(digests->item, (size_t)digests->capacity * sizeof *digests->item);
        }
        struct h5_digest *digest = &digests->item[digests->count++];
        *digest = (struct h5_digest){.path = path, .type = info.type, .rank = info.rank};
        memcpy(digest->shape, info.shape, sizeof digest->shape);
        sha256_finish(hash, digest->elements);
    }
    h5_strings_free(&names);
    if (!good || !h5_list(reader, here, true, &groups, fault)) return false;
    for (int64_t i = 0; i < groups.count && good; i++) {
        char *path = check_format("%s%s%s", group, slash, groups.item[i]);
        good = digest_group(reader, path, depth + 1, digests, fault);
        free(path);
    }
    h5_strings_free(&groups);
    return good;
}

bool h5_content_id(const char *path, char content_id[SHA256_HEX_SIZE], struct fault *fault)
{
    struct h5_reader *reader;
    if (!h5_open(path, FILE_REFERENCE, &reader, fault)) return false;
    struct digests digests = {0};
    bool good = digest_group(reader, "", 0, &digests, fault);
    if (good) h5_digest_combine(digests.item, digests.count, content_id);
    for (int i = 0; i < digests.count; i++) free(digests.item[i].path);
    free(digests.item);
    h5_close(reader);
    return good;
}
