/* UNet references: plain, with gates, really sliced here, and sliced by phase export. */
#include "base/check.h"
#include "models/unet_folder.h"
#include "models/weights.h"
#include "phases/verify_models.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FF_ENTRIES = 4096, MAX_TOKENS = 1 << 16, MAX_BATCH = 1 << 16 };

/* The inputs of a reference; host arrays, owned. */
struct unet_case {
    struct unet_config config;
    int64_t latents_nchw[4], sample_nchw[4];
    int64_t tokens;
    float *latents, *target; /* [B, H, W, C]; target NULL: no loss is asked for */
    float *timesteps;        /* [B] */
    float *text;             /* [B, T, D] */
    float *text_mask;        /* [B, T] or NULL */
    float *gates;            /* [B, entries] or NULL */
    uint8_t *mask; /* [entries] the gates where they are hard and the same for all samples, or NULL */
};

static void case_clear(struct unet_case *c)
{
    free(c->latents);
    free(c->target);
    free(c->timesteps);
    free(c->text);
    free(c->text_mask);
    free(c->gates);
    free(c->mask);
}

// ---- reading

/* Timesteps, integers as a rule. */
static bool read_timesteps(struct verification *verification, int64_t B, float **out, struct fault *fault)
{
    struct h5_info info;
    if (!h5_expect(verification->reference, "inputs/timesteps", 1, &B, &info, fault)) return false;
    if (info.type == H5_FLOAT32 || info.type == H5_FLOAT64)
        return verify_load_floats(verification, "inputs/timesteps", 1, &B, out, NULL, fault);
    int64_t *timesteps = NULL;
    bool ok =
        verify_load_integers(verification, "inputs/timesteps", 1, &B, 0, 1 << 20, &timesteps, NULL, fault);
    if (ok) {
        *out = check_malloc((size_t)B * sizeof **out);
        for (int64_t b = 0; b < B; b++) (*out)[b] = (float)timesteps[b];
    }
    free(timesteps);
    return ok;
}

/* Each sample sees at least one token. */
static bool read_text_mask(struct verification *verification, int64_t B, int64_t T, float **out,
                           struct fault *fault)
{
    if (!h5_exists(verification->reference, "inputs/text_mask")) return true;
    int64_t *mask = NULL;
    bool ok = verify_load_integers(verification, "inputs/text_mask", 2, (int64_t[]){B, T}, 0, 1, &mask, NULL,
                                   fault);
    if (ok) *out = check_malloc((size_t)(B * T) * sizeof **out);
    for (int64_t b = 0; ok && b < B; b++) {
        int64_t seen = 0;
        for (int64_t t = 0; t < T; t++) {
            (*out)[b * T + t] = (float)mask[b * T + t];
            seen += mask[b * T + t];
        }
        if (seen == 0)
            ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: inputs/text_mask hides all tokens of sample %lld",
                             h5_path(verification->reference), (long long)b);
    }
    free(mask);
    return ok;
}

static bool read_inputs(struct verification *verification, struct unet_case *c, struct fault *fault)
{
    int64_t text[3] = {0, -1, c->config.text_width};
    memcpy(c->latents_nchw, (int64_t[]){-1, c->config.in_channels, -1, -1}, sizeof c->latents_nchw);
    if (!verify_load_map(verification, "inputs/latents", c->latents_nchw, &c->latents, fault)) return false;
    int64_t B = text[0] = c->latents_nchw[0], height = c->latents_nchw[2], width = c->latents_nchw[3];
    if (B > MAX_BATCH)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld samples, at most %d allowed",
                           h5_path(verification->reference), (long long)B, MAX_BATCH);
    if (!unet_check_latents(&c->config, height, width, fault)) return false;
    if (!read_timesteps(verification, B, &c->timesteps, fault)) return false;
    if (!verify_load_floats(verification, "inputs/text_states", 3, text, &c->text, text, fault)) return false;
    c->tokens = text[1];
    if (c->tokens > MAX_TOKENS)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld tokens, at most %d allowed",
                           h5_path(verification->reference), (long long)c->tokens, MAX_TOKENS);
    memcpy(c->sample_nchw, (int64_t[]){B, c->config.out_channels, height, width}, sizeof c->sample_nchw);
    bool loss = h5_exists(verification->reference, "outputs/loss") ||
                h5_exists(verification->reference, "gradients") ||
                h5_exists(verification->reference, "gate_gradients");
    if (loss && !verify_load_map(verification, "inputs/target", c->sample_nchw, &c->target, fault))
        return false;
    return read_text_mask(verification, B, c->tokens, &c->text_mask, fault);
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t length = strlen(name), tail = strlen(suffix);
    return length > tail && strcmp(name + length - tail, suffix) == 0;
}

