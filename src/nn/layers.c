#include "nn/layers.h"

#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>

struct module_path module_path(const char *format, ...)
{
    struct module_path path;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path.text, sizeof path.text, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < sizeof path.text, "module path of %d characters", length);
    return path;
}

void linear_init(struct linear *layer, struct parameter_set *set, int64_t in, int64_t out, bool bias,
                 const char *name)
{
    layer->weight = parameter_add(set, true, 2, (int64_t[]){out, in}, "%s.weight", name);
    layer->bias = bias ? parameter_add(set, false, 1, &out, "%s.bias", name) : NULL;
}

void linear_init_stacked(struct linear *layer, struct parameter_set *set, int64_t in, int64_t out,
                         const char *name, int parts, const char *const *suffix)
{
    layer->weight = parameter_add_stacked(set, out, in, name, parts, suffix);
    layer->bias = NULL;
}

void linear_init_stacked_bias(struct linear *layer, struct parameter_set *set, int64_t in, int64_t out,
                              const char *name, int parts, const char *const *module)
{
    struct module_path weight[PARAMETER_MAX_PARTS];
    const char *suffix[PARAMETER_MAX_PARTS];
    CHECK(parts >= 1 && parts <= PARAMETER_MAX_PARTS, "%d parts, allowed 1 to %d", parts,
          PARAMETER_MAX_PARTS);
    for (int i = 0; i < parts; i++) {
        weight[i] = module_path(".%s.weight", module[i]);
        suffix[i] = weight[i].text;
    }
    layer->weight = parameter_add_stacked(set, out, in, name, parts, suffix);
    layer->bias = parameter_add(set, false, 1, (int64_t[]){parts * out}, "%s.%s.bias", name, module[0]);
    layer->bias->part_count = parts;
    for (int i = 0; i < parts; i++) {
        struct parameter_part *part = &layer->bias->part[i];
        snprintf(part->name, sizeof part->name, "%s", module_path("%s.%s.bias", name, module[i]).text);
        part->first_row = i * out;
        part->rows = out;
    }
}

void conv_init_kernel(struct conv *layer, struct parameter_set *set, int64_t in, int64_t out,
                      int64_t kernel_height, int64_t kernel_width, struct convolution geometry,
                      const char *name)
{
    layer->pointwise = kernel_height == 1 && kernel_width == 1 && geometry.stride == 1 &&
                       geometry.pad_top + geometry.pad_bottom + geometry.pad_left + geometry.pad_right == 0;
    layer->geometry = geometry;
    layer->weight = parameter_add(set, true, layer->pointwise ? 2 : 4,
                                  (int64_t[]){out, in, kernel_height, kernel_width}, "%s.weight", name);
    layer->weight->file_rank = 4;
    layer->bias = NULL;
}

void conv_init(struct conv *layer, struct parameter_set *set, int64_t in, int64_t out, int64_t kernel,
               int64_t stride, int64_t pad, const char *name)
{
    conv_init_kernel(layer, set, in, out, kernel, kernel, (struct convolution){stride, pad, pad, pad, pad},
                     name);
    layer->bias = parameter_add(set, false, 1, &out, "%s.bias", name);
}

void group_norm_init(struct group_norm *layer, struct parameter_set *set, int64_t channels, int64_t groups,
                     float epsilon, const char *name)
{
    layer->weight = parameter_add(set, false, 1, &channels, "%s.weight", name);
    layer->bias = parameter_add(set, false, 1, &channels, "%s.bias", name);
    layer->groups = groups;
    layer->epsilon = epsilon;
}

void layer_norm_init(struct layer_norm *layer, struct parameter_set *set, int64_t channels, float epsilon,
                     const char *name)
{
    layer->weight = parameter_add(set, false, 1, &channels, "%s.weight", name);
    layer->bias = parameter_add(set, false, 1, &channels, "%s.bias", name);
    layer->epsilon = epsilon;
}

struct tensor *linear_forward(struct tape *tape, const struct linear *layer, struct tensor *x,
                              struct tensor *residual)
{
    return op_linear(tape, x, layer->weight, layer->bias, residual);
}

struct tensor *conv_forward(struct tape *tape, const struct conv *layer, struct tensor *x,
                            struct tensor *residual)
{
    if (layer->pointwise) return op_linear(tape, x, layer->weight, layer->bias, residual);
    return op_convolution(tape, layer->geometry, x, layer->weight, layer->bias, residual);
}

struct tensor *layer_norm_forward(struct tape *tape, const struct layer_norm *layer, struct tensor *x)
{
    return op_layer_norm(tape, x, layer->weight, layer->bias, layer->epsilon);
}

struct tensor *group_norm_forward(struct tape *tape, const struct group_norm *layer, struct tensor *x,
                                  bool silu)
{
    return op_group_norm(tape, x, NULL, layer->weight, layer->bias, layer->groups, layer->epsilon, silu,
                         GATE_NONE);
}
