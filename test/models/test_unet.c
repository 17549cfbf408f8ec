/* The UNet's properties: its table and MACs against diffusers' SD 2.1, mask = slice, recomputation, memory,
 * refusals. Its numbers are compared with PyTorch's by test/phases/test_verify.sh. */
#include "models/unet.h"

#include "base/check.h"
#include "base/random.h"
#include "io/hdf5_file.h"
#include "io/text_file.h"
#include "models/initialise.h"
#include "models/unet_folder.h"
#include "support/fixture.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// ---- networks and steps

static struct unet_config config_of(const char *name, int ff_entries)
{
    char folder[128];
    struct unet_config config;
    struct fault fault = {0};
    snprintf(folder, sizeof folder, "test/fixtures/%s", name);
    if (!unet_folder_config(folder, ff_entries, &config, &fault)) fail_msg("%s", fault.text);
    return config;
}

/* The whole network of a fixture's folder, with its weights. */
static struct unet *unet_of(struct backend *backend, const char *name, bool trainable)
{
    char folder[128];
    struct fault fault = {0};
    struct unet_config config = config_of(name, 32);
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    snprintf(folder, sizeof folder, "test/fixtures/%s", name);
    if (!unet_folder_load(folder, unet, trainable, &fault)) fail_msg("%s", fault.text);
    return unet;
}

enum { B = 2, HEIGHT = 8, WIDTH = 12, TOKENS = 5 };

static float *normals(uint64_t what, int64_t count)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    random_normal((struct random_key){.seed = what, .stream = RANDOM_TEST}, (uint64_t)count, values);
    return values;
}

static struct tensor *normal_input(struct tape *tape, enum dtype dtype, int rank, const int64_t *dim,
                                   uint64_t what)
{
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= dim[i];
    float *values = normals(what, count);
    struct tensor *tensor = tape_input(tape, dtype, rank, dim, values);
    free(values);
    return tensor;
}

/* The same inputs each time; gates [B, entries] or NULL. */
static struct unet_input input_of(struct tape *tape, const struct unet *unet, const float *gates)
{
    const struct unet_config *config = &unet->config;
    enum dtype dtype = tape_dtype(tape);
    struct unet_input input = {
        .latents = normal_input(tape, dtype, 4, (int64_t[]){B, HEIGHT, WIDTH, config->in_channels}, 1),
        .timesteps = tape_input(tape, DTYPE_F32, 1, (int64_t[]){B}, (float[B]){17, 801}),
        .text = normal_input(tape, dtype, 3, (int64_t[]){B, TOKENS, config->text_width}, 2),
    };
    if (gates) input.gates = tape_input(tape, DTYPE_F32, 2, (int64_t[]){B, unet->table.entries}, gates);
    return input;
}

static int64_t sample_count(const struct unet *unet)
{
    return B * HEIGHT * WIDTH * unet->config.out_channels;
}

/* sample [B, H, W, C] without gradients; the caller frees it */
static float *forward(struct backend *backend, const struct unet *unet, const float *gates)
{
    struct tape *tape = tape_new(backend, DTYPE_F32);
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_output output;
    unet_forward(tape, unet, input_of(tape, unet, gates), &output);
    float *sample = check_malloc((size_t)sample_count(unet) * sizeof *sample);
    tape_read(tape, output.sample, sample);
    tape_delete(tape);
    return sample;
}

/* A whole training step. Reads sample, then gate gradient, into `values` [sample_count + B entries]. */
static void step(struct tape *tape, enum tape_mode mode, struct unet *unet, const float *gates, float *values)
{
    tape_reset(tape, mode);
    parameter_set_zero_gradients(&unet->parameters);
    struct unet_input input = input_of(tape, unet, gates);
    input.gates->needs_grad = true;
    struct tensor *target =
        normal_input(tape, DTYPE_F32, 4, (int64_t[]){B, HEIGHT, WIDTH, unet->config.out_channels}, 3);
    struct unet_output output;
    unet_forward(tape, unet, input, &output);
    tape_read(tape, output.sample, values);
    struct tensor *loss = op_squared_error(tape, output.sample, target);
    const float *seed = (float[B]){0.5f, 0.5f};
    tape_backward(tape, 1, &loss, &seed);
    tape_read(tape, input.gates->grad, values + sample_count(unet));
}

