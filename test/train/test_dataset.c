/* Batches of data.h5: each item's own latent, view, text and embedding, in the layout of the network; of a
 * VAE's latents the deviations too; token states of ids. */
#include "train/dataset.h"

#include "io/half.h"
#include "io/hdf5_file.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

enum { N = 7, V = 6, C = 3, H = 2, W = 4, T = 5, D = 2, Z = 3 };

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

/* Far from the latents, and exact. */
static float deviation_value(int item, int view, int c, int y, int x)
{
    return 0.5F + 4 * latent_value(item, view, c, y, x);
}

static int text_length(int item)
{
    return item < 0 ? 2 : 1 + item % T;
}

/* `draws`: the latents are a VAE's. */
static void write_data(const char *path, bool draws)
{
    static float latents[N][V][C][H][W], deviations[N][V][C][H][W], states[N + 1][T][D], embedding[N + 1][Z];
    int32_t length[N + 1];
    for (int item = -1; item < N; item++) {
        for (int t = 0; t < T; t++)
            for (int d = 0; d < D; d++) states[item + 1][t][d] = state_value(item, t, d);
        for (int i = 0; i < Z; i++) embedding[item + 1][i] = embedding_value(item, i);
        length[item + 1] = text_length(item);
        for (int i = 0; item >= 0 && i < V * C * H * W; i++) {
            int v = i / (C * H * W), c = i / (H * W) % C, y = i / W % H, x = i % W;
            latents[item][v][c][y][x] = latent_value(item, v, c, y, x);
            deviations[item][v][c][y][x] = deviation_value(item, v, c, y, x);
        }
    }
    struct h5_writer *writer;
    GOOD(h5_create(path, FILE_DATA, &writer, &fault));
    GOOD(h5_write_float(writer, "train/latents", 5, (int64_t[]){N, V, C, H, W}, &latents[0][0][0][0][0],
                        &fault));
    if (draws) {
        GOOD(h5_write_text(writer, "latent/vae", "some id", &fault));
        GOOD(h5_write_float(writer, "train/latent_deviation", 5, (int64_t[]){N, V, C, H, W},
                            &deviations[0][0][0][0][0], &fault));
    }
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
            for (int c = 0; c < C; c++) {
                int place = ((b * H + y) * W + x) * C + c;
                assert_true(batch->latents[place] == latent_value(item, view, c, y, x));
                if (batch->deviations)
                    assert_true(batch->deviations[place] == deviation_value(item, view, c, y, x));
            }
    for (int t = 0; t < T; t++) {
        assert_true(batch->text_mask[b * T + t] == (t < text_length(text)));
        for (int d = 0; d < D; d++)
            assert_true(batch->text_states[(b * T + t) * D + d] == state_value(text, t, d));
    }
    for (int i = 0; i < Z; i++) assert_true(batch->embeddings[b * Z + i] == embedding_value(text, i));
}

static void check_batches(bool draws)
{
    static const struct {
        int count;
        int64_t item[4];
        int view[4];
        bool drop[4];
    } asked[] = {{2, {6, 0}, {5, 0}, {false, false}},
                 {4, {3, 3, 5, 1}, {0, 1, 4, 2}, {false, true, false, true}},
                 {1, {4}, {0}, {true}}};
    char *folder = scratch_make(), *path = scratch_path(folder, "data.h5");
    write_data(path, draws);
    struct dataset *dataset;
    struct batch batch;
    GOOD(dataset_open(path, "train", NULL, &dataset, &fault));
    const struct dataset_info *info = dataset_info(dataset);
    assert_true(info->items == N && info->views == V && info->channels == C && info->height == H);
    assert_true(info->width == W && info->tokens == T && info->text_width == D && info->embedding_width == Z);
    for (int i = 0; i < 3; i++) {
        dataset_ask(dataset, asked[i].count, asked[i].item, asked[i].view, asked[i].drop);
        GOOD(dataset_take(dataset, &batch, &fault));
        assert_int_equal(batch.count, asked[i].count);
        assert_true((batch.deviations != NULL) == draws && !batch.text_ids);
        if (i + 1 < 3) // the next batch is read while this one is looked at
            dataset_ask(dataset, asked[i + 1].count, asked[i + 1].item, asked[i + 1].view, NULL);
        for (int b = 0; b < asked[i].count; b++)
            check_sample(&batch, b, (int)asked[i].item[b], asked[i].view[b], asked[i].drop[b]);
        if (i + 1 < 3) GOOD(dataset_take(dataset, &batch, &fault));
    }
    dataset_close(dataset);
    free(path);
    scratch_remove(folder);
}

static void batches_hold_what_was_asked_for(void **state)
{
    (void)state;
    check_batches(false);
    check_batches(true);
}

// ---- token ids

