/* References of the autoencoder: inputs/image, inputs/latent or both, and what becomes of them as a whole;
 * with the root attributes tile_sample_min_size (pixels) and tile_overlap_factor, as diffusers names them,
 * also in tiles: outputs/tiled_mean, tiled_logvar, tiled_decoded. */
#include "base/check.h"
#include "models/vae.h"
#include "phases/verify_models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 1 << 12 };

/* Compares a map [B, H, W, C] of the network. */
static bool compare_map(struct verification *verification, const char *name, const int64_t nchw[4],
                        const float *values, struct fault *fault)
{
    float *planes = check_malloc((size_t)(nchw[0] * nchw[1] * nchw[2] * nchw[3]) * sizeof *planes);
    verify_to_nchw(nchw, values, planes);
    bool ok = verify_floats(verification, QUANTITY_OUTPUT, name, 4, nchw, planes, fault);
    free(planes);
    return ok;
}

static bool check_size(struct verification *verification, const struct vae *vae, const int64_t nchw[4],
                       int64_t scale, struct fault *fault)
{
    if (nchw[0] > MAX_BATCH)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld samples, at most %d allowed",
                           h5_path(verification->reference), (long long)nchw[0], MAX_BATCH);
    return vae_check_picture(&vae->config, nchw[2] * scale, nchw[3] * scale, fault);
}

/* Of the picture: `mean` and `logvar` are the names of what it becomes. */
static bool compare_encoded(struct verification *verification, struct tape *tape, const struct vae *vae,
                            struct vae_tiling tiling, const char *mean, const char *logvar,
                            struct fault *fault)
{
    int64_t nchw[4] = {-1, vae->config.in_channels, -1, -1}, factor = vae_factor(&vae->config);
    float *image = NULL;
    bool ok = verify_load_map(verification, "inputs/image", nchw, &image, fault) &&
              check_size(verification, vae, nchw, 1, fault);
    if (ok) {
        int64_t latents[4] = {nchw[0], vae->config.latent_channels, nchw[2] / factor, nchw[3] / factor};
        size_t count = (size_t)(latents[0] * latents[1] * latents[2] * latents[3]);
        float *moments = check_calloc(2 * count, sizeof *moments);
        vae_encode(tape, vae, tiling, latents[0], latents[2], latents[3], image, moments, moments + count);
        ok = compare_map(verification, mean, latents, moments, fault) &&
             compare_map(verification, logvar, latents, moments + count, fault);
        free(moments);
    }
    if (ok) verify_report_memory(verification, tape);
    free(image);
    return ok;
}

/* Of the latent. */
static bool compare_decoded(struct verification *verification, struct tape *tape, const struct vae *vae,
                            struct vae_tiling tiling, const char *decoded, struct fault *fault)
{
    int64_t nchw[4] = {-1, vae->config.latent_channels, -1, -1}, factor = vae_factor(&vae->config);
    float *latent = NULL;
    bool ok = verify_load_map(verification, "inputs/latent", nchw, &latent, fault) &&
              check_size(verification, vae, nchw, factor, fault);
    if (ok) {
        int64_t picture[4] = {nchw[0], vae->config.out_channels, nchw[2] * factor, nchw[3] * factor};
        float *pixels =
            check_calloc((size_t)(picture[0] * picture[1] * picture[2] * picture[3]), sizeof *pixels);
        vae_decode(tape, vae, tiling, nchw[0], nchw[2], nchw[3], latent, pixels);
        ok = compare_map(verification, decoded, picture, pixels, fault);
        free(pixels);
    }
    if (ok) verify_report_memory(verification, tape);
    free(latent);
    return ok;
}

/* What diffusers' tiles are in latents, where they are whole ones. */
static bool read_tiling(struct verification *verification, const struct vae *vae, struct vae_tiling *tiling,
                        struct fault *fault)
{
    double size, share;
    int64_t factor = vae_factor(&vae->config);
    if (!verify_attribute(verification, "tile_sample_min_size", NAN, 1, 1 << 14, &size, fault) ||
        !verify_attribute(verification, "tile_overlap_factor", 0.25, 0, 0.999, &share, fault))
        return false;
    double tile = size / (double)factor, overlap = tile * share;
    *tiling = (struct vae_tiling){(int64_t)tile, (int64_t)overlap};
    if ((double)tiling->tile == tile && (double)tiling->overlap == overlap) return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "%s: tiles of %g pixels with an overlap of %g of them: whole latents, of %lld "
                       "pixels, are needed",
                       h5_path(verification->reference), size, share, (long long)factor);
}

static bool has_output(const struct verification *verification, const char *const *names)
{
    for (; *names; names++)
        if (h5_exists(verification->reference, *names)) return true;
    return false;
}

/* Where one output of a picture or a latent is there, all are expected. */
static bool run_cases(struct verification *verification, struct tape *tape, const struct vae *vae,
                      struct fault *fault)
{
    static const char *const encoded[] = {"inputs/image", "outputs/mean", "outputs/logvar", NULL};
    static const char *const decoded[] = {"inputs/latent", "outputs/decoded", NULL};
    static const char *const tiled_encoded[] = {"outputs/tiled_mean", "outputs/tiled_logvar", NULL};
    static const char *const tiled_decoded[] = {"outputs/tiled_decoded", NULL};
    struct vae_tiling tiling = {0};
    bool tiles = has_output(verification, tiled_encoded) || has_output(verification, tiled_decoded);
    return (!has_output(verification, encoded) ||
            compare_encoded(verification, tape, vae, tiling, "outputs/mean", "outputs/logvar", fault)) &&
           (!has_output(verification, decoded) ||
            compare_decoded(verification, tape, vae, tiling, "outputs/decoded", fault)) &&
           (!tiles || read_tiling(verification, vae, &tiling, fault)) &&
           (!has_output(verification, tiled_encoded) ||
            compare_encoded(verification, tape, vae, tiling, tiled_encoded[0], tiled_encoded[1], fault)) &&
           (!has_output(verification, tiled_decoded) ||
            compare_decoded(verification, tape, vae, tiling, tiled_decoded[0], fault));
}

bool verify_vae(struct verification *verification, struct fault *fault)
{
    struct vae *vae;
    if (!vae_open(verification->backend, verification->folder, &vae, fault)) return false;
    parameter_set_freeze(&vae->parameters, verification->dtype, false);
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    bool ok = run_cases(verification, tape, vae, fault);
    tape_delete(tape);
    vae_delete(vae);
    return ok;
}
