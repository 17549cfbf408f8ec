#include "models/config_keys.h"

#include <string.h>

static bool is_bool(struct json value, bool expected)
{
    struct fault ignored = {0};
    bool found;
    return json_kind(value) == JSON_KIND_BOOL && json_get_bool(value, &found, &ignored) && found == expected;
}

static bool is_text(struct json value, const char *expected)
{
    struct fault ignored = {0};
    const char *found;
    return json_kind(value) == JSON_KIND_STRING && json_get_string(value, &found, &ignored) &&
           strcmp(found, expected) == 0;
}

static bool is_empty(struct json value)
{
    enum json_kind kind = json_kind(value);
    return kind == JSON_KIND_NULL ||
           ((kind == JSON_KIND_ARRAY || kind == JSON_KIND_OBJECT) && json_size(value) == 0);
}

static bool check_key(struct json value, const struct config_key *key, struct fault *fault)
{
    switch (key->rule) {
    case CONFIG_READ:
    case CONFIG_IGNORED:
        return true;
    case CONFIG_TRUE:
        return is_bool(value, true) || json_fault(value, fault, "this value is not supported, only true");
    case CONFIG_FALSE:
        return is_bool(value, false) || json_fault(value, fault, "this value is not supported, only false");
    case CONFIG_EMPTY:
        return is_empty(value) || json_fault(value, fault, "not supported, only null or an empty list");
    case CONFIG_TEXT:
        break;
    }
    return is_text(value, key->text) ||
           json_fault(value, fault, "this value is not supported, only \"%s\"", key->text);
}

bool config_keys_check(struct json object, const struct config_key *table, size_t count, struct fault *fault)
{
    if (json_kind(object) != JSON_KIND_OBJECT)
        return json_fault(object, fault, "found %s, allowed an object", json_kind_name(json_kind(object)));
    void *iterator = NULL;
    const char *name;
    struct json value;
    while (json_next(object, &iterator, &name, &value)) {
        if (name[0] == '_') continue;
        size_t i = 0;
        while (i < count && strcmp(table[i].key, name) != 0) i++;
        if (i == count) return json_fault(value, fault, "unknown key");
        if (!check_key(value, &table[i], fault)) return false;
    }
    return true;
}
