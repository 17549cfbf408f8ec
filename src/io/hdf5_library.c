#define _GNU_SOURCE // PTHREAD_MUTEX_RECURSIVE
#include "io/hdf5_private.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One library per process, one lock. Few builds of HDF5 are thread-safe (Debian's is, most clusters' are
// not), and several calls of it belong together here. Recursive, so that public functions may call each
// other.
static pthread_mutex_t library_lock;
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void prepare_library(void)
{
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&library_lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    H5dont_atexit();
    H5open();
    // Filters come with the library or not at all: a file cannot name a plug-in to load.
    H5PLset_loading_state(0);
}

void h5_lock(void)
{
    pthread_once(&library_once, prepare_library);
    pthread_mutex_lock(&library_lock);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void h5_unlock(void)
{
    pthread_mutex_unlock(&library_lock);
}

const char *h5_library(void)
{
    return &H5_VERS_INFO[sizeof "HDF5 library version: " - 1];
}

static herr_t keep_message(unsigned index, const H5E_error2_t *error, void *text)
{
    if (index == 0) snprintf(text, H5_MESSAGE_SIZE, "%s", error->desc ? error->desc : "");
    return 0;
}

const char *h5_message(char text[H5_MESSAGE_SIZE])
{
    strcpy(text, "HDF5 gives no reason");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_message, text);
    return text;
}

hid_t h5_checked(hid_t result, const char *file, int line, const char *call)
{
    char text[H5_MESSAGE_SIZE];
    if (result < 0) check_failed(file, line, call, "HDF5: %s", h5_message(text));
    return result;
}

hid_t h5_make_half_type(void)
{
    hid_t type = H5_CHECK(H5Tcopy(H5T_IEEE_F32LE));
    H5_CHECK(H5Tset_fields(type, 15, 10, 5, 0, 10));
    H5_CHECK(H5Tset_size(type, 2));
    H5_CHECK(H5Tset_ebias(type, 15));
    return type;
}

hid_t h5_make_memory_type(enum h5_type type)
{
    switch (type) {
    case H5_FLOAT16:
        return h5_make_half_type();
    case H5_FLOAT32:
        return H5_CHECK(H5Tcopy(H5T_IEEE_F32LE));
    case H5_FLOAT64:
        return H5_CHECK(H5Tcopy(H5T_IEEE_F64LE));
    case H5_INT32:
        return H5_CHECK(H5Tcopy(H5T_STD_I32LE));
    case H5_INT64:
        return H5_CHECK(H5Tcopy(H5T_STD_I64LE));
    case H5_UINT8:
        return H5_CHECK(H5Tcopy(H5T_STD_U8LE));
    default:
        CHECK(false, "no memory type for %s", h5_type_name(type));
    }
}

size_t h5_memory_size(enum h5_type type)
{
    static const size_t sizes[] = {
        [H5_FLOAT16] = 2, [H5_FLOAT32] = 4, [H5_FLOAT64] = 8, [H5_INT32] = 4,
        [H5_INT64] = 8,   [H5_UINT8] = 1,   [H5_STRING] = 0,  [H5_OTHER] = 0,
    };
    return sizes[type];
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files and hashes are little-endian, as memory is");

void h5_digest_add(struct sha256 *hash, enum h5_type type, int64_t count, const void *values)
{
    if (type != H5_STRING) {
        sha256_add(hash, values, (size_t)count * h5_memory_size(type));
        return;
    }
    const char *const *strings = values;
    for (int64_t i = 0; i < count; i++) {
        uint64_t length = strlen(strings[i]);
        sha256_add(hash, &length, sizeof length);
        sha256_add(hash, strings[i], length);
    }
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct h5_digest *)a)->path, ((const struct h5_digest *)b)->path);
}

void h5_digest_combine(struct h5_digest *digests, int count, char content_id[SHA256_HEX_SIZE])
{
    if (count > 0) qsort(digests, (size_t)count, sizeof digests[0], by_path);
    struct sha256 *hash = sha256_new();
    for (int i = 0; i < count; i++) {
        const struct h5_digest *digest = &digests[i];
        char text[64 + 24 * H5_MAX_RANK];
        sha256_add(hash, digest->path, strlen(digest->path) + 1);
        int length = snprintf(text, sizeof text, "%s", h5_type_name(digest->type));
        for (int d = 0; d < digest->rank; d++) {
            length +=
                snprintf(text + length, sizeof text - (size_t)length, " %lld", (long long)digest->shape[d]);
        }
        sha256_add(hash, text, (size_t)length + 1);
        sha256_add(hash, digest->elements, SHA256_HEX_SIZE);
    }
    sha256_finish(hash, content_id);
}
