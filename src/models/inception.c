#include "models/inception.h"

#include "base/check.h"
#include "io/json.h"
#include "io/text_file.h"
#include "models/config_keys.h"
#include "models/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double NORM_EPSILON = 1e-3;

// ---- the network as a table

enum kind {
    CONV, /* convolution, batch norm, ReLU */
    LARGEST,
    MEAN, /* pooling */
};

enum source { INPUT, ABOVE, TWO_ABOVE }; /* what a row reads: the block's input, or a row before it */

enum padding { VALID, SAME }; /* none, or as much as keeps the size of the map at stride 1 */

enum { VARIES = 0 }; /* channels that the block says */

struct row {
    const char *name; /* of a module: the block's name and this */
    enum kind kind;
    enum source source;
    int kernel_height, kernel_width, stride;
    enum padding padding;
    int channels; /* out, of the published network; pooling keeps those that it reads */
};

/* A block's output are the rows that no other row reads, one behind the other. */
// clang-format off
static const struct row stem_1[] = {
    {"Conv2d_1a_3x3",  CONV,    INPUT,     3, 3, 2, VALID, 32},
    {"Conv2d_2a_3x3",  CONV,    ABOVE,     3, 3, 1, VALID, 32},
    {"Conv2d_2b_3x3",  CONV,    ABOVE,     3, 3, 1, SAME,  64},
    {"maxpool1",       LARGEST, ABOVE,     3, 3, 2, VALID, 0},
    {0}};
static const struct row stem_2[] = {
    {"Conv2d_3b_1x1",  CONV,    INPUT,     1, 1, 1, VALID, 80},
    {"Conv2d_4a_3x3",  CONV,    ABOVE,     3, 3, 1, VALID, 192},
    {"maxpool2",       LARGEST, ABOVE,     3, 3, 2, VALID, 0},
    {0}};
static const struct row block_a[] = {
    {"branch1x1",      CONV,    INPUT,     1, 1, 1, SAME,  64},
    {"branch5x5_1",    CONV,    INPUT,     1, 1, 1, SAME,  48},
    {"branch5x5_2",    CONV,    ABOVE,     5, 5, 1, SAME,  64},
    {"branch3x3dbl_1", CONV,    INPUT,     1, 1, 1, SAME,  64},
    {"branch3x3dbl_2", CONV,    ABOVE,     3, 3, 1, SAME,  96},
    {"branch3x3dbl_3", CONV,    ABOVE,     3, 3, 1, SAME,  96},
    {"pool",           MEAN,    INPUT,     3, 3, 1, SAME,  0},
    {"branch_pool",    CONV,    ABOVE,     1, 1, 1, SAME,  VARIES},
    {0}};
static const struct row block_b[] = {
    {"branch3x3",      CONV,    INPUT,     3, 3, 2, VALID, 384},
    {"branch3x3dbl_1", CONV,    INPUT,     1, 1, 1, SAME,  64},
    {"branch3x3dbl_2", CONV,    ABOVE,     3, 3, 1, SAME,  96},
    {"branch3x3dbl_3", CONV,    ABOVE,     3, 3, 2, VALID, 96},
    {"pool",           LARGEST, INPUT,     3, 3, 2, VALID, 0},
    {0}};
static const struct row block_c[] = {
    {"branch1x1",      CONV,    INPUT,     1, 1, 1, SAME,  192},
    {"branch7x7_1",    CONV,    INPUT,     1, 1, 1, SAME,  VARIES},
    {"branch7x7_2",    CONV,    ABOVE,     1, 7, 1, SAME,  VARIES},
    {"branch7x7_3",    CONV,    ABOVE,     7, 1, 1, SAME,  192},
    {"branch7x7dbl_1", CONV,    INPUT,     1, 1, 1, SAME,  VARIES},
    {"branch7x7dbl_2", CONV,    ABOVE,     7, 1, 1, SAME,  VARIES},
    {"branch7x7dbl_3", CONV,    ABOVE,     1, 7, 1, SAME,  VARIES},
    {"branch7x7dbl_4", CONV,    ABOVE,     7, 1, 1, SAME,  VARIES},
    {"branch7x7dbl_5", CONV,    ABOVE,     1, 7, 1, SAME,  192},
    {"pool",           MEAN,    INPUT,     3, 3, 1, SAME,  0},
    {"branch_pool",    CONV,    ABOVE,     1, 1, 1, SAME,  192},
    {0}};
