#define _POSIX_C_SOURCE 200809L // popen
#include "support/published_encoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void published_encoder_folder(char *folder, size_t size)
{
    const char *given = getenv("APTP_SENTENCE_ENCODER");
    if (given) {
        snprintf(folder, size, "%s", given);
        return;
    }
    FILE *python = popen("build/venv/bin/python postproc/sentence_encoder_path.py", "r");
    bool found = python && fgets(folder, (int)size, python);
    if (python) pclose(python);
    if (!found)
        fail_msg(
            "all-MiniLM-L6-v2 was not found: run `make venv`, or set APTP_SENTENCE_ENCODER to its folder");
    folder[strcspn(folder, "\n")] = 0;
}
