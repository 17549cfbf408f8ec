#include "phases/join.h"

#include "base/check.h"
#include "phases/lineage.h"
#include "phases/provenance.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    BLOCK = 64,                   // rows copied at a time
    MAX_TEXT_BYTES = 1 << 30,     // of one kind of text of one shard
    RANDOM_READ_BYTES = 16 << 10, // of a chunk: training reads single rows in random order
};

/* Sizes, the same in all shards. */
struct layout {
    int64_t side, flips, channels, latent_side, tokens, width;
    int64_t crops[SPLITS];      // of a picture; views are crops x flips
    int64_t crop, view, states; // elements: of a crop, of a view's latent, of a text's states
};

static struct layout make_layout(const struct shard_maker *maker)
{
    const struct prepare_cfg *cfg = maker->cfg;
    struct layout layout = {.side = cfg->image_size,
                            .flips = cfg->flips ? 2 : 1,
                            .channels = latent_channels(cfg->latent),
                            .latent_side = cfg->image_size / latent_patch(cfg->latent),
                            .tokens = maker->encoder->tokens,
                            .width = maker->encoder->channels};
    for (int split = 0; split < SPLITS; split++) layout.crops[split] = shard_crops(cfg, split);
    layout.crop = layout.side * layout.side * 3;
    layout.view = layout.channels * layout.latent_side * layout.latent_side;
    layout.states = layout.tokens * layout.width;
    return layout;
}

struct joiner {
    const struct shard_maker *maker;
    struct layout layout;
    struct join_summary *summary;
    struct latent_moments moments;
    int64_t text_size[ITEM_TEXTS]; // bytes of the longest
    struct sha256 *source;         // of the shards' source ids

    // the file and its rows
    struct h5_writer *file;
    struct split_rows {
        struct h5_rows *latents, *text_states, *text_length, *embedding, *text[ITEM_TEXTS];
    } split[SPLITS];

    // BLOCK rows
    uint8_t *pixels; // [BLOCK, crops, H, W, 3]
    float *latents;  // [BLOCK, V, C, h, w], V the views of a picture
    float *states;   // [BLOCK, T, D]
    float *embedding;
    int32_t *length;
};

void join_summary_clear(struct join_summary *summary)
{
    for (int t = 0; t < SKIPPED_TEXTS; t++) text_list_clear(&summary->skipped[t]);
}

// ---- first reading: counts, factors, string lengths

/* Rows of a split of a shard, whose datasets are checked. */
static bool describe_split(const struct layout *layout, struct h5_reader *reader, int split, int64_t *rows,
                           struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    struct h5_info info;
    if (!h5_expect(reader, split_dataset(split, "pixels", name), 5,
                   (int64_t[]){-1, layout->crops[split], layout->side, layout->side, 3}, &info, fault))
        return false;
    int64_t count = info.shape[0];
    bool ok = h5_expect(reader, split_dataset(split, "text_states", name), 3,
                        (int64_t[]){count, layout->tokens, layout->width}, &info, fault) &&
              h5_expect(reader, split_dataset(split, "text_length", name), 1, &count, &info, fault) &&
              h5_expect(reader, split_dataset(split, "embedding", name), 2, (int64_t[]){count, layout->width},
                        &info, fault);
    for (int t = 0; ok && t < ITEM_TEXTS; t++)
        ok = h5_expect(reader, split_dataset(split, item_text_name[t], name), 1, &count, &info, fault);
    *rows = count;
    return ok;
}

