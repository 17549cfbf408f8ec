/* Phase sample.
 *
 *  1. the prompts
 *  2. the VAE, the router, the teacher: whether they belong together
 *  3. the expert of every prompt, and the experts' files
 *  4. the pictures that an earlier run has made
 *  5. the others, expert by expert, in rounds: the ranks share the pictures of a round. After each round
 *     failures and requests to stop are shared
 *  6. samples.h5 and the contact sheet from all pictures, and a table
 *
 * A picture is a function of the deck's settings, its prompt and its index (diffusion/guided_sampling.h), so
 * neither the number of ranks nor the rounds nor a restart change any. */
#include "phases/sample.h"

#include "base/check.h"
#include "base/random.h"
#include "diffusion/guided_sampling.h"
#include "diffusion/latent_codec.h"
#include "io/folder.h"
#include "models/pipeline_folder.h"
#include "phases/bench_speed.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"
#include "phases/restart.h"
#include "phases/sample_pictures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EMBED_ROWS = 256, PARENT_NAME_SIZE = 32 };

/* What came of one network. */
struct tally {
    int64_t pictures; // it is to make
    int64_t left;     // of them, before this run
    double seconds;   // that ranks took to make these
};

/* Where a round stands, for the progress that is shown. */
struct round {
    int64_t pictures, made_before; // of all ranks
    int64_t calls, called;         // of this rank's UNet
    struct progress *progress;
};

struct sampling {
    struct run *run;
    const struct sample_cfg *cfg;
    struct backend *backend;
    enum dtype dtype;
    struct sample_prompts prompts;
    struct latent_codec codec;          // of the published VAE; zero: there is none
    struct routing routing;             // zero: there is none
    struct teacher teacher;             // zero: it is not needed
    char (*expert_id)[SHA256_HEX_SIZE]; // [K] content ids of the experts' files; "": not needed
    struct sample_pictures pictures;
    bool *done;          // [pictures]
    struct tally *tally; // [networks] expert e at e + 1
};

/* A UNet that samples. */
struct network {
    const struct unet *unet;
    const struct noise_schedule *schedule;
    struct latent_codec codec; // of its latents; borrowed
    struct expert expert;      // owned; zero: the teacher
};

// ---- 2: VAE, router and teacher

/* The id follows from the weights, of which the plan backend keeps none: under --check they are read for it
 * alone. */
static bool open_codec(struct sampling *sampling, struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    struct latent_codec *codec = &sampling->codec;
    if (!*cfg->pipeline) return true;
    if (!pipeline_check_index(cfg->pipeline, fault)) return false;
    char *folder = check_format("%s/vae", cfg->pipeline);
    bool ok =
        latent_codec_open_vae(codec, sampling->backend, folder, sampling->dtype, cfg->vae_tiles, fault) &&
        (!sampling->run->check_only || vae_identify(folder, codec->vae->id, fault));
    free(folder);
    return ok;
}

/* Refuses a network or router that belongs to other encoders, another VAE or other latents. */
static bool check_lineage(const struct sampling *sampling, const struct lineage *other, const char *name,
                          struct fault *fault)
{
    const struct latent_codec *codec = &sampling->codec;
    if (!sample_prompts_check(&sampling->prompts, other, name, fault)) return false;
    if (!codec->vae)
        return lineage_check_pictures(other, name,
                                      "name the published model, whose VAE does, in data.pipeline", fault);
    struct lineage pipeline = *other;
    pipeline.latent = codec->form;
    memcpy(pipeline.vae, codec->vae->id, sizeof pipeline.vae);
    return lineage_check(&pipeline, sampling->cfg->pipeline, other, name, fault);
}

static const struct unet_config *config_of(const struct sampling *sampling)
{
    return sampling->routing.unet ? &sampling->routing.unet->config : &sampling->teacher.unet->config;
}

static const struct lineage *lineage_of(const struct sampling *sampling)
{
    return sampling->routing.unet ? &sampling->routing.lineage : &sampling->teacher.lineage;
}

