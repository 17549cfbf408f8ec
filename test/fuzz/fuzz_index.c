// Indexes of pictures: the first byte says which form, 'c'sv, 't'sv, 'j'sonl. Each item is read again, and
// its picture, of which the folder has one.

// words: src/io/index.c src/io/index_text.c
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/index.h"

#include <stdlib.h>
#include <string.h>

static const char picture[] = "a picture";

static void read_item(const struct index *index, int64_t number, size_t index_bytes)
{
    struct index_item item;
    struct fault fault = {0};
    bool done = harness_verdict(index_item(index, number, &item, &fault), &fault, EXIT_CODE_INPUT);
    CHECK(done, "item %lld was sound when the index was opened: %s", (long long)number, fault.text);
    CHECK(strlen(item.caption) <= INDEX_MAX_CAPTION && strlen(item.group) <= INDEX_MAX_LABEL, "a long text");
    index_stamp(index, number, &item);

    uint8_t *data;
    size_t bytes;
    if (harness_verdict(index_image(index, number, &data, &bytes, &fault), &fault, EXIT_CODE_INPUT))
        CHECK(bytes == sizeof picture || bytes == index_bytes, "%s is none of the folder", item.name);
    free(data);
    index_item_free(&item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"csv/i.csv", "tsv/i.tsv", "jsonl/i.jsonl"};
    if (size == 0) return 0;
    struct index *index;
    struct fault fault = {0};
    harness_file("csv/a.png", picture, sizeof picture);
    const char *path = harness_file(names[data[0] == 't' ? 1 : data[0] == 'j' ? 2 : 0], data + 1, size - 1);
    if (!harness_verdict(index_open(path, NULL, &index, &fault), &fault, EXIT_CODE_INPUT)) return 0;
    for (int64_t i = 0; i < index_count(index); i++) read_item(index, i, size - 1);
    index_close(index);
    return 0;
}
