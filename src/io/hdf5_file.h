/* HDF5 files: the only room that includes hdf5.h. All functions are local to the calling rank and may be
 * called from any thread: one lock, process-wide as the library itself, is held around every call of it.
 *
 * What protects a file of ours (DESIGN section 6): format V110, whose metadata is checksummed; Fletcher32 on
 * every dataset, scalars too; strings of fixed length only (variable ones lie in a heap without checksum);
 * attributes kept in the checksummed object headers. A flipped bit gives a fault, never a wrong value.
 *
 * Shapes are int64_t[rank], slowest dimension first. A `row` is a slice [1, ...] of the first dimension. */
#ifndef IO_HDF5_FILE_H
#define IO_HDF5_FILE_H

#include "base/fault.h"
#include "io/file_schema.h"
#include "io/sha256.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { H5_MAX_RANK = 6, H5_MAX_STRING = 1 << 20 }; /* bytes of one string */

/* The library's version, "1.10.8", for --version; the lock is not needed. */
const char *h5_library(void);

/* ---- reading ---- */

struct h5_reader;

/* What a dataset is. Sizes are checked against the file: elements x size fits memory arithmetic and no part
 * of the dataset is missing from the file, except that a *compressed* one may be larger than the file. */
struct h5_info {
    enum h5_type type;
    int rank; /* 0 for a scalar of a foreign file, whose `elements` is 1 */
    int64_t shape[H5_MAX_RANK];
    int64_t elements;    /* product of the shape */
    int64_t row;         /* elements of one row; rank 0: 1 */
    int64_t string_size; /* H5_STRING: bytes of one, 0 if of variable length (foreign files) */
};

/* Strings read from a file; each ends with a zero, bytes beyond are not there. */
struct h5_strings {
    char **item; /* [count] owned, with the memory behind */
    int64_t count;
};
void h5_strings_free(struct h5_strings *strings);

/* Opens a file. Other than FILE_REFERENCE, its schema name and version must be those of `kind`. Faults are
 * EXIT_CODE_INPUT: missing, not HDF5, broken, of another kind, of another version. Close with h5_close. */
bool h5_open(const char *path, enum file_kind kind, struct h5_reader **reader, struct fault *fault);
void h5_close(struct h5_reader *reader); /* NULL allowed */
const char *h5_path(const struct h5_reader *reader);

/* The file's content id, "" where it has none (foreign files). */
const char *h5_stored_content_id(const struct h5_reader *reader);

/* The content id of one of the files that this one was made from, by the name given to the writer
 * (struct h5_parent). */
bool h5_parent_content_id(struct h5_reader *reader, const char *parent, char content_id[SHA256_HEX_SIZE],
                          struct fault *fault);

/* Whether a dataset or group of that path is there. */
bool h5_exists(struct h5_reader *reader, const char *name);

/* Names of all datasets directly in a group ("/" is the root), in the order of strcmp; with `groups` those of
 * the groups in it instead. */
bool h5_list(struct h5_reader *reader, const char *group, bool groups, struct h5_strings *names,
             struct fault *fault);

/* What a dataset is; a fault if it is missing, or is not plain data (virtual, external, unknown filters). */
bool h5_describe(struct h5_reader *reader, const char *name, struct h5_info *info, struct fault *fault);

/* The same, and a fault unless rank and shape are as given; -1 in `shape` allows any length. `info` may
 * be NULL. */
bool h5_expect(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
               struct h5_info *info, struct fault *fault);

/* Rows [first, first + rows) of a dataset; `out` has rows x row elements. For a whole dataset pass 0 and
 * shape[0] (a scalar: 0 and 1). Rows read so stay open: reading on is cheap, from one row to the next chunk.
 * Stored types that are converted: to float and double, any floating type; to int64, any integer but uint64;
 * to int32, integers of at most 32 bits (not uint32); to uint8, uint8 and bool; to half, IEEE half alone (as
 * bits). Anything else is a fault. */
bool h5_read_float(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, float *out,
                   struct fault *fault);
bool h5_read_half(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, uint16_t *out,
                  struct fault *fault);
bool h5_read_double(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, double *out,
                    struct fault *fault);
bool h5_read_int32(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, int32_t *out,
                   struct fault *fault);
bool h5_read_int64(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, int64_t *out,
                   struct fault *fault);
bool h5_read_uint8(struct h5_reader *reader, const char *name, int64_t first, int64_t rows, uint8_t *out,
                   struct fault *fault);
/* Strings of fixed or variable length; all together at most `max_bytes`. Free with h5_strings_free. */
bool h5_read_strings(struct h5_reader *reader, const char *name, int64_t first, int64_t rows,
                     int64_t max_bytes, struct h5_strings *out, struct fault *fault);

/* Whole datasets into memory that the caller frees; a fault if rank or shape differ (-1: any length) or if
 * there are more than `max_elements`. `info` may be NULL. */
bool h5_load_float(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, float **out, struct h5_info *info, struct fault *fault);
bool h5_load_double(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                    int64_t max_elements, double **out, struct h5_info *info, struct fault *fault);
bool h5_load_int32(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, int32_t **out, struct h5_info *info, struct fault *fault);
bool h5_load_int64(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, int64_t **out, struct h5_info *info, struct fault *fault);
bool h5_load_uint8(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                   int64_t max_elements, uint8_t **out, struct h5_info *info, struct fault *fault);
/* One string: a dataset of one element, at most max_bytes long. The caller frees it. */
bool h5_load_text(struct h5_reader *reader, const char *name, int64_t max_bytes, char **out,
                  struct fault *fault);

/* One number: a dataset of one element. */
bool h5_read_one_double(struct h5_reader *reader, const char *name, double *out, struct fault *fault);
bool h5_read_one_int64(struct h5_reader *reader, const char *name, int64_t *out, struct fault *fault);