static bool open_router(struct sampling *sampling, struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    struct routing *routing = &sampling->routing;
    if (!routing_open(cfg->router_file, sampling->backend, routing, fault) ||
        !check_lineage(sampling, &routing->lineage, cfg->router_file, fault))
        return false;
    int64_t K = routing->router->config.K, D = routing->router->config.D;
    if (cfg->model == SAMPLE_EXPERT && cfg->expert >= K)
        return fault_raise(fault, EXIT_CODE_DECK, "sample.expert is %lld, %s has experts 0 to %lld",
                           (long long)cfg->expert, cfg->router_file, (long long)K - 1);
    if (cfg->model == SAMPLE_ROUTED && D != sampling->prompts.embedding_width)
        return fault_raise(fault, EXIT_CODE_INPUT, "embeddings are %lld wide, %s routes those of %lld",
                           (long long)sampling->prompts.embedding_width, cfg->router_file, (long long)D);
    return true;
}

/* The teacher samples itself, or is what experts are cut out of. */
static bool open_teacher(struct sampling *sampling, struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    struct teacher *teacher = &sampling->teacher;
    bool ok;
    if (cfg->model == SAMPLE_TEACHER) {
        ok = teacher_read(cfg->teacher_file, sampling->backend, sampling->dtype,
                          (struct teacher_gates){UNET_FF_ENTRIES, true}, false, teacher, fault);
    } else {
        const struct unet_config *config = config_of(sampling);
        ok = teacher_load(cfg->teacher_file, sampling->backend, teacher_gates_of(config), teacher, fault) &&
             routing_check_teacher(&sampling->routing, cfg->router_file, teacher->lineage.content_id,
                                   cfg->teacher_file, fault);
    }
    return ok && check_lineage(sampling, &teacher->lineage, cfg->teacher_file, fault);
}

/* Files say both, and could say anything. */
static bool check_channels(const struct unet_config *config, const struct lineage *lineage, const char *name,
                           struct fault *fault)
{
    int channels = latent_channels(lineage->latent.kind);
    return (config->in_channels == channels && config->out_channels == channels) ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s: the UNet has %lld in and %lld out channels, its %s latents have %d", name,
                       (long long)config->in_channels, (long long)config->out_channels,
                       latent_kind_name(lineage->latent.kind), channels);
}

static bool choose_size(struct sampling *sampling, struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    const struct sample_prompts *prompts = &sampling->prompts;
    const struct unet_config *config = config_of(sampling);
    const struct lineage *lineage = lineage_of(sampling);
    struct sample_pictures *pictures = &sampling->pictures;
    pictures->latents[0] = cfg->height       ? cfg->height
                           : prompts->height ? prompts->height
                                             : config->sample_size;
    pictures->latents[1] = cfg->width ? cfg->width : prompts->width ? prompts->width : config->sample_size;
    if (pictures->latents[0] == 0 || pictures->latents[1] == 0)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "sample.height or sample.width is 0, and neither the prompts nor the UNet's "
                           "sample_size say what size the training had: give both");
    if (config->text_width != prompts->text_width)
        return fault_raise(fault, EXIT_CODE_INPUT, "token states are %lld wide, the UNet reads those of %lld",
                           (long long)prompts->text_width, (long long)config->text_width);
    int patch = latent_patch(lineage->latent.kind);
    pictures->height = (int)pictures->latents[0] * patch;
    pictures->width = (int)pictures->latents[1] * patch;
    const struct vae *vae = sampling->codec.vae;
    if (vae)
        pictures->pipeline = check_format("VAE %s%s, text encoder %s", sampling->codec.vae->id,
                                          cfg->vae_tiles ? " in tiles" : "", lineage->text_encoder);
    return check_channels(config, lineage, sampling->routing.unet ? cfg->router_file : cfg->teacher_file,
                          fault) &&
           unet_check_latents(config, pictures->latents[0], pictures->latents[1], fault) &&
           (!vae || vae_check_picture(&vae->config, pictures->height, pictures->width, fault));
}

