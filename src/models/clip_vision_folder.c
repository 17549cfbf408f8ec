#include "models/clip_vision_folder.h"

#include "base/check.h"
#include "models/config_keys.h"
#include "models/weights.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX_BYTES = 1 << 20, MAX_PROJECTION = 1 << 14, USUAL_PROJECTION = 512 };

static const struct config_key whole_keys[] = {
    {"model_type", CONFIG_TEXT, "clip"},
    {"vision_config", CONFIG_READ, NULL},
    {"vision_config_dict", CONFIG_READ, NULL},
    {"projection_dim", CONFIG_READ, NULL},
    // of the text encoder, and what training begins with
    {"text_config", CONFIG_IGNORED, NULL},
    {"text_config_dict", CONFIG_IGNORED, NULL},
    {"logit_scale_init_value", CONFIG_IGNORED, NULL},
};

/* Beside the image encoder in the weights of a CLIPModel. */
static const char *const whole_ignored[] = {"vision_model.embeddings.position_ids", "text_model.",
                                            "text_projection.weight", "logit_scale", NULL};
static const struct weight_names whole_names = {.ignored = whole_ignored};

static bool is_whole(struct json root)
{
    struct fault ignored = {0};
    struct json value;
    const char *name;
    return json_member(root, "model_type", &value) && json_kind(value) == JSON_KIND_STRING &&
           json_get_string(value, &name, &ignored) && strcmp(name, "clip") == 0;
}

static bool are_equal(const struct clip_vision_config *a, const struct clip_vision_config *b)
{
    return a->image_size == b->image_size && a->patch_size == b->patch_size &&
           a->image_channels == b->image_channels && a->channels == b->channels && a->inner == b->inner &&
           a->layers == b->layers && a->heads == b->heads && a->activation == b->activation &&
           a->epsilon == b->epsilon;
}

/* The root of a CLIPModel's config.json. Older ones have vision_config_dict too, which transformers'
 * CLIPModel takes in the place of vision_config, and its CLIPVisionModelWithProjection does not. The width of
 * the features is that of the whole. */
static bool read_whole(struct clip_vision_config *config, struct json root, struct fault *fault)
{
    struct json vision, other, value;
    if (!config_keys_check_model(root, whole_keys, sizeof whole_keys / sizeof *whole_keys, fault) ||
        !json_require(root, "vision_config", &vision, fault) ||
        !clip_vision_config_read(config, vision, fault))
        return false;
    if (json_member(root, "vision_config_dict", &other) && json_kind(other) != JSON_KIND_NULL) {
        struct clip_vision_config again;
        if (!clip_vision_config_read(&again, other, fault)) return false;
        if (!are_equal(config, &again))
            return json_fault(other, fault, "another image encoder than vision_config's");
    }
    config->projection = USUAL_PROJECTION;
    return !json_member(root, "projection_dim", &value) ||
           json_get_int64(value, 1, MAX_PROJECTION, &config->projection, fault);
}

static bool read_config(struct clip_vision_config *config, bool *whole, const char *folder,
                        struct fault *fault)
{
    struct json_document *document = NULL;
    char *path = check_format("%s/config.json", folder);
    bool ok = json_read(path, CONFIG_MAX_BYTES, &document, fault);
    if (ok) {
        struct json root = json_root(document);
        *whole = is_whole(root);
        ok = *whole ? read_whole(config, root, fault) : clip_vision_config_read(config, root, fault);
    }
    json_free(document);
    free(path);
    return ok;
}

struct clip_vision *clip_vision_open(struct parameter_set *set, struct backend *backend, const char *folder,
                                     bool trainable, struct fault *fault)
{
    struct clip_vision_config config;
    bool whole;
    *set = (struct parameter_set){0};
    if (!read_config(&config, &whole, folder, fault)) return NULL;
    parameter_set_init(set, backend);
    struct clip_vision *vision = clip_vision_new(set, &config);
    const struct weight_names *names = whole ? &whole_names : &clip_vision_names;
    if (weights_load_folder(set, folder, "model", names, trainable, fault)) return vision;
    clip_vision_delete(vision);
    parameter_set_clear(set);
    return NULL;
}