static const struct row block_d[] = {
    {"branch3x3_1",    CONV,    INPUT,     1, 1, 1, SAME,  192},
    {"branch3x3_2",    CONV,    ABOVE,     3, 3, 2, VALID, 320},
    {"branch7x7x3_1",  CONV,    INPUT,     1, 1, 1, SAME,  192},
    {"branch7x7x3_2",  CONV,    ABOVE,     1, 7, 1, SAME,  192},
    {"branch7x7x3_3",  CONV,    ABOVE,     7, 1, 1, SAME,  192},
    {"branch7x7x3_4",  CONV,    ABOVE,     3, 3, 2, VALID, 192},
    {"pool",           LARGEST, INPUT,     3, 3, 2, VALID, 0},
    {0}};
#define BLOCK_E(POOL)                                             \
    {"branch1x1",       CONV, INPUT,     1, 1, 1, SAME,  320},    \
    {"branch3x3_1",     CONV, INPUT,     1, 1, 1, SAME,  384},    \
    {"branch3x3_2a",    CONV, ABOVE,     1, 3, 1, SAME,  384},    \
    {"branch3x3_2b",    CONV, TWO_ABOVE, 3, 1, 1, SAME,  384},    \
    {"branch3x3dbl_1",  CONV, INPUT,     1, 1, 1, SAME,  448},    \
    {"branch3x3dbl_2",  CONV, ABOVE,     3, 3, 1, SAME,  384},    \
    {"branch3x3dbl_3a", CONV, ABOVE,     1, 3, 1, SAME,  384},    \
    {"branch3x3dbl_3b", CONV, TWO_ABOVE, 3, 1, 1, SAME,  384},    \
    {"pool",            POOL, INPUT,     3, 3, 1, SAME,  0},      \
    {"branch_pool",     CONV, ABOVE,     1, 1, 1, SAME,  192},    \
    {0}
static const struct row block_e_1[] = {BLOCK_E(MEAN)};
static const struct row block_e_2[] = {BLOCK_E(LARGEST)};
// clang-format on

static const struct {
    const char *name;
    const struct row *rows; /* ends with a row without a name */
    int channels;           /* of the rows whose channels vary */
} blocks[] = {
    {"", stem_1, 0},
    {"", stem_2, 0},
    {"Mixed_5b.", block_a, 32},
    {"Mixed_5c.", block_a, 64},
    {"Mixed_5d.", block_a, 64},
    {"Mixed_6a.", block_b, 0},
    {"Mixed_6b.", block_c, 128},
    {"Mixed_6c.", block_c, 160},
    {"Mixed_6d.", block_c, 160},
    {"Mixed_6e.", block_c, 192},
    {"Mixed_7a.", block_d, 0},
    {"Mixed_7b.", block_e_1, 0},
    {"Mixed_7c.", block_e_2, 0},
};

enum { BLOCKS = sizeof blocks / sizeof *blocks, MAX_ROWS = 11, MAX_DIVISOR = 16 };

/* A row as it is in a network. */
struct layer {
    const struct row *row;
    struct convolution geometry;
    int source; // the layer whose output it reads, -1: the block's input
    bool is_output;
    // of CONV
    struct conv conv;                          // its bias is the norm's
    struct parameter *scale, *mean, *variance; // of the norm, [O]
};

struct inception_block {
    int layers;
    struct layer layer[MAX_ROWS];
};

// ---- building

static struct convolution geometry_of(const struct row *row)
{
    int64_t down = row->padding == SAME ? (row->kernel_height - 1) / 2 : 0;
    int64_t right = row->padding == SAME ? (row->kernel_width - 1) / 2 : 0;
    return (struct convolution){row->stride, down, down, right, right};
}

static void conv_layer_init(struct layer *layer, struct parameter_set *set, int64_t in, int64_t out,
                            const char *name)
{
    const struct row *row = layer->row;
    conv_init_kernel(&layer->conv, set, in, out, row->kernel_height, row->kernel_width, layer->geometry,
                     module_path("%s.conv", name).text);
    layer->scale = parameter_add(set, false, 1, &out, "%s.bn.weight", name);
    layer->conv.bias = parameter_add(set, false, 1, &out, "%s.bn.bias", name);
    layer->mean = parameter_add(set, false, 1, &out, "%s.bn.running_mean", name);
    layer->variance = parameter_add(set, false, 1, &out, "%s.bn.running_var", name);
}