static bool open_networks(struct sampling *sampling, struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    bool teacher = cfg->model == SAMPLE_TEACHER;
    if (!open_codec(sampling, fault)) return false;
    if (!teacher && !open_router(sampling, fault)) return false;
    if ((teacher || cfg->experts == EXPERTS_SLICED) && !open_teacher(sampling, fault)) return false;
    return choose_size(sampling, fault);
}

// ---- 3: experts

/* Routes prompts [first, first + count). */
static bool route(const struct sampling *sampling, int64_t first, int64_t count, int *expert,
                  struct fault *fault)
{
    double *z = check_malloc((size_t)(EMBED_ROWS * sampling->prompts.embedding_width) * sizeof *z);
    bool ok = true;
    for (int64_t begin = 0; ok && begin < count; begin += EMBED_ROWS) {
        int64_t rows = count - begin < EMBED_ROWS ? count - begin : EMBED_ROWS;
        ok = sample_prompts_embed(&sampling->prompts, first + begin, rows, z, fault);
        if (ok) router_assign(sampling->routing.router, rows, z, expert + begin, NULL);
    }
    free(z);
    return ok;
}

/* Neighbouring ones each, dealt to the ranks: rank r has [first_of(r), first_of(r + 1)); rank 0 the most. */
static int64_t first_of(const struct comm *comm, int64_t count, int rank)
{
    int64_t ranks = comm_size(comm);
    return (count * rank + ranks - 1) / ranks;
}

/* all[count] from every rank's part; elements of `size` bytes. */
static void gather_parts(const struct comm *comm, int64_t count, const void *mine, size_t size, void *all)
{
    size_t *counts = check_malloc((size_t)comm_size(comm) * sizeof *counts);
    for (int r = 0; r < comm_size(comm); r++)
        counts[r] = (size_t)(first_of(comm, count, r + 1) - first_of(comm, count, r));
    comm_gather(comm, mine, counts, size, all);
    free(counts);
}

static bool choose_experts(struct sampling *sampling, struct fault *fault)
{
    const struct comm *comm = sampling->run->comm;
    const struct sample_cfg *cfg = sampling->cfg;
    int64_t prompts = sampling->prompts.count;
    int *expert = check_malloc((size_t)prompts * sizeof *expert);
    sampling->pictures.expert = expert;
    if (cfg->model != SAMPLE_ROUTED) {
        for (int64_t p = 0; p < prompts; p++)
            expert[p] = cfg->model == SAMPLE_TEACHER ? -1 : (int)cfg->expert;
        return true;
    }
    int64_t first = first_of(comm, prompts, comm_rank(comm)),
            count = first_of(comm, prompts, comm_rank(comm) + 1) - first;
    int *mine = check_malloc((size_t)count * sizeof *mine);
    route(sampling, first, count, mine, fault);
    bool ok = comm_agree(comm, fault);
    if (ok) gather_parts(comm, prompts, mine, sizeof *mine, expert);
    free(mine);
    return ok;
}

/* An expert's file, looked into before the work begins: its content id. */
static bool look_at_expert(struct sampling *sampling, int64_t k, struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    struct lineage lineage = {0};
    struct h5_reader *reader = NULL;
    char *path = expert_path(cfg->expert_file, k);
    bool ok = access(path, F_OK) == 0 ||
              fault_raise(fault, EXIT_CODE_INPUT,
                          "%s is missing: make it with phase finetune (aptp input/finetune.cfg --set "
                          "finetune.expert=%lld), or sample untrained experts (sample.experts = \"sliced\")",
                          path, (long long)k);
    ok = ok && h5_open(path, FILE_EXPERT, &reader, fault) && restart_refuse_checkpoint(reader, fault) &&
         expert_check_identity(reader, &sampling->routing, k, fault) &&
         lineage_read(reader, &lineage, fault) && check_lineage(sampling, &lineage, path, fault);
    memcpy(sampling->expert_id[k], lineage.content_id, sizeof lineage.content_id);
    lineage_clear(&lineage);
    h5_close(reader);
    free(path);
    return ok;
}

