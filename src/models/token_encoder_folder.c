#include "models/token_encoder_folder.h"

#include "models/bert.h"
#include "models/mpnet.h"
#include "models/weights.h"

#include <string.h>

static const struct {
    const char *model_type;
    bool (*read)(struct token_encoder_config *config, struct json root, struct fault *fault);
} models[] = {{"bert", bert_config_read}, {"mpnet", mpnet_config_read}};

static bool read_config(struct token_encoder_config *config, struct json root, struct fault *fault)
{
    struct json value;
    const char *type;
    if (!json_require(root, "model_type", &value, fault) || !json_get_string(value, &type, fault))
        return false;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (strcmp(models[i].model_type, type) == 0) return models[i].read(config, root, fault);
    return json_fault(value, fault, "%.50s is not supported, only bert and mpnet", type);
}

bool token_encoder_folder_config(const char *folder, struct token_encoder_config *config, struct fault *fault)
{
    struct json_document *document;
    if (!config_open(folder, "config.json", &document, fault)) return false;
    bool ok = read_config(config, json_root(document), fault);
    json_free(document);
    return ok;
}

bool token_encoder_folder_open(struct backend *backend, const char *folder,
                               const struct token_encoder_config *config, enum dtype dtype,
                               struct token_encoder **encoder, struct fault *fault)
{
    struct token_encoder *opened = token_encoder_new(backend, config);
    struct parameter_set *set = &opened->parameters;
    struct weight_names names = {.ignored = config->names->unused};
    if (!weights_load_folder(set, folder, "model", &names, false, fault)) {
        token_encoder_delete(opened);
        return false;
    }
    parameter_set_freeze(set, dtype, false);
    *encoder = opened;
    return true;
}
