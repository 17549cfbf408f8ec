/* Where `prepare` gets pictures and captions from:
 *
 *  - an index: a .csv, .tsv or .jsonl file with the columns (keys) file and caption, and optionally group,
 *    subgroup and source; others are ignored. `file` is relative to the index's folder and must lie inside
 *    it, links followed. CSV is quoted as in RFC 4180; a TSV is split at tabs, without quotes.
 *  - a tar as webdataset makes them, not compressed: KEY.png or KEY.jpg (.jpeg), KEY.txt (the caption) and
 *    optionally KEY.json with the members caption (used where there is no .txt), group, subgroup and source;
 *    files of one KEY follow each other.
 *
 * Opening reads the whole source once, checks every item and keeps its place in the file, a few dozen bytes;
 * texts and pictures are read when asked for. Captions must be UTF-8 without control characters but blanks,
 * and are at most INDEX_MAX_CAPTION bytes. Faults are EXIT_CODE_INPUT and name the line, or the member. */
#ifndef IO_INDEX_H
#define IO_INDEX_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INDEX_MAX_CAPTION = 8192, INDEX_MAX_LABEL = 256, INDEX_MAX_IMAGE_BYTES = 256 << 20 };

struct index;

/* Text of one item; all owned, "" where absent. Free with index_item_free. */
struct index_item {
    char *name; /* the picture's file or tar member, for messages */
    char *caption;
    char *group, *subgroup, *source;
};
void index_item_free(struct index_item *item);

/* `path`: FILE.csv, FILE.tsv, FILE.jsonl, FILE.tar, or a folder that holds one index.csv, .tsv or .jsonl. */
bool index_open(const char *path, struct index **index, struct fault *fault);
void index_close(struct index *index); /* NULL allowed */

int64_t index_count(const struct index *index);
bool index_item(const struct index *index, int64_t number, struct index_item *item, struct fault *fault);

/* What tells whether an item's picture is still the one that was read before: size and time of its last
 * change (in a tar, the archive's). Zeros where there is no picture. Nothing is read. */
struct index_stamp {
    int64_t bytes, seconds, nanoseconds;
};
struct index_stamp index_stamp(const struct index *index, int64_t number, const struct index_item *item);

/* The encoded picture of an item; the caller frees it. A picture that is missing, outside of the folder or
 * too large is a fault that concerns this item alone. */
bool index_image(const struct index *index, int64_t number, uint8_t **data, size_t *bytes,
                 struct fault *fault);

#endif
