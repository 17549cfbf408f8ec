/* The autoencoder of Stable Diffusion 1 and 2 (Rombach et al. 2022), as diffusers' AutoencoderKL: pictures to
 * a normal distribution of latents, 1/factor as high and wide, and latents back to pictures. Inference only.
 * Local to the calling rank.
 *
 * Memory of activations, beside the weights: Stable Diffusion's decoder takes at most 0.8 GB in fp32 for
 * 64 x 64 latents (512 x 512 pixels) a sample, its encoder 0.5 GB, and either grows with the area. In tiles
 * it is that of one tile, however large the picture; the tiles of two rows, as pictures or latents, are held
 * in host memory beside it. */
#ifndef MODELS_VAE_H
#define MODELS_VAE_H

#include "base/fault.h"
#include "io/sha256.h"
#include "nn/resnet_block.h"

enum { VAE_MAX_LEVELS = 8, VAE_MAX_LAYERS = 16 };

/* What config.json says, checked. */
struct vae_config {
    int64_t in_channels, out_channels; /* of pictures: 3 */
    int64_t latent_channels;           /* L */
    int levels;                        /* each but the last halves the picture */
    int64_t channels[VAE_MAX_LEVELS];  /* block_out_channels, outside first */
    int layers;            /* layers_per_block: ResNets of a down block; an up block has one more */
    int64_t groups;        /* norm_num_groups */
    int64_t sample_size;   /* pixels: the size of a tile in diffusers */
    double scaling_factor; /* a diffusion model's latents = scaling_factor x those here */
};

/* Reads a config.json text; what is missing has diffusers' default. Unknown keys, and other values of those
 * that are not implemented, are refused by name (EXIT_CODE_INPUT); `name` is for messages. */
bool vae_config_parse(struct vae_config *config, const char *text, const char *name, struct fault *fault);

/* Pixels a latent, along height and width: 2^(levels - 1). */
int64_t vae_factor(const struct vae_config *config);

/* Pictures must be whole latents high and wide, and at most 16384 pixels. */
bool vae_check_picture(const struct vae_config *config, int64_t height, int64_t width, struct fault *fault);

/* ResNets, then a 3x3 convolution: of stride 2 in the encoder, behind nearest upsampling in the decoder. */
struct vae_block {
    struct resnet_block *resnet; /* [resnets], owned */
    int resnets;
    struct conv resample;
    bool has_resample;
};

/* ResNet, attention with one head, ResNet. */
struct vae_middle {
    struct resnet_block resnet[2];
    struct group_norm norm;
    struct linear query_key_value, attention_output; /* C -> 3C, C -> C */
};

/* The encoder: conv_in, blocks, middle, out. The decoder: conv_in, middle, blocks, out. */
struct vae_half {
    struct conv conv_in, conv_out;
    struct vae_block block[VAE_MAX_LEVELS]; /* [levels], in the order of computation */
    struct vae_middle middle;
    struct group_norm conv_norm_out;
};

struct vae {
    struct vae_config config;
    struct parameter_set parameters;
    struct vae_half encoder, decoder;
    struct conv quant_conv, post_quant_conv; /* 1x1 */
    char id[SHA256_HEX_SIZE]; /* of one that was opened: SHA-256 of all that its results depend on but the
                                 precision and the tiling */
};

/* Builds layers and parameters (without memory: parameter_set_allocate). Free with vae_delete. */
struct vae *vae_new(struct backend *backend, const struct vae_config *config);
void vae_delete(struct vae *vae); /* NULL allowed */

/* A published folder: config.json and the weights, also under the names of the attention that diffusers used
 * before 0.15 (query, key, value, proj_attn). Not frozen: see parameter_set_freeze. */
bool vae_open(struct backend *backend, const char *folder, struct vae **vae, struct fault *fault);

/* The id alone. One that is opened on the plan backend, which holds no weights, does not have its own. */
bool vae_identify(const char *folder, char id[SHA256_HEX_SIZE], struct fault *fault);

/* pixels [B, H, W, in_channels] in -1..1, vae_check_picture -> moments [B, H / factor, W / factor, 2 L] fp32:
 * the means, then the log-variances, not yet bounded */
struct tensor *vae_encode_forward(struct tape *tape, const struct vae *vae, struct tensor *pixels);

/* latents [B, h, w, L], as encoded (no scaling factor) -> pixels [B, h factor, w factor, out_channels] fp32
 */
struct tensor *vae_decode_forward(struct tape *tape, const struct vae *vae, struct tensor *latents);

/* Pictures of more than tile x tile latents are computed in such tiles, which begin every tile - overlap
 * latents, and blended linearly where they overlap: diffusers' enable_tiling. Each tile is normalised and
 * attended to by itself, so the result is another one. */
struct vae_tiling {
    int64_t tile;    /* latents; 0: never in tiles */
    int64_t overlap; /* latents, 0 to tile - 1 */
};

/* diffusers' default: tiles of sample_size pixels, overlapping by a quarter. */
struct vae_tiling vae_tiling_usual(const struct vae_config *config);

/* Whole computations between host arrays, `samples` at once; they reset the tape. height and width are of
 * the latents, h and w. The log-variance is bounded to -30..20, as diffusers does.
 *   pixels [B, h factor, w factor, in_channels] -> mean, log_variance [B, h, w, L]
 *   latents [B, h, w, L] -> pixels [B, h factor, w factor, out_channels] */
void vae_encode(struct tape *tape, const struct vae *vae, struct vae_tiling tiling, int64_t samples,
                int64_t height, int64_t width, const float *pixels, float *mean, float *log_variance);
void vae_decode(struct tape *tape, const struct vae *vae, struct vae_tiling tiling, int64_t samples,
                int64_t height, int64_t width, const float *latents, float *pixels);

#endif
