/* References of CLIP's text encoder. */
#include "base/check.h"
#include "models/clip_folder.h"
#include "phases/verify_models.h"

#include <stdlib.h>

/* The network of a reference, and its inputs; owned. */
struct text_case {
    struct parameter_set parameters;
    struct clip_text *text;
    int64_t B, T;
    int32_t *ids;  // [B, T]
    float *target; // of text_embeds [B, P], without a projection of the states [B, T, C]; NULL: no loss
};

static void case_clear(struct text_case *c)
{
    clip_text_delete(c->text);
    parameter_set_clear(&c->parameters);
    free(c->ids);
    free(c->target);
}

static bool has_loss(const struct verification *verification)
{
    return h5_exists(verification->reference, "outputs/loss") ||
           h5_exists(verification->reference, "gradients");
}

static bool read_inputs(struct verification *verification, struct text_case *c, struct fault *fault)
{
    const struct clip_text_config *config = &c->text->config;
    int64_t shape[2] = {-1, -1}, *ids = NULL;
    if (!verify_load_integers(verification, "inputs/input_ids", 2, shape, 0, config->vocabulary - 1, &ids,
                              shape, fault))
        return false;
    c->B = shape[0], c->T = shape[1];
    c->ids = check_malloc((size_t)(c->B * c->T) * sizeof *c->ids);
    for (int64_t i = 0; i < c->B * c->T; i++) c->ids[i] = (int32_t)ids[i];
    free(ids);
    if (c->T > config->positions)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld tokens, the model has %lld positions",
                           h5_path(verification->reference), (long long)c->T, (long long)config->positions);
    if (!has_loss(verification)) return true;
    int rank = config->projection ? 2 : 3;
    int64_t target[] = {c->B, config->projection ? config->projection : c->T, config->encoder.channels};
    return verify_load_floats(verification, "inputs/target", rank, target, &c->target, NULL, fault);
}

static bool compare_output(struct verification *verification, struct tape *tape, const char *name,
                           struct tensor *output, struct fault *fault)
{
    float *values = check_malloc((size_t)tensor_count(output) * sizeof *values);
    tape_read(tape, output, values);
    bool ok = verify_floats(verification, QUANTITY_OUTPUT, name, output->rank, output->dim, values, fault);
    free(values);
    return ok;
}

static bool compare_gradients(struct verification *verification, const struct text_case *c,
                              struct fault *fault)
{
    struct h5_strings names;
    if (!h5_exists(verification->reference, "gradients")) return true;
    if (!h5_list(verification->reference, "gradients", false, &names, fault)) return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < names.count; i++)
        ok = verify_weight_gradient(verification, &c->parameters, names.item[i], fault);
    h5_strings_free(&names);
    return ok;
}

/* One forward and, where the reference has a loss or gradients, one backward pass. */
static bool run_case(struct verification *verification, const struct text_case *c, struct fault *fault)
{
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    tape_reset(tape, c->target ? TAPE_RECORD : TAPE_NO_GRADIENT);
    struct tensor *ids = tape_input(tape, DTYPE_I32, 2, (int64_t[]){c->B, c->T}, c->ids);
    struct tensor *states = clip_text_states(tape, c->text, ids), *last = states; // [B, T, C]
    bool ok = compare_output(verification, tape, "outputs/last_hidden_state", states, fault);
    if (ok && c->text->config.projection) {
        int64_t *end = check_malloc((size_t)c->B * sizeof *end);
        clip_text_end_tokens(&c->text->config, c->B, c->T, c->ids, end);
        last = clip_text_project(tape, c->text, states, end); // [B, P]
        free(end);
        ok = compare_output(verification, tape, "outputs/text_embeds", last, fault);
    }
    if (ok && c->target) {
        struct tensor *target = tape_input(tape, DTYPE_F32, last->rank, last->dim, c->target);
        ok = verify_loss(verification, tape, op_squared_error(tape, last, target), fault) &&
             compare_gradients(verification, c, fault);
    }
    if (ok) verify_report_memory(verification, tape);
    tape_delete(tape);
    return ok;
}

bool verify_clip_text(struct verification *verification, struct fault *fault)
{
    struct text_case c = {0};
    bool trainable = has_loss(verification);
    c.text = clip_text_open(&c.parameters, verification->backend, verification->folder, trainable, fault);
    bool ok = c.text && read_inputs(verification, &c, fault);
    if (ok && !trainable) parameter_set_freeze(&c.parameters, verification->dtype, false);
    ok = ok && run_case(verification, &c, fault);
    case_clear(&c);
    return ok;
}
