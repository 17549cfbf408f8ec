/* Phase verify, on rank 0:
 *
 * 1. Open the reference and find its model and the model's folder.
 * 2. Run the same model on the same inputs, comparing as it goes (verify_models.h).
 * 3. Every quantity of the reference must have been compared.
 * 4. The verdict. */
#include "phases/verify.h"

#include "base/check.h"
#include "phases/verify_models.h"

#include <stdlib.h>
#include <string.h>

struct known_model {
    const char *name;
    bool (*verify)(struct verification *verification, struct fault *fault);
    bool folder; /* needs the root attribute `folder`, which others may have too */
};

static const struct known_model known_models[] = {
    {"unet", verify_unet, true},
    {"unet_sliced", verify_unet_sliced, true},
    {"unet_expert", verify_unet_expert, true},
    {"prune_step", verify_prune_step, true},
    {"transport", verify_transport, false},
    {"contrastive", verify_contrastive, false},
    {"resource", verify_resource, false},
    {"gumbel_width", verify_gumbel_width, false},
    {"gumbel_depth", verify_gumbel_depth, false},
    {"wordpiece", verify_wordpiece, true},
    {"bert", verify_token_encoder, true},
    {"sentence_encoder", verify_sentence_encoder, true},
    {"pndm", verify_pndm, false},
    {"frechet", verify_frechet, false},
    {"cmmd", verify_cmmd, false},
    {"ddim", verify_ddim, false},
    {"dpmpp", verify_dpmpp, false},
    {"vae", verify_vae, true},
    {"clip_text", verify_clip_text, true},
    {"clip_vision", verify_clip_vision, true},
    {"clip_bpe", verify_clip_bpe, true},
    {"text_encoder", verify_text_encoder, true},
    {"mpnet", verify_token_encoder, true},
    {"inception", verify_inception, true},
    {"resize", verify_resize, false},
    {"text_to_image", verify_text_to_image, true},
};

static const struct known_model *find_model(struct h5_reader *reference, struct fault *fault)
{
    char *name;
    if (!h5_attribute_string(reference, "/", "model", &name, fault)) return NULL;
    const struct known_model *found = NULL;
    for (size_t i = 0; i < sizeof known_models / sizeof *known_models; i++)
        if (strcmp(known_models[i].name, name) == 0) found = &known_models[i];
    if (!found)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: model \"%.100s\" is unknown", h5_path(reference), name);
    free(name);
    return found;
}

/* The model's folder: beside the reference. The caller frees it. */
static bool find_folder(struct h5_reader *reference, char **folder, struct fault *fault)
{
    char *name;
    if (!h5_attribute_string(reference, "/", "folder", &name, fault)) return false;
    const char *path = h5_path(reference), *slash = strrchr(path, '/');
    *folder = name[0] == '/' ? check_strdup(name)
                             : check_format("%.*s%s", slash ? (int)(slash - path) + 1 : 0, path, name);
    free(name);
    return true;
}

static bool open_verification(const struct run *run, const struct verify_cfg *cfg,
                              struct verification *verification, struct fault *fault)
{
    struct run_cfg run_cfg = cfg->run;
    run_cfg.precision = cfg->precision;
    *verification = (struct verification){
        .log = run->log, .folder = "", .tolerance = cfg->tolerance, .check_only = run->check_only};
    return h5_open(cfg->reference, FILE_REFERENCE, &verification->reference, fault) &&
           run_open_backend(run, &run_cfg, &verification->backend, &verification->dtype, fault);
}

static void close_verification(struct verification *verification)
{
    text_list_clear(&verification->names);
    if (verification->backend) backend_close(verification->backend);
    h5_close(verification->reference);
}

static bool give_verdict(const struct verification *verification, struct fault *fault)
{
    if (verification->check_only) {
        log_info(verification->log, "%lld arrays to compare", (long long)verification->names.count);
        return true;
    }
    if (verification->compared == 0)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s has nothing to compare",
                           h5_path(verification->reference));
    if (verification->failed > 0)
        return fault_raise(fault, EXIT_CODE_VERIFY, "%s: %d of %d quantities are over their limits",
                           h5_path(verification->reference), verification->failed, verification->compared);
    log_info(verification->log, "%d quantities, all within their limits", verification->compared);
    return true;
}

/* Rank 0's part. */
static bool verify(const struct run *run, const struct verify_cfg *cfg, struct fault *fault)
{
    struct verification verification;
    char *folder = NULL;

    // 1. the reference
    const struct known_model *model = NULL;
    bool ok = open_verification(run, cfg, &verification, fault);
    ok = ok && (model = find_model(verification.reference, fault));
    bool needed = ok && (model->folder || h5_has_attribute(verification.reference, "/", "folder"));
    ok = ok && (!needed || find_folder(verification.reference, &folder, fault));
    if (ok && folder) verification.folder = folder;
    if (ok) log_info(run->log, "%s: %s in %s", cfg->reference, model->name, dtype_name(verification.dtype));

    // 2. and 3. the same here, all of it
    ok = ok && model->verify(&verification, fault) && verify_nothing_left(&verification, fault);

    // 4. the verdict
    ok = ok && give_verdict(&verification, fault);

    close_verification(&verification);
    free(folder);
    return ok;
}

bool phase_verify(struct run *run, const struct verify_cfg *cfg, struct fault *fault)
{
    if (comm_rank(run->comm) == 0) verify(run, cfg, fault);
    return comm_agree(run->comm, fault);
}
