#define _GNU_SOURCE // scandir, strcasecmp, st_mtim
#include "phases/real_pictures.h"

#include "base/check.h"
#include "io/index.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { BLOCK = 1024, MAX_NAME = 4096, DATASET_NAME = 64 };

struct named {
    char *name; // owned
    int64_t number;
};

struct real_pictures {
    char *path;          // owned
    struct index *index; // owned; NULL: a folder of pictures
    struct named *named; // [count] by name, then number
    int64_t count;
    int size;
    int64_t max_pixels;
};

static int by_name(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->number > y->number) - (x->number < y->number);
}

// ---- opening

static void add_name(struct real_pictures *pictures, const char *name)
{
    pictures->named[pictures->count] = (struct named){check_strdup(name), pictures->count};
    pictures->count++;
}

static bool read_index(struct real_pictures *pictures, struct fault *fault)
{
    if (!index_open(pictures->path, NULL, &pictures->index, fault)) return false;
    int64_t count = index_count(pictures->index);
    pictures->named = check_calloc((size_t)count, sizeof *pictures->named);
    while (pictures->count < count) {
        struct index_item item;
        if (!index_item(pictures->index, pictures->count, &item, fault)) return false;
        add_name(pictures, item.name);
        index_item_free(&item);
    }
    qsort(pictures->named, (size_t)count, sizeof *pictures->named, by_name);
    return true;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);
    return length > size && strcasecmp(text + length - size, end) == 0;
}

static bool is_index(const struct dirent *file)
{
    static const char *const names[] = {"index.csv", "index.tsv", "index.jsonl"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(file->d_name, names[i]) == 0) return true;
    return false;
}

static int is_listed(const struct dirent *file)
{
    const char *name = file->d_name;
    return is_index(file) || ends_with(name, ".png") || ends_with(name, ".jpg") || ends_with(name, ".jpeg");
}

static int by_file_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* The pictures of a folder without an index; false: it is something else. */
static bool read_folder(struct real_pictures *pictures)
{
    struct dirent **file;
    int files = scandir(pictures->path, &file, is_listed, by_file_name);
    if (files < 0) return false;
    bool indexed = files == 0;
    for (int i = 0; i < files; i++) indexed = indexed || is_index(file[i]);
    if (!indexed) pictures->named = check_calloc((size_t)files, sizeof *pictures->named);
    for (int i = 0; i < files; i++) {
        if (!indexed) add_name(pictures, file[i]->d_name);
        free(file[i]);
    }
    free(file);
    return !indexed;
}

bool real_pictures_open(const char *path, int size, int64_t max_pixels, struct real_pictures **pictures,
                        struct fault *fault)
{
    struct real_pictures *opened = check_calloc(1, sizeof *opened);
    *pictures = NULL;
    *opened = (struct real_pictures){.path = check_strdup(path), .size = size, .max_pixels = max_pixels};
    if (!read_folder(opened) && !read_index(opened, fault)) {
        real_pictures_close(opened);
        return false;
    }
    *pictures = opened;
    return true;
}

void real_pictures_close(struct real_pictures *pictures)
{
    if (!pictures) return;
    for (int64_t i = 0; i < pictures->count; i++) free(pictures->named[i].name);
    free(pictures->named);
    index_close(pictures->index);
    free(pictures->path);
    free(pictures);
}

// ---- names

/* The first place of that name, or -1: a picture with several captions has several places. */
static int64_t find_name(const struct real_pictures *pictures, const char *name)
{
    int64_t low = 0, high = pictures->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (strcmp(pictures->named[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < pictures->count && strcmp(pictures->named[low].name, name) == 0;
    return found ? pictures->named[low].number : -1;
}

bool real_pictures_find(const struct real_pictures *pictures, struct h5_reader *data, const char *split,
                        int64_t items, int64_t *number, struct fault *fault)
{
    char dataset[DATASET_NAME];
    snprintf(dataset, sizeof dataset, "%s/image", split);
    if (!h5_expect(data, dataset, 1, &items, NULL, fault)) return false;
    for (int64_t first = 0; first < items; first += BLOCK) {
        int64_t rows = items - first < BLOCK ? items - first : BLOCK;
        struct h5_strings names;
        if (!h5_read_strings(data, dataset, first, rows, BLOCK * MAX_NAME, &names, fault)) return false;
        for (int64_t i = 0; i < rows; i++) number[first + i] = find_name(pictures, names.item[i]);
        h5_strings_free(&names);
    }
    return true;
}

// ---- pictures

static char *file_path(const struct real_pictures *pictures, int64_t number)
{
    return check_format("%s/%s", pictures->path, pictures->named[number].name);
}

/* Name, size and time of change. */
static bool identify_item(const struct real_pictures *pictures, int64_t number, struct sha256 *hash,
                          struct fault *fault)
{
    struct index_item item;
    if (!index_item(pictures->index, number, &item, fault)) return false;
    struct index_stamp stamp = index_stamp(pictures->index, number, &item);
    sha256_add(hash, item.name, strlen(item.name) + 1);
    sha256_add(hash, &stamp, sizeof stamp);
    index_item_free(&item);
    return true;
}

static void identify_file(const struct real_pictures *pictures, int64_t number, struct sha256 *hash)
{
    char *path = file_path(pictures, number);
    const char *name = pictures->named[number].name;
    struct stat status;
    struct index_stamp stamp = {0};
    if (stat(path, &status) == 0)
        stamp = (struct index_stamp){status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
    sha256_add(hash, name, strlen(name) + 1);
    sha256_add(hash, &stamp, sizeof stamp);
    free(path);
}

bool real_pictures_identify(const struct real_pictures *pictures, int64_t count, const int64_t *number,
                            struct sha256 *hash, struct fault *fault)
{
    for (int64_t i = 0; i < count; i++) {
        if (number[i] < 0)
            sha256_add(hash, "", 1);
        else if (!pictures->index)
            identify_file(pictures, number[i], hash);
        else if (!identify_item(pictures, number[i], hash, fault))
            return false;
    }
    return true;
}

static bool read_file(const struct real_pictures *pictures, int64_t number, struct image *picture,
                      struct fault *fault)
{
    char *path = file_path(pictures, number);
    struct stat status;
    bool ok = stat(path, &status) == 0 && S_ISREG(status.st_mode);
    if (ok)
        ok = image_read(path, pictures->max_pixels, picture, fault);
    else
        fault_raise(fault, EXIT_CODE_INPUT, "%s is not a regular file", path);
    free(path);
    return ok;
}

static bool read_item(const struct real_pictures *pictures, int64_t number, struct image *picture,
                      struct fault *fault)
{
    struct index_item item = {0};
    uint8_t *data = NULL;
    size_t bytes = 0;
    bool ok;
#pragma omp critical(real_pictures_index) // decoding is what takes its time
    ok = index_item(pictures->index, number, &item, fault) &&
         index_image(pictures->index, number, &data, &bytes, fault);
    ok = ok && image_decode(data, bytes, item.name, pictures->max_pixels, picture, fault);
    free(data);
    index_item_free(&item);
    return ok;
}

bool real_pictures_read(const struct real_pictures *pictures, int64_t number, struct image *picture,
                        struct fault *fault)
{
    struct image whole = {0};
    *picture = (struct image){0};
    if (number < 0) return fault_raise(fault, EXIT_CODE_INPUT, "it is not in %s", pictures->path);
    if (!(pictures->index ? read_item(pictures, number, &whole, fault)
                          : read_file(pictures, number, &whole, fault)))
        return false;
    *picture = image_resize_crop(&whole, image_training_crop(pictures->size));
    image_free(&whole);
    return true;
}
