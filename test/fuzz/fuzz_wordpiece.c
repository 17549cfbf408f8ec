// A vocab.txt, and behind an empty line (which no vocabulary has) a text to be encoded with it. The first
// byte holds the options.
#define _GNU_SOURCE // memmem
#include "base/check.h"
#include "fuzz/harness.h"
#include "models/wordpiece.h"

#include <string.h>

enum { TOKENS = 24 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    struct wordpiece_options options = {
        .lower_case = data[0] & 1, .strip_accents = data[0] & 2, .split_cjk = data[0] & 4};
    const char *text = (const char *)data + 1, *end = (const char *)data + size;
    const char *gap = memmem(text, size - 1, "\n\n", 2);
    const char *path = harness_file("vocab.txt", text, (size_t)((gap ? gap + 1 : end) - text));
    struct wordpiece *tokenizer;
    struct fault fault = {0};
    if (!harness_verdict(wordpiece_read(path, options, &tokenizer, &fault), &fault, EXIT_CODE_INPUT))
        return 0;
    int32_t ids[TOKENS];
    if (!gap) gap = end - 2;
    for (int capacity = 2; capacity <= TOKENS; capacity += TOKENS - 2) {
        int count = wordpiece_encode(tokenizer, gap + 2, (size_t)(end - gap - 2), capacity, ids);
        CHECK(count >= 2 && count <= capacity, "%d tokens, allowed 2 to %d", count, capacity);
        for (int i = 0; i < capacity; i++)
            CHECK(ids[i] >= 0 && ids[i] < wordpiece_count(tokenizer), "id %d", (int)ids[i]);
    }
    wordpiece_free(tokenizer);
    return 0;
}
