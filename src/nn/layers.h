/* Layers: named parameters and one op each. A layer is a plain struct of borrowed parameters; the
 * parameter_set owns them.
 *
 * `*_init` adds the layer's parameters to a set under diffusers' names; `*_forward` is one op of tensor/op.h.
 */
#ifndef NN_LAYERS_H
#define NN_LAYERS_H

#include "tensor/op.h"

/* y [.., out] = x [.., in] W' + b */
struct linear {
    struct parameter *weight; /* [out, in] */
    struct parameter *bias;   /* [out] or NULL */
};

/* Convolution with zero padding. A 1x1 kernel of stride 1 is a linear map of the channels and is stored as
 * one. */
struct conv {
    struct convolution geometry;
    struct parameter *weight; /* [out, in, kernel height, kernel width], or [out, in] when pointwise */
    struct parameter *bias;   /* [out] or NULL */
    bool pointwise;
};

struct group_norm {
    struct parameter *weight, *bias; /* [channels] */
    int64_t groups;
    float epsilon;
};

struct layer_norm {
    struct parameter *weight, *bias; /* [channels] */
    float epsilon;
};

/* A module's path, "down_blocks.0.resnets.1.conv1"; printf-like, at most 159 characters. */
struct module_path {
    char text[160];
};
__attribute__((format(printf, 1, 2))) struct module_path module_path(const char *format, ...);

/* `name` is the module path without ".weight"; the text is copied. */
void linear_init(struct linear *layer, struct parameter_set *set, int64_t in, int64_t out, bool bias,
                 const char *name);
void conv_init(struct conv *layer, struct parameter_set *set, int64_t in, int64_t out, int64_t kernel,
               int64_t stride, int64_t pad, const char *name);
/* The same with any kernel and geometry, and without a bias. */
void conv_init_kernel(struct conv *layer, struct parameter_set *set, int64_t in, int64_t out,
                      int64_t kernel_height, int64_t kernel_width, struct convolution geometry,
                      const char *name);
void group_norm_init(struct group_norm *layer, struct parameter_set *set, int64_t channels, int64_t groups,
                     float epsilon, const char *name);
void layer_norm_init(struct layer_norm *layer, struct parameter_set *set, int64_t channels, float epsilon,
                     const char *name);

/* Several bias-free maps of the same input, [.., in] -> [.., parts x out], as one product: name + suffix[i]
 * (with ".weight"). */
void linear_init_stacked(struct linear *layer, struct parameter_set *set, int64_t in, int64_t out,
                         const char *name, int parts, const char *const *suffix);

/* The same with biases, of modules name.module[i] (query, key, value). */
void linear_init_stacked_bias(struct linear *layer, struct parameter_set *set, int64_t in, int64_t out,
                              const char *name, int parts, const char *const *module);

/* residual: added to the result, or NULL */
struct tensor *linear_forward(struct tape *tape, const struct linear *layer, struct tensor *x,
                              struct tensor *residual);
struct tensor *conv_forward(struct tape *tape, const struct conv *layer, struct tensor *x,
                            struct tensor *residual);
struct tensor *layer_norm_forward(struct tape *tape, const struct layer_norm *layer, struct tensor *x);
struct tensor *group_norm_forward(struct tape *tape, const struct group_norm *layer, struct tensor *x,
                                  bool silu);

#endif
