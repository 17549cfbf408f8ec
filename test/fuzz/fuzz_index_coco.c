// COCO's annotations. The first byte says what is used of them: bit 0, one caption of each picture; the next
// two, how many pictures. Each item is read again, and its picture, of which the folder has one.

// words: src/io/index_coco.c
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/index.h"

#include <stdlib.h>
#include <string.h>

static const char picture[] = "a picture";

static void read_item(const struct index *index, int64_t number, size_t json_bytes)
{
    struct index_item item;
    struct fault fault = {0};
    bool done = index_item(index, number, &item, &fault);
    CHECK(done, "item %lld was sound when the index was opened: %s", (long long)number, fault.text);
    CHECK(*item.name && *item.name != '/' && strlen(item.caption) <= INDEX_MAX_CAPTION, "item %lld",
          (long long)number);
    index_stamp(index, number, &item);

    uint8_t *data;
    size_t bytes;
    if (harness_verdict(index_image(index, number, &data, &bytes, &fault), &fault, EXIT_CODE_INPUT))
        CHECK(bytes == sizeof picture || bytes == json_bytes, "%s is none of the folder", item.name);
    free(data);
    index_item_free(&item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    struct index_options options = {.captions = data[0] & 1 ? INDEX_CAPTIONS_ONE : INDEX_CAPTIONS_ALL,
                                    .images = data[0] >> 1 & 3};
    struct index *index;
    struct fault fault = {0};
    harness_file("coco/a.png", picture, sizeof picture);
    const char *path = harness_file("coco/i.json", data + 1, size - 1);
    if (!harness_verdict(index_open(path, &options, &index, &fault), &fault, EXIT_CODE_INPUT)) return 0;
    int64_t items = index_count(index), pictures = index_pictures(index);
    CHECK(pictures <= items && (options.images == 0 || pictures == options.images), "%lld pictures",
          (long long)pictures);
    CHECK(options.captions == INDEX_CAPTIONS_ALL || items == pictures, "%lld captions", (long long)items);
    for (int64_t i = 0; i < items; i++) read_item(index, i, size - 1);
    index_close(index);
    return 0;
}