/* The entries that group/NAME stands for in a gate vector: of a unit, or with ".depth" of what can be
 * dropped.
 */
static bool find_gate(const struct unit_table *table, const char *name, int *first, int *count)
{
    for (int i = 0; i < table->units; i++)
        if (strcmp(table->unit[i].path, name) == 0) {
            *first = table->unit[i].first;
            *count = table->unit[i].width;
            return true;
        }
    for (int i = 0; i < table->depth_entries; i++)
        if (has_suffix(name, ".depth") && strlen(table->depth[i].path) == strlen(name) - strlen(".depth") &&
            strncmp(name, table->depth[i].path, strlen(table->depth[i].path)) == 0) {
            *first = table->width_entries + i;
            *count = 1;
            return true;
        }
    return false;
}

/* The shape of a gate's array: [B, entries], of a depth gate [B]. */
static int gate_shape(int64_t B, const char *name, int count, int64_t shape[2])
{
    shape[0] = B;
    shape[1] = count;
    return has_suffix(name, ".depth") ? 1 : 2;
}

static bool read_gate(struct verification *verification, const struct unit_table *table, const char *path,
                      int64_t B, float *gates, struct fault *fault)
{
    int first, count;
    if (!find_gate(table, path, &first, &count))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: gates/%s is no gate of this UNet",
                           h5_path(verification->reference), path);
    int64_t shape[2];
    int rank = gate_shape(B, path, count, shape);
    char *name = check_format("gates/%s", path);
    float *values = NULL;
    bool ok = verify_load_floats(verification, name, rank, shape, &values, NULL, fault);
    for (int64_t b = 0; ok && b < B; b++)
        memcpy(gates + b * table->entries + first, values + b * count, (size_t)count * sizeof *gates);
    free(values);
    free(name);
    return ok;
}

/* The mask of gates that are 0 or 1 and alike for all samples, else NULL. */
static uint8_t *mask_of(const float *gates, int64_t B, int entries)
{
    for (int64_t i = 0; i < B * entries; i++)
        if ((gates[i] != 0 && gates[i] != 1) || gates[i] != gates[i % entries]) return NULL;
    uint8_t *mask = check_malloc((size_t)entries);
    for (int i = 0; i < entries; i++) mask[i] = gates[i] == 1;
    return mask;
}

/* Gates that the reference does not name are open. */
static bool read_gates(struct verification *verification, const struct unet *unet, struct unet_case *c,
                       struct fault *fault)
{
    struct h5_strings names;
    if (!h5_exists(verification->reference, "gates")) return true;
    if (!h5_list(verification->reference, "gates", false, &names, fault)) return false;
    int entries = unet->table.entries;
    int64_t B = c->latents_nchw[0];
    bool ok = unet_check_prunable(unet, fault);
    c->gates = check_malloc((size_t)(B * entries) * sizeof *c->gates);
    for (int64_t i = 0; i < B * entries; i++) c->gates[i] = 1;
    for (int64_t i = 0; ok && i < names.count; i++)
        ok = read_gate(verification, &unet->table, names.item[i], B, c->gates, fault);
    h5_strings_free(&names);
    if (ok) c->mask = mask_of(c->gates, B, entries);
    return ok;
}

/* Depth gates are there only where the reference has some: a UNet that cannot be dropped from may still have
 * width gates. */
static bool has_depth_gates(struct verification *verification, bool *has, struct fault *fault)
{
    struct h5_strings names;
    *has = false;
    if (!h5_exists(verification->reference, "gates")) return true;
    if (!h5_list(verification->reference, "gates", false, &names, fault)) return false;
    for (int64_t i = 0; i < names.count; i++) *has |= has_suffix(names.item[i], ".depth");
    h5_strings_free(&names);
    return true;
}

// ---- running and comparing

/* A tensor's values, which the caller frees. */
static float *read_tensor(struct tape *tape, const struct tensor *tensor)
{
    float *values = check_malloc((size_t)tensor_count(tensor) * sizeof *values);
    tape_read(tape, tensor, values);
    return values;
}

