#define _POSIX_C_SOURCE 200809L // opendir, access
#include "phases/shard.h"

#include "base/check.h"
#include "base/random.h"
#include "io/image_resample.h"
#include "phases/data_columns.h"
#include "phases/latent_views.h"
#include "phases/provenance.h"
#include "phases/restart.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const split_name[SPLITS] = {"train", "validation"};
const char *const item_text_name[ITEM_TEXTS] = {"caption", "image", "group", "subgroup", "source"};
const char *const skipped_name[SKIPPED_TEXTS] = {"skipped/image", "skipped/reason"};

// ---- names

const char *split_dataset(int split, const char *what, char name[DATASET_NAME_SIZE])
{
    snprintf(name, DATASET_NAME_SIZE, "%s/%s", split_name[split], what);
    return name;
}

static void item_texts(const struct index_item *item, const char *text[ITEM_TEXTS])
{
    text[ITEM_CAPTION] = item->caption;
    text[ITEM_IMAGE] = item->name;
    text[ITEM_GROUP] = item->group;
    text[ITEM_SUBGROUP] = item->subgroup;
    text[ITEM_SOURCE] = item->source;
}

char *shard_folder(const struct shard_maker *maker)
{
    return check_format("%s.shards", maker->cfg->data_file);
}

char *shard_path(const struct shard_maker *maker, int64_t number)
{
    return check_format("%s.shards/shard_%06lld.h5", maker->cfg->data_file, (long long)number);
}

int64_t shard_crops(const struct prepare_cfg *cfg, int split)
{
    return split == SPLIT_TRAIN && cfg->crops > 0 ? cfg->crops : 1;
}

static int64_t item_count(const struct shard_maker *maker)
{
    int64_t items = 0;
    for (int split = 0; split < SPLITS; split++)
        if (maker->source[split]) items += index_count(maker->source[split]);
    return items;
}

/* The source that item `number` of all is in, and its number there. */
static int source_of(const struct shard_maker *maker, int64_t number, int64_t *there)
{
    int64_t items = index_count(maker->source[SPLIT_TRAIN]);
    *there = number < items ? number : number - items;
    return number < items ? SPLIT_TRAIN : SPLIT_VALIDATION;
}

int64_t shard_count(const struct shard_maker *maker)
{
    return (item_count(maker) + maker->cfg->shard_size - 1) / maker->cfg->shard_size;
}

void shard_items(const struct shard_maker *maker, int64_t number, int64_t *first, int64_t *count)
{
    *first = number * maker->cfg->shard_size;
    *count = item_count(maker) - *first;
    if (*count > maker->cfg->shard_size) *count = maker->cfg->shard_size;
}

// ---- a finished shard

/* Each text with its closing zero, so that no two lists of texts have the same bytes. */
static void hash_texts(struct sha256 *hash, const struct index_item *item)
{
    const char *text[ITEM_TEXTS];
    item_texts(item, text);
    for (int i = 0; i < ITEM_TEXTS; i++) sha256_add(hash, text[i], strlen(text[i]) + 1);
}

/* Of all that encodes; of a VAE the number of flips too, which other shards do not depend on. */
static void hash_encoders(const struct shard_maker *maker, struct sha256 *hash)
{
    const struct latent_codec *codec = maker->codec;
    char *text =
        check_format("embedding %s states %s vae %s flips %d", prompt_encoder_embedding_id(maker->encoder),
                     prompt_encoder_states_id(maker->encoder), codec ? codec->vae->id : "none",
                     codec ? (int)maker->flips : 0);
    sha256_add(hash, text, strlen(text) + 1);
    free(text);
}

/* Of the encoders, the texts, and which pictures they go with: broken ones that were repaired, or others
 * under the same names, make another shard. */
static bool inputs_id(const struct shard_maker *maker, int64_t number, char id[SHA256_HEX_SIZE],
                      struct fault *fault)
{
    int64_t first, count;
    shard_items(maker, number, &first, &count);
    struct sha256 *hash = sha256_new();
    hash_encoders(maker, hash);
    bool ok = true;
    for (int64_t i = first; ok && i < first + count; i++) {
        struct index_item item;
        int64_t there;
        int32_t source = source_of(maker, i, &there);
        ok = index_item(maker->source[source], there, &item, fault);
        if (!ok) break;
        struct index_stamp stamp = index_stamp(maker->source[source], there, &item);
        hash_texts(hash, &item);
        sha256_add(hash, &source, sizeof source);
        sha256_add(hash, &stamp, sizeof stamp);
        index_item_free(&item);
    }
    sha256_finish(hash, id);
    return ok;
}