/* What the network is, as far as its pictures depend on it. The caller frees it. */
static char *describe_network(const struct sampling *sampling, int64_t expert)
{
    if (expert < 0) return check_format("teacher %s", sampling->teacher.lineage.content_id);
    if (sampling->cfg->experts == EXPERTS_FINETUNED)
        return check_format("expert %s", sampling->expert_id[expert]);
    return check_format("expert %lld of %s, sliced out of %s", (long long)expert,
                        sampling->routing.lineage.content_id, sampling->routing.teacher_id);
}

static bool find_networks(struct sampling *sampling, struct fault *fault)
{
    struct sample_pictures *pictures = &sampling->pictures;
    int64_t K = sampling->routing.router ? sampling->routing.router->config.K : 0;
    pictures->networks = (int)K + 1;
    pictures->network = check_calloc((size_t)K + 1, sizeof *pictures->network);
    sampling->tally = check_calloc((size_t)K + 1, sizeof *sampling->tally);
    sampling->expert_id = check_calloc((size_t)K + 1, sizeof *sampling->expert_id);
    for (int64_t i = 0; i < pictures->count; i++)
        sampling->tally[sample_picture_expert(pictures, i) + 1].pictures++;
    for (int64_t k = -1; k < K; k++) {
        if (sampling->tally[k + 1].pictures == 0) continue;
        if (k >= 0 && sampling->cfg->experts == EXPERTS_FINETUNED && !look_at_expert(sampling, k, fault))
            return false;
        pictures->network[k + 1] = describe_network(sampling, k);
    }
    return true;
}

static bool plan_pictures(struct sampling *sampling, struct fault *fault)
{
    struct sample_pictures *pictures = &sampling->pictures;
    pictures->cfg = sampling->cfg;
    pictures->prompts = &sampling->prompts;
    pictures->count = sampling->prompts.count * sampling->cfg->images;
    pictures->dtype = sampling->dtype;
    if (!choose_experts(sampling, fault)) return false;
    find_networks(sampling, fault);
    return comm_agree(sampling->run->comm, fault);
}

// ---- 4: pictures that are there

static void find_done(struct sampling *sampling)
{
    const struct comm *comm = sampling->run->comm;
    struct sample_pictures *pictures = &sampling->pictures;
    int64_t count = pictures->count, first = first_of(comm, count, comm_rank(comm)),
            last = first_of(comm, count, comm_rank(comm) + 1), done = 0;
    bool *mine = check_malloc((size_t)(last - first) * sizeof *mine);
    for (int64_t i = first; i < last; i++) mine[i - first] = sample_picture_is_done(pictures, i);
    sampling->done = check_malloc((size_t)count * sizeof *sampling->done);
    gather_parts(comm, count, mine, sizeof *mine, sampling->done);
    free(mine);
    for (int64_t i = 0; i < count; i++) {
        done += sampling->done[i];
        sampling->tally[sample_picture_expert(pictures, i) + 1].left += !sampling->done[i];
    }
    if (done > 0)
        log_info(sampling->run->log, "%lld of %lld pictures are there already", (long long)done,
                 (long long)count);
}

/* The pictures that the network has to make. The caller frees the list. */
static int64_t *pictures_left(const struct sampling *sampling, int64_t expert)
{
    int64_t *list = check_malloc((size_t)sampling->tally[expert + 1].left * sizeof *list), count = 0;
    for (int64_t i = 0; i < sampling->pictures.count; i++)
        if (!sampling->done[i] && sample_picture_expert(&sampling->pictures, i) == expert) list[count++] = i;
    return list;
}

/* Pictures of the round that begins with picture `from` of `left`. */
static int64_t round_size(const struct sampling *sampling, int64_t from, int64_t left)
{
    int64_t most = sampling->cfg->batch * comm_size(sampling->run->comm);
    return left - from < most ? left - from : most;
}

// ---- 5: making pictures

