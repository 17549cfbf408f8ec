/* Batches of data.h5: each item's own latent, view, text and embedding, in the layout of the network. */
#include "train/dataset.h"

#include "io/hdf5_file.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/faults.h"

enum { N = 7, V = 2, C = 3, H = 2, W = 4, T = 5, D = 2, Z = 3 };

static struct fault fault;

/* Whole numbers that tell where they belong; fp32 has them exactly. */
static float latent_value(int item, int view, int c, int y, int x)
{
    return (float)((((item * V + view) * C + c) * H + y) * W + x);
}

static float state_value(int item, int t, int d) // item -1: the empty prompt
{
    return (float)(1000 + ((item + 1) * T + t) * D + d);
}

static float embedding_value(int item, int i)
{
    return (float)(5000 + item * Z + i);
}

static int text_length(int item)
{
    return item < 0 ? 2 : 1 + item % T;
}

static void write_data(const char *path)
{
    static float latents[N][V][C][H][W], states[N + 1][T][D], embedding[N + 1][Z];
    int32_t length[N + 1];
    for (int item = -1; item < N; item++) {
        for (int t = 0; t < T; t++)
            for (int d = 0; d < D; d++) states[item + 1][t][d] = state_value(item, t, d);
        for (int i = 0; i < Z; i++) embedding[item + 1][i] = embedding_value(item, i);
        length[item + 1] = text_length(item);
        for (int i = 0; item >= 0 && i < V * C * H * W; i++)
            latents[item][i / (C * H * W)][i / (H * W) % C][i / W % H][i % W] =
                latent_value(item, i / (C * H * W), i / (H * W) % C, i / W % H, i % W);
    }
    struct h5_writer *writer;
    GOOD(h5_create(path, FILE_DATA, &writer, &fault));
    GOOD(h5_write_float(writer, "train/latents", 5, (int64_t[]){N, V, C, H, W}, &latents[0][0][0][0][0],
                        &fault));
    GOOD(h5_write_float(writer, "train/text_states", 3, (int64_t[]){N, T, D}, &states[1][0][0], &fault));
    GOOD(h5_write_int32(writer, "train/text_length", 1, (int64_t[]){N}, length + 1, &fault));
    GOOD(h5_write_float(writer, "train/embedding", 2, (int64_t[]){N, Z}, embedding[1], &fault));
    GOOD(h5_write_float(writer, "empty/text_states", 2, (int64_t[]){T, D}, &states[0][0][0], &fault));
    GOOD(h5_write_int32(writer, "empty/text_length", 1, (int64_t[]){1}, length, &fault));
    GOOD(h5_write_float(writer, "empty/embedding", 1, (int64_t[]){Z}, embedding[0], &fault));
    struct h5_provenance nobody = {
        .program = "", .commit = "", .deck = "", .ranks = 1, .hosts = "", .backend = "", .time = ""};
    GOOD(h5_finish(writer, &nobody, NULL, &fault));
}

static void check_sample(const struct batch *batch, int b, int item, int view, bool drop)
{
    int text = drop ? -1 : item;
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < C; c++)
                assert_true(batch->latents[((b * H + y) * W + x) * C + c] ==
                            latent_value(item, view, c, y, x));
    for (int t = 0; t < T; t++) {
        assert_true(batch->text_mask[b * T + t] == (t < text_length(text)));
        for (int d = 0; d < D; d++)
            assert_true(batch->text_states[(b * T + t) * D + d] == state_value(text, t, d));
    }
    for (int i = 0; i < Z; i++) assert_true(batch->embeddings[b * Z + i] == embedding_value(text, i));
}

static void batches_hold_what_was_asked_for(void **state)
{
    (void)state;
    static const struct {
        int count;
        int64_t item[4];
        int flip[4];
        bool drop[4];
    } asked[] = {{2, {6, 0}, {1, 0}, {false, false}},
                 {4, {3, 3, 5, 1}, {0, 1, 1, 0}, {false, true, false, true}},
                 {1, {4}, {0}, {true}}};
    char *folder = scratch_make(), *path = scratch_path(folder, "data.h5");
    write_data(path);
    struct dataset *dataset;
    struct batch batch;
    GOOD(dataset_open(path, "train", NULL, &dataset, &fault));
    const struct dataset_info *info = dataset_info(dataset);
    assert_true(info->items == N && info->flips == V && info->channels == C && info->height == H);
    assert_true(info->width == W && info->tokens == T && info->text_width == D && info->embedding_width == Z);
    for (int i = 0; i < 3; i++) {
        dataset_ask(dataset, asked[i].count, asked[i].item, asked[i].flip, asked[i].drop);
        GOOD(dataset_take(dataset, &batch, &fault));
        assert_int_equal(batch.count, asked[i].count);
        if (i + 1 < 3) // the next batch is read while this one is looked at
            dataset_ask(dataset, asked[i + 1].count, asked[i + 1].item, asked[i + 1].flip, NULL);
        for (int b = 0; b < asked[i].count; b++)
            check_sample(&batch, b, (int)asked[i].item[b], asked[i].flip[b], asked[i].drop[b]);
        if (i + 1 < 3) GOOD(dataset_take(dataset, &batch, &fault));
    }
    dataset_close(dataset);
    free(path);
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(batches_hold_what_was_asked_for)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
