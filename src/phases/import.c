/* Phase import: a published diffusers model into teacher.h5.
 *
 *  1. where its parts lie
 *  2. VAE and text encoder, opened as later phases will: their ids, which those compare
 *  3. the UNet: its configuration, and whether it fits the others; what weights there are, no value is read
 *  4. the file: the UNet's weights, one tensor at a time
 *
 * Rank 0 does it all. VAE and text encoder stay in their folders. */
#include "phases/import.h"

#include "base/check.h"
#include "diffusion/latent_codec.h"
#include "diffusion/scheduler_config.h"
#include "io/safetensors.h"
#include "io/text_file.h"
#include "models/pipeline_folder.h"
#include "models/text_encoder.h"
#include "models/weights.h"
#include "phases/provenance.h"
#include "phases/teacher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20, USUAL_LATENTS = 64 };

enum part { PART_UNET, PART_SCHEDULER, PART_VAE, PART_TEXT_ENCODER, PART_TOKENIZER, PARTS };
static const char *const part_name[PARTS] = {"unet", "scheduler", "vae", "text_encoder", "tokenizer"};

struct importing {
    struct run *run;
    const struct import_cfg *cfg;
    char *folder[PARTS]; // owned
    char *config_text;   // the UNet's config.json; owned
    struct backend *plan;
    struct unet *unet; // on the plan backend: names and shapes, no memory; owned
    int64_t text_width, tokens;
    struct noise_schedule schedule;
    struct lineage lineage;
    struct safetensors *weights; // the UNet's; owned
    bool half;                   // as they will be written
    int64_t largest;             // elements of a tensor of the UNet
    size_t network_bytes;        // of VAE or text encoder, whichever is larger
};

// ---- 1: parts

static bool find_parts(struct importing *importing, struct fault *fault)
{
    const struct import_cfg *cfg = importing->cfg;
    const char *const own[PARTS] = {cfg->unet, cfg->scheduler, cfg->vae, cfg->text_encoder, cfg->tokenizer};
    for (int i = 0; i < PARTS; i++)
        importing->folder[i] =
            *own[i] ? check_strdup(own[i]) : check_format("%s/%s", cfg->folder, part_name[i]);
    return !*cfg->folder || pipeline_check_index(cfg->folder, fault);
}

// ---- 2: VAE and text encoder

static void note_network(struct importing *importing, const struct backend *backend, enum part part,
                         const struct parameter_set *parameters, const char *id)
{
    size_t bytes = backend_bytes(backend);
    if (bytes > importing->network_bytes) importing->network_bytes = bytes;
    log_info(importing->run->log, "%s: %.2f M parameters, id %s", part_name[part],
             (double)parameter_set_elements(parameters) / 1e6, id);
}

static bool open_vae(struct importing *importing, struct backend *backend, struct fault *fault)
{
    struct latent_codec codec;
    if (!latent_codec_open_vae(&codec, backend, importing->folder[PART_VAE], DTYPE_F32, false, fault))
        return false;
    importing->lineage.latent = codec.form;
    memcpy(importing->lineage.vae, codec.vae->id, sizeof importing->lineage.vae);
    note_network(importing, backend, PART_VAE, &codec.vae->parameters, codec.vae->id);
    latent_codec_close(&codec);
    return true;
}

static bool open_text_encoder(struct importing *importing, struct backend *backend, struct fault *fault)
{
    struct text_encoder encoder;
    if (!text_encoder_open(&encoder, backend, importing->folder[PART_TEXT_ENCODER],
                           importing->folder[PART_TOKENIZER],
                           (struct text_encoder_options){.batch = 1, .dtype = DTYPE_F32}, fault))
        return false;
    importing->text_width = encoder.channels;
    importing->tokens = encoder.tokens;
    importing->lineage.text_encoder = check_strdup(encoder.id);
    importing->lineage.sentence_encoder = check_strdup("");
    note_network(importing, backend, PART_TEXT_ENCODER, &encoder.parameters, encoder.id);
    text_encoder_close(&encoder);
    return true;
}

/* One at a time is in memory. */
static bool open_networks(struct importing *importing, struct fault *fault)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    timer_start(importing->run->timers, "networks");
    bool ok = open_vae(importing, backend, fault) && open_text_encoder(importing, backend, fault);
    timer_stop(importing->run->timers, "networks");
    backend_close(backend);
    return ok;
}

