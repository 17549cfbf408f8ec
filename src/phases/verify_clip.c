/* References of CLIP's image encoder. */
#include "base/check.h"
#include "models/clip_folder.h"
#include "phases/verify_models.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 1 << 16 };

/* The network of a reference, and its inputs; owned. */
struct vision_case {
    struct parameter_set parameters;
    struct clip_vision *vision;
    int64_t nchw[4]; // of the pictures
    float *pixels;   // [B, S, S, channels]
    float *target;   // [B, P], NULL: no loss is asked for
};

static void case_clear(struct vision_case *c)
{
    clip_vision_delete(c->vision);
    if (c->parameters.backend) parameter_set_clear(&c->parameters);
    free(c->pixels);
    free(c->target);
}

static bool read_inputs(struct verification *verification, struct vision_case *c, struct fault *fault)
{
    const struct clip_vision_config *config = &c->vision->config;
    memcpy(c->nchw, (int64_t[]){-1, config->image_channels, config->image_size, config->image_size},
           sizeof c->nchw);
    if (!verify_load_map(verification, "inputs/pixel_values", c->nchw, &c->pixels, fault)) return false;
    if (c->nchw[0] > MAX_BATCH)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld samples, at most %d allowed",
                           h5_path(verification->reference), (long long)c->nchw[0], MAX_BATCH);
    bool loss =
        h5_exists(verification->reference, "outputs/loss") || h5_exists(verification->reference, "gradients");
    return !loss || verify_load_floats(verification, "inputs/target", 2,
                                       (int64_t[]){c->nchw[0], config->projection}, &c->target, NULL, fault);
}

static bool compare_gradient(struct verification *verification, struct tape *tape,
                             const struct vision_case *c, const struct tensor *pixels, const char *name,
                             struct fault *fault)
{
    if (strcmp(name, "pixel_values") != 0)
        return verify_weight_gradient(verification, &c->parameters, name, fault);
    size_t count = (size_t)tensor_count(pixels);
    float *values = check_malloc(2 * count * sizeof *values);
    tape_read(tape, pixels->grad, values);
    verify_to_nchw(c->nchw, values, values + count);
    bool ok = verify_floats(verification, QUANTITY_GRADIENT, "gradients/pixel_values", 4, c->nchw,
                            values + count, fault);
    free(values);
    return ok;
}

static bool compare_gradients(struct verification *verification, struct tape *tape,
                              const struct vision_case *c, const struct tensor *pixels, struct fault *fault)
{
    struct h5_strings names;
    if (!h5_exists(verification->reference, "gradients")) return true;
    if (!h5_list(verification->reference, "gradients", false, &names, fault)) return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < names.count; i++)
        ok = compare_gradient(verification, tape, c, pixels, names.item[i], fault);
    h5_strings_free(&names);
    return ok;
}

/* One forward and, where the reference has a loss or gradients, one backward pass. */
static bool run_case(struct verification *verification, const struct vision_case *c, struct fault *fault)
{
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    int64_t B = c->nchw[0], P = c->vision->config.projection;
    tape_reset(tape, c->target ? TAPE_RECORD : TAPE_NO_GRADIENT);
    struct tensor *pixels = tape_input(tape, verification->dtype, 4,
                                       (int64_t[]){B, c->nchw[2], c->nchw[3], c->nchw[1]}, c->pixels);
    pixels->needs_grad = h5_exists(verification->reference, "gradients/pixel_values");
    struct tensor *embeds = clip_vision_forward(tape, c->vision, pixels); // [B, P]
    float *values = check_malloc((size_t)(B * P) * sizeof *values);
    tape_read(tape, embeds, values);
    bool ok =
        verify_floats(verification, QUANTITY_OUTPUT, "outputs/image_embeds", 2, embeds->dim, values, fault);
    free(values);
    if (ok && c->target) {
        struct tensor *target = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, P}, c->target);
        ok = verify_loss(verification, tape, op_squared_error(tape, embeds, target), fault) &&
             compare_gradients(verification, tape, c, pixels, fault);
    }
    if (ok) verify_report_memory(verification, tape);
    tape_delete(tape);
    return ok;
}

bool verify_clip_vision(struct verification *verification, struct fault *fault)
{
    struct vision_case c = {0};
    c.vision = clip_vision_open(&c.parameters, verification->backend, verification->folder, true, fault);
    bool ok = c.vision && read_inputs(verification, &c, fault) && run_case(verification, &c, fault);
    case_clear(&c);
    return ok;
}