static bool network_open(const struct sampling *sampling, int64_t k, struct network *network,
                         struct fault *fault)
{
    const struct sample_cfg *cfg = sampling->cfg;
    const struct teacher *teacher = &sampling->teacher;
    *network =
        (struct network){.unet = teacher->unet, .schedule = &teacher->schedule, .codec = sampling->codec};
    if (k < 0) {
        if (!network->codec.vae) network->codec = latent_codec_plain(&teacher->lineage.latent);
        return true;
    }
    struct expert *expert = &network->expert;
    bool ok = true;
    if (cfg->experts == EXPERTS_SLICED) {
        expert_slice(teacher, &sampling->routing, k, false, expert);
        parameter_set_freeze(&expert->unet->parameters, sampling->dtype, false);
    } else {
        char *path = expert_path(cfg->expert_file, k);
        ok = expert_read(path, sampling->backend, sampling->dtype, false, &sampling->routing, k, expert,
                         fault);
        free(path);
    }
    network->unet = expert->unet;
    network->schedule = &expert->schedule;
    if (ok && !network->codec.vae) network->codec = latent_codec_plain(&expert->lineage.latent);
    return ok;
}

static struct guided_sampler *sampler_of(const struct sampling *sampling, const struct network *network)
{
    const struct sample_cfg *cfg = sampling->cfg;
    struct guided_sampling guided = {.unet = network->unet,
                                     .schedule = network->schedule,
                                     .sampler = cfg->sampler,
                                     .steps = (int)cfg->steps,
                                     .guidance = cfg->guidance};
    return guided_sampler_new(&guided, sampling->dtype);
}

/* A share of a round in memory. */
struct share {
    struct guided_batch batch;
    float *states, *mask; // [2 count, T, D], [2 count, T]
};

static struct share share_new(const struct sampling *sampling, int64_t count)
{
    const struct sample_prompts *prompts = &sampling->prompts;
    const int64_t *latents = sampling->pictures.latents;
    size_t size = (size_t)(latents[0] * latents[1] * config_of(sampling)->in_channels),
           tokens = (size_t)(2 * count * prompts->tokens);
    struct share share = {.states = check_calloc(tokens * (size_t)prompts->text_width, sizeof(float)),
                          .mask = check_calloc(tokens, sizeof(float))};
    share.batch = (struct guided_batch){.count = count,
                                        .height = latents[0],
                                        .width = latents[1],
                                        .tokens = prompts->tokens,
                                        .latents = check_calloc((size_t)count * size, sizeof(float)),
                                        .text_states = share.states,
                                        .text_mask = share.mask};
    return share;
}

static void share_clear(struct share *share)
{
    free(share->states);
    free(share->mask);
    free(share->batch.latents);
}

/* Text and noise of the share's pictures. */
static bool fill_share(const struct sampling *sampling, const int64_t *picture, struct share *share,
                       struct fault *fault)
{
    int64_t count = share->batch.count,
            size = share->batch.height * share->batch.width * config_of(sampling)->in_channels;
    int64_t *prompt = check_malloc((size_t)count * sizeof *prompt);
    for (int64_t i = 0; i < count; i++) {
        prompt[i] = picture[i] / sampling->cfg->images;
        random_normal(sample_picture_noise(&sampling->pictures, picture[i]), (uint64_t)size,
                      share->batch.latents + i * size);
    }
    bool ok = sample_prompts_encode(&sampling->prompts, count, prompt, share->states, share->mask, fault);
    free(prompt);
    return ok;
}

/* Latents to pictures, one after the other, each to its file. */
static bool write_share(const struct sampling *sampling, const struct network *network,
                        const int64_t *picture, const struct share *share, struct fault *fault)
{
    struct timers *timers = sampling->run->timers;
    const struct guided_batch *batch = &share->batch;
    int64_t size = batch->height * batch->width * config_of(sampling)->in_channels;
    uint8_t *rgb = check_malloc((size_t)sampling->pictures.height * (size_t)sampling->pictures.width * 3);
    bool ok = true;
    for (int64_t i = 0; ok && i < batch->count; i++) {
        timer_start(timers, "decode");
        latent_codec_decode(&network->codec, (int)batch->height, (int)batch->width, batch->latents + i * size,
                            rgb);
        timer_stop(timers, "decode");
        timer_start(timers, "write");
        ok = sample_picture_write(&sampling->pictures, picture[i], rgb, fault);
        timer_stop(timers, "write");
    }
    free(rgb);
    return ok;
}