/* The same of a map, as files have it. */
static float *read_planes(struct tape *tape, const struct tensor *tensor, const int64_t nchw[4])
{
    float *pixels = read_tensor(tape, tensor);
    float *planes = check_malloc((size_t)tensor_count(tensor) * sizeof *planes);
    verify_to_nchw(nchw, pixels, planes);
    free(pixels);
    return planes;
}

/* Inputs of a step; those whose gradient the reference has want one. entries: of the gates, 0: none. */
static struct unet_input make_input(struct verification *verification, struct tape *tape,
                                    const struct unet_case *c, int entries)
{
    const int64_t *nchw = c->latents_nchw;
    int64_t B = nchw[0], D = c->config.text_width;
    struct unet_input input = {
        .latents =
            tape_input(tape, verification->dtype, 4, (int64_t[]){B, nchw[2], nchw[3], nchw[1]}, c->latents),
        .timesteps = tape_input(tape, DTYPE_F32, 1, &B, c->timesteps),
        .text = tape_input(tape, verification->dtype, 3, (int64_t[]){B, c->tokens, D}, c->text),
    };
    if (c->text_mask)
        input.text_mask = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, c->tokens}, c->text_mask);
    if (c->gates && entries > 0)
        input.gates = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, entries}, c->gates);
    input.latents->needs_grad = h5_exists(verification->reference, "gradients/latents");
    input.text->needs_grad = h5_exists(verification->reference, "gradients/text_states");
    if (input.gates) input.gates->needs_grad = h5_exists(verification->reference, "gate_gradients");
    return input;
}

/* Runs backwards from the mean of the samples' losses, and compares it. */
static bool run_loss(struct verification *verification, struct tape *tape, const struct unet_case *c,
                     struct tensor *sample, struct fault *fault)
{
    const int64_t *nchw = c->sample_nchw;
    int64_t B = nchw[0];
    struct tensor *target =
        tape_input(tape, DTYPE_F32, 4, (int64_t[]){B, nchw[2], nchw[3], nchw[1]}, c->target);
    struct tensor *loss = op_squared_error(tape, sample, target); // [B]
    return verify_loss(verification, tape, loss, fault);
}

static bool compare_gradient(struct verification *verification, struct tape *tape, const struct unet *unet,
                             const struct unet_case *c, const struct unet_input *input, const char *name,
                             struct fault *fault)
{
    char *dataset = check_format("gradients/%s", name);
    float *values = NULL;
    bool ok;
    if (strcmp(name, "latents") == 0) {
        values = read_planes(tape, input->latents->grad, c->latents_nchw);
        ok = verify_floats(verification, QUANTITY_GRADIENT, dataset, 4, c->latents_nchw, values, fault);
    } else if (strcmp(name, "text_states") == 0) {
        values = read_tensor(tape, input->text->grad);
        ok = verify_floats(verification, QUANTITY_GRADIENT, dataset, 3, input->text->dim, values, fault);
    } else {
        ok = verify_weight_gradient(verification, &unet->parameters, name, fault);
    }
    free(values);
    free(dataset);
    return ok;
}

static bool compare_gradients(struct verification *verification, struct tape *tape, const struct unet *unet,
                              const struct unet_case *c, const struct unet_input *input, struct fault *fault)
{
    struct h5_strings names;
    if (!h5_exists(verification->reference, "gradients")) return true;
    if (!h5_list(verification->reference, "gradients", false, &names, fault)) return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < names.count; i++)
        ok = compare_gradient(verification, tape, unet, c, input, names.item[i], fault);
    h5_strings_free(&names);
    return ok;
}

/* gate_gradients/NAME, a part of gradient [B, entries]. */
static bool compare_gate_gradient(struct verification *verification, const struct unit_table *table,
                                  int64_t B, const float *gradient, const char *path, struct fault *fault)
{
    int first, count;
    if (!find_gate(table, path, &first, &count))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: gate_gradients/%s is of no gate of this UNet",
                           h5_path(verification->reference), path);
    int64_t shape[2];
    int rank = gate_shape(B, path, count, shape);
    float *values = check_malloc((size_t)(B * count) * sizeof *values);
    for (int64_t b = 0; b < B; b++)
        memcpy(values + b * count, gradient + b * table->entries + first, (size_t)count * sizeof *values);
    char *name = check_format("gate_gradients/%s", path);
    bool ok = verify_floats(verification, QUANTITY_GRADIENT, name, rank, shape, values, fault);
    free(name);
    free(values);
    return ok;
}