/* Returns the channels of the block's output. */
static int64_t block_init(struct inception_block *block, struct parameter_set *set, int place, int64_t in,
                          int64_t divisor)
{
    const struct row *rows = blocks[place].rows;
    int64_t channels[MAX_ROWS], out = 0;
    for (int i = 0; rows[i].name; i++) {
        const struct row *row = &rows[i];
        struct layer *layer = &block->layer[block->layers++];
        int source = row->source == INPUT ? -1 : row->source == ABOVE ? i - 1 : i - 2;
        int64_t read = source < 0 ? in : channels[source];
        *layer =
            (struct layer){.row = row, .geometry = geometry_of(row), .source = source, .is_output = true};
        if (source >= 0) block->layer[source].is_output = false;
        channels[i] = read;
        if (row->kind != CONV) continue;
        channels[i] = (row->channels == VARIES ? blocks[place].channels : row->channels) / divisor;
        conv_layer_init(layer, set, read, channels[i],
                        module_path("%s%s", blocks[place].name, row->name).text);
    }
    for (int i = 0; i < block->layers; i++)
        if (block->layer[i].is_output) out += channels[i];
    return out;
}

struct inception *inception_new(struct backend *backend, const struct inception_config *config)
{
    struct inception *inception = check_calloc(1, sizeof *inception);
    inception->config = *config;
    inception->block = check_calloc(BLOCKS, sizeof *inception->block);
    parameter_set_init(&inception->parameters, backend);
    int64_t channels = 3; // RGB
    for (int i = 0; i < BLOCKS; i++)
        channels = block_init(&inception->block[i], &inception->parameters, i, channels, config->divisor);
    inception->features = channels;
    CHECK(channels * config->divisor == INCEPTION_FEATURES, "%lld features", (long long)channels);
    return inception;
}

void inception_close(struct inception *inception)
{
    if (!inception) return;
    if (inception->tape) tape_delete(inception->tape);
    parameter_set_clear(&inception->parameters);
    free(inception->block);
    free(inception);
}

// ---- batch norm

static float *values_of(const struct parameter_set *set, const struct parameter *parameter)
{
    float *values = check_malloc((size_t)tensor_count(&parameter->value) * sizeof *values);
    parameter_part_download(set, parameter, 0, values);
    return values;
}

static bool fold_layer(struct parameter_set *set, const struct layer *layer, const char *path,
                       struct fault *fault)
{
    int64_t out = layer->conv.weight->value.dim[0], inner = tensor_count(&layer->conv.weight->value) / out;
    float *weight = values_of(set, layer->conv.weight), *bias = values_of(set, layer->conv.bias);
    float *scale = values_of(set, layer->scale), *mean = values_of(set, layer->mean);
    float *variance = values_of(set, layer->variance);
    bool ok = true;
    for (int64_t o = 0; ok && o < out; o++) {
        double factor = scale[o] / sqrt(variance[o] + NORM_EPSILON);
        for (int64_t i = 0; i < inner; i++) weight[o * inner + i] *= (float)factor;
        bias[o] = (float)(bias[o] - factor * mean[o]);
        if (variance[o] < 0)
            ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: element %lld is %g, allowed 0 and more", path,
                             layer->variance->part[0].name, (long long)o, variance[o]);
    }
    parameter_part_upload(set, layer->conv.weight, 0, weight);
    parameter_part_upload(set, layer->conv.bias, 0, bias);
    free(weight);
    free(bias);
    free(scale);
    free(mean);
    free(variance);
    return ok;
}

bool inception_fold(struct inception *inception, const char *path, struct fault *fault)
{
    for (int b = 0; b < BLOCKS; b++)
        for (int i = 0; i < inception->block[b].layers; i++) {
            const struct layer *layer = &inception->block[b].layer[i];
            if (layer->row->kind == CONV && !fold_layer(&inception->parameters, layer, path, fault))
                return false;
        }
    return true;
}

// ---- forward

static struct tensor *layer_forward(struct tape *tape, const struct layer *layer, struct tensor *x)
{
    const struct row *row = layer->row;
    if (row->kind == CONV)
        return op_activation(tape, ACTIVATION_RELU, conv_forward(tape, &layer->conv, x, NULL));
    return op_pool(
        tape, (struct pooling){row->kind == MEAN, row->kernel_height, row->kernel_width, layer->geometry}, x);
}

/* in: x [B, H, W, C] -> [B, H', W', C'] */
static void block_forward(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct inception_block *block = data;
    struct tensor *x[MAX_ROWS];
    out[0] = NULL;
    for (int i = 0; i < block->layers; i++) {
        int source = block->layer[i].source;
        x[i] = layer_forward(tape, &block->layer[i], source < 0 ? in[0] : x[source]);
    }
    for (int i = 0; i < block->layers; i++)
        if (block->layer[i].is_output) out[0] = out[0] ? op_concat(tape, out[0], x[i]) : x[i];
}

