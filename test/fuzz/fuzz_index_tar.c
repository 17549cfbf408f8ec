// Tars of pictures and captions, as webdataset makes them.

// libFuzzer: -max_len=16384
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/index.h"

#include <stdlib.h>
#include <string.h>

static void read_item(const struct index *index, int64_t number, size_t size)
{
    struct index_item item;
    struct fault fault = {0};
    bool done = index_item(index, number, &item, &fault);
    CHECK(done, "item %lld was sound when the tar was opened: %s", (long long)number, fault.text);
    CHECK(*item.name && strlen(item.caption) <= INDEX_MAX_CAPTION, "item %lld", (long long)number);
    index_stamp(index, number, &item);
    index_item_free(&item);

    uint8_t *data;
    size_t bytes;
    CHECK(index_image(index, number, &data, &bytes, &fault), "its picture: %s", fault.text);
    CHECK(bytes <= size, "a picture of %zu bytes in %zu", bytes, size);
    free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct index *index;
    struct fault fault = {0};
    const char *path = harness_file("t.tar", data, size);
    if (!harness_verdict(index_open(path, &index, &fault), &fault, EXIT_CODE_INPUT)) return 0;
    for (int64_t i = 0; i < index_count(index); i++) read_item(index, i, size);
    index_close(index);
    return 0;
}
