/* References of whole pictures, what diffusers' StableDiffusionPipeline paints: inputs/prompt and
 * inputs/negative_prompt [N], inputs/latents [N, 4, h, w], the initial noise; outputs/image [N, 8 h, 8 w, 3]
 * in 0..1; root attributes steps and guidance. Prompts become token states, noise and states become latents
 * by PNDM, latents a picture: with the functions that phase sample uses. */
#include "base/check.h"
#include "diffusion/guided_sampling.h"
#include "diffusion/latent_codec.h"
#include "diffusion/scheduler_config.h"
#include "models/pipeline_folder.h"
#include "models/text_encoder.h"
#include "models/unet_folder.h"
#include "phases/verify_models.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_PICTURES = 1 << 10, TEXT_BATCH = 8, TEXT_MAX_BYTES = 1 << 24 };

/* Of 0..1: what an 8-bit picture shows. */
static const double mean_limit = 1.0 / 255;

/* The parts of a model; owned. */
struct pipeline {
    struct text_encoder text;
    struct unet *unet;
    struct noise_schedule schedule;
    struct latent_codec codec;
};

/* The inputs of a reference; owned. */
struct painting {
    double steps, guidance;
    int64_t nchw[4];                    /* of the noise */
    float *latents;                     /* [N, h, w, 4] */
    float *states, *mask;               /* [2 N, T, D] and [2 N, T]: negative prompts, then prompts */
    struct h5_strings prompt, negative; /* [N] each */
};

// ---- the model

static bool open_text(struct verification *verification, struct text_encoder *encoder, struct fault *fault)
{
    struct text_encoder_options options = {.batch = TEXT_BATCH, .dtype = verification->dtype};
    char *model = check_format("%s/text_encoder", verification->folder),
         *tokenizer = check_format("%s/tokenizer", verification->folder);
    bool ok = text_encoder_open(encoder, verification->backend, model, tokenizer, options, fault);
    free(tokenizer);
    free(model);
    return ok;
}

static bool check_fit(const struct verification *verification, const struct unet_config *config,
                      const struct text_encoder *text, struct fault *fault)
{
    int64_t channels = latent_channels(LATENT_VAE);
    return (config->in_channels == channels && config->out_channels == channels &&
            config->text_width == text->channels) ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s/unet/config.json: in_channels %lld, out_channels %lld, cross_attention_dim %lld: "
                       "VAE and text encoder ask for %lld, %lld and %d",
                       verification->folder, (long long)config->in_channels, (long long)config->out_channels,
                       (long long)config->text_width, (long long)channels, (long long)channels,
                       text->channels);
}

static bool open_unet(struct verification *verification, struct pipeline *pipeline, struct fault *fault)
{
    struct unet_config config;
    char *folder = check_format("%s/unet", verification->folder);
    bool ok = unet_folder_config(folder, UNET_FF_ENTRIES, &config, fault) &&
              check_fit(verification, &config, &pipeline->text, fault);
    if (ok) {
        pipeline->unet = unet_new(verification->backend, &config, (struct unet_shape){0});
        ok = unet_folder_load(folder, pipeline->unet, false, fault);
    }
    if (ok) parameter_set_freeze(&pipeline->unet->parameters, verification->dtype, false);
    free(folder);
    return ok;
}

static bool open_pipeline(struct verification *verification, struct pipeline *pipeline, struct fault *fault)
{
    char *scheduler = check_format("%s/scheduler/scheduler_config.json", verification->folder),
         *vae = check_format("%s/vae", verification->folder);
    bool ok = pipeline_check_index(verification->folder, fault) &&
              open_text(verification, &pipeline->text, fault) && open_unet(verification, pipeline, fault) &&
              scheduler_config_read(scheduler, &pipeline->schedule, fault) &&
              latent_codec_open_vae(&pipeline->codec, verification->backend, vae, verification->dtype, false,
                                    fault);
    free(vae);
    free(scheduler);
    return ok;
}

static void close_pipeline(struct pipeline *pipeline)
{
    latent_codec_close(&pipeline->codec);
    unet_delete(pipeline->unet);
    text_encoder_close(&pipeline->text);
}

// ---- the inputs

static bool read_noise(struct verification *verification, const struct pipeline *pipeline,
                       struct painting *painting, struct fault *fault)
{
    int64_t *nchw = painting->nchw, patch = latent_patch(LATENT_VAE);
    nchw[0] = nchw[2] = nchw[3] = -1;
    nchw[1] = latent_channels(LATENT_VAE);
    if (!verify_load_map(verification, "inputs/latents", nchw, &painting->latents, fault)) return false;
    if (nchw[0] > MAX_PICTURES)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: inputs/latents are of %lld pictures, at most %d allowed",
                           h5_path(verification->reference), (long long)nchw[0], MAX_PICTURES);
    return unet_check_latents(&pipeline->unet->config, nchw[2], nchw[3], fault) &&
           vae_check_picture(&pipeline->codec.vae->config, nchw[2] * patch, nchw[3] * patch, fault);
}