/* This rank's calls stand for those of the others. */
static void show_progress(void *context)
{
    struct round *round = context;
    round->called++;
    progress_update(round->progress, round->made_before + round->pictures * round->called / round->calls,
                    "%s", "");
}

static bool make_share(const struct sampling *sampling, const struct network *network,
                       struct guided_sampler *sampler, const int64_t *picture, int64_t count,
                       struct round *round, double *seconds, struct fault *fault)
{
    struct timers *timers = sampling->run->timers;
    double began = timer_now();
    struct share share = share_new(sampling, count);
    timer_start(timers, "text");
    bool ok = fill_share(sampling, picture, &share, fault);
    timer_stop(timers, "text");
    timer_start(timers, "unet");
    round->calls = guided_sampler_calls(sampler, count);
    round->called = 0;
    if (ok) guided_sampler_run(sampler, &share.batch, show_progress, round);
    timer_stop(timers, "unet");
    ok = ok && write_share(sampling, network, picture, &share, fault);
    share_clear(&share);
    *seconds += timer_now() - began;
    return ok;
}

static bool stop_here(const struct sampling *sampling, int64_t made, int64_t total, struct fault *fault)
{
    const char *reason = sampling->run->stop->reason;
    char *folder = sample_pictures_folder(&sampling->pictures);
    fault_raise(fault, EXIT_CODE_STOPPED,
                "stopped by %s with %lld of %lld pictures left to make; run again to go on from those in %s",
                reason ? reason : "another rank", (long long)(total - made), (long long)total, folder);
    free(folder);
    return false;
}

/* All pictures of one network that are left. */
static bool make_pictures(struct sampling *sampling, int64_t expert, struct progress *progress, int64_t *made,
                          struct fault *fault)
{
    const struct run *run = sampling->run;
    struct tally *tally = &sampling->tally[expert + 1];
    struct network network;
    timer_start(run->timers, "read");
    network_open(sampling, expert, &network, fault);
    timer_stop(run->timers, "read");
    bool ok = comm_agree(run->comm, fault);
    struct guided_sampler *sampler = ok ? sampler_of(sampling, &network) : NULL;
    int64_t *picture = pictures_left(sampling, expert);
    for (int64_t from = 0, count; ok && from < tally->left; from += count) {
        count = round_size(sampling, from, tally->left);
        int64_t first = first_of(run->comm, count, comm_rank(run->comm)),
                last = first_of(run->comm, count, comm_rank(run->comm) + 1);
        struct round round = {.pictures = count, .made_before = *made, .progress = progress};
        if (last > first)
            make_share(sampling, &network, sampler, picture + from + first, last - first, &round,
                       &tally->seconds, fault);
        ok = comm_agree(run->comm, fault);
        if (ok) *made += count;
        if (ok && *made < progress->total && comm_any(run->comm, stop_asked(run->stop)))
            ok = stop_here(sampling, *made, progress->total, fault);
    }
    free(picture);
    guided_sampler_delete(sampler);
    expert_clear(&network.expert);
    return ok;
}

static bool make_all_pictures(struct sampling *sampling, struct fault *fault)
{
    const struct run *run = sampling->run;
    int64_t left = 0, networks = sampling->pictures.networks, made;
    for (int64_t n = 0; n < networks; n++) left += sampling->tally[n].left;
    made = sampling->pictures.count - left;
    if (comm_rank(run->comm) == 0) {
        char *folder = sample_pictures_folder(&sampling->pictures);
        folder_create(folder, fault);
        free(folder);
    }
    if (!comm_agree(run->comm, fault)) return false;
    struct progress progress = progress_start(run->log, "picture", made, sampling->pictures.count);
    bool ok = true;
    for (int64_t expert = -1; ok && expert < networks - 1; expert++)
        if (sampling->tally[expert + 1].left > 0)
            ok = make_pictures(sampling, expert, &progress, &made, fault);
    progress_pause(&progress);
    return ok;
}

// ---- 6: file and table

