#define _GNU_SOURCE // pread, O_CLOEXEC
#include "io/safetensors.h"

#include "base/check.h"
#include "io/half.h"
#include "io/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_HEADER_BYTES = 100000000, // the format's own limit
    LENGTH_BYTES = 8,             // the file begins with the header's length, little-endian
    MAX_INDEX_BYTES = 100000000,
    MAX_PARTS = 1000,
};

static const struct {
    const char *name;
    int bytes; // of one element
} types[] = {
    {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},     {"I32", 4},     {"I16", 2},  {"I8", 1},
    {"U64", 8}, {"U32", 4}, {"U16", 2}, {"U8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1},
};

/* One file. */
struct part {
    char *path; // owned
    int descriptor;
    int64_t data_begin; // bytes from the start of the file
    struct json_document *header;
};

struct tensor_entry {
    struct safetensors_info info;
    int64_t begin, end; // bytes from the start of the part's data
    int part;
};

struct safetensors {
    char *path;         // owned
    struct part *parts; // [part_count] owned
    int part_count;
    struct tensor_entry *entries; // by name
    int count;
};

const char *safetensors_path(const struct safetensors *file)
{
    return file->path;
}

int safetensors_parts(const struct safetensors *file)
{
    return file->part_count;
}

int safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct safetensors_info *safetensors_info(const struct safetensors *file, int index)
{
    CHECK(index >= 0 && index < file->count, "tensor %d of %d", index, file->count);
    return &file->entries[index].info;
}

void safetensors_close(struct safetensors *file)
{
    if (!file) return;
    for (int i = 0; i < file->part_count; i++) {
        close(file->parts[i].descriptor);
        json_free(file->parts[i].header);
        free(file->parts[i].path);
    }
    free(file->parts);
    free(file->entries);
    free(file->path);
    free(file);
}

// Reads exactly these bytes of the file.
static bool read_bytes(const struct part *file, int64_t offset, void *out, int64_t bytes, struct fault *fault)
{
    for (char *next = out; bytes > 0;) {
        ssize_t got = pread(file->descriptor, next, (size_t)bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot read at byte %lld: %s", file->path,
                               (long long)offset, got < 0 ? strerror(errno) : "the file ends there");
        }
        next += got;
        offset += got;
        bytes -= got;
    }
    return true;
}

// Reads and checks what the header says of one tensor.
static bool read_entry(struct json value, const char *name, int64_t data_bytes, struct tensor_entry *entry,
                       struct fault *fault)
{
    struct json member;
    struct safetensors_info *info = &entry->info;
    *info = (struct safetensors_info){.name = name, .elements = 1};
    size_t rank, ends;
    int64_t offsets[2], bytes;
    int element = 0;
    if (!json_require(value, "dtype", &member, fault) || !json_get_string(member, &info->type, fault))
        return false;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, info->type) == 0) element = types[i].bytes;
    }
    if (!element) return json_fault(member, fault, "unknown type %.40s", info->type);
    if (!json_require(value, "shape", &member, fault) ||
        !json_get_int64s(member, 0, INT64_MAX, SAFETENSORS_MAX_RANK, info->shape, &rank, fault)) {
        return false;
    }
    info->rank = (int)rank;
    for (size_t d = 0; d < rank; d++) {
        if (__builtin_mul_overflow(info->elements, info->shape[d], &info->elements)) {
            return json_fault(member, fault, "the product of the dimensions is too large");
        }
    }
    if (!json_require(value, "data_offsets", &member, fault) ||
        !json_get_int64s(member, 0, data_bytes, 2, offsets, &ends, fault)) {
        return false;
    }
    if (ends != 2) return json_fault(member, fault, "found %zu offsets, allowed 2", ends);
    entry->begin = offsets[0];
    entry->end = offsets[1];
    if (__builtin_mul_overflow(info->elements, (int64_t)element, &bytes) ||
        entry->end - entry->begin != bytes) {
        return json_fault(
            member, fault, "%lld bytes from %lld to %lld, but %lld elements of %s need %lld x %d",
            (long long)(entry->end - entry->begin), (long long)entry->begin, (long long)entry->end,
            (long long)info->elements, info->type, (long long)info->elements, element);
    }
    if (json_size(value) != 3)
        return json_fault(value, fault, "members other than dtype, shape and data_offsets");
    return true;
}

static int by_place(const void *a, const void *b)
{
    const struct tensor_entry *left = a, *right = b;
    if (left->begin != right->begin) return left->begin < right->begin ? -1 : 1;
    return (left->end > right->end) - (left->end < right->end); // empty tensors first
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor_entry *)a)->info.name, ((const struct tensor_entry *)b)->info.name);
}