#define PIPELINE "test/fixtures/pipeline_small"
enum { TEXTS = 11, TOKENS = 12, STATES = TOKENS * 18 }; // more texts than are encoded at a time

/* One latent; ids of TEXTS prompts, then of the empty one; one of them is `bad`, if that is not 0. */
static void write_ids(const char *path, const int32_t *ids, int32_t bad)
{
    float zeros[TEXTS] = {0};
    int32_t length[TEXTS], stored[(TEXTS + 1) * TOKENS];
    for (int i = 0; i < TEXTS; i++) length[i] = TOKENS;
    memcpy(stored, ids, sizeof stored);
    if (bad) stored[5 * TOKENS + 7] = bad;
    struct h5_writer *writer;
    GOOD(h5_create(path, FILE_DATA, &writer, &fault));
    GOOD(h5_write_float(writer, "train/latents", 5, (int64_t[]){TEXTS, 1, 1, 1, 1}, zeros, &fault));
    GOOD(h5_write_int32(writer, "train/text_ids", 2, (int64_t[]){TEXTS, TOKENS}, stored, &fault));
    GOOD(h5_write_int32(writer, "train/text_length", 1, (int64_t[]){TEXTS}, length, &fault));
    GOOD(h5_write_float(writer, "train/embedding", 2, (int64_t[]){TEXTS, 1}, zeros, &fault));
    GOOD(h5_write_int32(writer, "empty/text_ids", 1, (int64_t[]){TOKENS}, stored + TEXTS * TOKENS, &fault));
    GOOD(h5_write_int32(writer, "empty/text_length", 1, (int64_t[]){1}, length, &fault));
    GOOD(h5_write_float(writer, "empty/embedding", 1, (int64_t[]){1}, zeros, &fault));
    struct h5_provenance nobody = {
        .program = "", .commit = "", .deck = "", .ranks = 1, .hosts = "", .backend = "", .time = ""};
    GOOD(h5_finish(writer, &nobody, NULL, &fault));
}

static bool take(struct dataset *dataset, struct batch *batch)
{
    int64_t item[TEXTS];
    int flip[TEXTS] = {0};
    bool drop[TEXTS] = {[2] = true};
    for (int i = 0; i < TEXTS; i++) item[i] = (3 * i) % TEXTS;
    dataset_ask(dataset, TEXTS, item, flip, drop);
    return dataset_take(dataset, batch, &fault);
}

/* States are those of the prompts, alone and in any place, as IEEE half has them. */
static void states_of_ids_are_computed(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct text_encoder encoder;
    struct text_encoder_options options = {.batch = TEXT_ENCODER_BATCH, .dtype = DTYPE_F32};
    GOOD(text_encoder_open_pipeline(&encoder, backend, PIPELINE, options, &fault));
    const char *text[TEXTS + 1] = {"red", "a",  "two dogs", "!",     "cat", "o",
                                   "sun", "12", "the end",  "x y z", "fig", ""};
    static int32_t ids[(TEXTS + 1) * TOKENS];
    static float states[(TEXTS + 1) * STATES];
    for (int i = 0; i <= TEXTS; i++)
        text_encoder_encode(&encoder, 1, text + i, ids + i * TOKENS, states + i * STATES, NULL);
    assert_true(half_round(states, (TEXTS + 1) * STATES) < 0);
    char *folder = scratch_make(), *path = scratch_path(folder, "data.h5");
    struct dataset *dataset;
    struct batch batch;
    write_ids(path, ids, 0);
    FAILS(dataset_open(path, "train", NULL, &dataset, &fault), EXIT_CODE_INPUT, "data.h5 has token ids");
    fault = (struct fault){0};
    GOOD(dataset_open(path, "train", &encoder, &dataset, &fault));
    assert_true(dataset_info(dataset)->tokens == TOKENS && dataset_info(dataset)->text_width == 18);
    GOOD(take(dataset, &batch));
    for (int i = 0; i < TEXTS; i++) {
        int expected = i == 2 ? TEXTS : (3 * i) % TEXTS;
        assert_memory_equal(batch.text_states + i * STATES, states + expected * STATES,
                            STATES * sizeof(float));
        for (int t = 0; t < TOKENS; t++) assert_true(batch.text_mask[i * TOKENS + t] == 1);
    }
    dataset_close(dataset);
    const int32_t bad[] = {-1, 574}; // there are 574 tokens
    for (int i = 0; i < 2; i++) {
        write_ids(path, ids, bad[i]);
        GOOD(dataset_open(path, "train", &encoder, &dataset, &fault));
        FAILS(take(dataset, &batch), EXIT_CODE_INPUT, "train/text_ids[5], token 7 is");
        fault = (struct fault){0};
        dataset_close(dataset);
    }
    free(path);
    scratch_remove(folder);
    text_encoder_close(&encoder);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(batches_hold_what_was_asked_for),
                                       cmocka_unit_test(states_of_ids_are_computed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