/* The file, from its pictures; rank 0 alone. */
static bool collect(const struct sampling *sampling, struct fault *fault)
{
    const struct run *run = sampling->run;
    const struct sample_cfg *cfg = sampling->cfg;
    int64_t K = sampling->pictures.networks - 1;
    struct h5_parent *parent = check_malloc((size_t)(K + 5) * sizeof *parent);
    char(*name)[PARENT_NAME_SIZE] = check_malloc((size_t)(K + 1) * sizeof *name);
    int parents = 0;
    if (*cfg->split) parent[parents++] = (struct h5_parent){"data.h5", sampling->prompts.data_id};
    if (K > 0) parent[parents++] = (struct h5_parent){"router.h5", sampling->routing.lineage.content_id};
    if (sampling->teacher.unet)
        parent[parents++] = (struct h5_parent){"teacher.h5", sampling->teacher.lineage.content_id};
    if (sampling->codec.vae) {
        parent[parents++] = (struct h5_parent){"vae", sampling->codec.vae->id};
        parent[parents++] = (struct h5_parent){"text_encoder", lineage_of(sampling)->text_encoder};
    }
    for (int64_t k = 0; k < K; k++) {
        if (!*sampling->expert_id[k]) continue;
        snprintf(name[k], sizeof name[k], "expert_%02lld.h5", (long long)k);
        parent[parents++] = (struct h5_parent){name[k], sampling->expert_id[k]};
    }
    struct h5_provenance provenance =
        run_provenance(run, &cfg->run, sampling->backend, sampling->dtype, parent, parents);
    bool ok = sample_pictures_collect(&sampling->pictures, &provenance, fault);
    free(parent);
    free(name);
    return ok;
}

static bool write_file(const struct sampling *sampling, struct fault *fault)
{
    const struct run *run = sampling->run;
    timer_start(run->timers, "collect");
    if (comm_rank(run->comm) == 0) collect(sampling, fault);
    timer_stop(run->timers, "collect");
    return comm_agree(run->comm, fault);
}

static void report(const struct sampling *sampling)
{
    const struct log *log = sampling->run->log;
    log_info(log, "%-8s %9s %9s   seconds a picture and rank", "network", "pictures", "made now");
    for (int n = 0; n < sampling->pictures.networks; n++) {
        const struct tally *tally = &sampling->tally[n];
        double seconds = tally->seconds;
        char name[32] = "teacher", speed[32] = "";
        comm_sum_ordered(sampling->run->comm, &seconds, 1);
        if (n > 0) snprintf(name, sizeof name, "expert %d", n - 1);
        if (tally->left > 0) snprintf(speed, sizeof speed, "%.3f", seconds / (double)tally->left);
        if (n > 0 || tally->pictures > 0)
            log_info(log, "%-8s %9lld %9lld   %s", name, (long long)tally->pictures, (long long)tally->left,
                     speed);
    }
    log_info(log, "wrote %s", sampling->cfg->samples_file);
}

// ---- --check

/* Calls of the UNet, over all ranks, for the pictures that are left. */
static int64_t count_calls(const struct sampling *sampling, const struct guided_sampler *sampler,
                           int64_t left)
{
    const struct comm *comm = sampling->run->comm;
    int64_t calls = 0;
    for (int64_t from = 0, count; from < left; from += count) {
        count = round_size(sampling, from, left);
        for (int r = 0; r < comm_size(comm); r++)
            calls += guided_sampler_calls(sampler, first_of(comm, count, r + 1) - first_of(comm, count, r));
    }
    return calls;
}

/* What is left to be done, over all ranks. */
struct plan {
    int64_t pictures, calls; // of the UNets
    double flops;            // of those calls
    size_t activations;      // bytes at most
};

