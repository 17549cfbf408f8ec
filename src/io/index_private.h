/* What the modules that read sources share (index*.c); no other module includes it. */
#ifndef IO_INDEX_PRIVATE_H
#define IO_INDEX_PRIVATE_H

#include "io/index.h"

#include <time.h>

enum {
    INDEX_MAX_RECORD = 1 << 20, /* a line of text with all that is quoted, a .txt or .json member */
    INDEX_MAX_COLUMNS = 256,
    INDEX_MAX_FILE_NAME = 4096,
};

/* What a column, or a JSON member, is for. */
enum role { ROLE_FILE, ROLE_CAPTION, ROLE_GROUP, ROLE_SUBGROUP, ROLE_SOURCE, ROLES };
extern const char *const index_role_name[ROLES];

enum form { FORM_CSV, FORM_TSV, FORM_JSONL, FORM_COCO, FORM_TAR, FORMS };

/* Bytes of a file. */
struct span {
    int64_t offset, bytes; /* bytes < 0: not there */
};

/* Where an item lies in the source; `name` and `caption` are owned. */
struct entry {
    uint64_t picture; /* from the picture's name: captions of one picture have the same */
    int file;         /* that it lies in */
    char *name;       /* tar, COCO: of the picture, as in struct index_item */
    union {
        struct {
            struct span record;
            int64_t line; /* number of its first line, from 1 */
        } text;
        struct {
            struct span image, caption, labels; /* contents of KEY.png, KEY.txt, KEY.json */
        } tar;
        char *caption; /* COCO */
    };
};

/* A file of the source, as it was when the source was opened. */
struct source_file {
    char *path; /* owned */
    int64_t bytes;
    struct timespec changed;
};

struct index {
    char *path;   /* of the source; owned, as all that follows */
    char *folder; /* where the pictures are, without links */
    enum form form;
    bool many; /* a folder of tars: names begin with the tar's */
    struct source_file *file;
    int files;
    struct open_file {
        int file, descriptor;
    } * open;                       /* the one that is open, or -1, -1 */
    int role_of[INDEX_MAX_COLUMNS]; /* CSV, TSV: enum role of each column, or -1 */
    int columns;
    struct entry *entry; /* [count] */
    int64_t count, capacity;
};

/* An entry of zeros at the end. */
struct entry *index_add_entry(struct index *index);
void index_entry_clear(const struct index *index, struct entry *entry);

/* Opens a file of the source, closes another one; -1 with a fault, also if it has changed. It stays owned. */
int index_descriptor(const struct index *index, int file, struct fault *fault);
/* Reads a span of it; a zero follows its bytes. NULL with a fault. */
char *index_read_span(const struct index *index, int file, struct span span, struct fault *fault);

/* UTF-8 without control characters other than blanks; NULL or what is wrong. */
const char *index_wrong_text(const char *text, size_t length);

/* Checks a field and stores a copy in the item. Messages begin with "path:where: ". */
char **index_item_field(struct index_item *item, enum role role);
bool index_take_field(const struct index *index, const char *path, const char *where, enum role role,
                      const char *text, size_t length, struct index_item *item, struct fault *fault);
/* The item's fields from a JSON object, those that it has already kept; null is as good as absent. */
bool index_take_json(const struct index *index, const char *path, const char *where, const char *text,
                     size_t bytes, struct index_item *item, struct fault *fault);

/* The forms. _open adds an entry for each item of a file, all checked; _item fills in what it has. */
bool index_text_open(struct index *index, struct fault *fault);
bool index_text_item(const struct index *index, const struct entry *entry, struct index_item *item,
                     struct fault *fault);
bool index_tar_open(struct index *index, int file, struct fault *fault);
bool index_tar_item(const struct index *index, const struct entry *entry, struct index_item *item,
                    struct fault *fault);
bool index_coco_open(struct index *index, struct fault *fault);
bool index_coco_item(const struct index *index, const struct entry *entry, struct index_item *item,
                     struct fault *fault);

/* Leaves the pictures and captions that the options ask for. */
bool index_choose(struct index *index, const struct index_options *options, struct fault *fault);

#endif
