#define _GNU_SOURCE // flock, O_CLOEXEC
#include "io/atomic_file.h"

#include "base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct atomic_file {
    char *path, *partial; /* owned */
    int descriptor;
};

void file_size_signal_ignore(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    if (sigaction(SIGXFSZ, NULL, &action) == 0 && action.sa_handler == SIG_DFL) signal(SIGXFSZ, SIG_IGN);
}

// Whether the descriptor is still the file of that name: its last writer may have renamed it between our
// open and our lock.
static bool is_file_of_name(int descriptor, const char *name)
{
    struct stat mine, named;
    return fstat(descriptor, &mine) == 0 && stat(name, &named) == 0 && mine.st_ino == named.st_ino &&
           mine.st_dev == named.st_dev;
}

bool atomic_file_create(const char *path, struct atomic_file **file, struct fault *fault)
{
    *file = NULL;
    file_size_signal_ignore();
    char *partial = check_format("%s.partial", path);
    int descriptor = -1;
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode)) {
        fault_raise(fault, EXIT_CODE_OUTPUT, "%s: exists and is not a regular file", path);
        goto failed;
    }
    do {
        if (descriptor >= 0) close(descriptor);
        descriptor = open(partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (descriptor < 0) {
            fault_raise(fault, EXIT_CODE_OUTPUT, "%s: cannot create: %s", partial, strerror(errno));
            goto failed;
        }
        // File systems without locks say ENOLCK or ENOSYS: there one writer a file is up to the user.
        if (flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            fault_raise(fault, EXIT_CODE_OUTPUT, "%s: another process is writing this file", path);
            goto failed;
        }
    } while (!is_file_of_name(descriptor, partial));
    if (ftruncate(descriptor, 0) != 0) {
        fault_raise(fault, EXIT_CODE_OUTPUT, "%s: %s", partial, strerror(errno));
        goto failed;
    }
    *file = check_malloc(sizeof **file);
    **file = (struct atomic_file){check_strdup(path), partial, descriptor};
    return true;
failed:
    if (descriptor >= 0) close(descriptor);
    free(partial);
    return false;
}

int atomic_file_descriptor(const struct atomic_file *file)
{
    return file->descriptor;
}

const char *atomic_file_path(const struct atomic_file *file)
{
    return file->path;
}

static void file_free(struct atomic_file *file)
{
    if (file->descriptor >= 0) close(file->descriptor);
    free(file->path);
    free(file->partial);
    free(file);
}

// The rename is on the disk only once its folder is.
static int sync_folder_of(const char *path)
{
    char *folder = check_strdup(path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder ? 1 : 0] = '\0';
    int descriptor = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (descriptor < 0) return errno;
    int error = fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno; // EINVAL: folders need no fsync here
    close(descriptor);
    return error;
}

bool atomic_file_commit(struct atomic_file *file, struct fault *fault)
{
    if (fsync(file->descriptor) != 0 || rename(file->partial, file->path) != 0) {
        fault_raise(fault, EXIT_CODE_OUTPUT, "%s: cannot write: %s", file->path, strerror(errno));
        atomic_file_abandon(file);
        return false;
    }
    int error = sync_folder_of(file->path);
    if (error)
        fault_raise(fault, EXIT_CODE_OUTPUT, "%s: fsync of its folder: %s", file->path, strerror(error));
    file_free(file);
    return error == 0;
}

void atomic_file_abandon(struct atomic_file *file)
{
    if (!file) return;
    unlink(file->partial);
    file_free(file);
}

bool atomic_file_write(const char *path, const void *data, size_t bytes, struct fault *fault)
{
    struct atomic_file *file;
    if (!atomic_file_create(path, &file, fault)) return false;
    if (!write_all(file->descriptor, data, bytes)) {
        fault_raise(fault, EXIT_CODE_OUTPUT, "%s: cannot write: %s", path, strerror(errno));
        atomic_file_abandon(file);
        return false;
    }
    return atomic_file_commit(file, fault);
}

bool write_all(int descriptor, const void *data, size_t bytes)
{
    for (const char *next = data; bytes > 0;) {
        ssize_t done = write(descriptor, next, bytes);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        next += done;
        bytes -= (size_t)done;
    }
    return true;
}
