// CLIP's tokenizer, of whose files one is replaced: the first byte says which. '5': the rest is a text.

// words: src/models/clip_bpe_files.c
// libFuzzer: -max_len=16384
#include "base/check.h"
#include "fuzz/harness.h"
#include "models/clip_bpe.h"
#include "support/files.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG, SPECIAL, VOCABULARY, MERGES, TOKENIZER, TEXT, KINDS, TOKENS = 24 };

// The fixture's files, read once.
static const char *sound(int kind)
{
    static const char *const names[] = {"tokenizer/tokenizer_config.json",
                                        "tokenizer/special_tokens_map.json", "tokenizer/vocab.json",
                                        "tokenizer/merges.txt"};
    static char *text[TOKENIZER];
    if (!text[kind]) {
        size_t size;
        char *path = check_format("test/fixtures/sd2_text_small/%s", names[kind]);
        text[kind] = file_bytes(path, &size);
        free(path);
    }
    return text[kind];
}

static void encode(const struct clip_bpe *tokenizer, const char *text, size_t bytes)
{
    int32_t ids[TOKENS];
    for (int capacity = 2; capacity <= TOKENS; capacity += TOKENS - 2) {
        int length;
        int64_t cut = clip_bpe_encode(tokenizer, text, bytes, capacity, ids, &length);
        CHECK(length >= 2 && length <= capacity, "%d tokens, allowed 2 to %d", length, capacity);
        CHECK(cut >= 0 && (cut == 0 || length == capacity), "%lld tokens cut", (long long)cut);
        for (int i = 0; i < capacity; i++)
            CHECK(ids[i] >= 0 && ids[i] < clip_bpe_count(tokenizer), "id %d", (int)ids[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int which = size > 0 ? data[0] - '0' : -1;
    if (which < 0 || which >= KINDS) return 0;
    char *text = harness_text(data + 1, size - 1);
    const char *file[KINDS] = {sound(CONFIG), sound(SPECIAL), sound(VOCABULARY), sound(MERGES)};
    file[which] = text;
    struct clip_bpe_files files = {.name = "folder",
                                   .config = file[CONFIG],
                                   .special = file[SPECIAL],
                                   .vocabulary = file[VOCABULARY],
                                   .merges = file[MERGES],
                                   .tokenizer = file[TOKENIZER]};
    struct clip_bpe *tokenizer;
    struct fault fault = {0};
    if (harness_verdict(clip_bpe_parse(&files, &tokenizer, &fault), &fault, EXIT_CODE_INPUT)) {
        const char *spoken = which == TEXT ? (const char *)data + 1 : "A bird's <|endoftext|>! \xc3\xa9 \xff";
        encode(tokenizer, spoken, which == TEXT ? size - 1 : strlen(spoken));
        clip_bpe_free(tokenizer);
    }
    free(text);
    return 0;
}
