/* JSON (jansson) that is made here: an object is filled key by key and written as one file.
 *
 * Keys keep the order in which they are set; none is set twice. Keys are UTF-8; a text that is not, as files
 * of others may have it, becomes null. */
#ifndef IO_JSON_WRITER_H
#define IO_JSON_WRITER_H

#include "base/fault.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

struct json_object *json_object_new(void); /* free with json_object_free, unless it is given to another */
void json_object_free(struct json_object *object); /* NULL allowed */

void json_set_text(struct json_object *object, const char *key, const char *text);
void json_set_bool(struct json_object *object, const char *key, bool value);
void json_set_int64(struct json_object *object, const char *key, int64_t value);
void json_set_double(struct json_object *object, const char *key, double value); /* finite */

/* Lists of `count` >= 0 values. */
void json_set_texts(struct json_object *object, const char *key, int64_t count, const char *const *texts);
void json_set_int64s(struct json_object *object, const char *key, int64_t count, const int64_t *values);
void json_set_doubles(struct json_object *object, const char *key, int64_t count, const double *values);
/* An empty list, for json_append. */
void json_set_list(struct json_object *object, const char *key);

/* Take over `member`. */
void json_set_object(struct json_object *object, const char *key, struct json_object *member);
void json_append(struct json_object *object, const char *list, struct json_object *member);

/* The text, in one line or indented; the caller frees it. Doubles have the digits that tell them apart. */
char *json_object_text(const struct json_object *object, bool indented);

/* Writes the indented text whole or not at all (io/atomic_file.h). */
bool json_object_write(const struct json_object *object, const char *path, struct fault *fault);

#endif
