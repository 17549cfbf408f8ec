/* Where `prepare` gets pictures and captions from:
 *
 *  - an index: a .csv, .tsv or .jsonl file with the columns (keys) file and caption, and optionally group,
 *    subgroup and source; others are ignored. `file` is relative to the folder of the pictures, by default
 *    the index's own, and must lie inside it, links followed. CSV is quoted as in RFC 4180; a TSV is split at
 *    tabs, without quotes.
 *  - COCO's annotations, a .json file such as captions_train2014.json: `images` with id and file_name (in the
 *    folder of the pictures), `annotations` with id, image_id and caption; all else is ignored. Each caption
 *    is an item, in the order of the annotations; a picture without one is not used. At most 512 MiB.
 *  - a tar as webdataset makes them, not compressed: KEY.png or KEY.jpg (.jpeg), KEY.txt (the caption) and
 *    optionally KEY.json with the members caption (used where there is no .txt), group, subgroup and source;
 *    files of one KEY follow each other.
 *  - a folder of such tars: all that lie in it and end in .tar, by the bytes of their names. A key may be in
 *    several tars: it is as many items, named after tar and member. One of the tars is open at a time.
 *
 * CC3M comes as Train_GCC-training.tsv, which has no header and names no files: captions and addresses. With
 * a first line "caption<TAB>url", img2dataset downloads it into a folder of tars that is read as it is:
 *     img2dataset --input_format tsv --url_list FILE.tsv --url_col url --caption_col caption
 *         --output_format webdataset --output_folder FOLDER
 * Pictures that were downloaded in another way need a TSV with the header file, caption.
 *
 * Opening reads the whole source once, checks every item and keeps its place in the file, a hundred bytes
 * (COCO: its texts); texts and pictures are read when asked for. Captions must be UTF-8 without control
 * characters but blanks, and are at most INDEX_MAX_CAPTION bytes. Faults are EXIT_CODE_INPUT and name the
 * line, the member or the place in the JSON. An index may be used by one thread at a time. */
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

/* Which captions of a picture are items; items of the same file or member are captions of one picture. */
enum index_captions { INDEX_CAPTIONS_ALL, INDEX_CAPTIONS_ONE /* drawn */ };

/* What is used of a source; zeros: everything. Draws are keyed by the seed and the picture's name (64 bits of
 * its SHA-256), and so do not depend on the order of the pictures in the source. */
struct index_options {
    char *image_folder; /* of the pictures that an index or annotations name; NULL, "": that of the file */
    enum index_captions captions;
    /* So many different pictures, drawn of those with a caption, before any is read: one that turns out to be
     * broken is not replaced. 0: all; more than there are is a fault. */
    int64_t images;
    uint64_t seed;
};

/* `path`: FILE.csv, FILE.tsv, FILE.jsonl, FILE.json, FILE.tar, or a folder that holds one index.csv, .tsv or
 * .jsonl, or else tars. `options` NULL: everything. */
bool index_open(const char *path, const struct index_options *options, struct index **index,
                struct fault *fault);
void index_close(struct index *index); /* NULL allowed */

int64_t index_count(const struct index *index);    /* of items */
int64_t index_pictures(const struct index *index); /* of different pictures; sorts them */
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
