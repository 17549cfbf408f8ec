/* Feeds files to a harness, in place of libFuzzer: replay FOLDER... Prints the name of each before it is fed,
 * so that the last one is the culprit. */
#define _XOPEN_SOURCE 700 // scandir
#include "base/check.h"
#include "fuzz/harness.h"
#include "support/files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SECONDS = 60, MEMORY = 2ul << 30 }; // of one input; of the process

static void feed(const char *path)
{
    puts(path);
    fflush(stdout);
    size_t size;
    char *data = file_bytes(path, &size); // a zero follows, which would hide a read beyond the end:
    uint8_t *input = check_malloc(size);
    for (size_t i = 0; i < size; i++) input[i] = (uint8_t)data[i];
    alarm(SECONDS);
    CHECK(LLVMFuzzerTestOneInput(input, size) == 0, "%s", path);
    free(input);
    free(data);
}

static int is_input(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

int main(int argc, char **argv)
{
    LLVMFuzzerInitialize(&argc, &argv);
#ifndef __SANITIZE_ADDRESS__ // which reserves terabytes
    struct rlimit memory = {MEMORY, MEMORY};
    setrlimit(RLIMIT_AS, &memory);
#endif
    int fed = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entry;
        int count = scandir(argv[i], &entry, is_input, alphasort);
        CHECK(count > 0, "%s: no inputs", argv[i]);
        for (int k = 0; k < count; k++, fed++) {
            char *path = check_format("%s/%s", argv[i], entry[k]->d_name);
            feed(path);
            free(path);
            free(entry[k]);
        }
        free(entry);
    }
    CHECK(fed > 0, "usage: %s FOLDER...", argv[0]);
    printf("%d inputs\n", fed);
}
