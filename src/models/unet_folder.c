#include "models/unet_folder.h"

#include "base/check.h"
#include "io/text_file.h"
#include "models/weights.h"

#include <stdlib.h>

enum { CONFIG_MAX_BYTES = 1 << 20 };

bool unet_folder_config(const char *folder, int ff_entries, struct unet_config *config, struct fault *fault)
{
    char *path = check_format("%s/config.json", folder), *text = NULL;
    bool ok = text_file_read(path, CONFIG_MAX_BYTES, &text, fault) &&
              unet_config_parse(config, text, path, ff_entries, fault);
    free(text);
    free(path);
    return ok;
}

bool unet_folder_load(const char *folder, struct unet *unet, bool trainable, struct fault *fault)
{
    return weights_load_folder(&unet->parameters, folder, "diffusion_pytorch_model", NULL, trainable, fault);
}
