#include "phases/join.h"

#include "base/check.h"
#include "phases/data_columns.h"
#include "phases/latent_views.h"
#include "phases/lineage.h"
#include "phases/provenance.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    BLOCK = 64,               // rows copied at a time
    MAX_TEXT_BYTES = 1 << 30, // of one kind of text of one shard
    CHUNK_BYTES = 16 << 10,   // worth its checksum; training reads single rows in random order
};

struct joiner {
    const struct shard_maker *maker;
    // of a shard, of the file
    struct data_column shard[SPLITS][DATA_COLUMNS], column[SPLITS][DATA_COLUMNS];
    struct join_summary *summary;
    struct latent_moments moments;
    int64_t text_size[ITEM_TEXTS]; // bytes of the longest
    struct sha256 *source;         // of the shards' source ids

    // the file and its rows
    struct h5_writer *file;
    struct split_rows {
        struct h5_rows *column[DATA_COLUMNS], *text[ITEM_TEXTS];
    } split[SPLITS];

    void *rows[DATA_COLUMNS]; // BLOCK rows of each column that either has
};

void join_summary_clear(struct join_summary *summary)
{
    for (int t = 0; t < SKIPPED_TEXTS; t++) text_list_clear(&summary->skipped[t]);
}

// ---- first reading: counts, factors, string lengths

/* Rows of a split of a shard, whose datasets are checked. */
static bool describe_split(const struct joiner *joiner, struct h5_reader *reader, int split, int64_t *rows,
                           struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    bool ok = data_columns_expect(joiner->shard[split], reader, split, rows, fault);
    for (int t = 0; ok && t < ITEM_TEXTS; t++)
        ok = h5_expect(reader, split_dataset(split, item_text_name[t], name), 1, rows, NULL, fault);
    return ok;
}

/* Adds the pictures of the training split to the moments. */
static bool measure_pictures(struct joiner *joiner, struct h5_reader *reader, int64_t rows,
                             struct fault *fault)
{
    const struct prepare_cfg *cfg = joiner->maker->cfg;
    const struct data_column *pixels = &joiner->shard[SPLIT_TRAIN][DATA_PIXELS];
    int64_t crops = shard_crops(cfg, SPLIT_TRAIN), crop = pixels->row / crops;
    const uint8_t *rgb = joiner->rows[DATA_PIXELS];
    int side = (int)cfg->image_size;
    for (int64_t first = 0; first < rows; first += BLOCK) {
        int64_t count = rows - first < BLOCK ? rows - first : BLOCK;
        if (!data_column_read(pixels, reader, SPLIT_TRAIN, first, count, joiner->rows[DATA_PIXELS], fault))
            return false;
        for (int64_t i = 0; i < count * crops; i++)
            latent_moments_add(&joiner->moments, cfg->latent, side, side, rgb + i * crop);
    }
    return true;
}

static bool measure_split(struct joiner *joiner, struct h5_reader *reader, int split, struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    int64_t rows;
    struct h5_info info;
    if (!describe_split(joiner, reader, split, &rows, fault)) return false;
    joiner->summary->items[split] += rows;
    for (int t = 0; t < ITEM_TEXTS; t++) {
        if (!h5_describe(reader, split_dataset(split, item_text_name[t], name), &info, fault)) return false;
        if (info.string_size > joiner->text_size[t]) joiner->text_size[t] = info.string_size;
    }
    bool measured = split == SPLIT_TRAIN && joiner->shard[split][DATA_PIXELS].name;
    return !measured || measure_pictures(joiner, reader, rows, fault);
}

static bool measure_skipped(struct joiner *joiner, struct h5_reader *reader, struct fault *fault)
{
    for (int t = 0; t < SKIPPED_TEXTS; t++) {
        struct h5_info info;
        struct h5_strings texts;
        if (!h5_expect(reader, skipped_name[t], 1, (int64_t[]){-1}, &info, fault) ||
            !h5_read_strings(reader, skipped_name[t], 0, info.shape[0], MAX_TEXT_BYTES, &texts, fault))
            return false;
        for (int64_t i = 0; i < texts.count; i++) text_list_add(&joiner->summary->skipped[t], texts.item[i]);
        h5_strings_free(&texts);
    }
    return true;
}

static bool measure_shard(struct joiner *joiner, struct h5_reader *reader, struct fault *fault)
{
    int64_t cut;
    char *source_id;
    if (!h5_attribute_int64(reader, "/", SHARD_CUT, &cut, fault) ||
        !h5_attribute_string(reader, "/", SHARD_SOURCE, &source_id, fault))
        return false;
    joiner->summary->cut += cut;
    sha256_add(joiner->source, source_id, strlen(source_id));
    free(source_id);
    return measure_split(joiner, reader, SPLIT_TRAIN, fault) &&
           measure_split(joiner, reader, SPLIT_VALIDATION, fault) && measure_skipped(joiner, reader, fault);
}

