#include "io/text_file.h"

#include "base/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_file_read(const char *path, size_t max_bytes, char **text, struct fault *fault)
{
    bool standard_input = strcmp(path, "-") == 0;
    FILE *file = standard_input ? stdin : fopen(path, "rb");
    if (standard_input) path = "standard input";
    if (!file) return fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    char *buffer = check_malloc(max_bytes + 1);
    size_t bytes = fread(buffer, 1, max_bytes + 1, file);
    bool broken = ferror(file) != 0;
    if (!standard_input) fclose(file);
    bool ok = false;
    if (broken)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    else if (bytes > max_bytes)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: more than the %zu bytes allowed", path, max_bytes);
    else if (memchr(buffer, 0, bytes))
        fault_raise(fault, EXIT_CODE_INPUT, "%s: holds a zero byte, text is expected", path);
    else
        ok = true;
    if (!ok) {
        free(buffer);
        return false;
    }
    buffer[bytes] = 0;
    *text = check_realloc(buffer, bytes + 1);
    return true;
}
