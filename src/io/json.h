/* JSON (jansson) with limits: the only module that other rooms need for it.
 *
 * A value is passed as a `struct json`, which knows its place for messages: "unet/config.json:
 * block_out_channels[2]: found a string, allowed an integer in 1..65536". Faults are EXIT_CODE_INPUT. */
#ifndef IO_JSON_H
#define IO_JSON_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_PLACE_SIZE = 256, JSON_MAX_DEPTH = 64 };

enum json_kind {
    JSON_KIND_NULL,
    JSON_KIND_BOOL,
    JSON_KIND_INTEGER,
    JSON_KIND_REAL,
    JSON_KIND_STRING,
    JSON_KIND_ARRAY,
    JSON_KIND_OBJECT,
};

struct json_document;

/* A value in a document; valid as long as the document. */
struct json {
    const struct json_document *document;
    const void *value;           /* the library's */
    char place[JSON_PLACE_SIZE]; /* path from the root: "", "a.b[3]"; cut if too long */
};

/* Reads a file of at most `max_bytes`, nested at most JSON_MAX_DEPTH deep; a key given twice is a fault. */
bool json_read(const char *path, size_t max_bytes, struct json_document **document, struct fault *fault);
/* The same from memory; `name` stands in messages. */
bool json_parse(const char *text, size_t bytes, const char *name, struct json_document **document,
                struct fault *fault);
void json_free(struct json_document *document); /* NULL allowed */

struct json json_root(const struct json_document *document);
enum json_kind json_kind(struct json value);
const char *json_kind_name(enum json_kind kind); /* "an integer" */
/* Elements of an array, members of an object, 0 of anything else. */
size_t json_size(struct json value);

/* A member of an object; false if `object` is no object or has none of that name. */
bool json_member(struct json object, const char *key, struct json *member);
/* The same; absence is a fault. */
bool json_require(struct json object, const char *key, struct json *member, struct fault *fault);
/* Element `index` < json_size of an array. */
struct json json_element(struct json array, size_t index);

/* All members of an object in the file's order: start with *iterator = NULL, go on while true. `key` stays
 * valid with the document. */
bool json_next(struct json object, void **iterator, const char **key, struct json *member);

/* A fault at this value's place: "file: place: " + text. Returns false. */
__attribute__((format(printf, 3, 4))) bool json_fault(struct json value, struct fault *fault,
                                                      const char *format, ...);

/* Typed values; anything else, or out of the range (inclusive), is a fault. Strings stay valid with the
 * document. A real is asked for where an integer may stand too. */
bool json_get_string(struct json value, const char **out, struct fault *fault);
bool json_get_int64(struct json value, int64_t least, int64_t most, int64_t *out, struct fault *fault);
bool json_get_double(struct json value, double least, double most, double *out, struct fault *fault);
bool json_get_bool(struct json value, bool *out, struct fault *fault);

/* Arrays of one type, of at most `capacity` elements. */
bool json_get_int64s(struct json array, int64_t least, int64_t most, size_t capacity, int64_t *out,
                     size_t *count, struct fault *fault);
bool json_get_doubles(struct json array, double least, double most, size_t capacity, double *out,
                      size_t *count, struct fault *fault);
bool json_get_strings(struct json array, size_t capacity, const char **out, size_t *count,
                      struct fault *fault);
bool json_get_bools(struct json array, size_t capacity, bool *out, size_t *count, struct fault *fault);

#endif