/* Attributes of the object `where` ("/" is the root), one element each. Numbers of any type that h5_read_*
 * converts; double also takes integers. Free the string. */
bool h5_has_attribute(struct h5_reader *reader, const char *where, const char *name);
bool h5_attribute_string(struct h5_reader *reader, const char *where, const char *name, char **out,
                         struct fault *fault);
bool h5_attribute_double(struct h5_reader *reader, const char *where, const char *name, double *out,
                         struct fault *fault);
bool h5_attribute_int64(struct h5_reader *reader, const char *where, const char *name, int64_t *out,
                        struct fault *fault);

/* ---- writing ---- */

struct h5_writer;

/* What a file came from (root attributes; no part of the content id). All borrowed. */
struct h5_parent {
    const char *name;       /* "data.h5" */
    const char *content_id; /* its content id, or the SHA-256 of a foreign file */
};
struct h5_provenance {
    const char *program; /* program version */
    const char *commit;  /* git commit */
    const char *deck;    /* the full effective deck, at most H5_MAX_ATTRIBUTE bytes */
    uint64_t seed;
    int ranks;
    const char *hosts;   /* names of the machines, separated by blanks */
    const char *backend; /* "cpu fp32" */
    const char *time;    /* ISO 8601, UTC */
    const struct h5_parent *parent;
    int parents;
};
enum { H5_MAX_ATTRIBUTE = 60000 };

/* Starts a file of that kind under a temporary name. Ends with h5_finish or h5_abandon. Each dataset must be
 * in the kind's table (io/file_schema.h) with its type and shape, and is written once; else a CHECK fails.
 * Groups come by themselves. Faults are EXIT_CODE_OUTPUT (disk full, file too large, ...), after which
 * h5_abandon is what remains to do. */
bool h5_create(const char *path, enum file_kind kind, struct h5_writer **writer, struct fault *fault);

/* A whole dataset: `values` has the product of `shape` elements; rank 0 stores shape [1]. A half that
 * overflows (|value| > 65504, or not finite) is an EXIT_CODE_OUTPUT fault. */
bool h5_write_half(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                   const float *values, struct fault *fault);
bool h5_write_float(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const float *values, struct fault *fault);
bool h5_write_double(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                     const double *values, struct fault *fault);
bool h5_write_int32(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const int32_t *values, struct fault *fault);
bool h5_write_int64(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const int64_t *values, struct fault *fault);
bool h5_write_uint8(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                    const uint8_t *values, struct fault *fault);
bool h5_write_strings(struct h5_writer *writer, const char *name, int rank, const int64_t *shape,
                      const char *const *values, struct fault *fault);
bool h5_write_text(struct h5_writer *writer, const char *name, const char *text, struct fault *fault);
bool h5_write_one_double(struct h5_writer *writer, const char *name, double value, struct fault *fault);
bool h5_write_one_int64(struct h5_writer *writer, const char *name, int64_t value, struct fault *fault);

/* A dataset that grows by rows: shape[0] starts at 0, shape[1..rank) is that of a row. `chunk_rows` is the
 * unit of reading and checking (0: as many rows as make about 256 KiB); `string_size` the most bytes of one
 * string (H5_STRING only; a longer one is a failed CHECK). The stream belongs to the writer. */
struct h5_rows;
bool h5_rows_create(struct h5_writer *writer, const char *name, enum h5_type type, int rank,
                    const int64_t *shape, int64_t chunk_rows, int64_t string_size, struct h5_rows **rows,
                    struct fault *fault);
/* Appends `count` rows, values as in h5_write_*; float serves H5_FLOAT16 and H5_FLOAT32. */
bool h5_append_float(struct h5_rows *rows, int64_t count, const float *values, struct fault *fault);
bool h5_append_double(struct h5_rows *rows, int64_t count, const double *values, struct fault *fault);
bool h5_append_int32(struct h5_rows *rows, int64_t count, const int32_t *values, struct fault *fault);
bool h5_append_int64(struct h5_rows *rows, int64_t count, const int64_t *values, struct fault *fault);
bool h5_append_uint8(struct h5_rows *rows, int64_t count, const uint8_t *values, struct fault *fault);
bool h5_append_strings(struct h5_rows *rows, int64_t count, const char *const *values, struct fault *fault);

/* Attributes of a group or dataset already written, or of the root "/". A text is at most H5_MAX_ATTRIBUTE
 * bytes. They are no part of the content id: what a later phase computes with belongs into a dataset. */
bool h5_write_attribute_string(struct h5_writer *writer, const char *where, const char *name,
                               const char *value, struct fault *fault);
bool h5_write_attribute_double(struct h5_writer *writer, const char *where, const char *name, double value,
                               struct fault *fault);
bool h5_write_attribute_int64(struct h5_writer *writer, const char *where, const char *name, int64_t value,
                              struct fault *fault);

/* Writes provenance and content id, closes, and makes the file appear under its name. Frees the writer in any
 * case; on a fault the file of that name is as it was before. `content_id` may be NULL. */
bool h5_finish(struct h5_writer *writer, const struct h5_provenance *provenance,
               char content_id[SHA256_HEX_SIZE], struct fault *fault);
/* Gives up: nothing of the file is left. Frees the writer; NULL allowed. */
void h5_abandon(struct h5_writer *writer);

/* The content id of a file computed from what is in it: SHA-256 over all datasets in the order of their
 * paths; of each the path, type, shape and elements (strings with their lengths, whatever size they are
 * stored in). Equal to the stored id of a file that was not changed by others. */
bool h5_content_id(const char *path, char content_id[SHA256_HEX_SIZE], struct fault *fault);

#endif