static float *soft_gates(const struct unet *unet)
{
    int64_t count = B * unet->table.entries;
    float *gates = check_malloc((size_t)count * sizeof *gates);
    for (int64_t i = 0; i < count; i++)
        gates[i] = (float)random_uniform((struct random_key){.seed = 4, .stream = RANDOM_TEST}, (uint64_t)i);
    return gates;
}

// ---- SD 2.1's table and MACs

static void check_texts(struct h5_reader *reader, const char *name, int count, const char *const *found)
{
    struct fault fault = {0};
    struct h5_strings texts;
    int64_t expected = count;
    if (!h5_expect(reader, name, 1, &expected, &(struct h5_info){0}, &fault) ||
        !h5_read_strings(reader, name, 0, count, 1 << 20, &texts, &fault))
        fail_msg("%s", fault.text);
    for (int i = 0; i < count; i++) assert_string_equal(found[i], texts.item[i]);
    h5_strings_free(&texts);
}

static void table_of_sd21_is_diffusers(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct unet_config config = config_of("sd21", 32);
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    const struct unit_table *table = &unet->table;
    assert_int_equal(table->width_entries, 1606);
    assert_int_equal(table->depth_entries, 14);
    assert_int_equal(table->entries, 1620);
    assert_int_equal(table->units, 70);

    struct fixture *fixture = fixture_open("macs_sd21");
    int64_t *width = fixture_integers(fixture, "outputs/unit_width");
    int64_t *depth = fixture_integers(fixture, "outputs/unit_depth");
    int64_t *order = fixture_integers(fixture, "outputs/order");
    const char *path[70], *depth_path[14];
    for (int i = 0, first = 0; i < 70; first += table->unit[i++].width) {
        assert_int_equal(table->unit[i].first, first);
        assert_int_equal(table->unit[i].width, width[i]);
        assert_int_equal(table->unit[i].depth, depth[i]);
        path[i] = table->unit[i].path;
    }
    for (int i = 0; i < 14; i++) {
        assert_int_equal(table->depth_order[i], (order[i] + 14) % 14);
        depth_path[i] = table->depth[i].path;
    }
    struct h5_reader *reader;
    struct fault fault = {0};
    if (!h5_open("test/fixtures/macs_sd21.h5", FILE_REFERENCE, &reader, &fault)) fail_msg("%s", fault.text);
    check_texts(reader, "outputs/unit_path", 70, path);
    check_texts(reader, "outputs/depth_path", 14, depth_path);
    h5_close(reader);
    fixture_close(fixture);
    unet_delete(unet);
    backend_close(backend);
}

/* Each kind of norm has its own: norm_eps of the config in ResNets and at the end; whatever that is, 1e-6 at
 * the entrance of a transformer and 1e-5 inside. Where variances are about 1, no output tells them apart. */
static void epsilons_are_diffusers(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct unet_config config = config_of("sd21", 32);
    config.epsilon = 0.25;
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    assert_true(unet->conv_norm_out.epsilon == 0.25f);
    for (int b = 0; b < unet->blocks; b++) {
        const struct unet_block *block = &unet->block[b];
        for (int i = 0; i < block->resnets; i++)
            assert_true(block->resnet[i].norm1.epsilon == 0.25f && block->resnet[i].norm2.epsilon == 0.25f);
        for (int i = 0; i < block->transformers; i++) {
            const struct transformer_layer *layer = block->transformer[i].layer;
            assert_true(block->transformer[i].norm.epsilon == 1e-6f);
            assert_true(layer->norm1.epsilon == 1e-5f && layer->norm2.epsilon == 1e-5f &&
                        layer->norm3.epsilon == 1e-5f);
        }
    }
    unet_delete(unet);
    backend_close(backend);
}