static bool compare_gate_gradients(struct verification *verification, struct tape *tape,
                                   const struct unit_table *table, const struct unet_input *input,
                                   struct fault *fault)
{
    struct h5_strings names;
    if (!h5_exists(verification->reference, "gate_gradients")) return true;
    if (!input->gates)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: gate_gradients without gates",
                           h5_path(verification->reference));
    if (!h5_list(verification->reference, "gate_gradients", false, &names, fault)) return false;
    float *gradient = read_tensor(tape, input->gates->grad); // [B, entries]
    bool ok = true;
    for (int64_t i = 0; ok && i < names.count; i++)
        ok = compare_gate_gradient(verification, table, input->gates->dim[0], gradient, names.item[i], fault);
    free(gradient);
    h5_strings_free(&names);
    return ok;
}

/* Runs `unet` forward; returns its sample [B, C, H, W], which the caller frees. */
static float *run_forward(struct verification *verification, struct tape *tape, const struct unet *unet,
                          const struct unet_case *c, bool gated, struct unet_input *input,
                          struct tensor **sample)
{
    struct unet_output output;
    *input = make_input(verification, tape, c, gated ? unet->table.entries : 0);
    unet_forward(tape, unet, *input, &output);
    *sample = output.sample;
    return read_planes(tape, output.sample, c->sample_nchw);
}

/* One forward and, where the reference has a loss or gradients, one backward pass. */
static bool run_case(struct verification *verification, const struct unet *unet, const struct unet_case *c,
                     bool gated, struct fault *fault)
{
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    struct unet_input input;
    struct tensor *output;
    tape_reset(tape, c->target ? TAPE_RECORD : TAPE_NO_GRADIENT);
    float *sample = run_forward(verification, tape, unet, c, gated, &input, &output);
    bool ok =
        verify_floats(verification, QUANTITY_OUTPUT, "outputs/sample", 4, c->sample_nchw, sample, fault) &&
        (!c->target || run_loss(verification, tape, c, output, fault)) &&
        compare_gradients(verification, tape, unet, c, &input, fault) &&
        compare_gate_gradients(verification, tape, &unet->table, &input, fault);
    if (ok) verify_report_memory(verification, tape);
    free(sample);
    tape_delete(tape);
    return ok;
}

/* Mask = slice: the network that hard gates leave gives the same sample. */
static bool run_slice(struct verification *verification, const struct unet *sliced, const struct unet_case *c,
                      struct fault *fault)
{
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    struct unet_input input;
    struct tensor *output;
    tape_reset(tape, TAPE_NO_GRADIENT);
    float *sample = run_forward(verification, tape, sliced, c, false, &input, &output);
    bool ok = verify_again(verification, QUANTITY_OUTPUT, "outputs/sample",
                           "outputs/sample of the network sliced here", 4, c->sample_nchw, sample, fault);
    free(sample);
    tape_delete(tape);
    return ok;
}

// ---- the models

/* Whether the reference has the gradient of a weight. */
static bool wants_weight_gradients(struct verification *verification, bool *wants, struct fault *fault)
{
    struct h5_strings names;
    *wants = false;
    if (!h5_exists(verification->reference, "gradients")) return true;
    if (!h5_list(verification->reference, "gradients", false, &names, fault)) return false;
    for (int64_t i = 0; i < names.count; i++)
        *wants |= strcmp(names.item[i], "latents") != 0 && strcmp(names.item[i], "text_states") != 0;
    h5_strings_free(&names);
    return true;
}

/* Configuration, whole network (without weights), inputs and gates. */
static bool read_case(struct verification *verification, struct unet_case *c, struct unet **full,
                      struct fault *fault)
{
    double ff_entries;
    bool depth_gates;
    if (!verify_attribute(verification, "ff_entries", UNET_FF_ENTRIES, 1, MAX_FF_ENTRIES, &ff_entries,
                          fault) ||
        !has_depth_gates(verification, &depth_gates, fault) ||
        !unet_folder_config(verification->folder, (int)ff_entries, &c->config, fault))
        return false;
    c->config.depth_gates = depth_gates;
    *full = unet_new(verification->backend, &c->config, (struct unet_shape){0});
    return read_inputs(verification, c, fault) && read_gates(verification, *full, c, fault);
}

/* The network that a mask keeps, with weights cut from the whole one's. NULL with a fault where the mask
 * empties a unit. */
