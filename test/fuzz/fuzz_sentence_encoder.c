// The folder of a sentence encoder, of which one file is replaced: the first byte says which.

// words: src/models/sentence_encoder.c src/models/bert.c
#include "base/check.h"
#include "fuzz/harness.h"
#include "models/sentence_encoder.h"
#include "support/files.h"
#include "tensor/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    "modules.json",          "config.json",           "sentence_bert_config.json",
    "tokenizer_config.json", "1_Pooling/config.json", "vocab.txt",
    "tokenizer.json"}; // the last is there only when it is the one
enum { FILES = sizeof names / sizeof names[0], TOKENIZER = FILES - 1 };

// The fixture's file, put into the folder again.
static void put_sound(const char *name)
{
    char *path = check_format("test/fixtures/bert_small/%s", name);
    size_t size;
    void *bytes = file_bytes(path, &size);
    harness_file(name, bytes, size);
    free(bytes);
    free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    if (!made) {
        for (int i = 0; i < TOKENIZER; i++) put_sound(names[i]);
        put_sound("model.safetensors");
        made = true;
    }
    int which = size > 0 ? data[0] - '0' : -1;
    if (which < 0 || which >= FILES) return 0;
    const char *path = harness_file(names[which], data + 1, size - 1);
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct sentence_encoder encoder;
    struct sentence_encoder_options options = {.batch = 1, .normalize = true, .dtype = DTYPE_F32};
    struct fault fault = {0};
    if (harness_verdict(sentence_encoder_open(&encoder, backend, harness_folder(), options, &fault), &fault,
                        EXIT_CODE_INPUT))
        sentence_encoder_close(&encoder);
    backend_close(backend);
    if (which == TOKENIZER)
        remove(path);
    else
        put_sound(names[which]);
    return 0;
}