/* All counts are whole numbers below 2^53: equal, not near. */
static void macs_of_sd21_are_diffusers(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct unet_config config = config_of("sd21", 32);
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    struct fixture *fixture = fixture_open("macs_sd21");
    int64_t *latents = fixture_integers(fixture, "outputs/latents");
    static const struct {
        const char *dataset;
        size_t member;
    } totals[] = {
        {"outputs/total", offsetof(struct unit_macs, total)},
        {"outputs/prunable", offsetof(struct unit_macs, prunable)},
        {"outputs/layers", offsetof(struct unit_macs, linear)},
        {"outputs/self_products", offsetof(struct unit_macs, self_attention)},
        {"outputs/cross_products", offsetof(struct unit_macs, cross_attention)},
        {"outputs/paper_total", offsetof(struct unit_macs, paper)},
    };
    int64_t *units = fixture_integers(fixture, "outputs/width_macs");
    int64_t *depths = fixture_integers(fixture, "outputs/depth_macs");
    static const double published[3][4] = {{86.27, 3.83, 0.44, 90.55}, // METHOD section 2, in G
                                           {339.10, 61.25, 1.78, 402.13},
                                           {760.49, 310.06, 4.00, 1074.55}};
    static const int64_t sides[3] = {32, 64, 96};
    for (int r = 0; r < 3; r++) {
        assert_int_equal(latents[r], sides[r]);
        struct unit_macs macs = unet_macs(unet, latents[r], latents[r], 77);
        for (size_t t = 0; t < sizeof totals / sizeof *totals; t++) {
            double found = *(const double *)((const char *)&macs + totals[t].member);
            assert_true(found == (double)fixture_integers(fixture, totals[t].dataset)[r]);
        }
        for (int u = 0; u < 70; u++) assert_true(macs.unit[u] == (double)units[r * 70 + u]);
        for (int d = 0; d < 14; d++) assert_true(macs.depth[d] == (double)depths[r * 14 + d]);
        double found[] = {macs.linear, macs.self_attention, macs.cross_attention, macs.total};
        for (int i = 0; i < 4; i++) assert_within(found[i] / 1e9, published[r][i], 0.0051);
        if (r == 2) assert_within(macs.paper / 1e9, 1378.7, 0.051);
        unit_macs_free(&macs);
    }
    fixture_close(fixture);
    unet_delete(unet);
    backend_close(backend);
}

// ---- mask = slice

/* A mask that keeps about 60 % of each unit, one entry at least, and drops about a third of what can be. */
static uint8_t *random_mask(const struct unit_table *table, uint64_t seed)
{
    struct random_key key = {.seed = seed, .stream = RANDOM_TEST};
    uint8_t *mask = check_malloc((size_t)table->entries);
    for (int i = 0; i < table->width_entries; i++) mask[i] = random_uniform(key, (uint64_t)i) < 0.6;
    for (int i = table->width_entries; i < table->entries; i++)
        mask[i] = random_uniform(key, (uint64_t)i) < 0.67;
    for (int u = 0; u < table->units; u++) mask[table->unit[u].first] = 1;
    return mask;
}

static struct unet *slice_of(struct backend *backend, const struct unet *full, const uint8_t *mask)
{
    struct unet_shape shape = {mask, mask + full->table.width_entries};
    struct unet *sliced = unet_new(backend, &full->config, shape);
    parameter_set_allocate(&sliced->parameters, false);
    unet_slice(full, shape, sliced);
    return sliced;
}

/* Each sample under a mask of its own equals its own sliced network; smaller by what the table says. */
static void check_mask_and_slice(struct backend *backend, const struct unet *full, uint64_t seed)
{
    const struct unit_table *table = &full->table;
    uint8_t *mask[B];
    float *gates = check_malloc((size_t)(B * table->entries) * sizeof *gates);
    for (int b = 0; b < B; b++) {
        mask[b] = random_mask(table, seed + (uint64_t)b);
        for (int i = 0; i < table->entries; i++) gates[b * table->entries + i] = mask[b][i];
    }
    float *masked = forward(backend, full, gates);
    struct unit_macs macs = unet_macs(full, HEIGHT, WIDTH, TOKENS);
    int64_t count = sample_count(full) / B;
    for (int b = 0; b < B; b++) {
        struct unet *sliced = slice_of(backend, full, mask[b]);
        float *alone = forward(backend, sliced, NULL);
        double error = 0, largest = 0;
        for (int64_t i = b * count; i < (b + 1) * count; i++) {
            assert_true(isfinite(alone[i]));
            error = fmax(error, fabs((double)masked[i] - alone[i]));
            largest = fmax(largest, fabs(alone[i]));
        }
        // fp32 sums in another order through the whole network: some 1e-6; an entry too many is 1e-2
        assert_true(error <= 2e-5 * largest);

        double *vector = check_malloc((size_t)table->entries * sizeof *vector);
        for (int i = 0; i < table->entries; i++) vector[i] = mask[b][i];
        struct unit_macs small = unet_macs(sliced, HEIGHT, WIDTH, TOKENS);
        double ratio = unit_macs_total_ratio(&macs, unit_table_ratio(table, &macs, vector, NULL));
        assert_true(ratio < 0.9);
        assert_within(small.total / macs.total, ratio, 1e-12);
        assert_true(parameter_set_elements(&sliced->parameters) < parameter_set_elements(&full->parameters));
        unit_macs_free(&small);
        free(vector);
        free(alone);
        unet_delete(sliced);
        free(mask[b]);
    }
    unit_macs_free(&macs);
    free(masked);
    free(gates);
}

