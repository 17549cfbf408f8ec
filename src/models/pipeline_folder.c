#include "models/pipeline_folder.h"

#include "models/config_keys.h"

#include <string.h>

/* FOLDER/NAME, whose root is an object. */
static bool open_object(const char *folder, const char *name, struct json_document **document,
                        struct fault *fault)
{
    if (!config_open(folder, name, document, fault)) return false;
    struct json root = json_root(*document);
    if (json_kind(root) == JSON_KIND_OBJECT) return true;
    json_fault(root, fault, "found %s, allowed an object", json_kind_name(json_kind(root)));
    json_free(*document);
    return false;
}

static bool check_text(struct json value, const char *allowed, struct fault *fault)
{
    const char *found;
    return json_get_string(value, &found, fault) &&
           (strcmp(found, allowed) == 0 ||
            json_fault(value, fault, "found \"%.100s\", allowed is \"%s\"", found, allowed));
}

// ---- model_index.json

static const struct component {
    const char *name;
    const char *class; // NULL: any
    bool used;
} components[] = {
    {"unet", "UNet2DConditionModel", true},
    {"vae", "AutoencoderKL", true},
    {"text_encoder", "CLIPTextModel", true},
    {"tokenizer", "CLIPTokenizer", true},
    {"scheduler", NULL, true},
    {"safety_checker", NULL, false},
    {"feature_extractor", NULL, false},
    {"requires_safety_checker", NULL, false},
};
enum { COMPONENTS = sizeof components / sizeof *components };

/* ["diffusers", "UNet2DConditionModel"] */
static bool check_component(struct json value, const struct component *component, struct fault *fault)
{
    const char *names[2];
    size_t count;
    if (!json_get_strings(value, 2, names, &count, fault)) return false;
    if (count != 2) return json_fault(value, fault, "%zu entries, allowed are a library and a class", count);
    return !component->class || strcmp(names[1], component->class) == 0 ||
           json_fault(value, fault, "%.100s is not supported, only %s", names[1], component->class);
}

static bool is_null_component(struct json value)
{
    if (json_kind(value) != JSON_KIND_ARRAY) return json_kind(value) == JSON_KIND_NULL;
    for (size_t i = 0; i < json_size(value); i++)
        if (json_kind(json_element(value, i)) != JSON_KIND_NULL) return false;
    return true;
}

/* A component that the pipeline could have but does not is [null, null]. */
static bool check_no_others(struct json root, struct fault *fault)
{
    void *iterator = NULL;
    const char *name;
    struct json value;
    while (json_next(root, &iterator, &name, &value)) {
        int i = 0;
        while (i < COMPONENTS && strcmp(components[i].name, name) != 0) i++;
        if (i == COMPONENTS && name[0] != '_' && !is_null_component(value))
            return json_fault(value, fault, "this part of a pipeline is not supported");
    }
    return true;
}

static bool check_index(struct json root, struct fault *fault)
{
    struct json value;
    if (!json_require(root, "_class_name", &value, fault) ||
        !check_text(value, "StableDiffusionPipeline", fault) || !check_no_others(root, fault))
        return false;
    for (int i = 0; i < COMPONENTS; i++)
        if (components[i].used && (!json_require(root, components[i].name, &value, fault) ||
                                   !check_component(value, &components[i], fault)))
            return false;
    return true;
}

bool pipeline_check_index(const char *folder, struct fault *fault)
{
    struct json_document *document;
    if (!open_object(folder, "model_index.json", &document, fault)) return false;
    bool ok = check_index(json_root(document), fault);
    json_free(document);
    return ok;
}