static bool measure_split(struct joiner *joiner, struct h5_reader *reader, int split, struct fault *fault)
{
    const struct layout *layout = &joiner->layout;
    int side = (int)layout->side;
    char name[DATASET_NAME_SIZE];
    int64_t rows;
    struct h5_info info;
    if (!describe_split(layout, reader, split, &rows, fault)) return false;
    joiner->summary->items[split] += rows;
    for (int t = 0; t < ITEM_TEXTS; t++) {
        if (!h5_describe(reader, split_dataset(split, item_text_name[t], name), &info, fault)) return false;
        if (info.string_size > joiner->text_size[t]) joiner->text_size[t] = info.string_size;
    }
    split_dataset(split, "pixels", name);
    for (int64_t first = 0; split == SPLIT_TRAIN && first < rows; first += BLOCK) {
        int64_t count = rows - first < BLOCK ? rows - first : BLOCK;
        if (!h5_read_uint8(reader, name, first, count, joiner->pixels, fault)) return false;
        for (int64_t i = 0; i < count * layout->crops[split]; i++)
            latent_moments_add(&joiner->moments, joiner->maker->cfg->latent, side, side,
                               joiner->pixels + i * layout->crop);
    }
    return true;
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

/* Rows that make a chunk large enough to be worth its checksum, small enough to be read for one of them. */
static int64_t chunk_rows(int64_t row_bytes)
{
    return row_bytes < RANDOM_READ_BYTES ? RANDOM_READ_BYTES / row_bytes : 1;
}

static bool create_split(struct joiner *joiner, int split, struct fault *fault)
{
    const struct layout *layout = &joiner->layout;
    struct split_rows *rows = &joiner->split[split];
    struct h5_writer *file = joiner->file;
    char name[DATASET_NAME_SIZE];
    int64_t views = layout->crops[split] * layout->flips;
    bool ok =
        h5_rows_create(file, split_dataset(split, "latents", name), H5_FLOAT16, 5,
                       (int64_t[]){0, views, layout->channels, layout->latent_side, layout->latent_side},
                       chunk_rows(2 * views * layout->view), 0, &rows->latents, fault) &&
        h5_rows_create(file, split_dataset(split, "text_states", name), H5_FLOAT16, 3,
                       (int64_t[]){0, layout->tokens, layout->width}, chunk_rows(2 * layout->states), 0,
                       &rows->text_states, fault) &&
        h5_rows_create(file, split_dataset(split, "text_length", name), H5_INT32, 1, (int64_t[]){0},
                       chunk_rows(4), 0, &rows->text_length, fault) &&
        h5_rows_create(file, split_dataset(split, "embedding", name), H5_FLOAT32, 2,
                       (int64_t[]){0, layout->width}, chunk_rows(4 * layout->width), 0, &rows->embedding,
                       fault);
    for (int t = 0; ok && t < ITEM_TEXTS; t++)
        ok = h5_rows_create(file, split_dataset(split, item_text_name[t], name), H5_STRING, 1, (int64_t[]){0},
                            0, joiner->text_size[t], &rows->text[t], fault);
    return ok;
}

/* The views of a crop as the file has them: [flips, C, h, w], the plain one, then the mirrored one. The crop
 * is mirrored in place for that. */
static void encode_crop(const struct layout *layout, const struct latent_form *form, uint8_t *rgb,
                        float *views)
{
    int side = (int)layout->side;
    int64_t positions = layout->latent_side * layout->latent_side;
    float *nhwc = check_malloc((size_t)(positions * layout->channels) * sizeof *nhwc);
    for (int64_t flip = 0; flip < layout->flips; flip++, views += positions * layout->channels) {
        latent_encode(form, side, side, rgb, nhwc);
        for (int64_t p = 0; p < positions; p++)
            for (int64_t c = 0; c < layout->channels; c++)
                views[c * positions + p] = nhwc[p * layout->channels + c];
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side / 2; x++)
                for (int c = 0; c < 3; c++) {
                    uint8_t *a = rgb + (y * side + x) * 3 + c, *b = rgb + (y * side + side - 1 - x) * 3 + c;
                    uint8_t kept = *a;
                    *a = *b;
                    *b = kept;
                }
    }
    free(nhwc);
}