static bool was_made_from(struct h5_reader *reader, const struct shard_maker *maker, int64_t number,
                          struct fault *fault)
{
    // what a shard's content does not depend on
    static const char *const free_settings[] = {"run.folder",
                                                "run.threads",
                                                "run.log",
                                                "run.wall_clock_limit",
                                                "files.",
                                                "data.source",
                                                "data.sentence_encoder",
                                                "data.latent",
                                                "data.flips",
                                                "data.bad_picture_limit",
                                                NULL};
    char *then = NULL, now[SHA256_HEX_SIZE];
    bool same = restart_check_deck(reader, maker->run->deck, free_settings, fault) &&
                h5_attribute_string(reader, "/", SHARD_INPUTS, &then, fault) &&
                inputs_id(maker, number, now, fault) && strcmp(then, now) == 0;
    free(then);
    return same;
}

bool shard_is_done(const struct shard_maker *maker, int64_t number, int64_t *skipped)
{
    char *path = shard_path(maker, number);
    struct fault ignored = {0}; // a shard that cannot be used is made again
    struct h5_reader *reader = NULL;
    struct h5_info info;
    bool done = access(path, F_OK) == 0 && h5_open(path, FILE_DATA, &reader, &ignored) &&
                was_made_from(reader, maker, number, &ignored) &&
                h5_expect(reader, skipped_name[SKIPPED_IMAGE], 1, (int64_t[]){-1}, &info, &ignored);
    if (done) *skipped = info.shape[0];
    h5_close(reader);
    free(path);
    return done;
}

bool shards_remove(const struct shard_maker *maker, struct fault *fault)
{
    char *folder = shard_folder(maker);
    DIR *entries = opendir(folder);
    bool ok = entries != NULL;
    for (struct dirent *entry; ok && (entry = readdir(entries));) {
        if (strncmp(entry->d_name, "shard_", 6) != 0) continue;
        char *path = check_format("%s/%s", folder, entry->d_name);
        ok = unlink(path) == 0;
        free(path);
    }
    ok = ok && rmdir(folder) == 0;
    if (!ok)
        fault_raise(fault, EXIT_CODE_OUTPUT, "cannot remove the shards in %s: %s", folder, strerror(errno));
    if (entries) closedir(entries);
    free(folder);
    return ok;
}

// ---- a batch of items

/* One item on its way from the source to the shard. */
struct sample {
    struct index_item item;
    struct fault fault; // why its picture is skipped, if it is
    int source, split;
    bool cut; // its caption has more tokens than are kept
};

/* Arrays of a batch: [batch] samples, and the same of those with a good picture, in their order. A row has
 * room for what the training split has, of which no other split has more. */
struct batch_memory {
    int64_t capacity;
    struct sample *sample;    // [batch]
    int *good;                // [batch] which of them have a good picture
    uint8_t *pixels;          // [batch, crops, H, W, 3], rows[DATA_PIXELS]
    const char **caption;     // [batch], borrowed from the samples
    void *rows[DATA_COLUMNS]; // [batch] of pixels and each column that the shard has; owned
    int32_t *sentence;        // [tokens of the sentence encoder + 1]
    int32_t *tokens;          // [T] of the text encoder
};

/* Of one crop. */
static int64_t crop_bytes(const struct prepare_cfg *cfg)
{
    return cfg->image_size * cfg->image_size * 3;
}

/* Of a row of pixels. */
static int64_t picture_bytes(const struct prepare_cfg *cfg)
{
    return shard_crops(cfg, SPLIT_TRAIN) * crop_bytes(cfg);
}

static struct batch_memory batch_new(const struct shard_maker *maker,
                                     const struct data_column column[DATA_COLUMNS])
{
    size_t batch = (size_t)maker->cfg->text_batch;
    uint8_t *pixels = check_malloc(batch * (size_t)picture_bytes(maker->cfg));
    struct batch_memory memory = {
        .capacity = maker->cfg->text_batch,
        .sample = check_calloc(batch, sizeof(struct sample)),
        .good = check_calloc(batch, sizeof(int)),
        .pixels = pixels,
        .rows = {[DATA_PIXELS] = pixels},
        .caption = check_malloc(batch * sizeof(char *)),
        .sentence = check_malloc(((size_t)maker->encoder->sentence.tokens + 1) * sizeof(int32_t)),
        .tokens = check_malloc((size_t)maker->encoder->tokens * sizeof(int32_t)),
    };
    for (int c = 0; c < DATA_COLUMNS; c++)
        if (column[c].name && c != DATA_PIXELS)
            memory.rows[c] = check_malloc(batch * data_column_bytes(&column[c]));
    return memory;
}