struct tensor *inception_forward(struct tape *tape, const struct inception *inception, struct tensor *pixels)
{
    CHECK(pixels->rank == 4 && pixels->dim[1] >= INCEPTION_LEAST_SIDE &&
              pixels->dim[2] >= INCEPTION_LEAST_SIDE && pixels->dim[3] == 3,
          "pixels %s: RGB of at least %d a side allowed", tensor_text(pixels, (char[TENSOR_TEXT_SIZE]){0}),
          INCEPTION_LEAST_SIDE);
    struct tensor *x = pixels;
    for (int i = 0; i < BLOCKS; i++)
        tape_block(tape, block_forward, &inception->block[i], 1, (struct tensor *[]){x}, 1, &x);
    struct pooling mean_of_map = {true, x->dim[1], x->dim[2], {.stride = 1}};
    return op_pool(tape, mean_of_map, x);
}

void inception_features(struct inception *inception, int64_t count, int64_t height, int64_t width,
                        const float *pictures, float *features)
{
    struct tape *tape = inception->tape;
    int64_t values = height * width * 3, F = inception->features;
    float *pixels = check_calloc((size_t)(INCEPTION_BATCH * values), sizeof *pixels); // [B, H, W, 3]
    float *found = check_malloc((size_t)(INCEPTION_BATCH * F) * sizeof *found);       // [B, F]
    for (int64_t first = 0; first < count; first += INCEPTION_BATCH) {
        int64_t filled = count - first < INCEPTION_BATCH ? count - first : INCEPTION_BATCH;
        for (int64_t i = 0; i < filled * values; i++)
            pixels[i] = 2 * (pictures[first * values + i] / 255) - 1;
        tape_reset(tape, TAPE_NO_GRADIENT);
        struct tensor *x =
            tape_input(tape, tape_dtype(tape), 4, (int64_t[]){INCEPTION_BATCH, height, width, 3}, pixels);
        tape_read(tape, inception_forward(tape, inception, x), found);
        memcpy(features + first * F, found, (size_t)(filled * F) * sizeof *found);
    }
    free(found);
    free(pixels);
}

// ---- a folder

bool inception_config_parse(struct inception_config *config, const char *text, const char *name,
                            struct fault *fault)
{
    static const struct config_key keys[] = {
        {"model_type", CONFIG_TEXT, "fid_inception_v3"},
        {"channels_divided_by", CONFIG_READ, NULL},
    };
    struct json_document *document;
    struct json value;
    config->divisor = 1;
    if (!json_parse(text, strlen(text), name, &document, fault)) return false;
    struct json root = json_root(document);
    bool ok = config_keys_check(root, keys, sizeof keys / sizeof *keys, fault) &&
              json_require(root, "model_type", &value, fault);
    if (ok && json_member(root, "channels_divided_by", &value))
        ok = json_get_int64(value, 1, MAX_DIVISOR, &config->divisor, fault) &&
             (MAX_DIVISOR % config->divisor == 0 ||
              json_fault(value, fault, "%lld does not divide every layer's channels, 1, 2, 4, 8 and 16 do",
                         (long long)config->divisor));
    json_free(document);
    return ok;
}

enum { CONFIG_MAX_BYTES = 1 << 20 };

static bool read_config(const char *folder, struct inception_config *config, struct fault *fault)
{
    char *path = check_format("%s/config.json", folder), *text = NULL;
    bool ok = text_file_read(path, CONFIG_MAX_BYTES, &text, fault) &&
              inception_config_parse(config, text, path, fault);
    free(text);
    free(path);
    return ok;
}

static bool read_weights(const char *folder, struct inception *inception, struct fault *fault)
{
    return weights_load_folder(&inception->parameters, folder, "model", NULL, false, fault) &&
           inception_fold(inception, folder, fault);
}

bool inception_open(struct backend *backend, const char *folder, enum dtype dtype,
                    struct inception **inception, struct fault *fault)
{
    struct inception_config config;
    *inception = NULL;
    if (!read_config(folder, &config, fault)) return false;
    struct inception *opened = inception_new(backend, &config);
    if (!read_weights(folder, opened, fault)) {
        inception_close(opened);
        return false;
    }
    struct sha256 *hash = sha256_new();
    weights_identify(&opened->parameters, hash);
    sha256_finish(hash, opened->id);
    parameter_set_freeze(&opened->parameters, dtype, false);
    opened->tape = tape_new(backend, dtype);
    *inception = opened;
    return true;
}
