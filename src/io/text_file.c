#include "io/text_file.h"

#include "base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 1 << 12 };

bool stream_read(FILE *stream, const char *name, size_t max_bytes, char **data, size_t *bytes,
                 struct fault *fault)
{
    size_t capacity = FIRST_BYTES, size = 0, got;
    char *buffer = check_malloc(capacity);
    while (size <= max_bytes && (got = fread(buffer + size, 1, capacity - 1 - size, stream)) > 0) {
        size += got;
        if (size == capacity - 1) buffer = check_realloc(buffer, capacity *= 2);
    }
    if (ferror(stream))
        fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot be read: %s", name, strerror(errno));
    else if (size > max_bytes)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: more than the %zu bytes allowed", name, max_bytes);
    else {
        buffer[size] = '\0';
        *data = check_realloc(buffer, size + 1);
        *bytes = size;
        return true;
    }
    free(buffer);
    return false;
}

bool text_file_read(const char *path, size_t max_bytes, char **text, struct fault *fault)
{
    bool standard_input = strcmp(path, "-") == 0;
    FILE *file = standard_input ? stdin : fopen(path, "rb");
    if (standard_input) path = "standard input";
    if (!file) return fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    size_t bytes;
    bool ok = stream_read(file, path, max_bytes, text, &bytes, fault);
    if (!standard_input) fclose(file);
    if (ok && memchr(*text, 0, bytes)) {
        free(*text);
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: holds a zero byte, text is expected", path);
    }
    return ok;
}