static void mask_is_slice(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    static const char *const names[] = {"unet_sd2", "unet_sd1"};
    for (int n = 0; n < 2; n++) {
        struct unet *full = unet_of(backend, names[n], false);
        for (uint64_t seed = 100; seed < 106; seed += B) check_mask_and_slice(backend, full, seed);
        unet_delete(full);
    }
    backend_close(backend);
}

static void a_mask_that_empties_a_unit_is_refused(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct unet_config config = config_of("unet_sd2", 32);
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    const struct unit_table *table = &unet->table;
    uint8_t *mask = check_malloc((size_t)table->entries);
    struct unet_shape shape = {mask, mask + table->width_entries};
    memset(mask, 1, (size_t)table->entries);
    struct fault fault = {0};
    assert_true(unet_check_shape(table, shape, &fault));
    const struct unit *unit = &table->unit[1]; // a ResNet that can be dropped
    assert_string_equal(unit->path, "down_blocks.0.resnets.1");
    memset(mask + unit->first, 0, (size_t)unit->width);
    assert_false(unet_check_shape(table, shape, &fault));
    assert_non_null(strstr(fault.text, "down_blocks.0.resnets.1"));
    mask[table->width_entries + unit->depth] = 0; // dropped: nothing of it is needed
    fault = (struct fault){0};
    assert_true(unet_check_shape(table, shape, &fault));
    free(mask);
    unet_delete(unet);
    backend_close(backend);
}

// ---- what is found once for many passes

/* A network of random weights whose transformers have several layers. */
static struct unet *unet_of_layers(struct backend *backend, int layers)
{
    struct unet_config config = config_of("unet_sd2", 32);
    for (int i = 0; i < config.levels; i++) config.transformer_layers[i] = layers;
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    parameter_set_allocate(&unet->parameters, false);
    parameters_initialise(&unet->parameters, 5);
    return unet;
}

/* The same pass with time embedding and text keys from another tape: the same bits, whole network and sliced
 * one (in which transformers are dropped), with and without gates; twice, as in a loop. */
static void found_once_is_found_anew(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    static const char *const names[] = {"unet_sd2", "unet_sd1"};
    for (int c = 0; c < 9; c++) {
        struct unet *full = c % 3 < 2 ? unet_of(backend, names[c % 3], false) : unet_of_layers(backend, 2),
                    *unet = full;
        uint8_t *mask = random_mask(&full->table, 100);
        for (int d = 0; d < full->table.depth_entries; d++)
            if (strstr(full->table.depth[d].path, "up_blocks.1.attentions"))
                mask[full->table.width_entries + d] = 0;
        if (c / 3 == 2) unet = slice_of(backend, full, mask);
        float *gates = c / 3 == 1 ? soft_gates(unet) : NULL, *expected = forward(backend, unet, gates);
        size_t bytes = (size_t)sample_count(unet) * sizeof(float);
        int count = unet_cross_attentions(unet);
        assert_true(c / 3 == 2 ? count > 0 && count < unet_cross_attentions(full) : count > 2);

        struct tape *once = tape_new(backend, DTYPE_F32), *tape = tape_new(backend, DTYPE_F32);
        struct tensor **keys = check_malloc((size_t)count * sizeof(struct tensor *));
        tape_reset(once, TAPE_NO_GRADIENT);
        struct unet_input first = input_of(once, unet, NULL);
        unet_text_keys(once, unet, first.text, keys);
        struct tensor *time = unet_time_embedding(once, unet, first.timesteps);
        for (int pass = 0; pass < 2; pass++) {
            tape_reset(tape, TAPE_NO_GRADIENT);
            struct unet_input input = input_of(tape, unet, gates);
            input.text = NULL;
            input.timesteps = NULL;
            input.time = time;
            input.text_keys = keys;
            struct unet_output output;
            unet_forward(tape, unet, input, &output);
            float *found = check_malloc(bytes);
            tape_read(tape, output.sample, found);
            assert_memory_equal(found, expected, bytes);
            free(found);
        }
        tape_delete(once);
        tape_delete(tape);
        free(keys);
        free(expected);
        free(gates);
        free(mask);
        if (unet != full) unet_delete(unet);
        unet_delete(full);
    }
    backend_close(backend);
}

