#include "phases/prepare_plan.h"

#include "base/check.h"
#include "phases/data_columns.h"

#include <stdlib.h>

// ---- samples

/* Of each split: as many as are expected where captions are held out by chance. */
static void plan_items(const struct shard_maker *maker, double items[SPLITS])
{
    items[SPLIT_TRAIN] = (double)index_count(maker->source[SPLIT_TRAIN]);
    if (maker->source[SPLIT_VALIDATION]) {
        items[SPLIT_VALIDATION] = (double)index_count(maker->source[SPLIT_VALIDATION]);
    } else {
        items[SPLIT_VALIDATION] = items[SPLIT_TRAIN] * maker->cfg->validation_fraction;
        items[SPLIT_TRAIN] -= items[SPLIT_VALIDATION];
    }
}

static void report_sources(const struct shard_maker *maker, const double items[SPLITS], int64_t missing)
{
    const struct log *log = maker->run->log;
    const struct prepare_cfg *cfg = maker->cfg;
    const struct prompt_encoder *encoder = maker->encoder;
    for (int split = 0; split < SPLITS; split++) {
        const struct index *source = maker->source[split];
        if (source)
            log_info(log, "%s: %lld captions of %lld pictures%s",
                     split == SPLIT_TRAIN ? cfg->source : cfg->validation_source,
                     (long long)index_count(source), (long long)index_pictures(source),
                     split == SPLIT_TRAIN ? "" : ", to validate with");
    }
    log_info(log, "%.0f pictures, %lld shards of at most %lld, %lld of them to be made",
             items[SPLIT_TRAIN] + items[SPLIT_VALIDATION], (long long)shard_count(maker),
             (long long)cfg->shard_size, (long long)missing);
    log_info(log, "%s: %d tokens of %d numbers a caption",
             encoder->has_text ? cfg->pipeline : cfg->sentence_encoder, encoder->tokens, encoder->text_width);
}

// ---- disk

/* Stored bytes of all items, in both forms of their texts and without them. */
struct plan_bytes {
    double rest, states, ids;
};

static struct plan_bytes plan_bytes(const struct shard_maker *maker, const double items[SPLITS],
                                    void (*columns)(const struct shard_maker *, int, struct data_column *))
{
    const struct prompt_encoder *encoder = maker->encoder;
    struct plan_bytes bytes = {0};
    for (int split = 0; split < SPLITS; split++) {
        struct data_column column[DATA_COLUMNS];
        columns(maker, split, column);
        for (int c = 0; c < DATA_COLUMNS; c++)
            if (column[c].name && c != DATA_STATES && c != DATA_IDS)
                bytes.rest += items[split] * (double)data_column_stored_bytes(&column[c]);
        bytes.states += items[split] * 2.0 * encoder->tokens * encoder->text_width;
        bytes.ids += items[split] * 4.0 * encoder->tokens;
    }
    return bytes;
}

/* What data.h5 and the shards take, with token states as the deck says and in the other form. */
static void report_disk(const struct shard_maker *maker, const double items[SPLITS])
{
    const struct log *log = maker->run->log;
    struct plan_bytes file = plan_bytes(maker, items, data_columns_of_file),
                      shard = plan_bytes(maker, items, data_columns_of_shard);
    double text = maker->cfg->text_states == TEXT_STATES_STORED ? file.states : file.ids;
    log_info(log, "disk needed, without the texts: %.1f MiB of %s, and %.1f MiB of shards until it is done",
             (file.rest + text) / 0x1p20, maker->cfg->data_file, (shard.rest + text) / 0x1p20);
    if (maker->encoder->has_text)
        log_info(log,
                 "  %.1f MiB of each for token states if they are stored, %.1f MiB for token ids if states "
                 "are computed (data.text_states)",
                 file.states / 0x1p20, file.ids / 0x1p20);
}

// ---- memory

/* One pass of each encoder on the plan backend tells its memory; returns that of activations. */
static size_t plan_encoders(const struct shard_maker *maker)
{
    struct prompt_encoder *encoder = maker->encoder;
    const char *const text = "";
    int32_t length;
    float *states = check_malloc((size_t)encoder->tokens * (size_t)encoder->text_width * sizeof *states),
          *z = check_malloc((size_t)encoder->embedding_width * sizeof *z);
    prompt_encoder_encode(encoder, 1, &text, &length, states, z);
    size_t bytes = prompt_encoder_peak(encoder);
    free(states);
    free(z);
    if (!maker->codec) return bytes;
    int side = (int)maker->cfg->image_size, high = side / latent_patch(LATENT_VAE);
    size_t latent = (size_t)(high * high * latent_channels(LATENT_VAE));
    uint8_t *rgb = check_calloc((size_t)side * (size_t)side * 3, 1);
    float *mean = check_malloc(latent * sizeof *mean), *deviation = check_malloc(latent * sizeof *deviation);
    latent_codec_distribution(maker->codec, high, high, rgb, mean, deviation);
    free(rgb);
    free(mean);
    free(deviation);
    return bytes + arena_peak(tape_arena(maker->codec->tape));
}

static void report_memory(const struct shard_maker *maker)
{
    const struct prepare_cfg *cfg = maker->cfg;
    struct data_column column[DATA_COLUMNS];
    data_columns_of_shard(maker, SPLIT_TRAIN, column);
    double crops = (double)shard_crops(cfg, SPLIT_TRAIN),
           item = crops * (double)(cfg->image_size * cfg->image_size) * 3; // pixels, in any case
    for (int c = 0; c < DATA_COLUMNS; c++)
        if (column[c].name && c != DATA_PIXELS) item += (double)data_column_bytes(&column[c]);
    double activations = (double)plan_encoders(maker);
    log_info(maker->run->log,
             "planned memory a rank: %.1f MiB of encoders, %.1f MiB of activations, %.1f MiB of a batch",
             (double)backend_bytes(maker->backend) / 0x1p20, activations / 0x1p20,
             (double)cfg->text_batch * item / 0x1p20);
}

void prepare_report_plan(const struct shard_maker *maker, int64_t missing)
{
    double items[SPLITS];
    plan_items(maker, items);
    report_sources(maker, items, missing);
    report_disk(maker, items);
    report_memory(maker);
}