static void batch_free(struct batch_memory *batch)
{
    free(batch->sample);
    free(batch->good);
    free(batch->caption);
    free(batch->sentence);
    free(batch->tokens);
    for (int c = 0; c < DATA_COLUMNS; c++) free(batch->rows[c]);
}

/* The split of a caption. Of one source, a function of the seed and of the tokens that the models see of it,
 * so that two captions which they cannot tell apart are never in different splits. */
static void choose_split(const struct shard_maker *maker, struct sample *sample, int32_t *ids)
{
    const char *caption = sample->item.caption;
    const struct sentence_encoder *encoder = &maker->encoder->sentence;
    int tokens = encoder->tokens;
    int count = wordpiece_encode(encoder->tokenizer, caption, strlen(caption), tokens + 1, ids);
    sample->cut = count > tokens;
    int seen = sample->cut ? tokens - 1 : count - 1; // without [SEP]
    struct random_key key = {(uint64_t)maker->cfg->run.seed, RANDOM_SPLIT, 0,
                             sha256_number(ids, (size_t)seen * sizeof *ids)};
    bool held_out = random_uniform(key, 0) < maker->cfg->validation_fraction;
    if (maker->source[SPLIT_VALIDATION]) held_out = sample->source == SPLIT_VALIDATION;
    sample->split = held_out ? SPLIT_VALIDATION : SPLIT_TRAIN;
}

/* Whether the text encoder, if there is one, leaves out tokens of a caption. */
static void find_cut(const struct shard_maker *maker, struct sample *sample, int32_t *ids)
{
    int64_t cut;
    if (!maker->encoder->has_text) return; // the states are the sentence encoder's
    text_encoder_tokenize(&maker->encoder->text, 1, (const char *const *)&sample->item.caption, ids, &cut);
    sample->cut = cut > 0;
}

/* The crops of an item's picture as [crops, H, W, 3]. `number`: of the item. */
static bool decode_picture(const struct prepare_cfg *cfg, const struct sample *sample, int64_t number,
                           const uint8_t *data, size_t bytes, uint8_t *pixels, struct fault *fault)
{
    struct image image = {0};
    if (!image_decode(data, bytes, sample->item.name, cfg->max_pixels, &image, fault)) return false;
    int size = (int)cfg->image_size;
    const struct image_crop crop = image_training_crop(size);
    bool drawn = sample->split == SPLIT_TRAIN && cfg->crops > 0;
    for (int64_t i = 0; i < shard_crops(cfg, sample->split); i++, pixels += crop_bytes(cfg)) {
        struct random_key key = {(uint64_t)cfg->run.seed, RANDOM_CROP, (uint64_t)i, (uint64_t)number};
        struct image square = drawn ? image_random_crop(&image, crop, key) : image_resize_crop(&image, crop);
        memcpy(pixels, square.rgb, (size_t)crop_bytes(cfg));
        image_free(&square);
    }
    image_free(&image);
    return true;
}

/* Reads items [first, first + count): texts, pictures (broken ones get a fault of their own), splits. Adds
 * what was read to the hash. */
static bool read_batch(const struct shard_maker *maker, int64_t first, int64_t count,
                       struct batch_memory *batch, struct sha256 *hash, struct fault *fault)
{
    struct encoded {
        uint8_t *data;
        size_t bytes;
    } *encoded = check_calloc((size_t)count, sizeof *encoded);
    int64_t read = 0;
    for (; read < count; read++) {
        struct sample *sample = &batch->sample[read];
        int64_t there;
        *sample = (struct sample){.source = source_of(maker, first + read, &there)};
        const struct index *source = maker->source[sample->source];
        if (!index_item(source, there, &sample->item, fault)) break;
        hash_texts(hash, &sample->item);
        if (index_image(source, there, &encoded[read].data, &encoded[read].bytes, &sample->fault))
            sha256_add(hash, encoded[read].data, encoded[read].bytes);
        choose_split(maker, sample, batch->sentence);
        find_cut(maker, sample, batch->tokens);
    }
    bool ok = read == count;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < read; i++) {
        struct sample *sample = &batch->sample[i];
        if (ok && !sample->fault.code)
            decode_picture(maker->cfg, sample, first + i, encoded[i].data, encoded[i].bytes,
                           batch->pixels + i * picture_bytes(maker->cfg), &sample->fault);
        free(encoded[i].data);
    }
    free(encoded);
    if (!ok)
        for (int64_t i = 0; i < read; i++) index_item_free(&batch->sample[i].item);
    return ok;
}

