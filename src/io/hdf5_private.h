/* What the HDF5 modules of this room share; no other room includes it. */
#ifndef IO_HDF5_PRIVATE_H
#define IO_HDF5_PRIVATE_H

#include "base/check.h"
#include "io/hdf5_file.h"

#include <hdf5.h>

/* The library's lock. The first call prepares the library: no messages of its own, no clean-up at exit
 * (files that a failure left open must not be touched then). */
void h5_lock(void);
void h5_unlock(void);

/* The innermost message of the library's last failure. Under the lock. */
enum { H5_MESSAGE_SIZE = 256 };
const char *h5_message(char text[H5_MESSAGE_SIZE]);

/* A call that only a defect of this program or of the system can make fail; gives its result. */
#define H5_CHECK(call) h5_checked((call), __FILE__, __LINE__, #call)
hid_t h5_checked(hid_t result, const char *file, int line, const char *call);

/* IEEE half, little-endian. Close with H5Tclose. */
hid_t h5_make_half_type(void);
/* Type in memory of a stored type (not H5_STRING, H5_OTHER), and bytes of one element there. Close with
 * H5Tclose. */
hid_t h5_make_memory_type(enum h5_type type);
size_t h5_memory_size(enum h5_type type);

/* Attributes that every file of ours has; read and written by these names. */
#define H5_ATTRIBUTE_SCHEMA "schema"
#define H5_ATTRIBUTE_VERSION "schema_version"
#define H5_ATTRIBUTE_CONTENT_ID "content_id"

/* ---- the content id ---- */

/* A dataset's part of the content id. */
struct h5_digest {
    char *path; /* owned */
    enum h5_type type;
    int rank;
    int64_t shape[H5_MAX_RANK];
    char elements[SHA256_HEX_SIZE]; /* SHA-256 of its elements, h5_digest_add */
};
/* Adds elements to a dataset's hash: as in memory (little-endian), strings as 8 bytes of length and the text.
 */
void h5_digest_add(struct sha256 *hash, enum h5_type type, int64_t count, const void *values);
/* Sorts the digests by path; writes the file's content id. */
void h5_digest_combine(struct h5_digest *digests, int count, char content_id[SHA256_HEX_SIZE]);

/* ---- the file driver of the writer (hdf5_driver.c) ---- */

/* Where the writer's bytes go. */
struct h5_output {
    int descriptor; /* of the atomic file */
    int error;      /* errno of the first write that failed; from then on writes are dropped */
};
/* Makes a file access property list write to `output`, which must outlive the file. */
void h5_use_output(hid_t access, struct h5_output *output);

#endif
