/* Phase prepare: pictures and captions into data.h5.
 *
 * 1. Open the sources, and the encoders of texts and pictures. Every rank reads them for itself.
 * 2. Find the shards that an earlier run has finished.
 * 3. Make the others, dealt to ranks, a round of one shard a rank at a time. After each round failures, the
 *    number of broken pictures and requests to stop are shared.
 * 4. Rank 0 joins the shards into data.h5, in the order of the sources.
 * 5. Remove the shards.
 *
 * data.h5 is one plain file and not a virtual one over the shards: it can be moved, its content id covers
 * every number in it, and its factors and chunks are right for training. The price is that the disk holds
 * both until it is finished.
 *
 * What a shard holds is a function of the deck and the sources alone, so the number of ranks changes nothing
 * in data.h5. */
#include "phases/prepare.h"

#include "base/check.h"
#include "io/folder.h"
#include "models/pipeline_folder.h"
#include "phases/data_columns.h"
#include "phases/join.h"
#include "phases/prepare_plan.h"
#include "phases/shard.h"

#include <stdio.h>
#include <stdlib.h>

enum { SKIPPED_SHOWN = 20 }; // broken pictures named on the screen; data.h5 names all

struct preparation {
    const struct run *run;
    const struct prepare_cfg *cfg;
    struct index *source[SPLITS]; // owned, as the next two; the second: NULL without data.validation_source
    struct backend *backend;
    struct prompt_encoder encoder;
    struct latent_codec codec; // of kind vae, else zero
    struct shard_maker maker;
    int64_t *missing, missing_count; // shards to be made; owned
    int64_t skipped;                 // broken pictures of all finished shards
    struct progress progress;        // of pictures
    int64_t items_done, at_once;     // items of earlier rounds; shards of this round
};

// ---- 1: inputs

static bool open_source(const struct prepare_cfg *cfg, const char *path, struct index_options choice,
                        struct index **source, struct fault *fault)
{
    choice.seed = (uint64_t)cfg->run.seed;
    if (!index_open(path, &choice, source, fault)) return false;
    return index_count(*source) > 0 || fault_raise(fault, EXIT_CODE_INPUT, "%s names no picture", path);
}

static bool open_encoders(struct preparation *preparation, enum dtype dtype, struct fault *fault)
{
    const struct prepare_cfg *cfg = preparation->cfg;
    struct prompt_encoder_options options = {.sentence_encoder = cfg->sentence_encoder,
                                             .pipeline = cfg->pipeline,
                                             .batch = (int)cfg->text_batch,
                                             .tokens = (int)cfg->max_tokens,
                                             .normalize = cfg->normalize_embedding, // METHOD section 3a
                                             .dtype = dtype};
    if ((*cfg->pipeline && !pipeline_check_index(cfg->pipeline, fault)) ||
        !prompt_encoder_open(&preparation->encoder, preparation->backend, options, fault))
        return false;
    if (cfg->latent != LATENT_VAE) return true;
    char *folder = check_format("%s/vae", cfg->pipeline);
    bool ok = latent_codec_open_vae(&preparation->codec, preparation->backend, folder, dtype, true, fault);
    free(folder);
    return ok;
}

/* Under --check the plan backend holds no weights, whose ids tell which shards can be used. */
static bool find_ids(struct preparation *preparation, struct fault *fault)
{
    const struct prepare_cfg *cfg = preparation->cfg;
    if (!preparation->run->check_only) return true;
    if (preparation->encoder.has_text &&
        !text_encoder_identify(cfg->pipeline, preparation->encoder.text.id, fault))
        return false;
    if (!preparation->codec.vae) return true;
    char *folder = check_format("%s/vae", cfg->pipeline);
    bool ok = vae_identify(folder, preparation->codec.vae->id, fault);
    free(folder);
    return ok;
}

static bool open_inputs(struct preparation *preparation, struct fault *fault)
{
    const struct prepare_cfg *cfg = preparation->cfg;
    enum dtype dtype;
    struct index **source = preparation->source;
    if (!open_source(cfg, cfg->source, cfg->choice, &source[SPLIT_TRAIN], fault)) return false;
    if (*cfg->validation_source &&
        !open_source(cfg, cfg->validation_source, cfg->validation_choice, &source[SPLIT_VALIDATION], fault))
        return false;
    if (!run_open_backend(preparation->run, &cfg->run, &preparation->backend, &dtype, fault) ||
        !open_encoders(preparation, dtype, fault) || !find_ids(preparation, fault))
        return false;
    preparation->maker = (struct shard_maker){.run = preparation->run,
                                              .cfg = cfg,
                                              .source = {source[SPLIT_TRAIN], source[SPLIT_VALIDATION]},
                                              .encoder = &preparation->encoder,
                                              .codec = preparation->codec.vae ? &preparation->codec : NULL,
                                              .flips = cfg->flips ? 2 : 1,
                                              .backend = preparation->backend,
                                              .dtype = dtype};
    return true;
}

