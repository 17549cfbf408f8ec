#include "phases/data_columns.h"

#include "diffusion/latent.h"

// ---- the table

static struct data_column make_column(const char *name, enum h5_type type, int rank, const int64_t *shape)
{
    struct data_column column = {.name = name, .type = type, .rank = rank, .row = 1};
    for (int i = 1; i < rank; i++) column.row *= column.shape[i] = shape[i];
    return column;
}

static void make_latents(const struct shard_maker *maker, int split, struct data_column *column)
{
    const struct prepare_cfg *cfg = maker->cfg;
    int64_t side = cfg->image_size / latent_patch(cfg->latent);
    int64_t views = shard_crops(cfg, split) * maker->flips;
    int64_t shape[] = {0, views, latent_channels(cfg->latent), side, side};
    column[DATA_LATENTS] = make_column("latents", H5_FLOAT16, 5, shape);
    if (cfg->latent == LATENT_VAE)
        column[DATA_DEVIATION] = make_column("latent_deviation", H5_FLOAT16, 5, shape);
}

static void make_texts(const struct shard_maker *maker, struct data_column *column)
{
    const struct prompt_encoder *encoder = maker->encoder;
    int64_t states[] = {0, encoder->tokens, encoder->text_width}, z[] = {0, encoder->embedding_width};
    if (maker->cfg->text_states == TEXT_STATES_STORED)
        column[DATA_STATES] = make_column("text_states", H5_FLOAT16, 3, states);
    else
        column[DATA_IDS] = make_column("text_ids", H5_INT32, 2, states);
    column[DATA_LENGTH] = make_column("text_length", H5_INT32, 1, states);
    column[DATA_EMBEDDING] = make_column("embedding", H5_FLOAT32, 2, z);
}

void data_columns_of_shard(const struct shard_maker *maker, int split,
                           struct data_column column[DATA_COLUMNS])
{
    data_columns_of_file(maker, split, column);
    if (maker->cfg->latent == LATENT_VAE) return;
    int64_t side = maker->cfg->image_size;
    int64_t shape[] = {0, shard_crops(maker->cfg, split), side, side, 3};
    column[DATA_PIXELS] = make_column("pixels", H5_UINT8, 5, shape);
    column[DATA_LATENTS] = (struct data_column){0};
}

void data_columns_of_file(const struct shard_maker *maker, int split, struct data_column column[DATA_COLUMNS])
{
    for (int c = 0; c < DATA_COLUMNS; c++) column[c] = (struct data_column){0};
    make_latents(maker, split, column);
    make_texts(maker, column);
}

// ---- sizes

size_t data_column_bytes(const struct data_column *column)
{
    return (size_t)column->row * (column->type == H5_UINT8 ? 1 : sizeof(float));
}

size_t data_column_stored_bytes(const struct data_column *column)
{
    return column->type == H5_FLOAT16 ? (size_t)column->row * sizeof(uint16_t) : data_column_bytes(column);
}

// ---- files

bool data_columns_create(const struct data_column column[DATA_COLUMNS], struct h5_writer *file, int split,
                         int64_t chunk_bytes, struct h5_rows *rows[DATA_COLUMNS], struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    for (int c = 0; c < DATA_COLUMNS; c++) {
        rows[c] = NULL;
        if (!column[c].name) continue;
        int64_t bytes = (int64_t)data_column_stored_bytes(&column[c]), chunk = chunk_bytes / bytes;
        if (chunk_bytes > 0 && chunk == 0) chunk = 1;
        if (!h5_rows_create(file, split_dataset(split, column[c].name, name), column[c].type, column[c].rank,
                            column[c].shape, chunk, 0, &rows[c], fault))
            return false;
    }
    return true;
}

bool data_columns_expect(const struct data_column column[DATA_COLUMNS], struct h5_reader *file, int split,
                         int64_t *items, struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    *items = -1; // the first column tells
    for (int c = 0; c < DATA_COLUMNS; c++) {
        if (!column[c].name) continue;
        struct data_column expected = column[c];
        struct h5_info info;
        expected.shape[0] = *items;
        if (!h5_expect(file, split_dataset(split, expected.name, name), expected.rank, expected.shape, &info,
                       fault))
            return false;
        *items = info.shape[0];
    }
    return true;
}

bool data_column_read(const struct data_column *column, struct h5_reader *file, int split, int64_t first,
                      int64_t count, void *values, struct fault *fault)
{
    char name[DATASET_NAME_SIZE];
    split_dataset(split, column->name, name);
    if (column->type == H5_UINT8) return h5_read_uint8(file, name, first, count, values, fault);
    if (column->type == H5_INT32) return h5_read_int32(file, name, first, count, values, fault);
    return h5_read_float(file, name, first, count, values, fault);
}

bool data_column_append(const struct data_column *column, struct h5_rows *rows, int64_t count,
                        const void *values, struct fault *fault)
{
    if (column->type == H5_UINT8) return h5_append_uint8(rows, count, values, fault);
    if (column->type == H5_INT32) return h5_append_int32(rows, count, values, fault);
    return h5_append_float(rows, count, values, fault);
}
