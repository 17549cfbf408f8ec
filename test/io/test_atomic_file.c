/* Files that appear whole or not at all: in which order the bytes, the name and the folder reach the disk. No
 * test can cut the power, so this program stands between the code and the calls that matter. */
#define _GNU_SOURCE // fdatasync, renameat, realpath
#include "io/atomic_file.h"
#include "support/files.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static char calls[4096]; // what was called, a line each

static void note(const char *call, const char *path, long long size)
{
    size_t length = strlen(calls);
    const char *slash = strrchr(path, '/');
    snprintf(calls + length, sizeof calls - length, "%s %s %lld\n", call, slash ? slash + 1 : path, size);
}

/* In the place of the C library's: notes the file's name, and its size at that moment (0 of a folder). */
int fsync(int descriptor)
{
    char link[64], path[4096] = "";
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (!realpath(link, path) || fstat(descriptor, &status) != 0) return -1;
    note("fsync", path, S_ISREG(status.st_mode) ? (long long)status.st_size : 0);
    return fdatasync(descriptor);
}

/* Likewise; notes the name that the file gets, and its size. */
int rename(const char *from, const char *to)
{
    struct stat status;
    note("rename", to, stat(from, &status) == 0 ? (long long)status.st_size : -1);
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

static int make_folder(void **state)
{
    fault = (struct fault){0};
    calls[0] = '\0';
    *state = scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    scratch_remove(*state);
    return 0;
}

/* All bytes are flushed before the file gets its name, and the folder after that. */
static void bytes_then_name_then_folder(void **state)
{
    char *path = scratch_path(*state, "a.h5"), expected[4096];
    const char *folder = strrchr(*state, '/');
    GOOD(atomic_file_write(path, "0123456789", 10, &fault));
    snprintf(expected, sizeof expected, "fsync a.h5.partial 10\nrename a.h5 10\nfsync %s 0\n",
             folder ? folder + 1 : (char *)*state);
    assert_string_equal(calls, expected);
    assert_int_equal(folder_count(*state), 1);
    free(path);
}

/* Until the commit the old file is there as it was, whatever was written. */
static void the_old_file_stays_until_the_commit(void **state)
{
    char *path = scratch_path(*state, "a.h5");
    for (int commit = 0; commit < 2; commit++) {
        struct atomic_file *file;
        size_t size;
        file_write(path, "old", 3);
        GOOD(atomic_file_create(path, &file, &fault));
        assert_true(write_all(atomic_file_descriptor(file), "newer", 5));
        char *text = file_bytes(path, &size);
        assert_string_equal(text, "old");
        free(text);
        if (commit)
            GOOD(atomic_file_commit(file, &fault));
        else
            atomic_file_abandon(file);
        text = file_bytes(path, &size);
        assert_string_equal(text, commit ? "newer" : "old");
        free(text);
        assert_int_equal(folder_count(*state), 1);
    }
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bytes_then_name_then_folder, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_old_file_stays_until_the_commit, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