// ---- 2: finished shards

/* Rank 0 looks, all ranks get the list. */
static void find_missing(struct preparation *preparation)
{
    const struct comm *comm = preparation->run->comm;
    int64_t shards = shard_count(&preparation->maker);
    preparation->missing = check_calloc((size_t)shards, sizeof *preparation->missing);
    for (int64_t number = 0; comm_rank(comm) == 0 && number < shards; number++) {
        int64_t skipped = 0;
        if (shard_is_done(&preparation->maker, number, &skipped))
            preparation->skipped += skipped;
        else
            preparation->missing[preparation->missing_count++] = number;
    }
    comm_broadcast(comm, 0, &preparation->missing_count, sizeof preparation->missing_count);
    comm_broadcast(comm, 0, &preparation->skipped, sizeof preparation->skipped);
    comm_broadcast(comm, 0, preparation->missing, (size_t)shards * sizeof *preparation->missing);
    if (preparation->missing_count < shards)
        log_info(preparation->run->log, "%lld of %lld shards are there already",
                 (long long)(shards - preparation->missing_count), (long long)shards);
}

static int64_t missing_items(const struct preparation *preparation)
{
    int64_t items = 0, first, count;
    for (int64_t i = 0; i < preparation->missing_count; i++) {
        shard_items(&preparation->maker, preparation->missing[i], &first, &count);
        items += count;
    }
    return items;
}

// ---- 3: making shards

/* This rank's items stand for those of the other ranks of the round. */
static void show_progress(void *context, int64_t items)
{
    struct preparation *preparation = context;
    int64_t done = preparation->items_done + items * preparation->at_once;
    int64_t total = preparation->progress.total;
    progress_update(&preparation->progress, done < total ? done : total, "%s", "");
}

/* One round: shards missing[from ..], one a rank. */
static bool make_round(struct preparation *preparation, int64_t from, struct fault *fault)
{
    const struct comm *comm = preparation->run->comm;
    int64_t left = preparation->missing_count - from, ranks = comm_size(comm);
    double made[2] = {0}; // skipped pictures, items: sums over the ranks
    preparation->at_once = left < ranks ? left : ranks;
    if (comm_rank(comm) < preparation->at_once) {
        int64_t number = preparation->missing[from + comm_rank(comm)], first, count, skipped;
        shard_items(&preparation->maker, number, &first, &count);
        shard_write(&preparation->maker, number, preparation->cfg->bad_picture_limit - preparation->skipped,
                    (struct shard_progress){show_progress, preparation}, &skipped, fault);
        made[0] = (double)skipped;
        made[1] = (double)count;
    }
    if (!comm_agree(comm, fault)) return false;
    comm_sum_ordered(comm, made, 2);
    preparation->skipped += (int64_t)made[0];
    preparation->items_done += (int64_t)made[1];
    return true;
}

static bool check_skipped(const struct preparation *preparation, struct fault *fault)
{
    const struct prepare_cfg *cfg = preparation->cfg;
    if (preparation->skipped <= cfg->bad_picture_limit) return true;
    char *folder = shard_folder(&preparation->maker);
    fault_raise(fault, EXIT_CODE_INPUT,
                "%lld pictures are broken, %lld are allowed (data.bad_picture_limit); they are named in "
                "skipped/image of the files in %s",
                (long long)preparation->skipped, (long long)cfg->bad_picture_limit, folder);
    free(folder);
    return false;
}

static bool stop_here(const struct preparation *preparation, int64_t made, struct fault *fault)
{
    const char *reason = preparation->run->stop->reason;
    char *folder = shard_folder(&preparation->maker);
    fault_raise(fault, EXIT_CODE_STOPPED,
                "stopped by %s with %lld of %lld shards left to make; run again to go on from those in %s",
                reason ? reason : "another rank", (long long)(preparation->missing_count - made),
                (long long)shard_count(&preparation->maker), folder);
    free(folder);
    return false;
}