/* Runs one batch of a network, and its pictures, on the plan backend. */
static void plan_network(const struct sampling *sampling, const struct network *network, int64_t left,
                         struct plan *plan)
{
    const struct sample_pictures *pictures = &sampling->pictures;
    const struct tape *tape = network->codec.tape;
    struct guided_sampler *sampler = sampler_of(sampling, network);
    struct share share = share_new(sampling, 1);
    uint8_t *rgb = check_malloc((size_t)pictures->height * (size_t)pictures->width * 3);
    guided_sampler_run(sampler, &share.batch, NULL, NULL);
    latent_codec_decode(&network->codec, (int)pictures->latents[0], (int)pictures->latents[1],
                        share.batch.latents, rgb);
    struct unit_macs macs =
        unet_macs(network->unet, pictures->latents[0], pictures->latents[1], sampling->prompts.tokens);
    int64_t calls = count_calls(sampling, sampler, left);
    plan->pictures += left;
    plan->calls += calls;
    plan->flops += (double)calls * 2 * (2 * GUIDED_IMAGES) * macs.total; // both halves of the guidance
    unit_macs_free(&macs);
    size_t peak = guided_sampler_peak(sampler) + (tape ? arena_peak(tape_arena(tape)) : 0);
    if (peak > plan->activations) plan->activations = peak;
    free(rgb);
    share_clear(&share);
    guided_sampler_delete(sampler);
}

static bool report_check(const struct sampling *sampling, struct fault *fault)
{
    const struct log *log = sampling->run->log;
    const struct sample_pictures *pictures = &sampling->pictures;
    struct plan plan = {0};
    size_t text_weights, text_activations;
    for (int64_t expert = -1; expert < pictures->networks - 1; expert++) {
        const struct tally *tally = &sampling->tally[expert + 1];
        struct network network;
        if (tally->pictures == 0) continue;
        bool ok = network_open(sampling, expert, &network, fault);
        if (ok) plan_network(sampling, &network, tally->left, &plan);
        expert_clear(&network.expert);
        if (!ok) return false;
    }
    sample_prompts_memory(&sampling->prompts, &text_weights, &text_activations);
    log_info(log, "%lld prompts, %lld pictures each, of %d x %d pixels; %lld calls of the UNet for %d images",
             (long long)sampling->prompts.count, (long long)sampling->cfg->images, pictures->height,
             pictures->width, (long long)plan.calls, GUIDED_IMAGES);
    log_info(log, "planned memory a rank: %.1f MiB of weights and scratch, %.1f MiB of activations",
             (double)(backend_bytes(sampling->backend) + text_weights) / 0x1p20,
             (double)(plan.activations + text_activations) / 0x1p20);
    if (plan.pictures == 0) return true;
    double ranks = comm_size(sampling->run->comm);
    bench_speed_report(sampling->run, sampling->cfg->bench_file,
                       &(struct planned_work){.speed = "speed",
                                              .what = "a picture",
                                              .flops = plan.flops / (double)plan.pictures,
                                              .count = (int64_t)ceil((double)plan.pictures / ranks)});
    return true;
}

static bool sample(struct sampling *sampling, struct fault *fault)
{
    struct run *run = sampling->run;
    const struct sample_cfg *cfg = sampling->cfg;
    run_open_backend(run, &cfg->run, &sampling->backend, &sampling->dtype, fault);
    if (!comm_agree(run->comm, fault)) return false;
    if (!sample_prompts_open(run, cfg, sampling->dtype, &sampling->prompts, fault)) return false; // 1
    open_networks(sampling, fault);                                                               // 2
    if (!comm_agree(run->comm, fault)) return false;
    if (!plan_pictures(sampling, fault)) return false; // 3
    find_done(sampling);                               // 4
    if (run->check_only) {
        report_check(sampling, fault);
        return comm_agree(run->comm, fault);
    }
    if (!make_all_pictures(sampling, fault) || !write_file(sampling, fault)) return false; // 5, 6
    report(sampling);
    return true;
}

bool phase_sample(struct run *run, const struct sample_cfg *cfg, struct fault *fault)
{
    struct sampling sampling = {.run = run, .cfg = cfg};
    bool ok = sample(&sampling, fault);
    sample_pictures_clear(&sampling.pictures);
    teacher_clear(&sampling.teacher);
    routing_clear(&sampling.routing);
    sample_prompts_close(&sampling.prompts);
    latent_codec_close(&sampling.codec);
    if (sampling.backend) backend_close(sampling.backend);
    free(sampling.expert_id);
    free(sampling.done);
    free(sampling.tally);
    return ok;
}