/* Rows [first, first + count <= BLOCK) of a split of a shard. */
static bool copy_block(struct joiner *joiner, struct h5_reader *reader, int split, int64_t first,
                       int64_t count, struct fault *fault)
{
    const struct layout *layout = &joiner->layout;
    struct split_rows *rows = &joiner->split[split];
    char name[4][DATASET_NAME_SIZE];
    if (!h5_read_uint8(reader, split_dataset(split, "pixels", name[0]), first, count, joiner->pixels,
                       fault) ||
        !h5_read_float(reader, split_dataset(split, "text_states", name[1]), first, count, joiner->states,
                       fault) ||
        !h5_read_int32(reader, split_dataset(split, "text_length", name[2]), first, count, joiner->length,
                       fault) ||
        !h5_read_float(reader, split_dataset(split, "embedding", name[3]), first, count, joiner->embedding,
                       fault))
        return false;
#pragma omp parallel for
    for (int64_t i = 0; i < count * layout->crops[split]; i++)
        encode_crop(layout, &joiner->summary->latent, joiner->pixels + i * layout->crop,
                    joiner->latents + i * layout->flips * layout->view);
    for (int64_t i = 0; i < count; i++) joiner->summary->tokens += joiner->length[i];
    return h5_append_float(rows->latents, count, joiner->latents, fault) &&
           h5_append_float(rows->text_states, count, joiner->states, fault) &&
           h5_append_int32(rows->text_length, count, joiner->length, fault) &&
           h5_append_float(rows->embedding, count, joiner->embedding, fault);
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
        if (!describe_split(&joiner->layout, reader, split, &rows, fault)) return false;
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
    const struct layout *layout = &joiner->layout;
    sentence_encoder_encode(joiner->maker->encoder, 1, (const char *const[]){""}, joiner->length,
                            joiner->states, joiner->embedding);
    return h5_write_half(joiner->file, "empty/text_states", 2, (int64_t[]){layout->tokens, layout->width},
                         joiner->states, fault) &&
           h5_write_int32(joiner->file, "empty/text_length", 0, NULL, joiner->length, fault) &&
           h5_write_float(joiner->file, "empty/embedding", 1, &layout->width, joiner->embedding, fault);
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
    // the token states and z come from one encoder
    struct lineage lineage = {.latent = summary->latent,
                              .text_encoder = joiner->maker->encoder->states_id,
                              .sentence_encoder = joiner->maker->encoder->id};
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
    const struct h5_parent parents[] = {{"source", source_id}, {"sentence encoder", maker->encoder->id}};
    struct h5_provenance provenance =
        run_provenance(maker->run, &maker->cfg->run, maker->backend, maker->dtype, parents, 2);
    struct stat status;
    if (!h5_finish(joiner->file, &provenance, NULL, fault)) return false;
    if (stat(maker->cfg->data_file, &status) == 0) joiner->summary->bytes = status.st_size;
    return true;
}

bool join_shards(const struct shard_maker *maker, struct join_summary *summary, struct fault *fault)
{
    *summary = (struct join_summary){0};
    struct joiner joiner = {
        .maker = maker, .layout = make_layout(maker), .summary = summary, .source = sha256_new()};
    const struct layout *layout = &joiner.layout;
    int64_t crops = BLOCK * layout->crops[SPLIT_TRAIN]; // no split has more
    joiner.pixels = check_malloc((size_t)(crops * layout->crop));
    joiner.latents = check_malloc((size_t)(crops * layout->flips * layout->view) * sizeof(float));
    joiner.states = check_malloc((size_t)(BLOCK * layout->states) * sizeof(float));
    joiner.embedding = check_malloc((size_t)(BLOCK * layout->width) * sizeof(float));
    joiner.length = check_malloc(BLOCK * sizeof(int32_t));

    char source_id[SHA256_HEX_SIZE];
    bool ok = for_each_shard(&joiner, measure_shard, fault);
    sha256_finish(joiner.source, source_id);
    if (ok && summary->items[SPLIT_TRAIN] == 0)
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: no picture is left to train with", maker->cfg->source);
    summary->latent = latent_form_from_moments(maker->cfg->latent, &joiner.moments);
    if (ok && (ok = h5_create(maker->cfg->data_file, FILE_DATA, &joiner.file, fault))) {
        ok = write_file(&joiner, fault);
        if (ok)
            ok = finish_file(&joiner, source_id, fault);
        else
            h5_abandon(joiner.file);
    }
    free(joiner.pixels);
    free(joiner.latents);
    free(joiner.states);
    free(joiner.embedding);
    free(joiner.length);
    return ok;
}