static bool make_shards(struct preparation *preparation, struct fault *fault)
{
    const struct run *run = preparation->run;
    if (comm_rank(run->comm) == 0) {
        char *folder = shard_folder(&preparation->maker);
        folder_create(folder, fault);
        free(folder);
    }
    if (!comm_agree(run->comm, fault) || !check_skipped(preparation, fault)) return false;
    preparation->progress = progress_start(run->log, "picture", 0, missing_items(preparation));
    bool ok = true;
    for (int64_t made = 0; ok && made < preparation->missing_count;) {
        ok = make_round(preparation, made, fault) && check_skipped(preparation, fault);
        made += preparation->at_once;
        if (ok && made < preparation->missing_count && comm_any(run->comm, stop_asked(run->stop)))
            ok = stop_here(preparation, made, fault);
    }
    progress_pause(&preparation->progress);
    return ok;
}

// ---- 4: the file

static void report(const struct preparation *preparation, const struct join_summary *summary)
{
    const struct log *log = preparation->run->log;
    const struct prepare_cfg *cfg = preparation->cfg;
    int64_t items = summary->items[SPLIT_TRAIN] + summary->items[SPLIT_VALIDATION];
    int side = (int)cfg->image_size / latent_patch(cfg->latent), channels = latent_channels(cfg->latent);
    const struct text_list *image = &summary->skipped[SKIPPED_IMAGE],
                           *reason = &summary->skipped[SKIPPED_REASON];
    for (int64_t i = 0; i < image->count && i < SKIPPED_SHOWN; i++)
        log_warning(log, "skipped: %s", reason->item[i]); // it names the picture
    if (image->count > SKIPPED_SHOWN)
        log_warning(log, "skipped %lld more, named in skipped/image",
                    (long long)(image->count - SKIPPED_SHOWN));
    log_info(log, "%lld pictures (%lld broken ones skipped): %lld to train with, %lld to validate",
             (long long)items, (long long)image->count, (long long)summary->items[SPLIT_TRAIN],
             (long long)summary->items[SPLIT_VALIDATION]);
    if (!*cfg->validation_source && cfg->validation_fraction > 0 && summary->items[SPLIT_VALIDATION] == 0)
        log_warning(log, "no caption fell into the validation split (data.validation_fraction)");
    if (*cfg->validation_source && summary->items[SPLIT_VALIDATION] == 0)
        log_warning(log, "no picture of %s is left to validate with", cfg->validation_source);
    log_info(log, "captions of %.1f tokens on average; %lld were longer than %d and cut",
             (double)summary->tokens / (double)items, (long long)summary->cut, preparation->encoder.tokens);
    log_info(log, "%s latents [%d, %d, %d], %s", latent_kind_name(cfg->latent), channels, side, side,
             cfg->flips ? "plain and mirrored" : "plain");
    if (cfg->crops > 0) log_info(log, "%lld random crops of a picture to train with", (long long)cfg->crops);
    if (cfg->latent == LATENT_VAE) log_info(log, "  scaled by %g", summary->latent.scale[0]);
    for (int band = 0; cfg->latent == LATENT_HAAR && band < 4; band++) {
        const double *scale = summary->latent.scale + 3 * band;
        log_info(log, "  band %d scaled by %.4f %.4f %.4f (red, green, blue)", band, scale[0], scale[1],
                 scale[2]);
    }
    log_info(log, "wrote %s, %.1f MiB", cfg->data_file, (double)summary->bytes / 0x1p20);
}

static bool join(struct preparation *preparation, struct fault *fault)
{
    const struct run *run = preparation->run;
    struct join_summary summary = {0};
    timer_start(run->timers, "join");
    if (comm_rank(run->comm) == 0 && join_shards(&preparation->maker, &summary, fault))
        report(preparation, &summary);
    timer_stop(run->timers, "join");
    join_summary_clear(&summary);
    return comm_agree(run->comm, fault);
}

// ---- all of it

static bool prepare(struct preparation *preparation, struct fault *fault)
{
    const struct run *run = preparation->run;
    open_inputs(preparation, fault); // 1
    if (!comm_agree(run->comm, fault)) return false;
    find_missing(preparation); // 2
    if (run->check_only) {
        prepare_report_plan(&preparation->maker, preparation->missing_count);
        return true;
    }
    if (!make_shards(preparation, fault)) return false;                       // 3
    if (!join(preparation, fault)) return false;                              // 4
    if (comm_rank(run->comm) == 0) shards_remove(&preparation->maker, fault); // 5
    return comm_agree(run->comm, fault);
}

bool phase_prepare(struct run *run, const struct prepare_cfg *cfg, struct fault *fault)
{
    struct preparation preparation = {.run = run, .cfg = cfg};
    bool ok = prepare(&preparation, fault);
    prompt_encoder_close(&preparation.encoder);
    latent_codec_close(&preparation.codec);
    if (preparation.backend) backend_close(preparation.backend);
    for (int split = 0; split < SPLITS; split++) index_close(preparation.source[split]);
    free(preparation.missing);
    return ok;
}
