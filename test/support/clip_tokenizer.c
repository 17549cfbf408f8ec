#define _POSIX_C_SOURCE 200809L // access
#include "support/clip_tokenizer.h"

#include "base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

char *clip_tokenizer_folder(const char *name)
{
    const char *given = getenv("APTP_CLIP_TOKENIZER");
    char *folder = check_format("%s/%s", given ? given : "build/venv/clip_tokenizer", name);
    if (access(folder, R_OK) != 0)
        fail_msg("%s was not found: run `make venv`, or set APTP_CLIP_TOKENIZER to where clip_tokenizer.py "
                 "wrote",
                 folder);
    return folder;
}
