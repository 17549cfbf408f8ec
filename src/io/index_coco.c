// Annotations of COCO: images and captions by number.
#include "base/check.h"
#include "io/index_private.h"
#include "io/json.h"
#include "io/sha256.h"

#include <stdlib.h>
#include <string.h>

// captions_train2014.json has 67 MB. A document takes about 7 times its bytes of memory while it is read.
enum { MAX_BYTES = 512 << 20 };

struct picture {
    int64_t id;
    size_t place; // in the file's list
    char *name;   // owned
    uint64_t hash;
};

struct pictures {
    struct picture *picture; // [count], by id; owned
    size_t count;
};

static int by_id(const void *a, const void *b)
{
    const struct picture *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static void pictures_free(struct pictures *pictures)
{
    for (size_t i = 0; i < pictures->count; i++) free(pictures->picture[i].name);
    free(pictures->picture);
}

static bool require_array(struct json root, const char *key, struct json *array, struct fault *fault)
{
    if (!json_require(root, key, array, fault)) return false;
    enum json_kind kind = json_kind(*array);
    return kind == JSON_KIND_ARRAY ||
           json_fault(*array, fault, "found %s, allowed an array", json_kind_name(kind));
}

static bool require_id(struct json object, const char *key, int64_t *id, struct fault *fault)
{
    struct json member;
    return json_require(object, key, &member, fault) && json_get_int64(member, 0, INT64_MAX, id, fault);
}

// A text of an object, checked; the caller frees it.
static bool require_text(const struct index *index, struct json object, const char *key, enum role role,
                         char **text, struct fault *fault)
{
    struct json member;
    const char *value;
    struct index_item item = {0};
    if (!json_require(object, key, &member, fault) || !json_get_string(member, &value, fault) ||
        !index_take_field(index, index->path, member.place, role, value, strlen(value), &item, fault))
        return false;
    *text = *index_item_field(&item, role);
    return true;
}

static bool read_picture(const struct index *index, struct json image, size_t place, struct picture *picture,
                         struct fault *fault)
{
    *picture = (struct picture){.place = place};
    if (!require_id(image, "id", &picture->id, fault) ||
        !require_text(index, image, "file_name", ROLE_FILE, &picture->name, fault))
        return false;
    picture->hash = sha256_number(picture->name, strlen(picture->name));
    return true;
}

static bool read_pictures(const struct index *index, struct json root, struct pictures *pictures,
                          struct fault *fault)
{
    struct json images;
    if (!require_array(root, "images", &images, fault)) return false;
    size_t count = json_size(images);
    pictures->picture = check_calloc(count, sizeof *pictures->picture);
    for (size_t i = 0; i < count; i++)
        if (!read_picture(index, json_element(images, i), i, &pictures->picture[pictures->count++], fault))
            return false;
    if (count > 0) qsort(pictures->picture, count, sizeof *pictures->picture, by_id);
    for (size_t i = 1; i < count; i++) {
        const struct picture *one = &pictures->picture[i - 1], *other = &pictures->picture[i];
        if (one->id == other->id)
            return json_fault(images, fault, "images %zu and %zu have the same id, %lld", one->place,
                              other->place, (long long)one->id);
    }
    return true;
}

static bool read_caption(struct index *index, const struct pictures *pictures, struct json annotation,
                         struct fault *fault)
{
    struct picture wanted = {0};
    char *caption;
    if (!require_id(annotation, "image_id", &wanted.id, fault)) return false;
    const struct picture *picture =
        bsearch(&wanted, pictures->picture, pictures->count, sizeof wanted, by_id);
    if (!picture)
        return json_fault(annotation, fault, "image_id %lld is none of `images`", (long long)wanted.id);
    if (!require_text(index, annotation, "caption", ROLE_CAPTION, &caption, fault)) return false;
    struct entry *entry = index_add_entry(index);
    entry->name = check_strdup(picture->name);
    entry->caption = caption;
    entry->picture = picture->hash;
    return true;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool are_distinct(struct json annotations, int64_t *id, size_t count, struct fault *fault)
{
    if (count > 0) qsort(id, count, sizeof *id, by_value);
    for (size_t i = 1; i < count; i++)
        if (id[i - 1] == id[i])
            return json_fault(annotations, fault, "two have the same id, %lld", (long long)id[i]);
    return true;
}

static bool read_captions(struct index *index, const struct pictures *pictures, struct json root,
                          struct fault *fault)
{
    struct json annotations;
    if (!require_array(root, "annotations", &annotations, fault)) return false;
    size_t count = json_size(annotations);
    int64_t *id = check_calloc(count, sizeof *id);
    bool good = true;
    for (size_t i = 0; good && i < count; i++) {
        struct json annotation = json_element(annotations, i);
        good =
            require_id(annotation, "id", &id[i], fault) && read_caption(index, pictures, annotation, fault);
    }
    good = good && are_distinct(annotations, id, count, fault);
    free(id);
    return good;
}

bool index_coco_open(struct index *index, struct fault *fault)
{
    struct json_document *document;
    if (!json_read(index->path, MAX_BYTES, &document, fault)) return false;
    struct json root = json_root(document);
    struct pictures pictures = {0};
    bool good = read_pictures(index, root, &pictures, fault) && read_captions(index, &pictures, root, fault);
    pictures_free(&pictures);
    json_free(document);
    return good;
}

bool index_coco_item(const struct index *index, const struct entry *entry, struct index_item *item,
                     struct fault *fault)
{
    (void)index;
    (void)fault;
    item->name = check_strdup(entry->name);
    item->caption = check_strdup(entry->caption);
    return true;
}
