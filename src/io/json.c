#include "io/json.h"

#include "base/check.h"
#include "io/text_file.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct json_document {
    char *name;   // owned, for messages
    json_t *root; // owned
};

static json_t *library_value(struct json value)
{
    return (json_t *)value.value;
}

// Whether nothing in the value is nested deeper than `depth`. (jansson's own limit is 2048, as is the
// deepest recursion here.)
static bool is_shallow(const json_t *value, int depth)
{
    if (depth == 0) return false;
    size_t index;
    const char *key;
    json_t *member;
    if (json_is_array(value)) {
        json_array_foreach(value, index, member) if (!is_shallow(member, depth - 1)) return false;
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, member) if (!is_shallow(member, depth - 1)) return false;
    }
    return true;
}

bool json_parse(const char *text, size_t bytes, const char *name, struct json_document **document,
                struct fault *fault)
{
    *document = NULL;
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!root) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%d: not valid JSON: %s", name, error.line, error.text);
    }
    if (!is_shallow(root, JSON_MAX_DEPTH)) {
        json_decref(root);
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: nested deeper than %d", name, JSON_MAX_DEPTH);
    }
    *document = check_malloc(sizeof **document);
    **document = (struct json_document){check_strdup(name), root};
    return true;
}

bool json_read(const char *path, size_t max_bytes, struct json_document **document, struct fault *fault)
{
    *document = NULL;
    FILE *stream = fopen(path, "rb");
    if (!stream) return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    size_t bytes;
    char *text = NULL;
    bool good = stream_read(stream, path, max_bytes, &text, &bytes, fault) &&
                json_parse(text, bytes, path, document, fault);
    free(text);
    fclose(stream);
    return good;
}

void json_free(struct json_document *document)
{
    if (!document) return;
    json_decref(document->root);
    free(document->name);
    free(document);
}

struct json json_root(const struct json_document *document)
{
    return (struct json){.document = document, .value = document->root};
}

enum json_kind json_kind(struct json value)
{
    switch (json_typeof(library_value(value))) {
    case JSON_OBJECT:
        return JSON_KIND_OBJECT;
    case JSON_ARRAY:
        return JSON_KIND_ARRAY;
    case JSON_STRING:
        return JSON_KIND_STRING;
    case JSON_INTEGER:
        return JSON_KIND_INTEGER;
    case JSON_REAL:
        return JSON_KIND_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return JSON_KIND_BOOL;
    default:
        return JSON_KIND_NULL;
    }
}

const char *json_kind_name(enum json_kind kind)
{
    static const char *const names[] = {
        [JSON_KIND_NULL] = "null",          [JSON_KIND_BOOL] = "a boolean",
        [JSON_KIND_INTEGER] = "an integer", [JSON_KIND_REAL] = "a real number",
        [JSON_KIND_STRING] = "a string",    [JSON_KIND_ARRAY] = "an array",
        [JSON_KIND_OBJECT] = "an object",
    };
    return names[kind];
}

size_t json_size(struct json value)
{
    const json_t *json = library_value(value);
    return json_is_array(json) ? json_array_size(json) : json_object_size(json); // 0 if neither
}

static struct json member_of(struct json object, const char *key, const json_t *value)
{
    struct json member = {.document = object.document, .value = value};
    snprintf(member.place, sizeof member.place, "%.*s%s%.*s", JSON_PLACE_SIZE / 2, object.place,
             *object.place ? "." : "", JSON_PLACE_SIZE / 3, key);
    return member;
}

bool json_member(struct json object, const char *key, struct json *member)
{
    const json_t *value = json_object_get(library_value(object), key); // NULL also if it is no object
    if (value) *member = member_of(object, key, value);
    return value != NULL;
}

bool json_require(struct json object, const char *key, struct json *member, struct fault *fault)
{
    if (json_kind(object) != JSON_KIND_OBJECT) {
        return json_fault(object, fault, "found %s, allowed an object", json_kind_name(json_kind(object)));
    }
    return json_member(object, key, member) || json_fault(object, fault, "`%s` is missing", key);
}

struct json json_element(struct json array, size_t index)
{
    const json_t *value = json_array_get(library_value(array), index);
    CHECK(value, "element %zu of %zu", index, json_size(array));
    struct json element = {.document = array.document, .value = value};
    snprintf(element.place, sizeof element.place, "%.*s[%zu]", JSON_PLACE_SIZE - 24, array.place, index);
    return element;
}