// The tensors of a part must lie one behind the other, from the first byte of its data to the last of the
// file.
static bool check_coverage(const struct part *file, struct tensor_entry *entries, int count,
                           int64_t data_bytes, struct fault *fault)
{
    if (count > 0) qsort(entries, (size_t)count, sizeof *entries, by_place);
    int64_t covered = 0;
    for (int i = 0; i < count; i++) {
        const struct tensor_entry *entry = &entries[i];
        if (entry->begin != covered) {
            return fault_raise(
                fault, EXIT_CODE_INPUT, "%s: %.200s begins at byte %lld of the data, %s at byte %lld",
                file->path, entry->info.name, (long long)entry->begin,
                entry->begin > covered ? "a hole begins" : "which overlaps the tensor that ends",
                (long long)covered);
        }
        covered = entry->end;
    }
    if (covered != data_bytes) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: tensors end at byte %lld of the data, which has %lld",
                           file->path, (long long)covered, (long long)data_bytes);
    }
    return true;
}

static bool read_part(struct safetensors *whole, struct fault *fault)
{
    int place = whole->part_count - 1;
    struct part *file = &whole->parts[place];
    struct stat status;
    if (fstat(file->descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: not a regular file", file->path);
    }
    if (status.st_size < LENGTH_BYTES) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld bytes are too few for a safetensors file",
                           file->path, (long long)status.st_size);
    }
    uint64_t length;
    if (!read_bytes(file, 0, &length, LENGTH_BYTES, fault)) return false;
    if (length < 2 || length > MAX_HEADER_BYTES || (int64_t)length > status.st_size - LENGTH_BYTES) {
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: header of %llu bytes, allowed are 2 to %d and no more than the file's %lld",
                           file->path, (unsigned long long)length, MAX_HEADER_BYTES,
                           (long long)status.st_size - LENGTH_BYTES);
    }
    char *text = check_malloc(length);
    bool good = read_bytes(file, LENGTH_BYTES, text, (int64_t)length, fault) &&
                json_parse(text, length, file->path, &file->header, fault);
    free(text);
    if (!good) return false;

    struct json root = json_root(file->header), member;
    if (json_kind(root) != JSON_KIND_OBJECT) return json_fault(root, fault, "the header is not an object");
    file->data_begin = LENGTH_BYTES + (int64_t)length;
    int64_t data_bytes = status.st_size - file->data_begin;
    size_t most = (size_t)whole->count + json_size(root);
    whole->entries = check_realloc(whole->entries, (most ? most : 1) * sizeof *whole->entries);
    int first = whole->count;
    const char *name;
    for (void *iterator = NULL; json_next(root, &iterator, &name, &member);) {
        if (strcmp(name, "__metadata__") == 0) continue;
        if (!read_entry(member, name, data_bytes, &whole->entries[whole->count], fault)) return false;
        whole->entries[whole->count++].part = place;
    }
    return check_coverage(file, whole->entries + first, whole->count - first, data_bytes, fault);
}

/* Reads the header of one more part. */
static bool add_part(struct safetensors *whole, const char *path, struct fault *fault)
{
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    whole->parts = check_realloc(whole->parts, (size_t)(whole->part_count + 1) * sizeof *whole->parts);
    whole->parts[whole->part_count++] = (struct part){.path = check_strdup(path), .descriptor = descriptor};
    return read_part(whole, fault);
}

static void sort_by_name(struct safetensors *file)
{
    if (file->count > 0) qsort(file->entries, (size_t)file->count, sizeof *file->entries, by_name);
}

/* Ends the opening: a file, or nothing at all after a fault. */
static bool finish(struct safetensors *opened, bool good, struct safetensors **file)
{
    *file = good ? opened : NULL;
    if (!good) safetensors_close(opened);
    return good;
}

static const struct tensor_entry *find(const struct safetensors *file, const char *name)
{
    struct tensor_entry key = {.info.name = name};
    return file->count ? bsearch(&key, file->entries, (size_t)file->count, sizeof key, by_name) : NULL;
}

bool safetensors_open(const char *path, struct safetensors **file, struct fault *fault)
{
    struct safetensors *opened = check_calloc(1, sizeof *opened);
    opened->path = check_strdup(path);
    bool good = add_part(opened, path, fault);
    sort_by_name(opened);
    return finish(opened, good, file);
}

// ---- folders

/* Which part has a tensor, as the index says; adds the part when it is named for the first time. */
static bool place_of(struct safetensors *whole, const char *folder, struct json member, int *place,
                     struct fault *fault)
{
    const char *name;
    if (!json_get_string(member, &name, fault)) return false;
    if (!*name || *name == '.' || strchr(name, '/'))
        return json_fault(member, fault, "found \"%.100s\", allowed is the name of a file in the folder",
                          name);
    char *path = check_format("%s/%s", folder, name);
    *place = 0;
    while (*place < whole->part_count && strcmp(whole->parts[*place].path, path) != 0) ++*place;
    bool good = true;
    if (*place == MAX_PARTS)
        good = json_fault(member, fault, "more than %d files", MAX_PARTS);
    else if (*place == whole->part_count)
        good = add_part(whole, path, fault);
    free(path);
    return good;
}

static const char *part_path(const struct safetensors *whole, const struct tensor_entry *entry)
{
    return whole->parts[entry->part].path;
}

