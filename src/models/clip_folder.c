#include "models/clip_folder.h"

#include "models/config_keys.h"

#include <string.h>

enum { MAX_PROJECTION = 1 << 14, USUAL_PROJECTION = 512 };

static const struct config_key whole_keys[] = {
    {"model_type", CONFIG_TEXT, "clip"},
    {"vision_config", CONFIG_READ, NULL},
    {"vision_config_dict", CONFIG_READ, NULL},
    {"text_config", CONFIG_READ, NULL},
    {"text_config_dict", CONFIG_READ, NULL},
    {"projection_dim", CONFIG_READ, NULL},
    {"logit_scale_init_value", CONFIG_IGNORED, NULL}, // of training
};

// ---- config.json

/* What a config.json says of one encoder. */
struct encoder_part {
    struct json_document *document; // owned
    const char *key;                // of the next in a CLIPModel's
    struct json config;
    struct json other; // where has_other: the same once more
    bool whole;        // of a CLIPModel, whose projection_dim counts
    bool has_other;
    int64_t projection; // where whole
};

static bool is_whole(struct json root)
{
    struct fault ignored = {0};
    struct json value;
    const char *name;
    return json_member(root, "model_type", &value) && json_kind(value) == JSON_KIND_STRING &&
           json_get_string(value, &name, &ignored) && strcmp(name, "clip") == 0;
}

/* The encoder whose members are `key` and `other_key` of a CLIPModel's config.json. Older ones have both;
 * transformers' CLIPModel takes the other in the place of the first, its models of one encoder do not. */
static bool find_part(struct encoder_part *part, struct json root, const char *key, const char *other_key,
                      struct fault *fault)
{
    const struct config_table tables[] = {{whole_keys, sizeof whole_keys / sizeof *whole_keys},
                                          config_model_keys};
    struct json value;
    part->key = key;
    part->config = root;
    part->whole = is_whole(root);
    if (!part->whole) return true;
    part->projection = USUAL_PROJECTION;
    if (!config_tables_check(root, tables, sizeof tables / sizeof *tables, fault) ||
        !json_require(root, key, &part->config, fault) ||
        (json_member(root, "projection_dim", &value) &&
         !json_get_int64(value, 1, MAX_PROJECTION, &part->projection, fault)))
        return false;
    part->has_other = json_member(root, other_key, &part->other) && json_kind(part->other) != JSON_KIND_NULL;
    return true;
}

static bool part_open(struct encoder_part *part, const char *folder, const char *key, const char *other_key,
                      struct fault *fault)
{
    *part = (struct encoder_part){0};
    return config_open(folder, "config.json", &part->document, fault) &&
           find_part(part, json_root(part->document), key, other_key, fault);
}

static bool check_equal(bool equal, const struct encoder_part *part, struct fault *fault)
{
    return equal || json_fault(part->other, fault, "another encoder than %s's", part->key);
}

static bool encoders_equal(const struct clip_encoder_config *a, const struct clip_encoder_config *b)
{
    return a->channels == b->channels && a->inner == b->inner && a->layers == b->layers &&
           a->heads == b->heads && a->activation == b->activation && a->epsilon == b->epsilon;
}

static bool read_vision(struct clip_vision_config *config, const struct encoder_part *part,
                        struct fault *fault)
{
    struct clip_vision_config again;
    if (!clip_vision_config_read(config, part->config, fault)) return false;
    if (part->whole) config->projection = part->projection;
    if (!part->has_other) return true;
    return clip_vision_config_read(&again, part->other, fault) &&
           check_equal(config->image_size == again.image_size && config->patch_size == again.patch_size &&
                           config->image_channels == again.image_channels &&
                           encoders_equal(&config->encoder, &again.encoder),
                       part, fault);
}

static bool read_text(struct clip_text_config *config, const struct encoder_part *part, struct fault *fault)
{
    struct clip_text_config again;
    if (!clip_text_config_read(config, part->config, fault)) return false;
    if (part->whole) config->projection = part->projection;
    if (!part->has_other) return true;
    return clip_text_config_read(&again, part->other, fault) &&
           check_equal(config->vocabulary == again.vocabulary && config->positions == again.positions &&
                           encoders_equal(&config->encoder, &again.encoder),
                       part, fault);
}

// ---- weights

/* Buffers, and in a CLIPModel the other encoder. */
static const char *const vision_ignored[] = {"vision_model.embeddings.position_ids", NULL};
static const char *const vision_whole_ignored[] = {"vision_model.embeddings.position_ids", "text_model.",
                                                   "text_projection.weight", "logit_scale", NULL};
static const char *const text_ignored[] = {"text_model.embeddings.position_ids", NULL};
static const char *const text_whole_ignored[] = {"text_model.embeddings.position_ids", "vision_model.",
                                                 "visual_projection.weight", "logit_scale", NULL};

struct clip_vision *clip_vision_open(struct parameter_set *set, struct backend *backend, const char *folder,
                                     bool trainable, struct fault *fault)
{
    struct encoder_part part;
    struct clip_vision_config config;
    *set = (struct parameter_set){0};
    bool ok = part_open(&part, folder, "vision_config", "vision_config_dict", fault) &&
              read_vision(&config, &part, fault);
    json_free(part.document);
    if (!ok) return NULL;
    const struct weight_names names = {.ignored = part.whole ? vision_whole_ignored : vision_ignored};
    parameter_set_init(set, backend);
    struct clip_vision *vision = clip_vision_new(set, &config);
    if (weights_load_folder(set, folder, "model", &names, trainable, fault)) return vision;
    clip_vision_delete(vision);
    parameter_set_clear(set);
    return NULL;
}

struct clip_text *clip_text_open(struct parameter_set *set, struct backend *backend, const char *folder,
                                 bool trainable, struct fault *fault)
{
    struct encoder_part part;
    struct clip_text_config config;
    *set = (struct parameter_set){0};
    bool ok = part_open(&part, folder, "text_config", "text_config_dict", fault) &&
              read_text(&config, &part, fault);
    json_free(part.document);
    if (!ok) return NULL;
    // transformers 5 leaves the prefix out where the text encoder is alone
    const struct weight_names names = {.ignored = part.whole ? text_whole_ignored : text_ignored,
                                       .optional_prefix = part.whole ? NULL : "text_model."};
    parameter_set_init(set, backend);
    struct clip_text *text = clip_text_new(set, &config);
    if (weights_load_folder(set, folder, "model", &names, trainable, fault)) return text;
    clip_text_delete(text);
    parameter_set_clear(set);
    return NULL;
}