bool json_next(struct json object, void **iterator, const char **key, struct json *member)
{
    json_t *json = library_value(object);
    *iterator = *iterator ? json_object_iter_next(json, *iterator) : json_object_iter(json);
    if (!*iterator) return false;
    *key = json_object_iter_key(*iterator);
    *member = member_of(object, *key, json_object_iter_value(*iterator));
    return true;
}

bool json_fault(struct json value, struct fault *fault, const char *format, ...)
{
    char text[FAULT_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fault_raise(fault, EXIT_CODE_INPUT, "%.500s: %s%s%.1200s", value.document->name, value.place,
                       *value.place ? ": " : "", text);
}

static bool wrong_kind(struct json value, const char *allowed, struct fault *fault)
{
    return json_fault(value, fault, "found %s, allowed %s", json_kind_name(json_kind(value)), allowed);
}

bool json_get_string(struct json value, const char **out, struct fault *fault)
{
    *out = json_string_value(library_value(value));
    return *out || wrong_kind(value, "a string", fault);
}

bool json_get_int64(struct json value, int64_t least, int64_t most, int64_t *out, struct fault *fault)
{
    json_t *json = library_value(value);
    if (json_is_integer(json)) {
        *out = json_integer_value(json);
        if (*out >= least && *out <= most) return true;
        return json_fault(value, fault, "found %lld, allowed an integer in %lld..%lld", (long long)*out,
                          (long long)least, (long long)most);
    }
    return json_fault(value, fault, "found %s, allowed an integer in %lld..%lld",
                      json_kind_name(json_kind(value)), (long long)least, (long long)most);
}

bool json_get_double(struct json value, double least, double most, double *out, struct fault *fault)
{
    json_t *json = library_value(value);
    if (!json_is_number(json)) {
        return json_fault(value, fault, "found %s, allowed a number in %g..%g",
                          json_kind_name(json_kind(value)), least, most);
    }
    *out = json_number_value(json);
    return (*out >= least && *out <= most) ||
           json_fault(value, fault, "found %g, allowed a number in %g..%g", *out, least, most);
}

bool json_get_bool(struct json value, bool *out, struct fault *fault)
{
    json_t *json = library_value(value);
    *out = json_is_true(json);
    return json_is_boolean(json) || wrong_kind(value, "true or false", fault);
}

// The size of an array that fits the caller's.
static bool array_size(struct json array, size_t capacity, size_t *count, struct fault *fault)
{
    if (json_kind(array) != JSON_KIND_ARRAY) return wrong_kind(array, "an array", fault);
    *count = json_size(array);
    return *count <= capacity ||
           json_fault(array, fault, "found %zu elements, allowed at most %zu", *count, capacity);
}

bool json_get_int64s(struct json array, int64_t least, int64_t most, size_t capacity, int64_t *out,
                     size_t *count, struct fault *fault)
{
    if (!array_size(array, capacity, count, fault)) return false;
    for (size_t i = 0; i < *count; i++) {
        if (!json_get_int64(json_element(array, i), least, most, &out[i], fault)) return false;
    }
    return true;
}

bool json_get_doubles(struct json array, double least, double most, size_t capacity, double *out,
                      size_t *count, struct fault *fault)
{
    if (!array_size(array, capacity, count, fault)) return false;
    for (size_t i = 0; i < *count; i++) {
        if (!json_get_double(json_element(array, i), least, most, &out[i], fault)) return false;
    }
    return true;
}

bool json_get_strings(struct json array, size_t capacity, const char **out, size_t *count,
                      struct fault *fault)
{
    if (!array_size(array, capacity, count, fault)) return false;
    for (size_t i = 0; i < *count; i++) {
        if (!json_get_string(json_element(array, i), &out[i], fault)) return false;
    }
    return true;
}

bool json_get_bools(struct json array, size_t capacity, bool *out, size_t *count, struct fault *fault)
{
    if (!array_size(array, capacity, count, fault)) return false;
    for (size_t i = 0; i < *count; i++) {
        if (!json_get_bool(json_element(array, i), &out[i], fault)) return false;
    }
    return true;
}