// ---- recomputation and memory

/* Gradients of all weights behind one another. */
static float *weight_gradients(const struct unet *unet, int64_t *count)
{
    const struct parameter_set *set = &unet->parameters;
    *count = parameter_set_elements(set);
    float *values = check_malloc((size_t)*count * sizeof *values), *next = values;
    for (int i = 0; i < set->count; i++) {
        const struct tensor *gradient = &set->items[i]->gradient;
        set->backend->ops->download(set->backend, next, gradient->data, tensor_bytes(gradient));
        next += tensor_count(gradient);
    }
    return values;
}

static void recomputed_is_recorded(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct unet *unet = unet_of(backend, "unet_sd2", true);
    float *gates = soft_gates(unet), *values[2], *gradients[2];
    size_t bytes = (size_t)(sample_count(unet) + B * unet->table.entries) * sizeof(float), peak[2];
    int64_t count;
    for (int i = 0; i < 2; i++) {
        struct tape *tape = tape_new(backend, DTYPE_F32);
        values[i] = check_malloc(bytes);
        step(tape, i ? TAPE_RECOMPUTE : TAPE_RECORD, unet, gates, values[i]);
        gradients[i] = weight_gradients(unet, &count);
        peak[i] = arena_peak(tape_arena(tape));
        tape_delete(tape);
    }
    assert_memory_equal(values[0], values[1], bytes);
    assert_memory_equal(gradients[0], gradients[1], (size_t)count * sizeof(float));
    assert_true(peak[1] < peak[0] * 2 / 3);
    for (int i = 0; i < 2; i++) {
        free(values[i]);
        free(gradients[i]);
    }
    free(gates);
    unet_delete(unet);
    backend_close(backend);
}

/* The first step asks the system for all the memory that the later ones need, and what it needs is what the
 * plan backend says. */
static void later_steps_take_no_memory(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU), *plan = backend_open(BACKEND_PLAN);
    struct unet *unet = unet_of(backend, "unet_sd2", true);
    struct unet *planned = unet_new(plan, &unet->config, (struct unet_shape){0});
    parameter_set_allocate(&planned->parameters, true);
    float *gates = soft_gates(unet);
    float *values = check_malloc((size_t)(sample_count(unet) + B * unet->table.entries) * sizeof *values);
    enum tape_mode modes[] = {TAPE_RECORD, TAPE_RECOMPUTE};
    for (int m = 0; m < 2; m++) {
        struct tape *tape = tape_new(backend, DTYPE_F32), *plan_tape = tape_new(plan, DTYPE_F32);
        step(plan_tape, modes[m], planned, gates, values);
        step(tape, modes[m], unet, gates, values);
        size_t peak = arena_peak(tape_arena(tape)), growths = arena_growths(tape_arena(tape));
        size_t scratch = arena_growths(backend->scratch), bytes = backend_bytes(backend);
        for (int again = 0; again < 3; again++) {
            step(tape, modes[m], unet, gates, values);
            assert_int_equal(arena_peak(tape_arena(tape)), peak);
            assert_int_equal(arena_growths(tape_arena(tape)), growths);
            assert_int_equal(arena_growths(backend->scratch), scratch);
            assert_int_equal(backend_bytes(backend), bytes);
        }
        assert_int_equal(arena_peak(tape_arena(plan_tape)), peak);
        tape_delete(plan_tape);
        tape_delete(tape);
    }
    free(values);
    free(gates);
    unet_delete(planned);
    unet_delete(unet);
    backend_close(plan);
    backend_close(backend);
}

// ---- refusals

static void expect_unprunable(const char *name, int ff_entries, bool depth_gates, const char *message)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct unet_config config = config_of(name, ff_entries);
    config.depth_gates = depth_gates;
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    struct fault fault = {0};
    assert_int_equal(unet_check_prunable(unet, &fault), message == NULL);
    if (message && !strstr(fault.text, message)) fail_msg("\"%s\" lacks \"%s\"", fault.text, message);
    unet_delete(unet);
    backend_close(backend);
}

static void what_cannot_be_pruned_is_refused_by_name(void **state)
{
    (void)state;
    expect_unprunable("unet_sd2", 32, true, NULL);
    expect_unprunable("unet_odd", 5, false, NULL);
    expect_unprunable("unet_odd", 5, true, "down_blocks.1.resnets.0 changes the number of channels");
    expect_unprunable("unet_odd", 32, false, "block_out_channels[1] is 60 wide, which its 32 gate entries");
}

