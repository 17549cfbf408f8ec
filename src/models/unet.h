/* The UNet family of diffusers' UNet2DConditionModel (METHOD section 2): full teacher, gated net and sliced
 * expert are one builder. */
#ifndef MODELS_UNET_H
#define MODELS_UNET_H

#include "base/fault.h"
#include "models/unit_table.h"
#include "nn/transformer.h"

enum { UNET_MAX_LEVELS = 8, UNET_MAX_LAYERS = 16, UNET_MAX_BLOCKS = 2 * UNET_MAX_LEVELS + 1 };

/* What config.json says, checked. Heads are counts. */
struct unet_config {
    int64_t in_channels, out_channels;
    int64_t sample_size; /* latents' height and width that the model was made for, or 0 */
    int levels;
    int64_t channels[UNET_MAX_LEVELS]; /* block_out_channels */
    int layers[UNET_MAX_LEVELS];       /* ResNets a down block; an up block has one more */
    bool down_attention[UNET_MAX_LEVELS], up_attention[UNET_MAX_LEVELS]; /* by level, outside first */
    int64_t heads[UNET_MAX_LEVELS];
    int transformer_layers[UNET_MAX_LEVELS];
    int64_t text_width; /* cross_attention_dim, D */
    int64_t groups;     /* norm_num_groups */
    double epsilon;     /* norm_eps */
    bool linear_projection;
    bool flip_sin_to_cos;
    double freq_shift;
    int64_t downsample_padding;
    int ff_entries;   /* width entries of a feed-forward; not in config.json */
    bool depth_gates; /* not in config.json: true */
};

/* ff_entries where no router says another number: METHOD section 2's. */
enum { UNET_FF_ENTRIES = 32 };

/* Reads a config.json text. A key that is not implemented is accepted at diffusers' default and refused by
 * name at any other value; keys that begin with "_" are ignored; unknown keys are refused. `name` is for
 * messages. */
bool unet_config_parse(struct unet_config *config, const char *json, const char *name, int ff_entries,
                       struct fault *fault);

/* What each unit keeps: a hard mask, in the table's order. NULL pointers: everything. */
struct unet_shape {
    const uint8_t *width; /* [width_entries], 1 = kept */
    const uint8_t *depth; /* [depth_entries] */
};

/* One down, middle or up block: ResNets, each followed by its transformer (the middle: ResNet, transformer,
 * ResNet). */
struct unet_block {
    bool up;
    struct resnet_block *resnet; /* [resnets], owned */
    int resnets;
    struct transformer *transformer; /* [transformers], owned */
    int transformers;
    struct conv resample; /* 3x3 after the block: stride 2 in a down block, behind nearest upsampling in an up
                             block */
    bool has_resample;
};

struct unet {
    struct unet_config config;
    struct parameter_set parameters;
    struct unit_table table; /* of the unsliced network, whatever the shape */
    struct conv conv_in, conv_out;
    struct linear time_linear_1, time_linear_2;
    struct group_norm conv_norm_out;
    struct unet_block block[UNET_MAX_BLOCKS]; /* down 0.., middle, up 0.. */
    int blocks;
    char undroppable[UNIT_PATH_SIZE]; /* a unit that should have a depth gate but changes its channels, or ""
                                       */
};

/* Builds layers, table and parameters (without memory: parameter_set_allocate). Free with unet_delete. */
struct unet *unet_new(struct backend *backend, const struct unet_config *config, struct unet_shape shape);
void unet_delete(struct unet *unet);

/* Refuses, by name, a network that METHOD section 2 cannot prune: a ResNet that could be dropped changes the
 * channel count, or a feed-forward is not divided by its gate entries. Gates and masks need it. */
bool unet_check_prunable(const struct unet *unet, struct fault *fault);

/* Latents must shrink and grow back: at least 2^(levels-1) in height and width. */
bool unet_check_latents(const struct unet_config *config, int64_t height, int64_t width, struct fault *fault);

/* inputs of one forward pass; gates NULL: the plain network */
struct unet_input {
    struct tensor *latents;   /* [B, H, W, in_channels], compute dtype */
    struct tensor *timesteps; /* [B] fp32 */
    struct tensor *text;      /* [B, T, D], compute dtype */
    struct tensor *text_mask; /* [B, T] fp32, 0 = hidden, or NULL */
    struct tensor *gates;     /* [B, entries] fp32, in the table's order, or NULL */

    /* What many passes have in common, found once, on a tape that is not reset between them; the numbers are
     * the same. Without gradients. NULL: found from the inputs above, else these are not read. */
    struct tensor *time;             /* [B, 4 C0] of unet_time_embedding, in place of `timesteps` */
    struct tensor *const *text_keys; /* of unet_text_keys, in place of `text` */
};

struct unet_output {
    struct tensor *sample;                  /* [B, H, W, out_channels] fp32 */
    struct tensor *hidden[UNET_MAX_BLOCKS]; /* the state that leaves each block, after its resampler */
};

void unet_forward(struct tape *tape, const struct unet *unet, struct unet_input input,
                  struct unet_output *output);

/* What a forward pass makes of the timesteps [B] fp32 alone: [B, 4 C0]. */
struct tensor *unet_time_embedding(struct tape *tape, const struct unet *unet, struct tensor *timesteps);

/* What it makes of the text [B, T, D] alone: keys and values of every cross-attention, kv
 * [unet_cross_attentions] tensors [B, T, 2 heads d]. */
int unet_cross_attentions(const struct unet *unet);
void unet_text_keys(struct tape *tape, const struct unet *unet, struct tensor *text, struct tensor **kv);

/* Counts the MACs of one sample of this network (METHOD section 2): of a sliced one, `total` is its true
 * count and the other fields speak of what is left. Latents of height x width, `tokens` text tokens. Free
 * with unit_macs_free. */
struct unit_macs unet_macs(const struct unet *unet, int64_t height, int64_t width, int64_t tokens);

/* Slices one weight as files hold it: full[...] of the given shape (PyTorch layout) to the part that the mask
 * keeps. Returns false if the weight belongs to a dropped unit (nothing is written). `out` has room for the
 * full weight; out_dim receives the sliced shape. */
bool unet_slice_weight(const struct unit_table *table, struct unet_shape shape, const char *name, int rank,
                       const int64_t *dim, const float *full, float *out, int64_t *out_dim);

/* Fills the parameters of `sliced` (allocated; made by unet_new from the same config and `shape`) with the
 * part of those of `full` (the whole network, not frozen) that the mask keeps. */
void unet_slice(const struct unet *full, struct unet_shape shape, struct unet *sliced);

/* norm [width_entries]: L2 norm of the weights that each width entry of `full` (the whole network, not
 * frozen) removes: its slices of all matrices and convolution kernels. Biases and the scales of norms, which
 * start at 1 whatever their unit is worth, do not count. */
void unet_slice_norms(const struct unet *full, double *norm);

/* Whether a mask leaves every unit that is not dropped at least one entry, as slicing wants it; else a fault
 * (EXIT_CODE_INPUT) names the unit. */
bool unet_check_shape(const struct unit_table *table, struct unet_shape shape, struct fault *fault);

#endif