// ---- second reading: copying

static bool create_split(struct joiner *joiner, int split, struct fault *fault)
{
    struct split_rows *rows = &joiner->split[split];
    char name[DATASET_NAME_SIZE];
    bool ok =
        data_columns_create(joiner->column[split], joiner->file, split, CHUNK_BYTES, rows->column, fault);
    for (int t = 0; ok && t < ITEM_TEXTS; t++)
        ok = h5_rows_create(joiner->file, split_dataset(split, item_text_name[t], name), H5_STRING, 1,
                            (int64_t[]){0}, 0, joiner->text_size[t], &rows->text[t], fault);
    return ok;
}

static void encode_pictures(const struct joiner *joiner, int split, int64_t count)
{
    const struct shard_maker *maker = joiner->maker;
    const struct latent_codec codec = latent_codec_plain(&joiner->summary->latent);
    int64_t picture = joiner->shard[split][DATA_PIXELS].row, latent = joiner->column[split][DATA_LATENTS].row;
    uint8_t *pixels = joiner->rows[DATA_PIXELS];
    float *latents = joiner->rows[DATA_LATENTS];
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++)
        latent_views_encode(&codec, (int)maker->cfg->image_size, (int)shard_crops(maker->cfg, split),
                            (int)maker->flips, pixels + i * picture, latents + i * latent, NULL);
}

/* Rows [first, first + count <= BLOCK) of a split of a shard. */
static bool copy_block(struct joiner *joiner, struct h5_reader *reader, int split, int64_t first,
                       int64_t count, struct fault *fault)
{
    const struct data_column *shard = joiner->shard[split], *column = joiner->column[split];
    const int32_t *length = joiner->rows[DATA_LENGTH];
    bool ok = true;
    for (int c = 0; ok && c < DATA_COLUMNS; c++)
        if (shard[c].name)
            ok = data_column_read(&shard[c], reader, split, first, count, joiner->rows[c], fault);
    if (!ok) return false;
    if (shard[DATA_PIXELS].name) encode_pictures(joiner, split, count);
    for (int64_t i = 0; i < count; i++) joiner->summary->tokens += length[i];
    for (int c = 0; ok && c < DATA_COLUMNS; c++)
        if (column[c].name)
            ok =
                data_column_append(&column[c], joiner->split[split].column[c], count, joiner->rows[c], fault);
    return ok;
}

static bool copy_texts(struct joiner *joiner, struct h5_reader *reader, int split, int64_t rows,
                       struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    bool ok = true;
    for (int t = 0; ok && t < ITEM_TEXTS; t++) {
        struct h5_strings texts;
        if (!h5_read_strings(reader, split_dataset(split, item_text_name[t], name), 0, rows, MAX_TEXT_BYTES,
                             &texts, fault))
            return false;
        ok = h5_append_strings(joiner->split[split].text[t], rows, (const char *const *)texts.item, fault);
        h5_strings_free(&texts);
    }
    return ok;
}

static bool copy_shard(struct joiner *joiner, struct h5_reader *reader, struct fault *fault)
{
    for (int split = 0; split < SPLITS; split++) {
        int64_t rows;
        if (!describe_split(joiner, reader, split, &rows, fault)) return false;
        if (rows == 0) continue; // the whole split may be empty, and then is not in the file
        for (int64_t first = 0; first < rows; first += BLOCK) {
            int64_t count = rows - first < BLOCK ? rows - first : BLOCK;
            if (!copy_block(joiner, reader, split, first, count, fault)) return false;
        }
        if (!copy_texts(joiner, reader, split, rows, fault)) return false;
    }
    return true;
}

// ---- the file

/* What guidance and prompt dropout put in the place of a prompt. */
static bool write_empty_prompt(struct joiner *joiner, struct fault *fault)
{
    struct prompt_encoder *encoder = joiner->maker->encoder;
    const char *const text = "";
    const int64_t states[] = {encoder->tokens, encoder->text_width}, z = encoder->embedding_width;
    int32_t *ids = joiner->rows[DATA_IDS];
    prompt_encoder_encode(encoder, 1, &text, joiner->rows[DATA_LENGTH], joiner->rows[DATA_STATES],
                          joiner->rows[DATA_EMBEDDING]);
    if (ids) text_encoder_tokenize(&encoder->text, 1, &text, ids, NULL);
    return (ids ? h5_write_int32(joiner->file, "empty/text_ids", 1, states, ids, fault)
                : h5_write_half(joiner->file, "empty/text_states", 2, states, joiner->rows[DATA_STATES],
                                fault)) &&
           h5_write_int32(joiner->file, "empty/text_length", 0, NULL, joiner->rows[DATA_LENGTH], fault) &&
           h5_write_float(joiner->file, "empty/embedding", 1, &z, joiner->rows[DATA_EMBEDDING], fault);
}