/* Every tensor of the parts stands in one of them, and in the map. */
static bool check_parts(const struct safetensors *whole, struct json map, struct fault *fault)
{
    struct json member;
    for (int i = 0; i < whole->count; i++) {
        const struct tensor_entry *entry = &whole->entries[i];
        const char *name = entry->info.name;
        if (i > 0 && strcmp(entry[-1].info.name, name) == 0)
            return json_fault(map, fault, "%.200s stands in %s and in %s", name, part_path(whole, entry - 1),
                              part_path(whole, entry));
        if (!json_member(map, name, &member))
            return json_fault(map, fault, "%s holds %.200s, which is not named here", part_path(whole, entry),
                              name);
    }
    return true;
}

/* weight_map: {tensor: file, ...} */
static bool read_map(struct safetensors *whole, const char *folder, struct json map, struct fault *fault)
{
    struct json member;
    const char *name;
    int place;
    if (json_kind(map) != JSON_KIND_OBJECT || json_size(map) == 0)
        return json_fault(map, fault, "allowed is an object that names the file of each tensor");
    for (void *iterator = NULL; json_next(map, &iterator, &name, &member);)
        if (!place_of(whole, folder, member, &place, fault)) return false;
    sort_by_name(whole);
    if (!check_parts(whole, map, fault)) return false;
    for (void *iterator = NULL; json_next(map, &iterator, &name, &member);) {
        const struct tensor_entry *entry = find(whole, name);
        if (!place_of(whole, folder, member, &place, fault)) return false;
        if (!entry) return json_fault(member, fault, "%s does not hold it", whole->parts[place].path);
        if (entry->part != place)
            return json_fault(member, fault, "it stands in %s", part_path(whole, entry));
    }
    return true;
}

static bool open_index(const char *folder, const char *path, struct safetensors **file, struct fault *fault)
{
    struct json_document *document;
    struct json map;
    if (!json_read(path, MAX_INDEX_BYTES, &document, fault)) return false;
    struct safetensors *opened = check_calloc(1, sizeof *opened);
    opened->path = check_strdup(path);
    bool good =
        json_require(json_root(document), "weight_map", &map, fault) && read_map(opened, folder, map, fault);
    json_free(document);
    return finish(opened, good, file);
}

bool safetensors_open_folder(const char *folder, const char *stem, struct safetensors **file,
                             struct fault *fault)
{
    static const struct {
        const char *ending;
        bool index;
    } forms[] = {{".safetensors", false},
                 {".safetensors.index.json", true},
                 {".fp16.safetensors", false},
                 {".safetensors.index.fp16.json", true}};
    *file = NULL;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char *path = check_format("%s/%s%s", folder, stem, forms[i].ending);
        bool there = access(path, F_OK) == 0;
        bool good = there && (forms[i].index ? open_index(folder, path, file, fault)
                                             : safetensors_open(path, file, fault));
        free(path);
        if (there) return good;
    }
    return fault_raise(
        fault, EXIT_CODE_INPUT,
        "%s: no weights here: allowed are %s.safetensors, %s.safetensors.index.json and the same of "
        "variant fp16; a .bin or .ckpt file must be converted to safetensors first",
        folder, stem, stem);
}

// ---- tensors

const struct safetensors_info *safetensors_find(const struct safetensors *file, const char *name)
{
    const struct tensor_entry *entry = find(file, name);
    return entry ? &entry->info : NULL;
}

bool safetensors_read(const struct safetensors *file, const char *name, int rank, const int64_t *shape,
                      float *out, struct fault *fault)
{
    const struct tensor_entry *entry = find(file, name);
    if (!entry) return fault_raise(fault, EXIT_CODE_INPUT, "%s: no tensor %s", file->path, name);
    const struct safetensors_info *info = &entry->info;
    bool same = info->rank == rank;
    for (int d = 0; d < rank && same; d++) same = shape[d] < 0 || shape[d] == info->shape[d];
    if (!same) {
        char found[200] = "", expected[200] = "";
        for (int d = 0, n = 0; d < info->rank; d++) {
            n += snprintf(found + n, sizeof found - (size_t)n, "%s%lld", d ? ", " : "",
                          (long long)info->shape[d]);
        }
        for (int d = 0, n = 0; d < rank && d < SAFETENSORS_MAX_RANK; d++) {
            n += snprintf(expected + n, sizeof expected - (size_t)n, "%s%lld", d ? ", " : "",
                          (long long)shape[d]);
        }
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: shape is [%s], expected [%s]", file->path, name,
                           found, expected);
    }
    const struct part *part = &file->parts[entry->part];
    int64_t begin = part->data_begin + entry->begin, bytes = entry->end - entry->begin;
    if (strcmp(info->type, "F32") == 0) return read_bytes(part, begin, out, bytes, fault);
    bool is_half = strcmp(info->type, "F16") == 0;
    if (!is_half && strcmp(info->type, "BF16") != 0) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: type is %s, allowed are F32, F16 and BF16",
                           file->path, name, info->type);
    }
    uint16_t *raw = check_malloc((size_t)bytes);
    bool good = read_bytes(part, begin, raw, bytes, fault);
    if (good) (is_half ? half_to_float : bfloat16_to_float)(raw, info->elements, out);
    free(raw);
    return good;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "safetensors files are little-endian, as memory is");