// ---- 3: the UNet

static bool read_unet_config(struct importing *importing, struct fault *fault)
{
    char *path = check_format("%s/config.json", importing->folder[PART_UNET]);
    struct unet_config config;
    bool ok = text_file_read(path, MAX_CONFIG_BYTES, &importing->config_text, fault) &&
              unet_config_parse(&config, importing->config_text, path, UNET_FF_ENTRIES, fault);
    if (ok) importing->unet = unet_new(importing->plan, &config, (struct unet_shape){0});
    free(path);
    return ok;
}

static bool read_schedule(struct importing *importing, struct fault *fault)
{
    char *path = check_format("%s/scheduler_config.json", importing->folder[PART_SCHEDULER]);
    bool ok = scheduler_config_read(path, &importing->schedule, fault);
    free(path);
    return ok;
}

static bool check_fit(const struct importing *importing, struct fault *fault)
{
    const struct unet_config *config = &importing->unet->config;
    const char *unet = importing->folder[PART_UNET];
    int channels = latent_channels(LATENT_VAE);
    if (config->in_channels != channels || config->out_channels != channels)
        return fault_raise(
            fault, EXIT_CODE_INPUT,
            "%s/config.json: in_channels is %lld and out_channels %lld, the VAE's latents have "
            "%d channels",
            unet, (long long)config->in_channels, (long long)config->out_channels, channels);
    return config->text_width == importing->text_width ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s/config.json: cross_attention_dim is %lld, hidden_size in %s/config.json is %lld",
                       unet, (long long)config->text_width, importing->folder[PART_TEXT_ENCODER],
                       (long long)importing->text_width);
}

/* Their types: "F16", or "F16 and F32". */
static bool describe_types(const struct safetensors *file, char text[32], struct fault *fault)
{
    static const char *const types[] = {"F16", "BF16", "F32"};
    enum { TYPES = sizeof types / sizeof *types };
    bool found[TYPES] = {0};
    for (int i = 0; i < safetensors_count(file); i++) {
        const struct safetensors_info *info = safetensors_info(file, i);
        int type = 0;
        while (type < TYPES && strcmp(info->type, types[type]) != 0) type++;
        if (type == TYPES)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: type is %s, allowed are F32, F16 and BF16",
                               safetensors_path(file), info->name, info->type);
        found[type] = true;
    }
    *text = '\0';
    for (int type = 0; type < TYPES; type++)
        if (found[type])
            snprintf(text + strlen(text), 32 - strlen(text), "%s%s", *text ? " and " : "", types[type]);
    return true;
}

/* Elements of all tensors; notes the largest. */
static int64_t count_elements(struct importing *importing)
{
    int64_t sum = 0;
    for (int i = 0; i < safetensors_count(importing->weights); i++) {
        int64_t elements = safetensors_info(importing->weights, i)->elements;
        sum += elements;
        if (elements > importing->largest) importing->largest = elements;
    }
    return sum;
}

static bool check_weights(struct importing *importing, struct fault *fault)
{
    const struct unet *unet = importing->unet;
    int64_t side = unet->config.sample_size ? unet->config.sample_size : USUAL_LATENTS;
    char types[32];
    struct safetensors **file = &importing->weights;
    if (!safetensors_open_folder(importing->folder[PART_UNET], "diffusion_pytorch_model", file, fault) ||
        !weights_check_safetensors(&unet->parameters, *file, NULL, fault) ||
        !describe_types(*file, types, fault))
        return false;
    enum import_weights wanted = importing->cfg->weights;
    importing->half = wanted == IMPORT_HALF || (wanted == IMPORT_AUTO && strcmp(types, "F16") == 0);
    int parts = safetensors_parts(*file);
    struct unit_macs macs = unet_macs(unet, side, side, importing->tokens);
    log_info(importing->run->log,
             "unet: %.2f M parameters in %d tensors of %s, %d file%s; %.3f GMACs a sample at %lld x %lld "
             "latents and %lld tokens",
             (double)count_elements(importing) / 1e6, safetensors_count(*file), types, parts,
             parts == 1 ? "" : "s", macs.total / 1e9, (long long)side, (long long)side,
             (long long)importing->tokens);
    unit_macs_free(&macs);
    return true;
}