static bool for_each_shard(struct joiner *joiner,
                           bool (*visit)(struct joiner *, struct h5_reader *, struct fault *),
                           struct fault *fault)
{
    bool ok = true;
    for (int64_t number = 0; ok && number < shard_count(joiner->maker); number++) {
        char *path = shard_path(joiner->maker, number);
        struct h5_reader *reader;
        ok = h5_open(path, FILE_DATA, &reader, fault);
        if (ok) {
            ok = visit(joiner, reader, fault);
            h5_close(reader);
        }
        free(path);
    }
    return ok;
}

static bool write_file(struct joiner *joiner, struct fault *fault)
{
    struct join_summary *summary = joiner->summary;
    const struct shard_maker *maker = joiner->maker;
    struct lineage lineage = {.latent = summary->latent,
                              .text_encoder = (char *)prompt_encoder_states_id(maker->encoder),
                              .sentence_encoder = (char *)prompt_encoder_embedding_id(maker->encoder)};
    if (maker->codec) memcpy(lineage.vae, maker->codec->vae->id, sizeof lineage.vae);
    for (int split = 0; split < SPLITS; split++)
        if (summary->items[split] > 0 && !create_split(joiner, split, fault)) return false;
    bool ok = for_each_shard(joiner, copy_shard, fault) && write_empty_prompt(joiner, fault) &&
              lineage_write(&lineage, FILE_DATA, joiner->file, fault);
    for (int t = 0; ok && t < SKIPPED_TEXTS; t++)
        ok = text_list_write(&summary->skipped[t], joiner->file, skipped_name[t], fault);
    return ok;
}

static bool finish_file(struct joiner *joiner, const char *source_id, struct fault *fault)
{
    const struct shard_maker *maker = joiner->maker;
    struct h5_parent parents[4] = {{"source", source_id},
                                   {"sentence encoder", prompt_encoder_embedding_id(maker->encoder)}};
    int count = 2;
    if (maker->encoder->has_text)
        parents[count++] = (struct h5_parent){"text encoder", prompt_encoder_states_id(maker->encoder)};
    if (maker->codec) parents[count++] = (struct h5_parent){"VAE", maker->codec->vae->id};
    struct h5_provenance provenance =
        run_provenance(maker->run, &maker->cfg->run, maker->backend, maker->dtype, parents, count);
    struct stat status;
    if (!h5_finish(joiner->file, &provenance, NULL, fault)) return false;
    if (stat(maker->cfg->data_file, &status) == 0) joiner->summary->bytes = status.st_size;
    return true;
}

/* BLOCK rows of all columns of shards and of the file; no split has more of an item than the training one. */
static void make_rows(struct joiner *joiner)
{
    for (int c = 0; c < DATA_COLUMNS; c++) {
        const struct data_column *shard = &joiner->shard[SPLIT_TRAIN][c],
                                 *column = shard->name ? shard : &joiner->column[SPLIT_TRAIN][c];
        if (column->name) joiner->rows[c] = check_malloc(BLOCK * data_column_bytes(column));
    }
}

bool join_shards(const struct shard_maker *maker, struct join_summary *summary, struct fault *fault)
{
    *summary = (struct join_summary){0};
    struct joiner joiner = {.maker = maker, .summary = summary, .source = sha256_new()};
    for (int split = 0; split < SPLITS; split++) {
        data_columns_of_shard(maker, split, joiner.shard[split]);
        data_columns_of_file(maker, split, joiner.column[split]);
    }
    make_rows(&joiner);

    char source_id[SHA256_HEX_SIZE];
    bool ok = for_each_shard(&joiner, measure_shard, fault);
    sha256_finish(joiner.source, source_id);
    if (ok && summary->items[SPLIT_TRAIN] == 0)
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: no picture is left to train with", maker->cfg->source);
    summary->latent =
        maker->codec ? maker->codec->form : latent_form_from_moments(maker->cfg->latent, &joiner.moments);
    if (ok && (ok = h5_create(maker->cfg->data_file, FILE_DATA, &joiner.file, fault))) {
        ok = write_file(&joiner, fault);
        if (ok)
            ok = finish_file(&joiner, source_id, fault);
        else
            h5_abandon(joiner.file);
    }
    for (int c = 0; c < DATA_COLUMNS; c++) free(joiner.rows[c]);
    return ok;
}
