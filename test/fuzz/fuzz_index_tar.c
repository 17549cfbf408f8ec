// Tars of pictures and captions, as webdataset makes them: as they are, and once more with the checksums of
// the headers put right, without which hardly a changed byte of a header would get further than there.

// libFuzzer: -max_len=16384
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, SUM_PLACE = 148, SUM_BYTES = 8, MAGIC_PLACE = 257 }; // of a header

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

static void read_tar(const uint8_t *data, size_t size)
{
    struct index *index;
    struct fault fault = {0};
    const char *path = harness_file("t.tar", data, size);
    if (!harness_verdict(index_open(path, NULL, &index, &fault), &fault, EXIT_CODE_INPUT)) return;
    for (int64_t i = 0; i < index_count(index); i++) read_item(index, i, size);
    index_close(index);
}

// The sum of a header's bytes, its own place taken as blanks, as six octal digits, a zero and a blank.
static void repair_sum(uint8_t *header)
{
    memset(header + SUM_PLACE, ' ', SUM_BYTES);
    unsigned sum = 0;
    for (int i = 0; i < BLOCK; i++) sum += header[i];
    snprintf((char *)header + SUM_PLACE, SUM_BYTES - 1, "%06o", sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_tar(data, size);
    uint8_t *repaired = check_malloc(size);
    if (size > 0) memcpy(repaired, data, size);
    for (size_t at = 0; at + BLOCK <= size; at += BLOCK)
        if (memcmp(repaired + at + MAGIC_PLACE, "ustar", 5) == 0) repair_sum(repaired + at);
    if (size > 0 && memcmp(repaired, data, size) != 0) read_tar(repaired, size);
    free(repaired);
    return 0;
}
