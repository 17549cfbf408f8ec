#define _XOPEN_SOURCE 700 // mkdtemp, nftw
#include "fuzz/harness.h"

#include "base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256], path[512];

static void abort_job(int exit_code)
{
    (void)exit_code;
    abort(); // which libFuzzer notices and keeps the input of
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    check_set_abort(abort_job, 0);
    return 0;
}

static int remove_entry(const char *name, const struct stat *status, int flag, struct FTW *place)
{
    (void)status, (void)flag, (void)place;
    return remove(name);
}

static void remove_folder(void)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *harness_folder(void)
{
    if (!*folder) {
        const char *above = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/aptp-fuzz-XXXXXX", above ? above : "/dev/shm");
        CHECK(mkdtemp(folder), "%s: %s", folder, strerror(errno));
        atexit(remove_folder);
    }
    return folder;
}

const char *harness_file(const char *name, const void *data, size_t size)
{
    int length = snprintf(path, sizeof path, "%s/%s", harness_folder(), name);
    CHECK(length > 0 && (size_t)length < sizeof path, "%s", name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    CHECK(mkdir(path, 0700) == 0 || errno == EEXIST, "%s: %s", path, strerror(errno));
    *slash = '/';
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(descriptor >= 0 && write(descriptor, data, size) == (ssize_t)size, "%s: %s", path, strerror(errno));
    close(descriptor);
    return path;
}

char *harness_text(const uint8_t *data, size_t size)
{
    char *text = check_malloc(size + 1);
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

bool harness_verdict(bool done, const struct fault *fault, enum exit_code code)
{
    if (done)
        CHECK(fault->code == EXIT_CODE_OK, "done, but with the fault: %s", fault->text);
    else
        CHECK(fault->code == code && *fault->text, "fault %d, allowed %d: %s", (int)fault->code, (int)code,
              fault->text);
    return done;
}
