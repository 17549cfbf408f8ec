#define _POSIX_C_SOURCE 200809L // mkdir
#include "io/folder.h"

#include "base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A folder, or a link to one. */
static bool is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool folder_create(const char *path, struct fault *fault)
{
    char *part = check_strdup(path);
    bool ok = true;
    for (char *c = part; ok && *c; c++) {
        bool last = c[1] == '\0';
        if (!last && (*c != '/' || c == part)) continue;
        if (!last) *c = '\0';
        if (mkdir(part, 0777) != 0 && !is_folder(part))
            ok = fault_raise(fault, EXIT_CODE_OUTPUT, "cannot make the folder %s: %s", part, strerror(errno));
        if (!last) *c = '/';
    }
    free(part);
    return ok;
}
