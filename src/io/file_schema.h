/* The one table of what is in every kind of file: each dataset's path, type, shape and meaning.
 *
 * The writers refuse a dataset that is not in it and take the attributes `meaning`, `unit` and `dimensions`
 * from it; `aptp --help files` and the README print it. A new dataset is one more line in file_schema.c. */
#ifndef IO_FILE_SCHEMA_H
#define IO_FILE_SCHEMA_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* How the elements of a dataset are stored; little-endian always. */
enum h5_type {
    H5_FLOAT16, /* IEEE half */
    H5_FLOAT32,
    H5_FLOAT64,
    H5_INT32,
    H5_INT64,
    H5_UINT8,
    H5_STRING, /* UTF-8, of a fixed length in bytes, padded with zeros */
    H5_OTHER,  /* something else, found in a foreign file; never written */
};

const char *h5_type_name(enum h5_type type); /* "float32", "string" */

/* A kind of file. FILE_REFERENCE is made by others (test/reference, PyTorch): no provenance is asked of it.
 */
enum file_kind {
    FILE_DATA,       /* data.h5: prepare */
    FILE_TEACHER,    /* teacher.h5: import, pretrain; and a pretrain checkpoint */
    FILE_ROUTER,     /* router.h5: prune; and its checkpoint */
    FILE_ASSIGNMENT, /* assignment.h5: assign */
    FILE_EXPERT,     /* expert_NN.h5: finetune; and its checkpoint */
    FILE_SAMPLES,    /* samples.h5: sample */
    FILE_METRICS,    /* metrics.h5: evaluate */
    FILE_CACHE,      /* evaluate_cache_*.h5: evaluate */
    FILE_BENCH,      /* bench.h5: bench */
    FILE_CLIP,       /* clip.h5: pretrain with model clip; and its checkpoint */
    FILE_REFERENCE,  /* the input of verify */
    FILE_KINDS,
};

struct file_schema_kind {
    const char *name;    /* "data"; the file's root attribute `schema` */
    int version;         /* its root attribute `schema_version`; one more with each change of meaning */
    const char *written; /* which phases write it */
    const char *meaning; /* one line */
};

struct file_schema_entry {
    enum file_kind kind;
    const char *path;       /* "train/captions"; a `*` stands for one or more characters */
    unsigned types;         /* set of bits 1u << enum h5_type that are allowed; 0: any */
    const char *dimensions; /* "[N, 2, C, H, W]": a number is checked, a name is free; "" is a scalar (stored
                               as one element, shape [1]); NULL: any shape */
    const char *unit;       /* "1" where there is none */
    const char *meaning;    /* one line */
};

const struct file_schema_kind *file_schema_kind(enum file_kind kind);

/* The line that allows `path` in such a file (an exact path before a pattern), or NULL. */
const struct file_schema_entry *file_schema_find(enum file_kind kind, const char *path);

/* Whether the type and shape are what the line allows. */
bool file_schema_allows(const struct file_schema_entry *entry, enum h5_type type, int rank,
                        const int64_t *shape);

/* Prints the whole table: as text (`aptp --help files`) or as a Markdown section (README). */
void file_schema_print(FILE *stream, bool markdown);

#endif