static bool read_unet(struct importing *importing, struct fault *fault)
{
    return read_unet_config(importing, fault) && read_schedule(importing, fault) &&
           check_fit(importing, fault) && check_weights(importing, fault);
}

static void report(const struct importing *importing)
{
    const struct log *log = importing->run->log;
    const struct noise_schedule *schedule = &importing->schedule;
    double bytes = (double)parameter_set_elements(&importing->unet->parameters) * (importing->half ? 2 : 4);
    log_info(log, "scheduler: predicts %s, betas from %g to %g", prediction_name(schedule->prediction),
             schedule->beta_start, schedule->beta_end);
    log_info(log, "latents scaled by %g; %lld token states of %lld numbers",
             importing->lineage.latent.scale[0], (long long)importing->tokens,
             (long long)importing->text_width);
    log_info(log, "disk needed: about %.1f MiB of %s, weights as %s", bytes / 0x1p20,
             importing->cfg->teacher_file, importing->half ? "IEEE half" : "fp32");
    double copies = 2.0 * sizeof(float) * (double)importing->largest,
           network = (double)importing->network_bytes;
    log_info(log, "planned memory: about %.1f MiB, of VAE or text encoder; of the UNet %.1f MiB at a time",
             (copies > network ? copies : network) / 0x1p20, copies / 0x1p20);
}

// ---- 4: the file

static bool write_contents(const struct importing *importing, struct h5_writer *writer,
                           struct sha256 *unet_hash, struct fault *fault)
{
    return h5_write_text(writer, "config", importing->config_text, fault) &&
           teacher_write_schedule(&importing->schedule, writer, fault) &&
           lineage_write(&importing->lineage, FILE_TEACHER, writer, fault) &&
           weights_copy_safetensors(&importing->unet->parameters, importing->weights, NULL, writer, "weights",
                                    importing->half, unet_hash, fault);
}

static bool write_teacher(const struct importing *importing, struct fault *fault)
{
    struct h5_writer *writer;
    if (!h5_create(importing->cfg->teacher_file, FILE_TEACHER, &writer, fault)) return false;
    struct sha256 *hash = sha256_new();
    if (!write_contents(importing, writer, hash, fault)) {
        sha256_free(hash);
        h5_abandon(writer);
        return false;
    }
    char unet_id[SHA256_HEX_SIZE], content_id[SHA256_HEX_SIZE];
    sha256_finish(hash, unet_id);
    const struct lineage *lineage = &importing->lineage;
    const struct h5_parent parent[] = {
        {"unet", unet_id}, {"vae", lineage->vae}, {"text_encoder", lineage->text_encoder}};
    struct h5_provenance provenance =
        run_provenance(importing->run, &importing->cfg->run, NULL, DTYPE_F32, parent, 3);
    if (!h5_finish(writer, &provenance, content_id, fault)) return false;
    log_info(importing->run->log, "unet: id %s", unet_id);
    log_info(importing->run->log, "wrote %s, weights as %s, content id %.12s", importing->cfg->teacher_file,
             importing->half ? "IEEE half" : "fp32", content_id);
    return true;
}

static bool import_model(struct importing *importing, struct fault *fault)
{
    struct timers *timers = importing->run->timers;
    if (!find_parts(importing, fault) ||    // 1
        !open_networks(importing, fault) || // 2
        !read_unet(importing, fault))       // 3
        return false;
    report(importing);
    if (importing->run->check_only) return true;
    timer_start(timers, "write");
    bool ok = write_teacher(importing, fault); // 4
    timer_stop(timers, "write");
    return ok;
}

static void release(struct importing *importing)
{
    safetensors_close(importing->weights);
    unet_delete(importing->unet);
    backend_close(importing->plan);
    lineage_clear(&importing->lineage);
    for (int i = 0; i < PARTS; i++) free(importing->folder[i]);
    free(importing->config_text);
}

bool phase_import(struct run *run, const struct import_cfg *cfg, struct fault *fault)
{
    if (comm_rank(run->comm) == 0) {
        struct importing importing = {.run = run, .cfg = cfg, .plan = backend_open(BACKEND_PLAN)};
        import_model(&importing, fault);
        release(&importing);
    }
    return comm_agree(run->comm, fault);
}