// ---- the shard's file

struct split_rows {
    struct h5_rows *column[DATA_COLUMNS];
    struct text_list text[ITEM_TEXTS];
};

struct shard_writer {
    const struct shard_maker *maker;
    struct h5_writer *file;
    struct data_column column[SPLITS][DATA_COLUMNS];
    struct split_rows split[SPLITS];
    struct text_list skipped[SKIPPED_TEXTS];
    int64_t cut;
};

/* Collects the captions and pixels of a batch's good pictures; returns how many they are. */
static int collect_good(const struct shard_maker *maker, const struct batch_memory *batch, int64_t count)
{
    int64_t picture = picture_bytes(maker->cfg);
    int good = 0;
    for (int i = 0; i < count; i++) {
        if (batch->sample[i].fault.code) continue;
        batch->good[good] = i;
        batch->caption[good] = batch->sample[i].item.caption;
        memmove(batch->pixels + good * picture, batch->pixels + i * picture, (size_t)picture);
        good++;
    }
    return good;
}

static void encode_captions(const struct shard_maker *maker, const struct batch_memory *batch, int good)
{
    prompt_encoder_encode(maker->encoder, good, batch->caption, batch->rows[DATA_LENGTH],
                          batch->rows[DATA_STATES], batch->rows[DATA_EMBEDDING]);
    if (batch->rows[DATA_IDS])
        text_encoder_tokenize(&maker->encoder->text, good, batch->caption, batch->rows[DATA_IDS], NULL);
}

/* Pictures to the latents of a VAE; else they stay as they are. */
static void encode_pictures(const struct shard_writer *writer, const struct batch_memory *batch, int good)
{
    const struct shard_maker *maker = writer->maker;
    if (!maker->codec) return;
    int64_t row = writer->column[SPLIT_TRAIN][DATA_LATENTS].row;
    float *mean = batch->rows[DATA_LATENTS], *deviation = batch->rows[DATA_DEVIATION];
    for (int i = 0; i < good; i++)
        latent_views_encode(maker->codec, (int)maker->cfg->image_size,
                            (int)shard_crops(maker->cfg, batch->sample[batch->good[i]].split),
                            (int)maker->flips, batch->pixels + i * picture_bytes(maker->cfg), mean + i * row,
                            deviation + i * row);
}

static bool append_columns(const struct shard_writer *writer, const struct batch_memory *batch, int split,
                           int64_t row, struct fault *fault)
{
    bool ok = true;
    for (int c = 0; ok && c < DATA_COLUMNS; c++) {
        const struct data_column *column = &writer->column[split][c];
        size_t stride = data_column_bytes(&writer->column[SPLIT_TRAIN][c]);
        if (column->name)
            ok = data_column_append(column, writer->split[split].column[c], 1,
                                    (const char *)batch->rows[c] + (size_t)row * stride, fault);
    }
    return ok;
}

/* Encodes a batch's good pictures and their captions and appends all that belongs to them. */
static bool append_batch(struct shard_writer *writer, const struct batch_memory *batch, int64_t count,
                         struct fault *fault)
{
    const struct shard_maker *maker = writer->maker;
    int good = collect_good(maker, batch, count);
    timer_start(maker->run->timers, "encoder");
    if (good > 0) encode_captions(maker, batch, good);
    timer_stop(maker->run->timers, "encoder");
    timer_start(maker->run->timers, "latents");
    encode_pictures(writer, batch, good);
    timer_stop(maker->run->timers, "latents");

    timer_start(maker->run->timers, "write");
    bool ok = true;
    for (int64_t i = 0, row = 0; ok && i < count; i++) {
        const struct sample *sample = &batch->sample[i];
        if (sample->fault.code) {
            text_list_add(&writer->skipped[SKIPPED_IMAGE], sample->item.name);
            text_list_add(&writer->skipped[SKIPPED_REASON], sample->fault.text);
            continue;
        }
        const char *text[ITEM_TEXTS];
        item_texts(&sample->item, text);
        for (int t = 0; t < ITEM_TEXTS; t++) text_list_add(&writer->split[sample->split].text[t], text[t]);
        writer->cut += sample->cut;
        ok = append_columns(writer, batch, sample->split, row++, fault);
    }
    timer_stop(maker->run->timers, "write");
    return ok;
}