/* Texts of N pictures to the states [N, T, D]. */
static bool encode(struct verification *verification, struct text_encoder *encoder, const char *name,
                   int64_t N, struct h5_strings *texts, float *states, struct fault *fault)
{
    struct h5_info info;
    if (!h5_expect(verification->reference, name, 1, &N, &info, fault) ||
        !h5_read_strings(verification->reference, name, 0, N, TEXT_MAX_BYTES, texts, fault))
        return false;
    int32_t *ids = check_malloc((size_t)(N * encoder->tokens) * sizeof *ids);
    text_encoder_encode(encoder, N, (const char *const *)texts->item, ids, states, NULL);
    free(ids);
    return true;
}

static bool read_texts(struct verification *verification, struct text_encoder *encoder,
                       struct painting *painting, struct fault *fault)
{
    int64_t N = painting->nchw[0], tokens = 2 * N * encoder->tokens,
            half = N * encoder->tokens * encoder->channels;
    painting->states = check_malloc((size_t)(2 * half) * sizeof *painting->states);
    painting->mask = check_malloc((size_t)tokens * sizeof *painting->mask);
    for (int64_t i = 0; i < tokens; i++) painting->mask[i] = 1;
    return encode(verification, encoder, "inputs/negative_prompt", N, &painting->negative, painting->states,
                  fault) &&
           encode(verification, encoder, "inputs/prompt", N, &painting->prompt, painting->states + half,
                  fault);
}

static bool read_painting(struct verification *verification, struct pipeline *pipeline,
                          struct painting *painting, struct fault *fault)
{
    return verify_attribute(verification, "steps", NAN, 1, sampler_most_steps(SAMPLER_PNDM), &painting->steps,
                            fault) &&
           verify_attribute(verification, "guidance", NAN, 0, 100, &painting->guidance, fault) &&
           read_noise(verification, pipeline, painting, fault) &&
           read_texts(verification, &pipeline->text, painting, fault);
}

static void painting_clear(struct painting *painting)
{
    free(painting->latents);
    free(painting->states);
    free(painting->mask);
    h5_strings_free(&painting->prompt);
    h5_strings_free(&painting->negative);
}

// ---- the pictures

/* The noise becomes latents. */
static void denoise(const struct verification *verification, const struct pipeline *pipeline,
                    const struct painting *painting)
{
    struct guided_sampling sampling = {.unet = pipeline->unet,
                                       .schedule = &pipeline->schedule,
                                       .sampler = SAMPLER_PNDM,
                                       .steps = (int)painting->steps,
                                       .guidance = painting->guidance};
    struct guided_batch batch = {.count = painting->nchw[0],
                                 .height = painting->nchw[2],
                                 .width = painting->nchw[3],
                                 .tokens = pipeline->text.tokens,
                                 .latents = painting->latents,
                                 .text_states = painting->states,
                                 .text_mask = painting->mask};
    struct guided_sampler *sampler = guided_sampler_new(&sampling, verification->dtype);
    guided_sampler_run(sampler, &batch, NULL, NULL);
    guided_sampler_delete(sampler);
}

/* pixels in 0..1, as pipelines return them */
static float level(float pixel)
{
    return fminf(fmaxf(pixel / 2 + 0.5F, 0), 1);
}

static bool paint(struct verification *verification, const struct pipeline *pipeline,
                  const struct painting *painting, struct fault *fault)
{
    int patch = latent_patch(LATENT_VAE), height = (int)painting->nchw[2], width = (int)painting->nchw[3];
    int64_t shape[4] = {painting->nchw[0], height * patch, width * patch, 3};
    int64_t size = (int64_t)height * width * painting->nchw[1], pixels = shape[1] * shape[2] * shape[3];
    float *image = check_calloc((size_t)(shape[0] * pixels), sizeof *image);
    denoise(verification, pipeline, painting);
    for (int64_t i = 0; i < shape[0]; i++)
        latent_codec_paint(&pipeline->codec, height, width, painting->latents + i * size, image + i * pixels);
    for (int64_t i = 0; i < shape[0] * pixels; i++) image[i] = level(image[i]);
    bool ok = verify_floats(verification, QUANTITY_OUTPUT, "outputs/image", 4, shape, image, fault) &&
              verify_mean(verification, "outputs/image", "outputs/image, mean of the differences", mean_limit,
                          4, shape, image, fault);
    if (ok) verify_report_memory(verification, pipeline->codec.tape);
    free(image);
    return ok;
}

bool verify_text_to_image(struct verification *verification, struct fault *fault)
{
    struct pipeline pipeline = {0};
    struct painting painting = {0};
    bool ok = open_pipeline(verification, &pipeline, fault) &&
              read_painting(verification, &pipeline, &painting, fault) &&
              paint(verification, &pipeline, &painting, fault);
    painting_clear(&painting);
    close_pipeline(&pipeline);
    return ok;
}