/* The published config of SD 2.1 with one more line. */
static void expect_config(const char *line, bool accepted, const char *message)
{
    char *text, *changed;
    struct fault fault = {0};
    struct unet_config config;
    if (!text_file_read("test/fixtures/sd21/config.json", 1 << 16, &text, &fault)) fail_msg("%s", fault.text);
    // a key that is there already is taken out first
    size_t length = strcspn(line + 1, "\"") + 2; // with its quotes
    char key[128];
    snprintf(key, sizeof key, "%.*s", (int)length, line);
    char *place = strstr(text, key);
    if (place) {
        char *end = place + strcspn(place, "[\n");
        if (*end == '[') end = strchr(end, ']');
        end += strcspn(end, "\n");
        memmove(place, end, strlen(end) + 1);
    }
    changed = check_format("{ %s, %s", line, strchr(text, '{') + 1);
    bool ok = unet_config_parse(&config, changed, "config.json", 32, &fault);
    if (ok != accepted) fail_msg("%s: %s", line, ok ? "accepted" : fault.text);
    if (message && !strstr(fault.text, message))
        fail_msg("%s: \"%s\" lacks \"%s\"", line, fault.text, message);
    if (!ok) assert_int_equal(fault.code, EXIT_CODE_INPUT);
    free(changed);
    free(text);
}

static void config_keys_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "\"act_fn\": \"gelu\"",
        "\"addition_embed_type\": \"text\"",
        "\"attention_type\": \"gated\"",
        "\"center_input_sample\": true",
        "\"class_embed_type\": \"timestep\"",
        "\"conv_in_kernel\": 5",
        "\"conv_out_kernel\": 1",
        "\"cross_attention_norm\": \"group_norm\"",
        "\"dropout\": 0.1",
        "\"dual_cross_attention\": true",
        "\"encoder_hid_dim\": 64",
        "\"mid_block_scale_factor\": 2",
        "\"mid_block_type\": \"UNetMidBlock2D\"",
        "\"mid_block_type\": null",
        "\"num_attention_heads\": 8",
        "\"num_class_embeds\": 10",
        "\"only_cross_attention\": true",
        "\"resnet_out_scale_factor\": 0.5",
        "\"resnet_skip_time_act\": true",
        "\"resnet_time_scale_shift\": \"scale_shift\"",
        "\"time_cond_proj_dim\": 256",
        "\"time_embedding_type\": \"fourier\"",
        "\"timestep_post_act\": \"silu\"",
        "\"downsample_padding\": 0",
        "\"norm_num_groups\": 33",
        "\"attention_head_dim\": [5, 10, 20]",
        "\"attention_head_dim\": 7",
        "\"block_out_channels\": []",
        "\"block_out_channels\": [320, 640, 1280, 1281]",
        "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"AttnDownBlock2D\", "
        "\"DownBlock2D\"]",
        "\"layers_per_block\": 0",
        "\"in_channels\": \"four\"",
        "\"cross_attention_dim\": 1e400",
        "\"never_heard_of\": 1",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(refused[i] + 1, "\""), refused[i] + 1);
        // a number that JSON cannot hold is refused by the JSON reader, which knows no key
        expect_config(refused[i], false, strstr(refused[i], "1e400") ? "config.json" : key);
    }
    static const char *const accepted[] = {
        "\"_class_name\": \"Anything\"",
        "\"_unheard_of\": [1, {\"a\": 2}]",
        "\"act_fn\": \"silu\"",
        "\"dropout\": 0",
        "\"mid_block_scale_factor\": 1.0",
        "\"only_cross_attention\": false",
        "\"layers_per_block\": 3",
        "\"upcast_attention\": true",
        "\"attention_head_dim\": 8",
    };
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) expect_config(accepted[i], true, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_of_sd21_is_diffusers),
        cmocka_unit_test(epsilons_are_diffusers),
        cmocka_unit_test(macs_of_sd21_are_diffusers),
        cmocka_unit_test(mask_is_slice),
        cmocka_unit_test(a_mask_that_empties_a_unit_is_refused),
        cmocka_unit_test(found_once_is_found_anew),
        cmocka_unit_test(recomputed_is_recorded),
        cmocka_unit_test(later_steps_take_no_memory),
        cmocka_unit_test(what_cannot_be_pruned_is_refused_by_name),
        cmocka_unit_test(config_keys_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
