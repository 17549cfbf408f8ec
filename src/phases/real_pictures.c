#include "phases/real_pictures.h"

#include "base/check.h"
#include "io/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1024, MAX_NAME = 4096, DATASET_NAME = 64 };

struct named {
    char *name; // owned
    int64_t number;
};

struct real_pictures {
    char *path; // owned
    struct index *index;
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

static bool read_names(struct real_pictures *pictures, struct fault *fault)
{
    int64_t count = index_count(pictures->index);
    if (count == 0) return fault_raise(fault, EXIT_CODE_INPUT, "%s names no picture", pictures->path);
    pictures->named = check_calloc((size_t)count, sizeof *pictures->named);
    for (; pictures->count < count; pictures->count++) {
        struct index_item item;
        if (!index_item(pictures->index, pictures->count, &item, fault)) return false;
        pictures->named[pictures->count] = (struct named){check_strdup(item.name), pictures->count};
        index_item_free(&item);
    }
    qsort(pictures->named, (size_t)count, sizeof *pictures->named, by_name);
    return true;
}

bool real_pictures_open(const char *path, int size, int64_t max_pixels, struct real_pictures **pictures,
                        struct fault *fault)
{
    struct real_pictures *opened = check_calloc(1, sizeof *opened);
    *pictures = NULL;
    *opened = (struct real_pictures){.path = check_strdup(path), .size = size, .max_pixels = max_pixels};
    if (!index_open_pictures(path, &opened->index, fault) || !read_names(opened, fault)) {
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

bool real_pictures_identify(const struct real_pictures *pictures, int64_t count, const int64_t *number,
                            struct sha256 *hash, struct fault *fault)
{
    for (int64_t i = 0; i < count; i++) {
        struct index_item item;
        struct index_stamp stamp = {0};
        if (number[i] >= 0) {
            if (!index_item(pictures->index, number[i], &item, fault)) return false;
            stamp = index_stamp(pictures->index, number[i], &item);
            sha256_add(hash, item.name, strlen(item.name) + 1);
            index_item_free(&item);
        }
        sha256_add(hash, &stamp, sizeof stamp);
    }
    return true;
}

bool real_pictures_read(const struct real_pictures *pictures, int64_t number, struct image *picture,
                        struct fault *fault)
{
    struct index_item item;
    struct image whole = {0};
    uint8_t *data;
    size_t bytes;
    *picture = (struct image){0};
    if (number < 0) return fault_raise(fault, EXIT_CODE_INPUT, "it is not in %s", pictures->path);
    if (!index_item(pictures->index, number, &item, fault)) return false;
    bool ok = index_image(pictures->index, number, &data, &bytes, fault);
    if (ok) {
        ok = image_decode(data, bytes, item.name, pictures->max_pixels, &whole, fault);
        free(data);
    }
    index_item_free(&item);
    if (!ok) return false;
    *picture = training_square(&whole, pictures->size);
    image_free(&whole);
    return true;
}

struct image training_square(const struct image *picture, int size)
{
    return image_resize_crop(picture, (struct image_crop){IMAGE_BILINEAR, size, size, IMAGE_MARGIN_EVEN});
}