static bool write_batches(struct shard_writer *writer, int64_t number, int64_t skip_limit,
                          struct shard_progress progress, struct sha256 *hash, struct fault *fault)
{
    const struct shard_maker *maker = writer->maker;
    struct timers *timers = maker->run->timers;
    struct batch_memory batch = batch_new(maker, writer->column[SPLIT_TRAIN]);
    int64_t first, items;
    shard_items(maker, number, &first, &items);
    bool ok = true;
    for (int64_t done = 0; ok && done < items; done += batch.capacity) {
        int64_t count = items - done < batch.capacity ? items - done : batch.capacity;
        timer_start(timers, "pictures");
        ok = read_batch(maker, first + done, count, &batch, hash, fault);
        timer_stop(timers, "pictures");
        if (!ok) break;
        ok = append_batch(writer, &batch, count, fault);
        for (int64_t i = 0; i < count; i++) index_item_free(&batch.sample[i].item);
        const struct text_list *reasons = &writer->skipped[SKIPPED_REASON];
        if (ok && reasons->count > skip_limit)
            ok = fault_raise(fault, EXIT_CODE_INPUT,
                             "more than %lld broken pictures (data.bad_picture_limit); one of them: %s",
                             (long long)maker->cfg->bad_picture_limit, reasons->item[reasons->count - 1]);
        progress.progressed(progress.context, done + count);
    }
    batch_free(&batch);
    return ok;
}

/* What is written once all rows are. */
static bool write_rest(struct shard_writer *writer, const char *id, const char *source_id,
                       struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    bool ok = true;
    for (int split = 0; split < SPLITS; split++)
        for (int t = 0; ok && t < ITEM_TEXTS; t++)
            ok = text_list_write(&writer->split[split].text[t], writer->file,
                                 split_dataset(split, item_text_name[t], name), fault);
    for (int t = 0; ok && t < SKIPPED_TEXTS; t++)
        ok = text_list_write(&writer->skipped[t], writer->file, skipped_name[t], fault);
    return ok && h5_write_attribute_string(writer->file, "/", SHARD_INPUTS, id, fault) &&
           h5_write_attribute_string(writer->file, "/", SHARD_SOURCE, source_id, fault) &&
           h5_write_attribute_int64(writer->file, "/", SHARD_CUT, writer->cut, fault);
}

bool shard_write(const struct shard_maker *maker, int64_t number, int64_t skip_limit,
                 struct shard_progress progress, int64_t *skipped, struct fault *fault)
{
    struct shard_writer writer = {.maker = maker};
    for (int split = 0; split < SPLITS; split++) data_columns_of_shard(maker, split, writer.column[split]);
    char *path = shard_path(maker, number), id[SHA256_HEX_SIZE], source_id[SHA256_HEX_SIZE];
    bool ok = inputs_id(maker, number, id, fault) && // before they are read: what changes later is noticed
              h5_create(path, FILE_DATA, &writer.file, fault);
    if (ok) {
        struct sha256 *hash = sha256_new();
        for (int split = 0; ok && split < SPLITS; split++)
            ok = data_columns_create(writer.column[split], writer.file, split, 0, writer.split[split].column,
                                     fault);
        ok = ok && write_batches(&writer, number, skip_limit, progress, hash, fault);
        sha256_finish(hash, source_id);
        ok = ok && write_rest(&writer, id, source_id, fault);
        if (ok) {
            struct h5_provenance provenance =
                run_provenance(maker->run, &maker->cfg->run, maker->backend, maker->dtype, NULL, 0);
            ok = h5_finish(writer.file, &provenance, NULL, fault);
        } else {
            h5_abandon(writer.file);
        }
    }
    *skipped = writer.skipped[SKIPPED_IMAGE].count;
    for (int split = 0; split < SPLITS; split++)
        for (int t = 0; t < ITEM_TEXTS; t++) text_list_clear(&writer.split[split].text[t]);
    for (int t = 0; t < SKIPPED_TEXTS; t++) text_list_clear(&writer.skipped[t]);
    free(path);
    return ok;
}
