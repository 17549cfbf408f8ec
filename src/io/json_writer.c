#include "io/json_writer.h"

#include "base/check.h"
#include "io/atomic_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 17 }; // of a double: as many as tell any two apart

static json_t *library_object(const struct json_object *object)
{
    return (json_t *)object;
}

struct json_object *json_object_new(void)
{
    json_t *object = json_object();
    CHECK(object, "out of memory for JSON");
    return (struct json_object *)object;
}

void json_object_free(struct json_object *object)
{
    json_decref(library_object(object));
}

/* Takes over `value`. */
static void set(struct json_object *object, const char *key, json_t *value)
{
    CHECK(!json_object_get(library_object(object), key), "JSON key %s is set twice", key);
    CHECK(json_object_set_new(library_object(object), key, value) == 0, "JSON key %s", key);
}

static void append(json_t *list, json_t *value)
{
    CHECK(json_array_append_new(list, value) == 0, "JSON list");
}

/* The library makes none of what is not UTF-8. */
static json_t *text_or_null(const char *text)
{
    json_t *value = json_string(text);
    return value ? value : json_null();
}

void json_set_text(struct json_object *object, const char *key, const char *text)
{
    set(object, key, text_or_null(text));
}

void json_set_bool(struct json_object *object, const char *key, bool value)
{
    set(object, key, json_boolean(value));
}

void json_set_int64(struct json_object *object, const char *key, int64_t value)
{
    set(object, key, json_integer(value));
}

void json_set_double(struct json_object *object, const char *key, double value)
{
    set(object, key, json_real(value));
}

void json_set_texts(struct json_object *object, const char *key, int64_t count, const char *const *texts)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) append(list, text_or_null(texts[i]));
    set(object, key, list);
}

void json_set_int64s(struct json_object *object, const char *key, int64_t count, const int64_t *values)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) append(list, json_integer(values[i]));
    set(object, key, list);
}

void json_set_doubles(struct json_object *object, const char *key, int64_t count, const double *values)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) append(list, json_real(values[i]));
    set(object, key, list);
}

void json_set_list(struct json_object *object, const char *key)
{
    set(object, key, json_array());
}

void json_set_object(struct json_object *object, const char *key, struct json_object *member)
{
    set(object, key, library_object(member));
}

void json_append(struct json_object *object, const char *list, struct json_object *member)
{
    append(json_object_get(library_object(object), list), library_object(member));
}

char *json_object_text(const struct json_object *object, bool indented)
{
    char *text = json_dumps(library_object(object),
                            (indented ? JSON_INDENT(1) : JSON_COMPACT) | JSON_REAL_PRECISION(DIGITS));
    CHECK(text, "out of memory for JSON");
    return text;
}

bool json_object_write(const struct json_object *object, const char *path, struct fault *fault)
{
    char *text = json_object_text(object, true), *file = check_format("%s\n", text);
    bool ok = atomic_file_write(path, file, strlen(file), fault);
    free(file);
    free(text);
    return ok;
}