static struct unet *slice(struct verification *verification, const struct unet *full, const uint8_t *mask,
                          bool trainable, struct fault *fault)
{
    struct unet_shape shape = {mask, mask + full->table.width_entries};
    if (!unet_check_shape(&full->table, shape, fault)) return NULL;
    struct unet *sliced = unet_new(verification->backend, &full->config, shape);
    parameter_set_allocate(&sliced->parameters, trainable);
    unet_slice(full, shape, sliced);
    return sliced;
}

/* Reads the case, and runs it on the network that `run` makes of it. */
static bool verify_case(struct verification *verification,
                        bool (*run)(struct verification *verification, const struct unet_case *c,
                                    struct unet *full, struct fault *fault),
                        struct fault *fault)
{
    struct unet_case c = {0};
    struct unet *full = NULL;
    bool ok = read_case(verification, &c, &full, fault) && run(verification, &c, full, fault);
    unet_delete(full);
    case_clear(&c);
    return ok;
}

static bool run_unet(struct verification *verification, const struct unet_case *c, struct unet *full,
                     struct fault *fault)
{
    bool trainable;
    if (!wants_weight_gradients(verification, &trainable, fault) ||
        !unet_folder_load(verification->folder, full, trainable, fault))
        return false;
    struct fault empty = {0}; // a mask that empties a unit is a fine gate, but cannot be sliced
    struct unet *sliced = c->mask ? slice(verification, full, c->mask, false, &empty) : NULL;
    if (!trainable) parameter_set_freeze(&full->parameters, verification->dtype, c->target != NULL);
    bool ok = run_case(verification, full, c, true, fault) &&
              (!sliced || run_slice(verification, sliced, c, fault));
    unet_delete(sliced);
    return ok;
}

bool verify_unet(struct verification *verification, struct fault *fault)
{
    return verify_case(verification, run_unet, fault);
}

/* Every weight of the sliced network, bit for bit. */
static bool compare_weights(struct verification *verification, const struct unet *sliced, struct fault *fault)
{
    bool ok = true;
    for (int i = 0; ok && i < sliced->parameters.count; i++) {
        const struct parameter *parameter = sliced->parameters.items[i];
        float *values = check_malloc(tensor_bytes(&parameter->value));
        for (int part = 0; ok && part < parameter->part_count; part++) {
            int64_t shape[TENSOR_MAX_RANK];
            int rank = weights_file_shape(parameter, part, shape);
            char *name = check_format("weights/%s", parameter->part[part].name);
            parameter_part_download(&sliced->parameters, parameter, part, values);
            ok = verify_equal(verification, name, rank, shape, values, fault);
            free(name);
        }
        free(values);
    }
    return ok;
}

static bool require_mask(struct verification *verification, const struct unet_case *c, struct fault *fault)
{
    return c->mask || fault_raise(fault, EXIT_CODE_INPUT,
                                  "%s: gates of a sliced network are 0 or 1 and alike for all samples",
                                  h5_path(verification->reference));
}

static bool run_unet_sliced(struct verification *verification, const struct unet_case *c, struct unet *full,
                            struct fault *fault)
{
    bool trainable;
    if (!require_mask(verification, c, fault) || !wants_weight_gradients(verification, &trainable, fault) ||
        !unet_folder_load(verification->folder, full, false, fault))
        return false;
    struct unet *sliced = slice(verification, full, c->mask, trainable, fault);
    bool ok = sliced && compare_weights(verification, sliced, fault) &&
              run_case(verification, sliced, c, false, fault);
    unet_delete(sliced);
    return ok;
}

bool verify_unet_sliced(struct verification *verification, struct fault *fault)
{
    return verify_case(verification, run_unet_sliced, fault);
}

/* The folder's weights are those of the sliced network, not of the whole one. */
static bool run_unet_expert(struct verification *verification, const struct unet_case *c, struct unet *full,
                            struct fault *fault)
{
    bool trainable;
    if (!require_mask(verification, c, fault) || !wants_weight_gradients(verification, &trainable, fault))
        return false;
    struct unet_shape shape = {c->mask, c->mask + full->table.width_entries};
    if (!unet_check_shape(&full->table, shape, fault)) return false;
    struct unet *expert = unet_new(verification->backend, &full->config, shape);
    bool ok = unet_folder_load(verification->folder, expert, trainable, fault) &&
              run_case(verification, expert, c, false, fault);
    unet_delete(expert);
    return ok;
}

bool verify_unet_expert(struct verification *verification, struct fault *fault)
{
    return verify_case(verification, run_unet_expert, fault);
}
